"""What belongs beside scores: the sizes that they were computed at, and L1 without a model."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from img2img.evaluation.evaluating import as_scored
from img2img.tasks.base import Task


class Beside:
    """Looks on while `evaluate` scores pairs; its method `look` is an `on_output`.

    Args:
        task: the model's.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._sizes: set[tuple[int, int]] = set()
        self._off: list[float] = []

    def look(self, index: int, source: Tensor, output: Tensor, target: Tensor) -> None:
        """Take in a pair, tensors (C, H, W) as the task has them."""
        self._sizes.add((target.shape[-1], target.shape[-2]))
        if getattr(self._task, "palette", None) is not None:
            return
        shown = as_scored(self._task.decode_source(source)).astype(np.float64)
        wanted = as_scored(self._task.decode_target(target, source)).astype(np.float64)
        if shown.shape == wanted.shape:
            self._off.append(float(np.abs(shown - wanted).mean() / 255))

    @property
    def sizes(self) -> str:
        """Width and height of the images that were compared, in words."""
        found = [f"{width} x {height}" for width, height in sorted(self._sizes)]
        return found[0] if len(found) == 1 else f"{len(found)} sizes, {found[0]} to {found[-1]}"

    @property
    def of_source(self) -> dict[str, float]:
        """What handing back the source scores; empty where that is no answer."""
        return {"l1": float(np.mean(self._off))} if self._off else {}
