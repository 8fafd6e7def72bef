"""Whether source and target are the wrong way round, of all pairs or of a few."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from img2img.data.checks.problem import Problem
from img2img.data.checks.seen import Seen

# By so many bits must the entropy of colours differ for a pair to tell which is the plainer image.
CLEAR = 0.5
# Of so many pairs that tell, and of all pairs.
ENOUGH, TELLING = 8, 0.5
# So large a share of those that tell must agree.
AGREED = 0.9
# For single pairs to be the odd ones out, of all pairs; and by how many bits they must be so.
CERTAIN, ODD = 0.9, 1.0


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
