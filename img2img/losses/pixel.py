"""Losses between the output and the target, pixel by pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.layers import check_positive


class L1(nn.Module):
    """Mean absolute difference; sharp where a mean would blur (arXiv 1611.07004, equation 3).

    Shape: output and target (B, C, H, W) -> a scalar.
    """

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(output, target)


class L2(nn.Module):
    """Mean squared difference; the paper compares with it for colorization (table 5).

    Shape: output and target (B, C, H, W) -> a scalar.
    """

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output, target)


class Charbonnier(nn.Module):
    """sqrt(difference**2 + epsilon**2), an L1 smooth at zero (arXiv 1710.01992, section 3.3).

    Shape: output and target (B, C, H, W) -> a scalar.

    Args:
        epsilon: where it turns from quadratic to linear, in units of [-1, 1] images.

    Raises:
        ValueError: epsilon is not above 0.
    """

    def __init__(self, *, epsilon: float = 1e-3) -> None:
        super().__init__()
        check_positive(epsilon=epsilon)
        self.epsilon = epsilon

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return torch.sqrt((output - target) ** 2 + self.epsilon**2).mean()
