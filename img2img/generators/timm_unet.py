"""A U-Net whose way down is a network of timm."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, lcm, log2

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.backbones import Backbone, Level, WeightsError, backbone_levels, check_maps
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


class TimmUNet(nn.Module):
    """U-Net on a backbone of timm, whose feature maps are joined to a decoder by skips.

    Shape: (B, in_channels, H, W) -> (B, out_channels, H, W), H and W multiples of `size_multiple`;
    values in [-1, 1], which are normalised as the backbone wants. Source: arXiv 1505.04597, with
    the decoder that segmentation_models.pytorch made usual: double the map (nearest pixel), join
    the backbone's map of that size, two 3x3 convolutions with norm and ReLU. Departures: dropout
    as in arXiv 1611.07004, and a tanh or softmax at the end. Backbones whose finest map is coarser
    than half the image (convnext, swin) have no skip where they lack one; a plain ViT has none.

    Args:
        in_channels: channels of the source.
        out_channels: channels of the output.
        image_size: height and width of the training crops, in pixels.
        activation: of the output: `tanh`, or `softmax` where it is class probabilities.
        initialize: whether pretrained weights are wanted; not where others are loaded right after.
        backbone: timm's name of it, with or without a tag that says which weights.
        pretrained: true for weights from the hub, false for none, or the path of a .safetensors or
            .pth file of that backbone, whose classifier is left out.
        depth: halvings; unless given, as many as the backbone has and leave two pixels of a crop.
        width: channels of the decoder at full size; they double with every halving, up to 16 times.
        norm: normalisation in the decoder; the backbone has its own.
        dropout: rate in the decoder layers that drop out.
        dropout_layers: decoder layers that drop out, 1 being the innermost. Those that a shallower
            network lacks are passed over.
        init: how the decoder's weights are drawn: N(0, 0.02), xavier, kaiming or orthogonal.

    Raises:
        ValueError: timm has no such backbone, nothing can be built on it, its weights cannot be
            had, or the size does not fit, at construction or in forward.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        image_size: int = 256,
        activation: Activation = "tanh",
        initialize: bool = True,
        backbone: str = "resnet34",
        pretrained: bool | str = True,
        depth: int | None = None,
        width: int = 16,
        norm: Norm = "batch",
        dropout: float = 0.5,
        dropout_layers: Sequence[int] = (1, 2, 3),
        init: Init = "normal",
    ) -> None:
        super().__init__()
        check_positive(width=width)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {dropout}")
        if any(layer < 1 for layer in dropout_layers):
            raise ValueError(
                f"dropout_layers count from 1 (the innermost), so not {dropout_layers}"
            )
        levels = choose_levels(backbone, backbone_levels(backbone), image_size, depth)
        self.size_multiple = lcm(*(level.reduction for level in levels))
        check_maps(
            backbone,
            levels,
            in_channels=in_channels,
            image_size=image_size,
            multiple=self.size_multiple,
        )
        try:
            self.backbone = Backbone(
                backbone,
                indices=[level.index for level in levels],
                in_channels=in_channels,
                image_size=image_size,
                pretrained=pretrained if initialize else False,
            )
        except WeightsError as error:
            raise ValueError(f"{error}. Or start from scratch: pretrained = false") from error
        innermost = levels[-1]
        steps = ceil(log2(innermost.reduction))
        skips = {level.reduction: level.channels for level in levels[:-1]}
        # The reduction after each step; with patches of 14 pixels it is no whole number.
        reductions = [innermost.reduction / 2**step for step in range(1, steps + 1)]
        self.joins = [reduction in skips for reduction in reductions]
        self.decoder = nn.ModuleList()
        incoming = innermost.channels
        for step, reduction in enumerate(reductions, 1):
            outgoing = width * min(2 ** (steps - step), 16)
            rate = dropout if step in dropout_layers else 0.0
            joined = incoming + skips.get(int(reduction), 0) * (reduction in skips)
            self.decoder.append(_decoder_layer(joined, outgoing, norm, rate))
            incoming = outgoing
        self.decoder.append(
            nn.Sequential(
                nn.Conv2d(incoming, out_channels, 3, padding=1), output_activation(activation)
            )
        )
        init_weights(self.decoder, init)

    def forward(self, source: Tensor) -> Tensor:
        step = self.size_multiple
        height, width = source.shape[-2:]
        if height % step or width % step or not height or not width:
            fit = "x".join(str(max(1, -(-side // step)) * step) for side in (height, width))
            raise ValueError(
                f"images of {spatial(source)} pixels do not fit this backbone: height and width "
                f"must be multiples of {step} (pad these to {fit}), or train with a smaller depth"
            )
        *skips, features = self.backbone(source)
        *layers, head = self.decoder
        for number, (layer, joins) in enumerate(zip(layers, self.joins, strict=True), 1):
            if joins:
                skip = skips.pop()
                features = F.interpolate(features, size=skip.shape[-2:])
                features = torch.cat([features, skip], dim=1)
            else:
                last = number == len(layers)
                doubled = [2 * side for side in features.shape[-2:]]
                features = F.interpolate(features, size=(height, width) if last else doubled)
            features = layer(features)
        output: Tensor = head(features)
        return output


def _decoder_layer(incoming: int, outgoing: int, norm: Norm, dropout: float) -> nn.Sequential:
    """Two convolutions, each with norm and ReLU, and dropout behind them."""
    layer = nn.Sequential()
    for channels in (incoming, outgoing):
        layer.append(nn.Conv2d(channels, outgoing, 3, padding=1, bias=conv_bias(norm)))
        layer.append(norm_layer(norm, outgoing))
        layer.append(nn.ReLU())
    if dropout > 0:
        layer.append(nn.Dropout(dropout))
    return layer


def choose_levels(
    backbone: str, levels: Sequence[Level], image_size: int, depth: int | None
) -> list[Level]:
    """The feature maps to build on, from the finest to the coarsest, one of each size.

    Raises:
        ValueError: the crops are too small or no multiple, or no map has this depth.
    """
    # Of several maps of one size the last has seen most; a ViT has nothing else.
    by_reduction = {level.reduction: level for level in levels}
    reductions = sorted(by_reduction)
    depths = [int(log2(r)) for r in reductions if r > 1 and log2(r).is_integer()]
    if depth is not None:
        if depth not in depths:
            named = ", ".join(str(d) for d in depths) or "none: leave depth out"
            raise ValueError(
                f"backbone {backbone!r} has no feature map of depth {depth}; it has {named}"
            )
        deepest = 2**depth
        if image_size % deepest:
            raise ValueError(
                f"depth {depth} halves images {depth} times, so sizes must be multiples of "
                f"{deepest}; {image_size} is not: use {_nearest(image_size, deepest)} pixels, or a "
                f"smaller depth"
            )
    else:
        # Two pixels, so that a batch norm has more than one value even in a batch of one.
        deepest = max((r for r in reductions if image_size // r >= 2), default=0)
        if deepest < 4:
            least = min(r for r in reductions if r >= 4)
            raise ValueError(
                f"crops of {image_size} pixels do not fit backbone {backbone!r}: use a crop size "
                f"that is a multiple of {least} and at least {2 * least}"
            )
        # Not silently a finer one that fits: most weights of a network are in its last layers.
        if image_size % deepest:
            possible = [d for d in depths if d >= 2 and image_size % 2**d == 0]
            shallower = f", or depth = {possible[-1]}" if possible else ""
            raise ValueError(
                f"crops of {image_size} pixels are no multiple of {deepest}, by which backbone "
                f"{backbone!r} divides them: use {_nearest(image_size, deepest)} pixels{shallower}"
            )
    return [
        by_reduction[r]
        for r in reductions
        # Halving the coarsest map again and again must meet it.
        if deepest % r == 0 and (deepest // r).bit_count() == 1
    ]


def _nearest(size: int, multiple: int) -> str:
    """The multiples next to a size."""
    below, above = size // multiple * multiple, -(-size // multiple) * multiple
    return f"{below} or {above}" if below else f"{above}"
