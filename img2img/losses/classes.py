"""Losses of outputs that are class probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from img2img.losses.precision import full_precision


class CrossEntropy(nn.Module):
    """Cross-entropy: -log of the probability that the output gives each pixel's class.

    Shape: output (B, N, H, W), probabilities of N classes, as a softmax gives them; target
    (B, N, H, W), one-hot -> a scalar. Where a target is 0 in all classes, the pixel is left out.
    For tasks whose targets are classes; arXiv 1611.07004, section 4.6, regresses their colours.
    As torch's function of logits and class numbers, weights and smoothing (arXiv 1512.00567,
    section 7) included; but where the softmax gave exactly 0, whose logits no longer show, there is
    no gradient.

    Args:
        class_weights: a factor for each class, for example more than 1 for rare ones; the mean is
            weighted by them. 1 for all unless given.
        label_smoothing: share of every label that is spread over all classes.

    Raises:
        ValueError: weights that are negative or all 0, a share outside [0, 1); when called, a
            single class, or another number of classes than of weights.
    """

    # Asked by the assembly, which knows what the task's targets are.
    wants_classes = True

    def __init__(
        self, *, class_weights: Sequence[float] = (), label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        if any(not 0 <= weight < float("inf") for weight in class_weights) or (
            class_weights and not any(class_weights)
        ):
            raise ValueError(
                f"class_weights must be at least 0 and not all of them 0, and are "
                f"{list(class_weights)}"
            )
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"label_smoothing must be at least 0 and below 1, and is {label_smoothing}"
            )
        self.label_smoothing = label_smoothing
        self.class_weights: Tensor | None
        self.register_buffer(
            "class_weights", torch.tensor(class_weights) if class_weights else None
        )

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        classes = target.shape[1]
        if classes < 2:
            raise ValueError(
                "cross_entropy tells classes apart, and this task's targets have one channel: use "
                "l1, or a task whose targets are classes"
            )
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise ValueError(
                f"class_weights has {len(self.class_weights)} numbers, and this task has {classes} "
                f"classes"
            )
        with full_precision(output):
            probabilities = output if output.dtype == torch.float64 else output.float()
            smallest = torch.finfo(probabilities.dtype).tiny
            # Below it, where the softmax itself gave 0, the logarithm would have no end.
            surprise = -probabilities.clamp_min(smallest).log()
            labels = target.to(surprise.dtype)
            weighted = labels
            if self.class_weights is not None:
                weights = self.class_weights.to(surprise.dtype).view(1, -1, 1, 1)
                surprise, weighted = surprise * weights, labels * weights
            spread = self.label_smoothing / classes * labels.sum(1, keepdim=True)
            labels = (1 - self.label_smoothing) * labels + spread
            return (labels * surprise).sum() / weighted.sum().clamp_min(smallest)
