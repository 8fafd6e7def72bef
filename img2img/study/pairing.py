"""Which images meet in which trial, and on which side; all of it follows from the seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from img2img.errors import RequestError


@dataclass(frozen=True)
class Trial:
    """A real image against a generated one.

    Attributes:
        real: index of the pair whose target is shown.
        fake: index of the pair whose source was translated.
        fake_at: 0 where the generated image comes first, on the left; 1 where it comes second.
    """

    real: int
    fake: int
    fake_at: int


def plan_trials(
    indices: Sequence[int], trials: int, practice: int, *, seed: int, same_input: bool
) -> list[Trial]:
    """The trials in their order, those for practice first.

    No real image and no generated one is seen twice. With `same_input` a trial shows both of one
    pair. Otherwise it never does, and as far as there are enough pairs, none is in two trials. The
    generated image comes first in half of the trials, so that always giving one answer is chance.

    Args:
        indices: of the pairs that can be used.
        trials: that count.
        practice: before these.
        seed: another is another order, with other pairs and sides.
        same_input: as the paper did for colorization; the other is what it did for maps.

    Raises:
        RequestError: there are fewer pairs than trials.
    """
    total = trials + practice
    if len(indices) < total:
        raise RequestError(_too_few(len(indices), trials, practice))
    if not same_input and len(indices) < 2:
        raise RequestError(
            "there is one pair, and a real image from another pair than the generated one needs "
            "two: add --inputs same"
        )
    draw = random.Random(f"img2img study {seed}")
    order = list(indices)
    draw.shuffle(order)
    reals = order[:total]
    if same_input:
        fakes = reals
    elif len(order) >= 2 * total:
        fakes = order[total : 2 * total]
    else:
        # As far apart in time as can be: the two of one pair should not be remembered.
        turn = max(1, len(order) // 2)
        fakes = [order[(place + turn) % len(order)] for place in range(total)]
    sides = [*_sides(practice, draw), *_sides(trials, draw)]
    return [Trial(*three) for three in zip(reals, fakes, sides, strict=True)]


def _sides(count: int, draw: random.Random) -> list[int]:
    sides = [place % 2 for place in range(count)]
    if count % 2:
        sides[-1] = draw.randrange(2)
    draw.shuffle(sides)
    return sides


def _too_few(count: int, trials: int, practice: int) -> str:
    pairs = "1 usable pair" if count == 1 else f"{count} usable pairs"
    told = (
        f"there are {pairs}, and {trials} trials with {practice} for practice need "
        f"{trials + practice}, one each"
    )
    less = min(practice, count // 5)
    if count - less < 1:
        return f"{told}: give data that has more"
    return f"{told}: add --trials {count - less} --practice {less}, or give data that has more"
