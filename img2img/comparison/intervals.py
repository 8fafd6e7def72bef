"""Confidence intervals of a few numbers, by Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """The mean of some values, and how far the true mean may be from it.

    Attributes:
        mean: of the values.
        half: half of the 95% confidence interval's width; None of one value, which has none.
        count: how many values.
    """

    mean: float
    half: float | None
    count: int


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95% confidence interval of values that are taken to be normally distributed.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("no values, and so no mean")
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Interval(mean, None, count)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Interval(mean, t_quantile(count - 1) * math.sqrt(variance / count), count)


def told_apart(first: Sequence[float], second: Sequence[float]) -> bool | None:
    """Whether the mean difference of paired values is clearly not 0; None of fewer than two pairs.

    Clearly: 0 lies outside of its 95% confidence interval.
    """
    if len(first) < 2 or len(first) != len(second):
        return None
    found = interval([a - b for a, b in zip(first, second, strict=True)])
    return found.half is not None and abs(found.mean) > found.half


@lru_cache
def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """What a t-distributed number stays below in absolute value with probability `level`.

    Args:
        freedom: degrees of freedom, 1 or more.
        level: between 0 and 1.
    """
    low, high = 0.0, 1.0
    while _within(high, freedom) < level:
        low, high = high, 2 * high
    # The distribution function has a closed form, its inverse none.
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """P(|T| < t) for whole degrees of freedom: Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    total, term = 0.0, 1.0
    if freedom % 2:
        term = cosine
        for i in range(1, freedom - 1, 2):
            total += term
            term *= cosine**2 * (i + 1) / (i + 2)
        return 2 / math.pi * (angle + sine * total)
    for i in range(0, freedom, 2):
        total += term
        term *= cosine**2 * (i + 1) / (i + 2)
    return sine * total
