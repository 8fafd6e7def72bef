"""Structural similarity as a loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from img2img.layers import check_positive, spatial
from img2img.losses.precision import full_precision

# From the paper: they keep the quotients steady where a window is black or flat.
K1, K2 = 0.01, 0.03


class SSIM(nn.Module):
    """1 - SSIM: luminance, contrast and structure compared in a Gaussian window around each pixel.

    Shape: output and target (B, C, H, W) in [-1, 1] -> a scalar. Images are taken to [0, 1] first,
    because SSIM depends on where black is. Source: Wang et al. 2004, "Image quality assessment:
    from error visibility to structural similarity", section III; only windows that lie whole within
    the image count, as in the authors' code; channels one by one.

    torchmetrics' function would do as a loss: it has gradients and asks the host for nothing. But
    its versions differ at the border, which some mirror and some leave out, so that an upgrade
    would change what is trained; and on CUDA its convolutions are TF32 unless told otherwise,
    whose rounding is as large as the variance of a smooth window.

    Args:
        window: height and width of the window, in pixels; odd.
        sigma: standard deviation of its Gaussian, in pixels.

    Raises:
        ValueError: an even window; when called, images smaller than the window.
    """

    def __init__(self, *, window: int = 11, sigma: float = 1.5) -> None:
        super().__init__()
        check_positive(window=window, sigma=sigma)
        if window % 2 == 0:
            raise ValueError(f"window must be odd, so that it has a middle, and is {window}")
        self.window = window
        self.sigma = sigma

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        if min(output.shape[-2:]) < self.window:
            raise ValueError(
                f"images of {spatial(output)} pixels are smaller than the window of {self.window}: "
                f"use larger crops or a smaller window"
            )
        with full_precision(output):
            x, y = (unit_range(images) for images in (output, target))
            rows, columns = self._windows(x.shape[-2], x), self._windows(x.shape[-1], x).T
            mean_x, mean_y, xx, yy, xy = (
                rows @ image @ columns for image in (x, y, x * x, y * y, x * y)
            )
            variances = xx - mean_x**2 + yy - mean_y**2
            luminance = (2 * mean_x * mean_y + K1**2) / (mean_x**2 + mean_y**2 + K1**2)
            structure = (2 * (xy - mean_x * mean_y) + K2**2) / (variances + K2**2)
            return 1 - (luminance * structure).mean()

    def _windows(self, size: int, like: Tensor) -> Tensor:
        """A row for each window along one axis, holding the weights of the pixels in it."""
        pixels = torch.arange(size, dtype=like.dtype, device=like.device)
        middles = pixels[: size - self.window + 1] + self.window // 2
        away = pixels[None] - middles[:, None]
        weights = torch.exp(-(away**2) / (2 * self.sigma**2))
        weights = torch.where(away.abs() <= self.window // 2, weights, 0.0)
        return weights / weights.sum(dim=1, keepdim=True)


def unit_range(images: Tensor) -> Tensor:
    """[-1, 1] to [0, 1], in float32 or better."""
    return (images if images.dtype == torch.float64 else images.float()) / 2 + 0.5
