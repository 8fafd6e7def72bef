"""The residual generator of Johnson et al. and CycleGAN."""

from __future__ import annotations

from torch import Tensor, nn

from img2img.layers import (
    Activation,
    Init,
    Norm,
    check_positive,
    conv_bias,
    init_weights,
    norm_layer,
    output_activation,
    spatial,
)

# Halved twice, the images must leave 2x2: reflection has nothing to mirror on a single pixel.
MULTIPLE = 4
SMALLEST = 8


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions whose result is added to what went in. Shape: (B, C, H, W), same out.

    No activation follows the sum (arXiv 1603.08155, supplement, after Gross and Wilber 2016).
    """

    def __init__(self, channels: int, norm: Norm, dropout: float) -> None:
        super().__init__()
        bias = conv_bias(norm)
        self.first = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=bias),
            norm_layer(norm, channels),
            nn.ReLU(),
        )
        # In its own place, so that the names of weights do not depend on it.
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.second = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=bias),
            norm_layer(norm, channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        added: Tensor = self.second(self.dropout(self.first(features)))
        return features + added


class ResNet(nn.Module):
    """ResNet: two halvings, residual blocks at a quarter of the size, two doublings; no skips.

    Shape: (B, in_channels, H, W) -> (B, out_channels, H, W), H and W multiples of 4, at least 8;
    values in [-1, 1]. Source: arXiv 1603.08155 (Johnson et al.), as arXiv 1703.10593, section 7.2,
    and the common PyTorch port have it. Departure: norm `batch` unless asked otherwise, as for the
    other generators here; CycleGAN has `instance`.

    Args:
        in_channels: channels of the source.
        out_channels: channels of the output.
        image_size: height and width of the training crops, in pixels.
        activation: of the output: `tanh`, or `softmax` where it is class probabilities.
        width: channels after the first layer; the blocks have four times as many.
        blocks: residual blocks; CycleGAN has 6 for 128 pixels and 9 for 256 and more.
        norm: normalisation after every convolution but the last.
        dropout: rate inside each block; the port has 0.5 for pix2pix and none for CycleGAN.
        init: how weights are drawn: the paper's N(0, 0.02), xavier, kaiming or orthogonal.

    Raises:
        ValueError: a setting that cannot be built, or a size that does not fit, at construction or
            in forward.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        image_size: int = 256,
        activation: Activation = "tanh",
        width: int = 64,
        blocks: int = 9,
        norm: Norm = "batch",
        dropout: float = 0.0,
        init: Init = "normal",
    ) -> None:
        super().__init__()
        check_positive(width=width, blocks=blocks)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {dropout}")
        if image_size % MULTIPLE or image_size < SMALLEST:
            sizes = " or ".join(str(size) for size in _nearest(image_size))
            raise ValueError(
                f"this network needs images of a multiple of {MULTIPLE} pixels and at least "
                f"{SMALLEST}; {image_size} is not: use {sizes} pixels"
            )
        self.size_multiple = MULTIPLE
        self.size_least = SMALLEST
        bias = conv_bias(norm)
        self.encoder = nn.Sequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(in_channels, width, 7, bias=bias),
            norm_layer(norm, width),
            nn.ReLU(),
        )
        for channels in (width, width * 2):
            self.encoder.append(nn.Conv2d(channels, channels * 2, 3, 2, 1, bias=bias))
            self.encoder.append(norm_layer(norm, channels * 2))
            self.encoder.append(nn.ReLU())
        self.blocks = nn.Sequential(
            *(ResidualBlock(width * 4, norm, dropout) for _ in range(blocks))
        )
        self.decoder = nn.Sequential()
        for channels in (width * 4, width * 2):
            half = channels // 2
            self.decoder.append(nn.ConvTranspose2d(channels, half, 3, 2, 1, 1, bias=bias))
            self.decoder.append(norm_layer(norm, half))
            self.decoder.append(nn.ReLU())
        self.decoder.append(nn.ReflectionPad2d(3))
        self.decoder.append(nn.Conv2d(width, out_channels, 7))
        self.decoder.append(output_activation(activation))
        init_weights(self, init)

    def forward(self, source: Tensor) -> Tensor:
        _check_size(source)
        output: Tensor = self.decoder(self.blocks(self.encoder(source)))
        return output


def _check_size(images: Tensor) -> None:
    """Raise a ValueError that says which sizes work, unless height and width are among them."""
    sides = images.shape[-2:]
    if any(side % MULTIPLE or side < SMALLEST for side in sides):
        fit = "x".join(str(_nearest(side)[-1]) for side in sides)
        raise ValueError(
            f"images of {spatial(images)} pixels do not fit this network: height and width must be "
            f"multiples of {MULTIPLE} and at least {SMALLEST} (pad these to {fit})"
        )


def _nearest(size: int) -> list[int]:
    """The sizes that fit below and above; one where it fits itself, or where none is below."""
    below, above = size // MULTIPLE * MULTIPLE, -(-size // MULTIPLE) * MULTIPLE
    return sorted({max(SMALLEST, below), max(SMALLEST, above)})
