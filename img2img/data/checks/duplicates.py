"""Pairs and images that repeat, in a split and across both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from img2img.data.checks.fingerprints import equal_pairs, near_pairs
from img2img.data.checks.problem import Problem
from img2img.data.checks.seen import Seen
from img2img.data.checks.single import BLANK
from img2img.errors import ImageError
from img2img.picture import Pixels, to_display

Pairs = NDArray[np.int64]
# Levels, and the logarithm of an aspect ratio.
Thumbnail = tuple[NDArray[np.float32], float]
# Gives source and target of a pair, by split and index.
Read = Callable[[str, int], tuple[Pixels, Pixels]]

# Looks that are alike are compared again, at this size, by correlation and mean difference.
SIDE = 48
ALIKE, LEVELS = 0.985, 10.0
# Of an image whose partners are the same, where chance is less likely.
ALIKE_PARTNER = 0.9
# Bits of 128 that their looks may differ in.
PARTNER_BITS = 16
# Pairs that are read again for that, at most.
COMPARED = 5000


def find_duplicates(splits: Sequence[Seen], read: Read) -> Iterator[Problem]:
    """Pairs that repeat: the same file, the same pixels in another format, re-encoded or resized.

    A pair that is in both splits is a `leak`, an image alone is `shared`, and a pair that comes
    twice in one split is `repeated`. Blank images are the same as others for another reason, and
    are passed over. Turned and mirrored images are not looked for, nor crops.

    Args:
        splits: the first is the one to train on.
        read: decodes a pair again; at most `COMPARED` are.
    """
    # One numbering over all splits.
    starts = np.cumsum([0, *(len(seen.table) for seen in splits)])
    table = np.concatenate([seen.table for seen in splits])
    split = np.repeat(np.arange(len(splits)), np.diff(starts))

    def place(row: int) -> tuple[Seen, int]:
        return splits[split[row]], row - int(starts[split[row]])

    told: set[int] = set()
    shared: dict[int, tuple[int, int]] = {}
    for one, other, sides in _repeats(table, split, place, read):
        # One is told once, of the first pair that it repeats.
        if other in told:
            continue
        (first, at), (second, at2) = place(one), place(other)
        twin = (first.split, at)
        if all(sides):
            told.add(other)
            across = bool(split[one] != split[other])
            yield second.problem(
                "leak" if across else "repeated",
                at2,
                f"the same pair as {first.name(at)}{f' in {first.split}' * across}",
                twin,
            )
        elif split[one] != split[other]:
            shared.setdefault(other, (one, 0 if sides[0] else 1))
    for other, (one, side) in shared.items():
        if other not in told:
            (first, at), (second, at2) = place(one), place(other)
            name = ("source", "target")[side]
            yield second.problem(
                "shared",
                at2,
                f"the same {name} as {first.name(at)} in {first.split}",
                (first.split, at),
            )


def _repeats(
    table: NDArray[Any], split: NDArray[Any], place: Callable[[int], tuple[Seen, int]], read: Read
) -> Iterator[tuple[int, int, tuple[bool, bool]]]:
    """(one, other, which of their images are the same), those of equal pixels first."""
    rows = np.flatnonzero(table["usable"])
    pixels, spread = table["pixels"][rows], table["spread"][rows]
    for one, other in rows[equal_pairs(pixels)].tolist():
        yield one, other, (True, True)
    near: list[Pairs] = []
    for side in (0, 1):
        full = np.flatnonzero(spread[:, side] >= BLANK)
        equal = rows[full][equal_pairs(pixels[full, side])]
        for one, other in equal[split[equal[:, 0]] != split[equal[:, 1]]].tolist():
            yield one, other, (side == 0, side == 1)
        # Of equal images one is enough: others like it are found by it.
        unique = full[np.unique(pixels[full, side], return_index=True)[1]]
        unique.sort()
        near.append(rows[unique][near_pairs(table["looks"][rows[unique], side])])
    close = np.unique(np.concatenate(near), axis=0)
    # A leak has both images alike, so that what is plain on one side, as drawings are, is not read.
    differ = np.bitwise_count(table["looks"][close[:, 0]] ^ table["looks"][close[:, 1]])
    close = close[differ.sum(axis=2).max(axis=1) <= PARTNER_BITS]
    # Across splits first, in case there are too many.
    across = split[close[:, 0]] != split[close[:, 1]]
    close = np.concatenate([close[across], close[~across]])[:COMPARED]

    @lru_cache(maxsize=4096)
    def thumbnails(row: int) -> list[Thumbnail] | None:
        seen, at = place(row)
        try:
            return [thumbnail(image) for image in read(seen.split, at)]
        except ImageError:
            # It could be read a moment ago.
            return None

    for one, other in close.tolist():
        first, second = thumbnails(one), thumbnails(other)
        if first is None or second is None:
            continue
        alike = [likeness(a, b) for a, b in zip(first, second, strict=True)]
        if max(alike) > ALIKE:
            yield one, other, (alike[0] > ALIKE_PARTNER, alike[1] > ALIKE_PARTNER)


def thumbnail(image: Pixels) -> Thumbnail:
    """A small copy (SIDE, SIDE, 3) of an image, and the logarithm of its aspect ratio."""
    small = cv2.resize(to_display(image), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32), float(np.log(image.shape[1] / image.shape[0]))


def likeness(one: Thumbnail, other: Thumbnail) -> float:
    """Correlation of two images, size aside: 0 where their shapes or levels differ clearly."""
    if abs(one[1] - other[1]) > 0.05 or float(np.abs(one[0] - other[0]).mean()) > LEVELS:
        return 0.0
    first, second = (image - image.mean(axis=(0, 1)) for image in (one[0], other[0]))
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / norm if norm > 0 else 1.0
