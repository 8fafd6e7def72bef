"""What is known of a split once all its pairs were decoded: a row of numbers for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from img2img.data.checks.problem import Problem

# 99 bytes a pair, so that a million take 99 MB. Fields of two are of the source and the target.
ROW = np.dtype(
    [
        ("usable", np.bool_),
        ("width", np.uint32),
        ("height", np.uint32),
        ("pixels", np.uint64, 2),  # hash of what is shown
        ("looks", np.uint64, (2, 2)),  # difference hashes, 128 bits an image
        ("spread", np.float32, 2),  # largest standard deviation of a channel, in levels of 256
        ("variety", np.float32, 2),  # entropy of colours, in bits
        ("difference", np.float32),  # mean, between source and target, in levels
        ("right", np.float32),  # where the target lies, as shares of width and height
        ("below", np.float32),
        ("response", np.float32),
        ("gain", np.float32),
        ("filled", np.uint16, 2),  # rows of grey at the bottom
        ("mode", np.uint8, 2),  # which of `modes`
    ]
)


@dataclass(frozen=True)
class Misfit:
    """Why the task cannot use a pair, and whether it could with its two images exchanged."""

    reason: str
    exchanged: bool


@dataclass
class Seen:
    """One split, looked through.

    Attributes:
        split: `train` or `val`.
        name: what to call a pair, by its index.
        table: a row of `ROW` for each pair.
        made: the first images are made from the second, so the two are not compared.
        misfits: pairs that can be read, but that the task cannot use. Their rows hold what was
            measured and are not `usable`.
        channels: of the images that the task's source and target take.
        modes: what `mode` counts in.
    """

    split: str
    name: Callable[[int], str]
    table: NDArray[Any]
    made: bool = False
    channels: Sequence[int] = (3, 3)
    modes: list[str] = field(default_factory=list)
    misfits: dict[int, Misfit] = field(default_factory=dict)

    def problem(
        self, kind: str, index: int, reason: str, twin: tuple[str, int] | None = None
    ) -> Problem:
        """Something about one pair."""
        return Problem(kind, self.split, self.name(index), reason, index, twin)

    def about_all(self, kind: str, reason: str, example: int | None = None) -> Problem:
        """Something about the whole split, perhaps with a pair that shows it."""
        return Problem(kind, self.split, self.split, reason, example)
