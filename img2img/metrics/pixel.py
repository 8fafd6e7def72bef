"""Metrics that compare pixels at the same place."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from img2img.errors import MetricError

# Pixels; a smaller image has no SSIM.
SSIM_WINDOW = 11
# The window, at the fourth half of an image.
MS_SSIM_LEAST = SSIM_WINDOW * 2**4


class MeanOverImages:
    """A metric that each image has for itself; over a set it is the mean.

    Subclasses have `name`, `higher_is_better`, and `of_each(output, target)`, (B,).
    """

    name: ClassVar[str]
    higher_is_better: ClassVar[bool]
    of: Literal["images", "classes"] = "images"

    def __init__(self) -> None:
        self.scores = {self.name: self.higher_is_better}
        self._total, self._count = 0.0, 0

    def of_each(self, output: Tensor, target: Tensor) -> Tensor:
        """The score of each image, (B,)."""
        raise NotImplementedError

    def update(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        # On the CPU, because not every device has float64.
        values = self.of_each(output, target).cpu().double()
        self._total += float(values.sum())
        self._count += len(values)
        return {self.name: values}

    def compute(self) -> dict[str, float]:
        if not self._count:
            raise MetricError("there were no images")
        return {self.name: self._total / self._count}


class L1(MeanOverImages):
    """Mean absolute difference of images in [0, 1]."""

    name, higher_is_better = "l1", False

    def of_each(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).abs().mean(dim=(1, 2, 3))


class PSNR(MeanOverImages):
    """Peak signal-to-noise ratio of each image in dB, at most 100, through torchmetrics."""

    name, higher_is_better = "psnr", True

    def of_each(self, output: Tensor, target: Tensor) -> Tensor:
        # Here, because importing it takes longer than many a small run has patience for.
        from torchmetrics.functional.image import peak_signal_noise_ratio

        values = peak_signal_noise_ratio(
            output, target, data_range=1.0, reduction="none", dim=(1, 2, 3)
        )
        # Two equal images have no finite PSNR; 8 bits cannot show more than this.
        return values.clamp(max=100.0)


class SSIM(MeanOverImages):
    """Structural similarity with an 11-pixel Gaussian window, through torchmetrics.

    Source: Wang et al. 2004, "Image quality assessment". The window goes to the border, beyond
    which the image is mirrored. Raises MetricError for smaller images.
    """

    name, higher_is_better = "ssim", True

    def of_each(self, output: Tensor, target: Tensor) -> Tensor:
        from torchmetrics.functional.image import structural_similarity_index_measure

        if min(output.shape[-2:]) < SSIM_WINDOW:
            raise MetricError(
                f"ssim needs images of {SSIM_WINDOW} pixels or more, the width of its window, and "
                f"these have {output.shape[-1]} x {output.shape[-2]}"
            )
        values = structural_similarity_index_measure(
            output, target, data_range=1.0, reduction="none"
        )
        assert isinstance(values, torch.Tensor)
        return values


class MSSSIM(MeanOverImages):
    """Structural similarity at five scales, each half the one before, through torchmetrics.

    Source: Wang et al. 2003, "Multiscale structural similarity for image quality assessment".
    Raises MetricError for images of fewer than 176 pixels, whose smallest scale has no room for the
    11-pixel window. A negative similarity of contrast counts as 0, which has a root.
    """

    name, higher_is_better = "ms_ssim", True

    def of_each(self, output: Tensor, target: Tensor) -> Tensor:
        from torchmetrics.functional.image import (
            multiscale_structural_similarity_index_measure,
        )

        if min(output.shape[-2:]) < MS_SSIM_LEAST:
            raise MetricError(
                f"ms-ssim needs images of {MS_SSIM_LEAST} pixels or more, because it halves them "
                f"four times, and these have {output.shape[-1]} x {output.shape[-2]}; ssim takes "
                f"smaller ones"
            )
        values = multiscale_structural_similarity_index_measure(
            output, target, data_range=1.0, reduction="none"
        )
        assert isinstance(values, torch.Tensor)
        return values
