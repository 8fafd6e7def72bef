"""The paper's encoder-decoder: the U-Net without its skips."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from img2img.generators.stack import (
    build_decoder,
    build_encoder,
    check_innermost,
    check_size,
    resolve_depth,
)
from img2img.layers import Activation, Init, Norm, init_weights


class EncoderDecoder(nn.Module):
    """Encoder-decoder: everything passes through the innermost layer; the paper's comparison.

    Shape: (B, in_channels, H, W) -> (B, out_channels, H, W), H and W multiples of 2**depth; values
    in [-1, 1]. Source: arXiv 1611.07004, section 6.1.1 and table 2. Departure: no norm in the
    innermost layer unless asked for, as in the authors' code.

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
        dropout_layers: decoder layers that drop out, 1 being the innermost. Those that a shallower
            network lacks are passed over.
        init: how weights are drawn: the paper's N(0, 0.02), xavier, kaiming or orthogonal.

    Raises:
        ValueError: the size does not fit the depth, at construction or in forward.
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
    ) -> None:
        super().__init__()
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
            skips=False,
            activation=activation,
        )
        init_weights(self, init)

    def forward(self, source: Tensor) -> Tensor:
        check_size(source, self.depth)
        features = source
        for layer in [*self.encoder, *self.decoder]:
            features = layer(features)
        return features
