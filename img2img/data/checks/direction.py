"""Whether source and target are the wrong way round, of all pairs, a few, or some looked at."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from img2img.data.checks.colours import variety
from img2img.data.checks.problem import Problem
from img2img.data.checks.seen import Seen
from img2img.data.checks.unsuitable import Judge, find_misfit, is_direction
from img2img.data.source import PairSource
from img2img.errors import ImageError
from img2img.picture import to_display
from img2img.tasks.classes import matching_palette

# By so many bits must the entropy of colours differ for a pair to tell which is the plainer image.
CLEAR = 0.5
# Of so many pairs that tell, and of all pairs.
ENOUGH, TELLING = 8, 0.5
# So large a share of those that tell must agree.
AGREED = 0.9
# For single pairs to be the odd ones out, of all pairs; and by how many bits they must be so.
CERTAIN, ODD = 0.9, 1.0
# Pairs that are looked at where nobody looks through all.
LOOKED_AT = 16


def find_direction(seen: Seen, plainer: int | None) -> Iterator[Problem]:
    """One problem if nearly all pairs have the richer image where the plainer should be.

    Args:
        seen: the split.
        plainer: which image the task expects to have fewer colours: 0 the source, 1 the target,
            None where either may.
    """
    usable = seen.table["usable"]
    if seen.made or not usable.any():
        return
    # How much richer the target is, in bits.
    richer = seen.table["variety"][:, 1] - seen.table["variety"][:, 0]
    tells = usable & (np.abs(richer) > CLEAR)
    count = int(tells.sum())
    if count < ENOUGH or count < TELLING * usable.sum():
        return
    share = float((richer[tells] > 0).mean())
    usual = 1 if share > 0.5 else -1
    agreed = max(share, 1 - share)
    if plainer is not None and agreed >= AGREED and usual != (1, -1)[plainer]:
        fewer, more = ("target", "source") if plainer == 0 else ("source", "target")
        yield seen.about_all(
            "direction",
            f"the {fewer} has fewer colours than the {more} in {agreed:.0%} of {count} pairs that "
            f"tell, and the task expects the reverse",
            int(tells.argmax()),
        )
    if float((richer * usual > CLEAR)[usable].mean()) >= CERTAIN:
        for index in np.flatnonzero(usable & (richer * usual < -ODD)).tolist():
            yield seen.problem(
                "swapped",
                index,
                f"the {('source', 'target')[usual < 0]} has more colours than its partner, unlike "
                f"in {agreed:.1%} of the pairs",
            )


def other_way(
    pairs: PairSource, judge: Judge, plainer: int | None, *, swap: bool = False
) -> str | None:
    """Why the images of pairs seem to be in each other's place, of up to 16 evenly chosen.

    Args:
        pairs: those of a split; what is made from one image is in its place.
        judge: says why the task cannot use a pair's first and second image.
        plainer: as for `find_direction`.
        swap: the second image is the source.

    Returns:
        A sentence, or None if nothing says so.
    """
    if hasattr(pairs, "degrade") or getattr(pairs, "makes_first", False):
        return None
    misfits, richer, mapped, looked = [], [], [], 0
    for index in range(0, len(pairs), -(-len(pairs) // LOOKED_AT) or 1):
        try:
            first, second = pairs.pair(index)
        except ImageError:
            continue
        looked += 1
        if misfit := find_misfit(judge, first, second):
            misfits.append(misfit)
        elif plainer is not None:
            source, target = (second, first) if swap else (first, second)
            sides = to_display(source), to_display(target)
            richer.append(variety(sides[1]) - variety(sides[0]))
            mapped.append([matching_palette(side) is not None for side in sides])
    if is_direction(misfits, looked):
        return next(misfit.reason for misfit in misfits if misfit.exchanged)
    fewer, more = ("target", "source") if plainer == 0 else ("source", "target")
    # Label maps may have more colours than a dull photograph.
    maps = sum(plainer is not None and pair[1 - plainer] and not pair[plainer] for pair in mapped)
    if 2 * maps > looked:
        return f"in {maps} of {looked} pairs looked at the {fewer} is a label map, not the {more}"
    if 2 * sum(plainer is not None and pair[plainer] for pair in mapped) > looked:
        return None
    tells = [value for value in richer if abs(value) > CLEAR]
    wrong = sum((value > 0) == (plainer == 1) for value in tells)
    if not tells or len(tells) < TELLING * looked or wrong < AGREED * len(tells):
        return None
    return (
        f"the {fewer} has fewer colours than the {more} in {wrong} of {looked} pairs looked at, "
        f"and the task expects the reverse"
    )
