"""Pieces that several networks share: normalisation by name and initial weights."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

Norm = Literal["batch", "instance", "none"]


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that also takes a single value a channel. Shape: (B, C, H, W), same out.

    With one 1x1 map in the batch the normalised value is exactly 0, so the output is the bias
    alone. That is what the paper's erratum (arXiv 1611.07004v3, section 6.1) describes for batch
    size 1 in the innermost layer; torch's own class raises instead.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == self.num_features:
            return input * 0 + self.bias.view(1, -1, 1, 1)
        return super().forward(input)


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """The normalisation layer of that name for `channels` channels.

    Raises:
        ValueError: `norm` is not one of the names.
    """
    if norm == "batch":
        return BatchNorm2d(channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm {norm!r} is not one of {', '.join(get_args(Norm))}")


def conv_bias(norm: Norm) -> bool:
    """Whether a convolution before this norm keeps a bias: batch norm's own bias makes it idle."""
    return norm != "batch"


def init_weights(network: nn.Module, std: float = 0.02) -> None:
    """Draw weights from N(0, std), norm scales from N(1, std), biases 0 (arXiv 1611.07004, 6.2)."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, std)
            nn.init.zeros_(module.bias)


def check_positive(**values: float) -> None:
    """Raise a ValueError that names the first value that is not above zero."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be above 0 and finite, not {value}")


def spatial(images: Tensor) -> str:
    """`HxW` of a batch, for messages."""
    return f"{images.shape[-2]}x{images.shape[-1]}"
