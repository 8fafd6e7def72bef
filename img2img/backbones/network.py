"""A backbone as a module that takes images in [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from img2img.backbones.lookup import Level
from img2img.backbones.weights import create_features
from img2img.hub import first_sentence
from img2img.layers import BatchNorm2d


class Backbone(nn.Module):
    """Feature maps of a timm network, its input normalised as it was in that network's training.

    Shape: (B, in_channels, H, W) in [-1, 1] -> a list of (B, C, H / reduction, W / reduction), one
    for each of `levels`. Mean and standard deviation are those of the network's weights, for
    networks without weights too; where the channels are not three, their means over the channels.

    Args:
        name: timm's, with or without the tag of its weights: `resnet34` or `resnet34.a1_in1k`.
        indices: which of its feature maps; layers behind the last are left out.
        in_channels: channels of the images. timm fits weights for three channels to others.
        image_size: height and width of the training crops, for networks that are built for a size.
        pretrained: weights from the hub, those of a local file, or (False) none.

    Attributes:
        levels: what comes out, in that order.

    Raises:
        ValueError: timm has no such network, or its weights cannot be had; `WeightsError` where
            those of the hub cannot.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        name: str,
        *,
        indices: Sequence[int],
        in_channels: int = 3,
        image_size: int | None = None,
        pretrained: bool | str = False,
    ) -> None:
        super().__init__()
        self.features = create_features(
            name, indices, in_channels=in_channels, image_size=image_size, pretrained=pretrained
        )
        found = self.features.feature_info.get_dicts(["num_chs", "reduction"])
        self.levels = tuple(
            Level(index, info["num_chs"], info["reduction"])
            for index, info in zip(indices, found, strict=True)
        )
        self._channels_last = getattr(self.features, "output_fmt", "NCHW") == "NHWC"
        mean, std = _normalisation(self.features.pretrained_cfg, in_channels)
        # ((x + 1) / 2 - mean) / std in one step. Part of the state: a model keeps what it was
        # trained with, whatever a later timm says.
        self.register_buffer("scale", (0.5 / std).view(1, -1, 1, 1))
        self.register_buffer("shift", ((0.5 - mean) / std).view(1, -1, 1, 1))
        for module in self.features.modules():
            # Some have norms on pooled maps, which torch's own class refuses in a batch of one.
            if type(module) is nn.BatchNorm2d:
                module.__class__ = BatchNorm2d

    def forward(self, images: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.features(images * self.scale + self.shift)
        if self._channels_last:
            return [feature.permute(0, 3, 1, 2) for feature in features]
        return list(features)


def check_maps(
    name: str, levels: Sequence[Level], *, in_channels: int, image_size: int, multiple: int
) -> None:
    """Try a backbone on shapes alone: its maps must be as declared, for images of any size.

    Raises:
        ValueError: they are not, so that nothing can be built on them.
    """
    with torch.device("meta"):
        backbone = Backbone(
            name,
            indices=[level.index for level in levels],
            in_channels=in_channels,
            image_size=image_size,
        )
        sizes = [(image_size, image_size), (image_size + multiple, image_size + 2 * multiple)]
        for height, width in sizes:
            try:
                with torch.no_grad():
                    maps = backbone(torch.empty(2, in_channels, height, width))
            # Whatever timm raises: assertions, and torch's errors about shapes.
            except Exception as error:
                only = (
                    f"does not take images of {height}x{width} pixels"
                    if (height, width) == sizes[0]
                    else f"takes images of {image_size}x{image_size} pixels and no others"
                )
                raise ValueError(
                    f"backbone {name!r} {only} ({first_sentence(error, 120)}); choose another, "
                    f"such as a resnet, a convnext or a swin"
                ) from error
            for level, found in zip(levels, maps, strict=True):
                reduced = (height // level.reduction, width // level.reduction)
                if tuple(found.shape) != (2, level.channels, *reduced):
                    raise ValueError(
                        f"backbone {name!r} halves {height}x{width} pixels unevenly: one of its "
                        f"maps has {found.shape[-2]}x{found.shape[-1]} pixels instead of "
                        f"{reduced[0]}x{reduced[1]}; choose another, such as a resnet"
                    )


def _normalisation(config: dict[str, Any], channels: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, for images in [0, 1]."""
    mean, std = torch.tensor(config["mean"]), torch.tensor(config["std"])
    if len(mean) != channels:
        return mean.mean().expand(channels), std.mean().expand(channels)
    return mean, std
