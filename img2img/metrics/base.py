"""What a metric is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from torch import Tensor


class Metric(Protocol):
    """Scores outputs against targets, over a set of pairs; built anew for each set.

    Attributes:
        scores: the name of each score that it computes, and whether more of it is better.
        of: what it is given: `images`, (B, 3, H, W) float32 in [0, 1], sRGB, rounded to 8 bits,
            or `classes`, (B, H, W) int64, the class of each pixel.

    A metric that needs several images says how many with `least`, so that too few are told of
    before any is made. A metric with networks has `to(device)` as modules do, and what it is given
    is on that device.
    """

    # As properties, because nobody sets them: a dict will do, and one fixed for the class.
    @property
    def scores(self) -> Mapping[str, bool]: ...

    @property
    def of(self) -> Literal["images", "classes"]: ...

    def update(self, output: Tensor, target: Tensor) -> Mapping[str, Tensor]:
        """Take in a batch; gives the scores that single images have, (B,) each, or nothing.

        Raises:
            MetricError: it cannot be computed of these images; says what to do.
        """

    def compute(self) -> Mapping[str, float]:
        """The scores over all that was taken in.

        Raises:
            MetricError: it cannot be computed, such as of too few images; says what to do.
        """
