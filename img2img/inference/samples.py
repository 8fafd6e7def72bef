"""Several results for one image, and how far they lie apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from img2img.picture import Picture


@dataclass(frozen=True)
class Samples:
    """What different noise makes of one image.

    Attributes:
        pictures: the results.
        mean: their mean; of class probabilities where results are classes.
        spread: their standard deviation, (H, W) float32, the mean over the channels; 1 is the range
            from black to white, or that of a probability. At most 0.5.
    """

    pictures: list[Picture]
    mean: Picture
    spread: NDArray[np.float32]


class Moments:
    """Mean and standard deviation of arrays (H, W, C) that come in bands of rows, one by one.

    By Welford's method (Technometrics 4, 1962), which does not lose small deviations in float32.
    """

    def __init__(self, height: int) -> None:
        self.height = height
        self.mean = np.empty((0, 0, 0), np.float32)
        self._squares = self.mean

    def add(self, row: int, values: NDArray[np.float32], count: int) -> None:
        """Take in rows (n, W, C) from `row` on, of the `count`-th array."""
        if not self.mean.size:
            self.mean = np.zeros((self.height, *values.shape[1:]), np.float32)
            self._squares = np.zeros_like(self.mean)
        rows = slice(row, row + len(values))
        off = values - self.mean[rows]
        self.mean[rows] += off / count
        self._squares[rows] += off * (values - self.mean[rows])

    def deviation(self, count: int) -> NDArray[np.float32]:
        """Standard deviation of `count` arrays, (H, W), the mean over the channels."""
        deviation: NDArray[np.float32] = np.sqrt(self._squares / count).mean(axis=2)
        return deviation
