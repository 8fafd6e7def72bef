"""Learning rate over a run, as a factor of what it begins with."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """How the learning rate falls, as shares of the run, so that its length changes no shape.

    Attributes:
        name: `constant`, which is the paper's; `linear` to 0, which from half of the run on is what
            the common PyTorch port does, by the epoch; `cosine` to 0 (arXiv 1608.03983, without
            restarts); `step`, a factor at equal distances.
        decay_from: the share of the run after which `linear` and `cosine` fall.
        decay_every: the share of the run between two falls of `step`.
        decay_factor: of each fall of `step`.
    """

    name: str = "constant"
    decay_from: float = 0.5
    decay_every: float = 0.25
    decay_factor: float = 0.1

    def factor(self, step: int, total_steps: int) -> float:
        """The factor for step `step` (from 0) of `total_steps`."""
        if self.name == "constant":
            return 1.0
        if self.name == "step":
            # Whole numbers first: 0.1 * 30 is a little more than 3.
            falls = math.floor(round(step / (self.decay_every * total_steps), 9))
            return float(self.decay_factor**falls)
        start = self.decay_from * total_steps
        if step < start:
            return 1.0
        left = (total_steps - step) / (total_steps - start)
        return left if self.name == "linear" else (1 - math.cos(math.pi * left)) / 2
