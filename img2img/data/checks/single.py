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
# Of so large a share it is no accident, but how the data is; and of so many pairs.
MANY, ENOUGH = 0.5, 8
SIDES = ("source", "target")

Flags = NDArray[np.bool_]


def find_blank(seen: Seen) -> Iterator[Problem]:
    """Images of one colour, or nearly."""
    blank = seen.table["usable"] & is_blank(seen)
    for index in np.flatnonzero(blank).tolist():
        yield seen.problem("blank", index, say_blank(seen, index))


def find_cut(seen: Seen) -> Iterator[Problem]:
    """Images whose last rows a decoder filled in, because the file ended early.

    A JPEG file that was cut and closed again decodes without an error. Where many have such rows,
    they are a border.
    """
    cut = seen.table["usable"] & is_cut(seen)
    if is_rule(cut, seen):
        return
    for index in np.flatnonzero(cut).tolist():
        yield seen.problem("cut", index, say_cut(seen, index))


def find_identical(seen: Seen, *, rule: bool = False) -> Iterator[Problem]:
    """Pairs of which both images are nearly the same; one problem where most are.

    Args:
        seen: the split.
        rule: it is so in another split, so that fewer pairs need to tell in this one.
    """
    same = seen.table["usable"] & is_identical(seen)
    if is_rule(same, seen, least=1 if rule else ENOUGH):
        share = same.sum() / seen.table["usable"].sum()
        yield seen.about_all(
            "identical",
            f"source and target are nearly identical in {share:.0%} of the pairs",
            int(same.argmax()),
        )
        return
    for index in np.flatnonzero(same).tolist():
        yield seen.problem("identical", index, say_identical(seen, index))


def is_blank(seen: Seen) -> Flags:
    """Of each pair, whether one of its images is of one colour; (N,), as the next two."""
    return np.asarray((seen.table["spread"] < BLANK).any(axis=1))


def is_cut(seen: Seen) -> Flags:
    """Whether the last rows of an image are of the grey that stands for missing data."""
    return np.asarray(_cut(seen).any(axis=1))


def is_identical(seen: Seen) -> Flags:
    """Whether the two images are nearly the same; never where one is made from the other."""
    return np.asarray(seen.table["difference"] < ALIKE) & ~is_blank(seen) & (not seen.made)


def say_blank(seen: Seen, index: int) -> str:
    """Which image of a pair is of one colour, in words."""
    blank = seen.table["spread"][index] < BLANK
    which = [side for side, found in zip(SIDES, blank, strict=True) if found]
    said = "source and target are" if len(which) == 2 else f"the {which[0]} is"
    return f"{said} of one colour, or nearly"


def say_cut(seen: Seen, index: int) -> str:
    """Which image of a pair has how many grey rows, in words."""
    cut = _cut(seen)[index]
    which = " and ".join(side for side, found in zip(SIDES, cut, strict=True) if found)
    return f"the last {int(seen.table['filled'][index].max())} rows of the {which} are grey"


def say_identical(seen: Seen, index: int) -> str:
    """By how little the images of a pair differ, in words."""
    mean = float(seen.table["difference"][index])
    return f"source and target differ by {mean:.1f} of 255 levels on average"


def is_rule(found: Flags, seen: Seen, *, least: int = ENOUGH, of: Flags | None = None) -> bool:
    """Whether most pairs are so, of those that are usable or `of` others, of at least so many."""
    among = seen.table["usable"] if of is None else of
    count = int(among.sum())
    return count >= least and int((found & among).sum()) > MANY * count


def _cut(seen: Seen) -> Flags:
    least = np.maximum(FILLED, FILLED_SHARE * seen.table["height"])[:, None]
    blank = seen.table["spread"] < BLANK
    return np.asarray((seen.table["filled"] >= least) & ~blank)
