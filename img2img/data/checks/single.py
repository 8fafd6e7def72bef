"""What is wrong with one pair by itself: blank images, missing rows, nothing to learn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from img2img.data.checks.problem import Problem
from img2img.data.checks.seen import Seen

# Standard deviation of every channel, in levels of 256.
BLANK = 2.5
# Mean difference of source and target, in levels.
ALIKE = 2.0
# At least so many rows, and this share of the height: a row of JPEG's blocks, usually.
FILLED, FILLED_SHARE = 4, 0.015
# Of so many pairs it is no accident, but how the data is.
MANY = 0.5
SIDES = ("source", "target")


def find_blank(seen: Seen) -> Iterator[Problem]:
    """Images of one colour, or nearly."""
    blank: NDArray[np.bool_] = seen.table["usable"][:, None] & (seen.table["spread"] < BLANK)
    for index in np.flatnonzero(blank.any(axis=1)).tolist():
        which = [side for side, found in zip(SIDES, blank[index], strict=True) if found]
        said = "source and target are" if len(which) == 2 else f"the {which[0]} is"
        yield seen.problem("blank", index, f"{said} of one colour, or nearly")


def find_cut(seen: Seen) -> Iterator[Problem]:
    """Images whose last rows a decoder filled in, because the file ended early.

    A JPEG file that was cut and closed again decodes without an error. Where many have such rows,
    they are a border.
    """
    least = np.maximum(FILLED, FILLED_SHARE * seen.table["height"])[:, None]
    blank = seen.table["spread"] < BLANK
    cut: NDArray[np.bool_] = (
        seen.table["usable"][:, None] & (seen.table["filled"] >= least) & ~blank
    )
    if _is_rule(np.asarray(cut.any(axis=1)), seen):
        return
    for index in np.flatnonzero(cut.any(axis=1)).tolist():
        which = " and ".join(side for side, found in zip(SIDES, cut[index], strict=True) if found)
        rows = int(seen.table["filled"][index].max())
        yield seen.problem("cut", index, f"the last {rows} rows of the {which} are grey")


def find_identical(seen: Seen) -> Iterator[Problem]:
    """Pairs of which both images are nearly the same."""
    if seen.made:
        return
    blank = (seen.table["spread"] < BLANK).any(axis=1)
    same: NDArray[np.bool_] = seen.table["usable"] & (seen.table["difference"] < ALIKE) & ~blank
    if _is_rule(same, seen):
        share = same.sum() / max(1, seen.table["usable"].sum())
        yield seen.about_all(
            "identical",
            f"source and target are nearly identical in {share:.0%} of the pairs",
            int(same.argmax()),
        )
        return
    for index in np.flatnonzero(same).tolist():
        mean = float(seen.table["difference"][index])
        yield seen.problem(
            "identical", index, f"source and target differ by {mean:.1f} of 255 levels on average"
        )


def _is_rule(found: NDArray[np.bool_], seen: Seen) -> bool:
    usable = int(seen.table["usable"].sum())
    return usable >= 8 and int(found.sum()) > MANY * usable
