"""Aspect ratios unlike the others'."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from img2img.data.checks.problem import Problem
from img2img.data.checks.seen import Seen

# So many pairs must be of one ratio for the others to be odd.
USUAL, ENOUGH = 0.9, 8
# By this factor.
OTHER = 1.25


def find_shapes(seen: Seen) -> Iterator[Problem]:
    """Pairs whose images are clearly wider or higher than nearly all others."""
    usable = seen.table["usable"]
    if usable.sum() < ENOUGH:
        return
    ratio = np.zeros(len(usable))
    ratio[usable] = np.log(seen.table["width"][usable] / seen.table["height"][usable])
    usual = float(np.median(ratio[usable]))
    odd = usable & (np.abs(ratio - usual) > np.log(OTHER))
    if odd.sum() > (1 - USUAL) * usable.sum():
        return
    for index in np.flatnonzero(odd).tolist():
        row = seen.table[index]
        yield seen.problem(
            "shape",
            index,
            f"{row['width']}x{row['height']} pixels, where others are {np.exp(usual):.2g} times as "
            f"wide as high",
        )
