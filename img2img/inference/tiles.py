"""Images too large for the network at once: overlapping tiles, blended, a row of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Read = Callable[[slice, slice], Tensor]
"""Rows and columns of an encoded source, (C, H, W); they lie within the image."""


@dataclass(frozen=True)
class Axis:
    """How one side of an image is cut.

    Attributes:
        size: pixels of the image along it.
        padded: as many as the tiles cover, at least `size`.
        tile: pixels of a tile.
        starts: where the tiles begin.
        weights: of each tile's pixels in the blend, (tile,); at every place they add up to 1.
    """

    size: int
    padded: int
    tile: int
    starts: tuple[int, ...]
    weights: tuple[Tensor, ...]


def cut(size: int, tile: int, multiple: int, least: int) -> Axis:
    """Cut a side of an image into tiles.

    Tiles begin at multiples of what the network strides over wherever they are large enough for
    that, so that it sees each on the same grid as it would see the whole image. Neighbours share at
    least a quarter of a tile.

    Args:
        size: of the image, in pixels.
        tile: wanted size of a tile; rounded up to what the network takes.
        multiple: what sides must be a multiple of.
        least: what they must have at least.
    """
    padded = round_up(max(size, least), multiple)
    tile = min(round_up(max(tile, least), multiple), padded)
    stride = (tile - tile // 4) // multiple * multiple or max(1, tile // 2)
    starts = [*range(0, padded - tile, stride), padded - tile]
    return Axis(size, padded, tile, tuple(starts), _weights(starts, tile, padded))


def _weights(starts: list[int], tile: int, padded: int) -> tuple[Tensor, ...]:
    """A tile's weight rises over the middle half of what it shares with the one before it.

    At its very border a tile knows nothing of what lies beyond, so there it counts for nothing.
    """
    place = torch.arange(tile, dtype=torch.float32)
    weights = [torch.ones(tile) for _ in starts]
    for i in range(1, len(starts)):
        shared = starts[i - 1] + tile - starts[i]
        rise = ((place + 0.5 - shared / 4) / (shared / 2)).clamp(0, 1)
        weights[i] *= rise
        weights[i - 1][tile - shared :] *= 1 - rise[:shared]
    # Three tiles meet where the last one was moved back to end with the image.
    total = torch.zeros(padded)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tile] += weight
    return tuple(w / total[s : s + tile] for s, w in zip(starts, weights, strict=True))


def read_tile(read: Read, rows: Axis, columns: Axis, row: int, column: int) -> Tensor:
    """The tile (C, tile, tile) that begins at (row, column); beyond the image it is reflected."""
    down = reflected(row, rows.tile, rows.size)
    right = reflected(column, columns.tile, columns.size)
    top, left = int(down.min()), int(right.min())
    part = read(slice(top, int(down.max()) + 1), slice(left, int(right.max()) + 1))
    return part.index_select(-2, down - top).index_select(-1, right - left)


def blend(rows: Axis, columns: Axis, translate: Callable[[int, int], Tensor]) -> Iterator[Tensor]:
    """The rows of the whole output from top to bottom, as soon as no tile can change them.

    Args:
        rows: how the height is cut.
        columns: how the width is cut.
        translate: the output (C, tile, tile) of the tile at (row, column).

    Yields:
        Rows, (C, n, width).
    """
    band: Tensor | None = None
    for i, row in enumerate(rows.starts):
        # The rows that the tiles before reached into are there already.
        for j, column in enumerate(columns.starts):
            output = translate(row, column)
            weight = rows.weights[i][:, None] * columns.weights[j]
            if band is None:
                band = output.new_zeros(len(output), rows.tile, columns.padded)
            at = slice(column, column + columns.tile)
            band[:, :, at].addcmul_(output, weight.to(output))
        assert band is not None
        after = rows.starts[i + 1] if i + 1 < len(rows.starts) else rows.size
        done = min(after, rows.size) - row
        if done > 0:
            yield band[:, :done, : columns.size].clone()
        if i + 1 < len(rows.starts):
            rest = band[:, after - row :].clone()
            band.zero_()
            band[:, : rest.shape[1]] = rest


def share_out(axis: Axis, multiple: int) -> Axis:
    """The same side in equal parts no larger than a tile, with as little in two of them as can be.

    For statistics over an image, in which every pixel should count once.
    """
    count = -(-axis.padded // axis.tile)
    part = round_up(-(-axis.padded // count), multiple)
    last = (axis.padded - part) // multiple
    starts = [round(i * last / max(1, count - 1)) * multiple for i in range(count)]
    return Axis(axis.size, axis.padded, part, tuple(starts), ())


def spread(rows: Axis, columns: Axis, count: int) -> list[tuple[int, int]]:
    """Starts (row, column) of at most `count` tiles that lie evenly all over the image."""
    down, right = len(rows.starts), len(columns.starts)
    # As many along each side as its share of the tiles.
    tall = min(down, max(1, round((count * down / right) ** 0.5)))
    wide = min(right, max(1, count // tall))
    tall = min(down, max(1, count // wide))
    across = [columns.starts[j] for j in _evenly(right, wide)]
    return [(rows.starts[i], column) for i in _evenly(down, tall) for column in across]


def _evenly(length: int, count: int) -> list[int]:
    return sorted({int((i + 0.5) * length / count) for i in range(count)})


def reflect_to_multiple(images: Tensor, multiple: int, least: int = 1) -> Tensor:
    """Extend (B, C, H, W) right and below by reflection until both sides are a multiple."""
    for axis in (-2, -1):
        size = images.shape[axis]
        wanted = round_up(max(size, least), multiple)
        if wanted != size:
            images = images.index_select(axis, reflected(0, wanted, size).to(images.device))
    return images


def reflected(start: int, count: int, size: int) -> Tensor:
    """Indices of `count` pixels from `start` on, reflected at the end of a side of `size`."""
    # Reflects as often as it takes: torch's own padding stops at the image's size.
    period = max(1, 2 * (size - 1))
    at = torch.arange(start, start + count) % period
    return torch.where(at < size, at, period - at)


def round_up(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple
