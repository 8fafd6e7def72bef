"""Focal frequency loss, a plugin for img2img."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import img2img

if TYPE_CHECKING:
    from img2img.registry import Registry


class FocalFrequency(nn.Module):
    """Squared difference between the spectra of output and target, the hard frequencies first.

    With d(u, v) the distance between the two orthonormal 2D spectra, the loss is the mean over all
    frequencies of w * d**2, where w = d**alpha over its maximum, in [0, 1], passes no gradient.
    Each channel of each image is transformed and normalised by itself, so a pair's loss does not
    depend on its batch.

    Shape: output and target (B, C, H, W), any range -> a scalar, 0 where they are equal and at most
    the mean squared difference of the pixels. Source: arXiv 2012.12821, section 3. Departure: the
    authors' options that average spectra or normalise over the batch are left out.

    Args:
        alpha: how much more the hard frequencies count; 0 counts all alike, which is the L2 loss.
        patch_factor: cut images into this many patches a side and transform each by itself.
        log_matrix: weigh by log(1 + d**alpha), which brings the hardest frequencies closer to the
            others.

    Raises:
        ValueError: alpha is below 0 or patch_factor below 1; in forward, sizes that cannot be cut
            into that many patches.
    """

    def __init__(
        self, *, alpha: float = 1.0, patch_factor: int = 1, log_matrix: bool = False
    ) -> None:
        super().__init__()
        if not 0 <= alpha < float("inf"):
            raise ValueError(f"alpha must be 0 or more, not {alpha}")
        if patch_factor < 1:
            raise ValueError(f"patch_factor must be at least 1, not {patch_factor}")
        self.alpha = alpha
        self.patch_factor = patch_factor
        self.log_matrix = log_matrix

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        # The transform is linear: that of the difference is the difference of the two.
        spectrum = torch.fft.fft2(self._patches(output - target), norm="ortho")
        squared = torch.view_as_real(spectrum).square().sum(-1)
        return (self._weight(squared.detach().sqrt()) * squared).mean()

    def _patches(self, images: Tensor) -> Tensor:
        """(B, C, H, W) as (B, C, p, p, H / p, W / p)."""
        height, width = images.shape[-2:]
        p = self.patch_factor
        if height % p or width % p:
            raise ValueError(
                f"images of {height}x{width} pixels cannot be cut into {p}x{p} patches: "
                f"choose a patch_factor that divides both"
            )
        return images.reshape(*images.shape[:-2], p, height // p, p, width // p).transpose(-3, -2)

    def _weight(self, distance: Tensor) -> Tensor:
        """The spectrum weight matrix, (..., H, W) in [0, 1]."""
        if not self.log_matrix:
            # Divided first: small distances to a high power would vanish.
            return _over_maximum(distance).pow(self.alpha)
        return _over_maximum(distance.pow(self.alpha).log1p())


def _over_maximum(values: Tensor) -> Tensor:
    """Values of (..., H, W), none below 0, over their maximum in each map; 0 where all are 0."""
    largest = values.amax(dim=(-2, -1), keepdim=True)
    return values / largest.clamp_min(torch.finfo(values.dtype).tiny)


@img2img.hookimpl
def register(registry: Registry) -> None:
    registry.loss("focal_frequency", FocalFrequency)
