"""Metrics that compare the classes of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from img2img.errors import MetricError
from img2img.metrics.pixel import MeanOverImages


class Accuracy(MeanOverImages):
    """Share of the pixels that have the right class, in each image."""

    name, higher_is_better = "accuracy", True
    of: Literal["images", "classes"] = "classes"

    def of_each(self, output: Tensor, target: Tensor) -> Tensor:
        right = (output == target).flatten(1)
        # Counted where the classes are, divided on the CPU: not every device has float64.
        return right.sum(dim=1).cpu().double() / right.shape[1]


class FCNScore:
    """Pixel accuracy, class accuracy and class IoU of label maps, from one confusion matrix.

    `pixel_accuracy` is the share of all pixels that are right. `class_accuracy` is the mean, over
    classes, of the share of a class's pixels that are right; classes that do not occur in the truth
    count for nothing. `class_iou` is the mean, over classes that occur in truth or output, of the
    intersection over the union. An image's own scores are those of a set of this image alone, so
    the set's are not their mean.

    Source: Long et al., arXiv 1411.4038, section 5, whose code leaves absent classes out as this
    does; the copy of it in the PyTorch port of pix2pix counts them as 0, which is lower on sets
    where a class is missing. Through torchmetrics' confusion matrix.

    Args:
        ignore: classes, by number from 0, whose pixels in the truth count for nothing, such as the
            void of Cityscapes; they have no accuracy and no IoU of their own either.
    """

    of: Literal["images", "classes"] = "classes"

    def __init__(self, classes: int, *, ignore: int | Sequence[int] = ()) -> None:
        ignored = [ignore] if isinstance(ignore, int) else list(ignore)
        if wrong := [number for number in ignored if not 0 <= number < classes]:
            raise ValueError(
                f"ignore holds numbers of classes, from 0 to {classes - 1}, not {wrong[0]}"
            )
        if len(set(ignored)) == classes:
            raise ValueError("ignore leaves no class to score")
        self.scores = {"pixel_accuracy": True, "class_accuracy": True, "class_iou": True}
        self._classes, self._ignored = classes, ignored
        self._matrix = torch.zeros(classes, classes, dtype=torch.int64)

    def update(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        found = []
        for one, truth in zip(output, target, strict=True):
            matrix = self._confusion(one, truth)
            self._matrix += matrix
            found.append(self._scores(matrix))
        return {name: torch.tensor([scores[name] for scores in found]) for name in self.scores}

    def compute(self) -> dict[str, float]:
        if not self._matrix.any():
            raise MetricError("there were no pixels of a class that counts")
        return self._scores(self._matrix)

    def _confusion(self, output: Tensor, target: Tensor) -> Tensor:
        """Pixels by class of the truth, then of the output, (classes, classes)."""
        # Here, because importing it takes longer than many a small run has patience for.
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        highest = int(torch.maximum(output, target).max())
        lowest = int(torch.minimum(output, target).min())
        if highest >= self._classes or lowest < 0:
            raise MetricError(
                f"there are {self._classes} classes, and a pixel has the number "
                f"{lowest if lowest < 0 else highest}"
            )
        left_out = torch.isin(target, torch.tensor(self._ignored, device=target.device))
        matrix = multiclass_confusion_matrix(
            output, target.masked_fill(left_out, -1), self._classes, ignore_index=-1
        )
        return matrix.cpu()

    def _scores(self, matrix: Tensor) -> dict[str, float]:
        """Scores of a confusion matrix; NaN where no pixel counts."""
        counts = matrix.double()
        kept = torch.ones(self._classes, dtype=torch.bool)
        kept[self._ignored] = False
        right, truth, shown = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
        union = truth + shown - right
        occurs, appears = (truth > 0) & kept, (union > 0) & kept
        return {
            "pixel_accuracy": float(right.sum() / counts.sum()),
            "class_accuracy": float((right / truth)[occurs].mean()),
            "class_iou": float((right / union)[appears].mean()),
        }
