"""How a trained network behaves at test time, so that a result never depends on the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from img2img.inference.moment import Moment
from img2img.inference.noise import SeededDropout
from img2img.inference.statistics import ImageNorm, is_own


@dataclass(frozen=True)
class Policy:
    """A recipe's `[inference]`.

    Attributes:
        statistics: `image` normalises with each image's own statistics, which is what the paper's
            test batch of one does (arXiv 1611.07004, section 3.3); `running` with those gathered
            in training.
        dropout: dropout stays on, as the only noise the paper has.
        scale: factors on an image's width and height before the network sees it. Training resizes
            images to its crops, so a model knows things at the size they have there.
    """

    statistics: Literal["image", "running"] = "image"
    dropout: bool = True
    scale: Sequence[float] = (1.0, 1.0)


def apply_policy(network: nn.Module, policy: Policy) -> Moment:
    """Put a network into its test-time form, in place.

    Returns:
        Where its layers look for what they must know of the images in a forward.
    """
    moment = Moment()
    network.eval()
    dropouts = (nn.Dropout, nn.Dropout2d)
    layer = 0
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if policy.dropout and isinstance(child, dropouts):
                channels = isinstance(child, nn.Dropout2d)
                setattr(parent, name, SeededDropout(child.p, layer, moment, channels=channels))
                layer += 1
    # Afterwards, because a norm of timm's may hold a dropout.
    layer = 0
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if is_own(child, policy.statistics):
                setattr(parent, name, ImageNorm(child, layer, moment))
                layer += 1
    return moment


def has_noise(network: nn.Module) -> bool:
    """Whether a network in its test-time form gives different results for different seeds."""
    found = (m for m in network.modules() if isinstance(m, SeededDropout))
    return any(0 < dropout.rate < 1 for dropout in found)


def lower_precision(network: nn.Module) -> None:
    """Keep the weights of convolutions and linear layers in bfloat16, in place.

    Autocast would make bfloat16 copies of them again in every forward, which for a U-Net of 54 M
    weights takes as long as a quarter of the forward of an image.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            module.to(torch.bfloat16)
