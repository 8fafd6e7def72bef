"""Pieces that several networks share: norms, initial weights and last activations by name."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

Norm = Literal["batch", "instance", "group", "sync", "none"]
Init = Literal["normal", "xavier", "kaiming", "orthogonal"]
Activation = Literal["tanh", "softmax", "none"]

# Channels in a group of group norm, of which arXiv 1803.08494 tries both a fixed size and a fixed
# number. A fixed number leaves narrow layers one channel a group, which is instance norm.
GROUP_SIZE = 16


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


class SyncBatchNorm(nn.SyncBatchNorm):
    """Batch normalisation over the batches of all processes. Shape: (B, C, H, W), same out.

    In a single process it is `BatchNorm2d`, its single value a channel included.
    """

    def forward(self, input: Tensor) -> Tensor:
        alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        if alone and self.training and input.numel() == self.num_features:
            return input * 0 + self.bias.view(1, -1, 1, 1)
        return super().forward(input)


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """The normalisation layer of that name for `channels` channels.

    `instance` has no weights of its own, as in the common PyTorch port; `group` has groups of 16
    channels (arXiv 1803.08494); `sync` is batch norm over all processes of a distributed run, and
    plain batch norm where there is one.

    Raises:
        ValueError: `norm` is not one of the names.
    """
    if norm == "batch":
        return BatchNorm2d(channels)
    if norm == "sync":
        return SyncBatchNorm(channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels)
    if norm == "group":
        groups = max(1, channels // GROUP_SIZE)
        while channels % groups:
            groups -= 1
        return nn.GroupNorm(groups, channels)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm {norm!r} is not one of {', '.join(get_args(Norm))}")


def conv_bias(norm: Norm) -> bool:
    """Whether a convolution before this norm keeps a bias: batch norm's own bias makes it idle."""
    return norm not in ("batch", "sync")


def output_activation(activation: Activation) -> nn.Module:
    """What a generator ends in: `tanh` for images, `softmax` for class probabilities, or `none`.

    Raises:
        ValueError: `activation` is not one of the names.
    """
    if activation == "tanh":
        return nn.Tanh()
    if activation == "softmax":
        return nn.Softmax(dim=1)
    if activation == "none":
        return nn.Identity()
    raise ValueError(f"activation {activation!r} is not one of {', '.join(get_args(Activation))}")


def init_weights(network: nn.Module, init: Init = "normal") -> None:
    """Draw the weights of convolutions and linear layers; biases become 0.

    `normal` is the paper's N(0, 0.02) (arXiv 1611.07004, section 6.2); the scales of batch norms
    are then N(1, 0.02), as in the authors' code, and else 1. `xavier` (Glorot and Bengio 2010),
    `kaiming` (arXiv 1502.01852) and `orthogonal` (arXiv 1312.6120) keep the gain of their authors;
    the common PyTorch port multiplies xavier and orthogonal by 0.02.

    Raises:
        ValueError: `init` is not one of the names.
    """
    if init not in get_args(Init):
        raise ValueError(f"init {init!r} is not one of {', '.join(get_args(Init))}")
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            if init == "normal":
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif init == "xavier":
                nn.init.xavier_normal_(module.weight)
            elif init == "kaiming":
                nn.init.kaiming_normal_(module.weight)
            else:
                nn.init.orthogonal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)) and init == "normal":
            nn.init.normal_(module.weight, 1.0, 0.02)


def check_positive(**values: float) -> None:
    """Raise a ValueError that names the first value that is not above zero."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be above 0 and finite, not {value}")


def spatial(images: Tensor) -> str:
    """`HxW` of a batch, for messages."""
    return f"{images.shape[-2]}x{images.shape[-1]}"
