"""How far outputs differ from each other and from their sources, beside how far targets do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from img2img.picture import to_display
from img2img.tasks.base import Task

Values = NDArray[np.float64]

# Of 255 levels: a deviation of less than this is what compression leaves.
LEAST = 2 / 255


class Outputs:
    """Sums over the pairs of a sample sheet or a validation, from which both measures follow.

    Images are taken as people see them, in RGB from 0 to 1. Classes, whose colours have no
    distances that mean anything, are taken as one channel each, which is 0 or 1.

    Attributes:
        count: pairs so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._spreads = {name: _Spread() for name in ("source", "output", "target")}
        self._moved = self._should_move = self._missed = 0.0
        self._compared = 0

    def add(self, task: Task, source: Tensor, output: Tensor, target: Tensor) -> None:
        """Take in one pair and what was made of it, tensors (C, H, W) as the task has them."""
        self.count += 1
        if getattr(task, "palette", None) is not None:
            images = [source.numpy().astype(np.float64), _one_hot(output), _one_hot(target)]
        else:
            images = [
                to_display(image).astype(np.float64) / 255
                for image in (
                    task.decode_source(source),
                    task.decode_target(output, source),
                    task.decode_target(target, source),
                )
            ]
            self._missed += float(np.square(images[1] - images[2]).mean())
            if len({image.shape for image in images}) == 1:
                self._compared += 1
                self._moved += float(np.abs(images[1] - images[0]).mean())
                self._should_move += float(np.abs(images[2] - images[0]).mean())
        for spread, image in zip(self._spreads.values(), images, strict=True):
            spread.add(image)

    @property
    def variety(self) -> float | None:
        """How much outputs differ from pair to pair, as a share of how much targets do.

        The square root of the ratio of their variances, each the mean over all pixels. None of
        fewer than three pairs, images of several sizes, or sources or targets that are all alike.
        """
        source, output, target = (spread.deviation for spread in self._spreads.values())
        if self.count < 3 or source is None or output is None or target is None:
            return None
        return output / target if min(source, target) > LEAST else None

    @property
    def moved(self) -> float | None:
        """How far outputs are from their sources, as a share of how far targets are.

        The ratio of mean absolute differences. None where the two cannot be compared, or where
        targets are their sources.
        """
        return self._moved / self._should_move if self._compared and not self.pointless else None

    @property
    def missed(self) -> float | None:
        """How far outputs are from their targets, as a share of how far their mean would be.

        The ratio of root mean squares. None of fewer than three pairs, of classes, images of
        several sizes, or targets that are all alike.
        """
        deviation = self._spreads["target"].deviation
        if self.count < 3 or deviation is None or deviation <= LEAST or not self._missed:
            return None
        return math.sqrt(self._missed / self.count) / deviation

    @property
    def pointless(self) -> bool:
        """Whether targets are their sources, but for what compression leaves."""
        return self._compared > 0 and self._should_move / self._compared < 0.25 / 255


class _Spread:
    """The variance of images of one shape, in one pass and with one image's memory."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] | None = None
        self._total: Any = 0.0
        self._squares = 0.0
        self._count = 0
        self._mixed = False

    def add(self, image: Values) -> None:
        self._mixed = self._mixed or self.shape not in (None, image.shape)
        if self._mixed:
            return
        self.shape = image.shape
        self._total = self._total + image
        self._squares += float(np.square(image).mean())
        self._count += 1

    @property
    def deviation(self) -> float | None:
        """The root of the mean variance; None of images of several shapes."""
        if self._mixed or not self._count:
            return None
        mean = self._total / self._count
        return math.sqrt(max(0.0, self._squares / self._count - float(np.square(mean).mean())))


def _one_hot(scores: Tensor) -> Values:
    classes = scores.argmax(dim=0)
    hot: Values = torch.nn.functional.one_hot(classes, scores.shape[0]).double().numpy()
    return hot
