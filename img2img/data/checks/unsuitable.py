"""Pairs that the task cannot use, each told by what it is where that is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from img2img.data.checks.problem import Problem
from img2img.data.checks.seen import Misfit, Seen
from img2img.data.checks.single import (
    is_blank,
    is_cut,
    is_identical,
    is_rule,
    say_blank,
    say_cut,
    say_identical,
)
from img2img.picture import Pixels

# Given a pair's first and second image, says why the task cannot use them, or gives None.
Judge = Callable[[Pixels, Pixels], str | None]


def find_misfit(judge: Judge, first: Pixels, second: Pixels) -> Misfit | None:
    """Why a task cannot use a pair, and whether it could with the images exchanged; None if so."""
    reason = judge(first, second)
    return None if reason is None else Misfit(reason, judge(second, first) is None)


def is_direction(misfits: Sequence[Misfit], pairs: int) -> bool:
    """Whether most of so many pairs would fit with their images exchanged, not only odd ones."""
    return 2 * sum(misfit.exchanged for misfit in misfits) > pairs


def explain(misfit: Misfit, *, direction: bool) -> str:
    """A misfit in words; `direction` says whether most pairs want to be exchanged."""
    if not misfit.exchanged:
        return misfit.reason
    if direction:
        return f"{misfit.reason}: data.direction is the wrong way round"
    return f"{misfit.reason}: the two images of this pair are in each other's place"


def find_unsuitable(splits: Sequence[Seen], *, compare: bool = True) -> Iterator[Problem]:
    """An error for each pair that the task cannot use.

    Of the kind that says most: blank, nearly identical, exchanged or cut; `direction` where most
    pairs of all splits are exchanged, and `unsuitable` where nothing else is known.

    Args:
        splits: those that were looked through.
        compare: source and target are different images; the task makes neither from the other.
    """
    misfits = [misfit for seen in splits for misfit in seen.misfits.values()]
    pairs = sum(int(seen.table["usable"].sum()) for seen in splits) + len(misfits)
    direction = is_direction(misfits, pairs)
    for seen in splits:
        readable = seen.table["usable"].copy()
        readable[list(seen.misfits)] = True
        blank, same, cut = is_blank(seen), is_identical(seen) & compare, is_cut(seen)
        if is_rule(cut, seen, of=readable):
            # A border.
            cut = np.zeros_like(cut)
        for index, misfit in seen.misfits.items():
            kind, said = "unsuitable", ""
            if blank[index]:
                kind, said = "blank", say_blank(seen, index)
            elif same[index]:
                kind, said = "identical", say_identical(seen, index)
            elif misfit.exchanged:
                kind = "direction" if direction else "swapped"
            elif cut[index]:
                kind, said = "cut", say_cut(seen, index)
            reason = f"{said}; the task cannot use it" if said else ""
            yield Problem(
                kind,
                seen.split,
                seen.name(index),
                reason or explain(misfit, direction=direction),
                index,
                unusable=True,
            )
