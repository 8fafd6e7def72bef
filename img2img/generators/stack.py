"""The strided encoder and decoder that the U-Net and the encoder-decoder share.

arXiv 1611.07004, section 6.1.1: 4x4 convolutions of stride 2, encoder C64-C128-C256-C512-...,
leaky ReLU 0.2 on the way down, ReLU on the way up, no norm on the first encoder layer.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from img2img.layers import (
    Activation,
    ConvTranspose2d,
    Norm,
    check_positive,
    conv_bias,
    norm_layer,
    output_activation,
    spatial,
)

MAX_DEPTH = 8


def resolve_depth(image_size: int, depth: int | None) -> int:
    """How often images of `image_size` pixels are halved: `depth`, or as often as they allow.

    Raises:
        ValueError: the size cannot be halved that often; the message says which sizes can.
    """
    if depth is None:
        depth = 0
        while depth < MAX_DEPTH and image_size % 2 ** (depth + 1) == 0:
            depth += 1
        if depth < 2:
            raise ValueError(
                f"images of {image_size} pixels cannot be halved twice; "
                f"use a crop size that is a multiple of 4, best a power of two"
            )
    if depth < 2:
        raise ValueError(f"depth must be at least 2, not {depth}")
    if depth > 16:
        raise ValueError(
            f"depth {depth} halves images of {2**16} pixels to nothing: use at most 16"
        )
    step = 2**depth
    if image_size % step:
        below, above = image_size // step * step, (image_size // step + 1) * step
        sizes = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"depth {depth} halves images {depth} times, so sizes must be multiples of {step}; "
            f"{image_size} is not: use {sizes} pixels, or a smaller depth"
        )
    return depth


def check_innermost(image_size: int, depth: int, norm: Norm, innermost_norm: bool) -> None:
    """Raise a ValueError where instance norm would meet a single pixel, which has no variance."""
    if innermost_norm and norm == "instance" and image_size == 2**depth:
        raise ValueError(
            f"instance norm cannot work on the single innermost pixel that depth {depth} leaves of "
            f"{image_size}: use depth {depth - 1}, or innermost_norm = false"
        )


def check_size(images: Tensor, depth: int) -> None:
    """Raise a ValueError that says which sizes work, unless height and width are among them."""
    step = 2**depth
    height, width = images.shape[-2:]
    if height % step or width % step or not height or not width:
        fit = "x".join(str(max(1, -(-side // step)) * step) for side in (height, width))
        raise ValueError(
            f"images of {spatial(images)} pixels do not fit a network of depth {depth}: height and "
            f"width must be multiples of {step} (pad these to {fit}), or train with a smaller depth"
        )


def encoder_widths(width: int, depth: int) -> list[int]:
    """Channels after each encoder layer: doubling, and never more than eight times `width`."""
    return [width * min(2**i, 8) for i in range(depth)]


def build_encoder(
    in_channels: int, *, width: int, depth: int, norm: Norm, innermost_norm: bool
) -> nn.ModuleList:
    """The way down, a module a layer; the layer's own activation opens the next one."""
    check_positive(width=width)
    widths = encoder_widths(width, depth)
    layers = nn.ModuleList()
    for i, channels in enumerate(widths):
        layer = nn.Sequential()
        if i > 0:
            layer.append(nn.LeakyReLU(0.2))
        layer.append(nn.Conv2d(in_channels, channels, 4, stride=2, padding=1, bias=conv_bias(norm)))
        if 0 < i < depth - 1 or (i == depth - 1 and innermost_norm):
            layer.append(norm_layer(norm, channels))
        layers.append(layer)
        in_channels = channels
    return layers


def build_decoder(
    out_channels: int,
    *,
    width: int,
    depth: int,
    norm: Norm,
    dropout: float,
    dropout_layers: Collection[int],
    skips: bool,
    activation: Activation,
) -> nn.ModuleList:
    """The way up, a module a layer, the last with `activation`; `skips` double its inputs.

    Raises:
        ValueError: a dropout layer that is not there, or a rate outside [0, 1).
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, not {dropout}")
    wrong = sorted(layer for layer in dropout_layers if not 1 <= layer <= MAX_DEPTH - 1)
    if wrong:
        raise ValueError(f"dropout_layers count from 1 (the innermost) to 7, so not {wrong}")
    widths = encoder_widths(width, depth)[::-1]
    layers = nn.ModuleList()
    for i, channels in enumerate(widths):
        incoming = channels * 2 if skips and i > 0 else channels
        layer = nn.Sequential(nn.ReLU())
        if i < depth - 1:
            channels = widths[i + 1]
            layer.append(ConvTranspose2d(incoming, channels, 4, 2, 1, bias=conv_bias(norm)))
            layer.append(norm_layer(norm, channels))
            if i + 1 in dropout_layers and dropout > 0:
                layer.append(nn.Dropout(dropout))
        else:
            layer.append(ConvTranspose2d(incoming, out_channels, 4, 2, 1))
            layer.append(output_activation(activation))
        layers.append(layer)
    return layers
