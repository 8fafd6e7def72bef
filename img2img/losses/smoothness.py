"""Losses of the output alone, which want it smooth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from img2img.layers import spatial


class TotalVariation(nn.Module):
    """Total variation of the output: mean differences between neighbouring pixels.

    Shape: output (B, C, H, W) -> a scalar; the target is not looked at. Source: Rudin, Osher and
    Fatemi 1992, "Nonlinear total variation based noise removal algorithms" (isotropic); the sum of
    both directions, the default, is the usual form. Departure: means over pixels, so that its
    weight does not depend on the size of the crops; arXiv 1603.08155, section 3.2, sums.

    Args:
        isotropic: the length of each pixel's gradient, instead of its two parts by themselves.

    Raises:
        ValueError: when called, images of a single row or column.
    """

    def __init__(self, *, isotropic: bool = False) -> None:
        super().__init__()
        self.isotropic = isotropic

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        if min(output.shape[-2:]) < 2:
            raise ValueError(f"images of {spatial(output)} pixels have no neighbours to compare")
        down = output[..., 1:, :] - output[..., :-1, :]
        across = output[..., :, 1:] - output[..., :, :-1]
        if not self.isotropic:
            return down.abs().mean() + across.abs().mean()
        squares = down[..., :, :-1] ** 2 + across[..., :-1, :] ** 2
        # The small number keeps the root's derivative finite where the output is flat.
        return torch.sqrt(squares + 1e-12).mean()
