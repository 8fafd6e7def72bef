"""A pair into a row of numbers, from which the checks judge it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from img2img.data.checks.alignment import SIDE, outlines, shift_between
from img2img.data.checks.colours import variety
from img2img.data.checks.fingerprints import look_hash, pixel_hash
from img2img.picture import Pixels, to_display

Image = NDArray[np.uint8]

# What libjpeg gives for blocks that are missing, within its rounding.
FILL, FILL_SLACK = 128, 1
# Pixels at each side that do not count for whether an image is blank.
BORDER = 4
# Rows of which every fourth pixel is looked at, for the entropy of colours.
SAMPLED = 64


def measure(source: Pixels, target: Pixels, modes: Sequence[int], *, made: bool) -> tuple[Any, ...]:
    """A row of `seen.ROW` for one pair, of images (H, W, C) of one size.

    Args:
        source, target: as a `PairSource` gives them, in the order of the translation.
        modes: what `seen.ROW` has under `mode`.
        made: the one is made from the other, so the two are not compared.
    """
    shown = tuple(np.ascontiguousarray(to_display(image)) for image in (source, target))
    grey = [_thumbnail(image) for image in shown]
    difference, shift = np.nan, (np.nan, np.nan, 0.0, 0.0)
    if not made:
        difference = float(cv2.absdiff(*shown).mean())
        shift = shift_between(outlines(grey[0]), outlines(grey[1]))
    return (
        True,
        source.shape[1],
        source.shape[0],
        tuple(pixel_hash(image) for image in shown),
        tuple(look_hash(image) for image in grey),
        tuple(_spread(image) for image in shown),
        tuple(variety(_sampled(image)) for image in shown),
        difference,
        *shift,
        tuple(min(filled_rows(image), 65535) for image in shown),
        tuple(modes),
    )


def filled_rows(image: Image) -> int:
    """How many rows at the bottom of (H, W, 3) are of the grey that stands for missing data."""
    rows = 0
    # Most images end at the first row that is looked at.
    for row in image[::-1]:
        if np.abs(row.astype(np.int16) - FILL).max() > FILL_SLACK:
            break
        rows += 1
    return rows


def _spread(image: Image) -> float:
    # Where two images lie side by side in a JPEG file, the colours of one reach into the other.
    inner = image[BORDER:-BORDER, BORDER:-BORDER] if min(image.shape[:2]) > 8 * BORDER else image
    return float(cv2.meanStdDev(inner)[1].max())


def _thumbnail(image: Image) -> Image:
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def _sampled(image: Image) -> Image:
    """(N, N, 3) of its very pixels, for N up to 64: means of an area would be new colours."""
    if max(image.shape[:2]) <= SAMPLED:
        return image
    size = min(SAMPLED, image.shape[1]), min(SAMPLED, image.shape[0])
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_NEAREST), np.uint8)
