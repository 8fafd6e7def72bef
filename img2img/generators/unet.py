"""The paper's U-Net."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from img2img.generators.stack import (
    build_decoder,
    build_encoder,
    check_innermost,
    check_size,
    resolve_depth,
)
from img2img.layers import Activation, Init, Norm, init_weights


class UNet(nn.Module):
    """U-Net: an encoder-decoder whose mirrored layers are joined by skips.

    Shape: (B, in_channels, H, W) -> (B, out_channels, H, W), H and W multiples of 2**depth; values
    in [-1, 1]. Source: arXiv 1611.07004, section 6.1.1. Departure: no norm in the innermost layer
    unless asked for, as in the authors' code (the paper's erratum says that batch size 1 zeroes
    it there).

    Args:
        in_channels: channels of the source.
        out_channels: channels of the output.
        image_size: height and width of the training crops, in pixels.
        activation: of the output: `tanh`, or `softmax` where it is class probabilities.
        width: channels after the first layer; 64 in the paper.
        depth: halvings; as many as the crops allow, at most 8, unless given.
        norm: normalisation in every layer but the first, the innermost and the last.
        innermost_norm: normalise the innermost encoder layer too, as the paper's text has it.
        dropout: rate in the decoder layers that drop out.
        dropout_layers: decoder layers that drop out, 1 being the innermost; the paper has 1, 2, 3,
            its common PyTorch port 2, 3, 4. Those that a shallower network lacks are passed over.
        init: how weights are drawn: the paper's N(0, 0.02), xavier, kaiming or orthogonal.
        residual: the source is added to what comes out, so that the network learns the change
            alone; for repair, where most of an image stays as it is (arXiv 1608.03981, III-A).

    Raises:
        ValueError: the size does not fit the depth, at construction or in forward; `residual` where
            source and output are of different kinds.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        image_size: int = 256,
        activation: Activation = "tanh",
        width: int = 64,
        depth: int | None = None,
        norm: Norm = "batch",
        innermost_norm: bool = False,
        dropout: float = 0.5,
        dropout_layers: Sequence[int] = (1, 2, 3),
        init: Init = "normal",
        residual: bool = False,
    ) -> None:
        super().__init__()
        if residual and (in_channels != out_channels or activation != "tanh"):
            raise ValueError(
                f"residual adds the source to the output, so both must be images of the same "
                f"channels, not {in_channels} and {out_channels}"
            )
        self.residual = residual
        self.depth = resolve_depth(image_size, depth)
        check_innermost(image_size, self.depth, norm, innermost_norm)
        self.size_multiple = 2**self.depth
        self.encoder = build_encoder(
            in_channels, width=width, depth=self.depth, norm=norm, innermost_norm=innermost_norm
        )
        self.decoder = build_decoder(
            out_channels,
            width=width,
            depth=self.depth,
            norm=norm,
            dropout=dropout,
            dropout_layers=dropout_layers,
            skips=True,
            activation=activation,
        )
        init_weights(self, init)

    def forward(self, source: Tensor) -> Tensor:
        check_size(source, self.depth)
        skips = []
        features: Tensor = source
        for layer in self.encoder:
            features = layer(features)
            skips.append(features)
        features = self.decoder[0](skips.pop())
        for layer in self.decoder[1:]:
            features = layer(torch.cat([skips.pop(), features], dim=1))
        return (source + features).clamp(-1, 1) if self.residual else features
