"""An output back to its image's size, all at once or a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Mode = Literal["bicubic", "bilinear", "nearest-exact"]


def resize(images: Tensor, size: tuple[int, int], mode: Mode) -> Tensor:
    """(B, C, H, W) to another (height, width); shrinking takes the mean, as it should."""
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode=mode, antialias=mode != "nearest-exact")


def resize_rows(
    bands: Iterable[Tensor], height: int, size: tuple[int, int], mode: Mode
) -> Iterator[tuple[int, Tensor]]:
    """What `resize` does, for an image that comes as bands of rows from top to bottom.

    Args:
        bands: (C, n, W) each.
        height: rows of all bands together.
        size: (height, width) of the result.
        mode: as in `resize`.

    Yields:
        Where rows of the result begin, and the rows, (C, n, width), as soon as they are known.
    """
    first, last, weights = row_weights(height, size[0], mode)
    held, above, done = None, 0, 0
    for band in bands:
        wide = resize(band[None], (band.shape[1], size[1]), mode)[0]
        held = wide if held is None else torch.cat([held, wide], dim=1)
        known = above + held.shape[1]
        ready = int((last[done:] <= known).sum())
        if not ready:
            continue
        rows = slice(done, done + ready)
        taken = (first[rows, None] + torch.arange(weights.shape[1])).clamp(max=known - 1) - above
        parts = held.index_select(1, taken.flatten().to(held.device))
        parts = parts.view(len(held), ready, -1, size[1])
        yield done, torch.einsum("crkw,rk->crw", parts, weights[rows].to(held))
        done += ready
        if done < size[0]:
            # When shrinking, the next rows may not even be there yet.
            drop = min(int(first[done]) - above, held.shape[1])
            held, above = held[:, drop:], above + drop


def row_weights(rows: int, wanted: int, mode: Mode) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows each row of the result is made of, and with which weights.

    The filters are Pillow's, which torch uses when it smooths: triangle, and cubic with a = -0.5.

    Returns:
        The first row and the one after the last, (wanted,) each, and weights (wanted, most rows).
    """
    step = rows / wanted
    centers = (torch.arange(wanted, dtype=torch.float64) + 0.5) * step
    if mode == "nearest-exact":
        first = centers.floor().long().clamp(max=rows - 1)
        return first, first + 1, torch.ones(wanted, 1)
    stretch = max(step, 1.0)
    support = (2 if mode == "bicubic" else 1) * stretch
    first = (centers - support + 0.5).long().clamp(min=0)
    last = (centers + support + 0.5).long().clamp(max=rows)
    most = math.ceil(support) * 2 + 1
    places = first[:, None] + torch.arange(most)
    distance = ((places - centers[:, None] + 0.5) / stretch).abs()
    if mode == "bicubic":
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    else:
        weights = (1 - distance).clamp(min=0)
    weights = weights * (places < last[:, None])
    return first, last, (weights / weights.sum(1, keepdim=True)).float()
