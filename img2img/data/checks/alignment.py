"""Pairs out of register: how far the target lies beside the source."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from img2img.data.checks.problem import Problem
from img2img.data.checks.seen import Seen

Floats = NDArray[np.float32]

# Of the square thumbnails that are compared.
SIDE = 128
# Phase correlation's response, from 0 to 1: below it the peak is one among others. Measured on
# facades and edges2shoes, see docs/reliability.md.
CLEAR = 0.16
# A shift below this share of the side is neither here nor there: 4 pixels of 256.
FAR = 0.0156
# How much better gradients must agree (correlation) with the shift undone.
GAIN = 0.1
# A set counts as shifted if so many pairs agree on it, of at least so many.
AGREED, ENOUGH = 0.4, 8
# Pairs agree that are so near each other, in pixels of thumbnails.
NEAR = 1.5

_WINDOW = cv2.createHanningWindow((SIDE, SIDE), cv2.CV_32F)


def outlines(grey: NDArray[np.uint8]) -> Floats:
    """Where a (SIDE, SIDE) thumbnail changes, as roots of gradient magnitudes around 0.

    Roots, so that a few strong edges do not outvote all others. Drawings, label maps and
    photographs have these places in common, whatever their colours.
    """
    levels = grey.astype(np.float32)
    across, down = (cv2.Sobel(levels, cv2.CV_32F, x, 1 - x) for x in (1, 0))
    strength = np.sqrt(cv2.magnitude(across, down))
    return np.asarray(strength - strength.mean(), np.float32)


def shift_between(source: Floats, target: Floats) -> tuple[float, float, float, float]:
    """By how much a target lies right of and below its source, as shares of width and height.

    Also phase correlation's response, and how much better the two agree with the shift undone
    (difference of two correlations). Rotation and scale are not looked for.

    Args:
        source, target: their `outlines`.
    """
    (right, below), response = cv2.phaseCorrelate(source, target, _WINDOW)
    x, y = round(right), round(below)
    gain = 0.0
    if (x or y) and max(abs(x), abs(y)) < SIDE // 2:
        # The part that both have; the same part of the source is compared unshifted.
        rows, columns = slice(max(0, -y), SIDE - max(0, y)), slice(max(0, -x), SIDE - max(0, x))
        moved = target[rows.start + y : rows.stop + y, columns.start + x : columns.stop + x]
        part = source[rows, columns]
        gain = _correlation(part, moved) - _correlation(part, target[rows, columns])
    return right / SIDE, below / SIDE, response, gain


def find_shifted(seen: Seen) -> Iterator[Problem]:
    """Pairs that are clearly shifted; one problem where all of a split are alike."""
    table = seen.table
    usable = table["usable"] & np.isfinite(table["right"])
    common = _common(table[usable])
    if common is not None:
        right, below, share = common
        width, height = (float(np.median(table[side][usable])) for side in ("width", "height"))
        yield Problem(
            "shifted",
            seen.split,
            seen.split,
            f"targets lie {_words(right * width, below * height)} of their sources, alike in "
            f"{share:.0%} of the pairs",
        )
        return
    far = np.hypot(table["right"], table["below"]) > FAR
    clear = (table["response"] > CLEAR) & (table["gain"] > GAIN)
    for index in np.flatnonzero(usable & far & clear).tolist():
        row = table[index]
        words = _words(row["right"] * row["width"], row["below"] * row["height"])
        yield seen.problem("shifted", index, f"the target lies {words} of its source")


def _common(rows: NDArray[np.void]) -> tuple[float, float, float] | None:
    """The shift that many pairs agree on, if it is one: right, below, and the share of pairs."""
    if len(rows) < ENOUGH:
        return None
    places = np.stack([rows["right"], rows["below"]], axis=1) * SIDE
    # Where most are: pairs that tell nothing lie anywhere.
    cells, counts = np.unique(np.rint(places / NEAR), axis=0, return_counts=True)
    at = cells[counts.argmax()] * NEAR
    near = np.abs(places - at).max(axis=1) <= NEAR
    right, below = np.median(places[near], axis=0) / SIDE
    share = float(near.mean())
    # Nearer than single pairs need be: many see more than one.
    if share < AGREED or max(abs(right), abs(below)) <= FAR / 2:
        return None
    if float(np.median(rows["gain"][near])) <= 0:
        return None
    return float(right), float(below), share


def _words(right: float, below: float) -> str:
    sides = []
    if round(abs(right)):
        sides.append(f"{abs(right):.0f} pixels {'right' if right > 0 else 'left'}")
    if round(abs(below)):
        sides.append(f"{abs(below):.0f} pixels {'below' if below > 0 else 'above'}")
    return " and ".join(sides) or "less than a pixel beside"


def _correlation(one: Floats, other: Floats) -> float:
    one, other = one - one.mean(), other - other.mean()
    norm = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / norm if norm > 0 else 0.0
