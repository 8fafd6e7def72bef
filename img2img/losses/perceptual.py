"""Difference between what a pretrained network sees in output and target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.backbones import Backbone, backbone_levels
from img2img.layers import spatial
from img2img.losses.precision import full_precision

Distance = Literal["l1", "l2"]


class Perceptual(nn.Module):
    """Difference between feature maps of a frozen, pretrained network; robust to small shifts.

    Shape: output and target (B, C, H, W) in [-1, 1], one or three channels -> a scalar. Source:
    arXiv 1603.08155, section 3.2 (squared differences, `l2`); absolute ones, the default, as in
    arXiv 1711.11585. Both take VGG; here any backbone of timm does, normalised as it wants. The
    default maps are VGG-16's last ReLUs before each of its first four poolings.

    Args:
        backbone: timm's name of the network, with or without a tag that says which weights.
        pretrained: true for weights from the hub, or the path of a .safetensors or .pth file of
            that backbone; false leaves it as drawn, which compares something, but not what is seen.
        layers: which of its feature maps, as timm numbers them, 0 being the finest.
        layer_weights: a factor for each of them; 1 unless given.
        distance: mean absolute (`l1`) or mean squared (`l2`) difference in each map.

    Raises:
        ValueError: timm has no such backbone or maps, or its weights cannot be had; when called,
            images of other than one or three channels, or too small for the maps.
    """

    def __init__(
        self,
        *,
        backbone: str = "vgg16.tv_in1k",
        pretrained: bool | str = True,
        layers: Sequence[int] = (0, 1, 2, 3),
        layer_weights: Sequence[float] = (),
        distance: Distance = "l1",
    ) -> None:
        super().__init__()
        if distance not in get_args(Distance):
            raise ValueError(f"distance {distance!r} is not one of {', '.join(get_args(Distance))}")
        there = [level.index for level in backbone_levels(backbone, every=True)]
        if not layers or len(set(layers)) < len(layers) or not set(layers) <= set(there):
            raise ValueError(
                f"layers should be some of the {len(there)} feature maps of {backbone!r}, numbered "
                f"0 to {len(there) - 1}, each once, and not {list(layers)}"
            )
        if layer_weights and len(layer_weights) != len(layers):
            raise ValueError(
                f"layer_weights needs a number for each of the {len(layers)} layers, and has "
                f"{len(layer_weights)}"
            )
        if any(not 0 <= weight < float("inf") for weight in layer_weights):
            raise ValueError(f"layer_weights must not be negative, and are {list(layer_weights)}")
        # timm gives the maps in its own order.
        pairs = sorted(zip(layers, layer_weights or [1.0] * len(layers), strict=True))
        self.weights = [weight for _, weight in pairs]
        self.distance = F.l1_loss if distance == "l1" else F.mse_loss
        self.backbone = Backbone(
            backbone, indices=[index for index, _ in pairs], pretrained=pretrained
        )
        self.backbone.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Nothing: its norms and dropouts stay as they were trained, whoever calls this."""
        return super().train(False)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        with full_precision(output):
            with torch.no_grad():
                wanted = self._maps(target)
            terms = [
                weight * self.distance(found, there)
                for weight, found, there in zip(
                    self.weights, self._maps(output), wanted, strict=True
                )
            ]
            return torch.stack(terms).sum()

    def _maps(self, images: Tensor) -> list[Tensor]:
        channels = images.shape[1]
        if channels not in (1, 3):
            raise ValueError(
                f"perceptual compares images of one or three channels, and this task's targets "
                f"have {channels}: leave the loss out"
            )
        coarsest = max(level.reduction for level in self.backbone.levels)
        if min(images.shape[-2:]) < coarsest:
            raise ValueError(
                f"images of {spatial(images)} pixels leave nothing of a map {coarsest} times "
                f"smaller: use crops of at least {coarsest}, or finer layers"
            )
        images = images.to(self.backbone.scale.dtype)
        maps: list[Tensor] = self.backbone(images.expand(-1, 3, -1, -1))
        return maps
