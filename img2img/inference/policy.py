"""How a trained network behaves at test time, so that a result never depends on the batch."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


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


class Noise(threading.local):
    """The seeds of the images now in the network, one each; every thread has its own."""

    seeds: Sequence[int] = ()


class PerImageNorm(nn.Module):
    """Batch norm with the statistics of each image alone, as with a training batch of one.

    Shape: (B, C, H, W), the same out.
    """

    def __init__(self, norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        # timm's norms hold what follows them: dropout, then an activation.
        follows = (getattr(norm, name, None) for name in ("drop", "act"))
        self.after = nn.Sequential(*(m for m in follows if isinstance(m, nn.Module)))

    def forward(self, features: Tensor) -> Tensor:
        normed: Tensor = self.after(self._normalise(features))
        return normed

    def _normalise(self, features: Tensor) -> Tensor:
        if features.shape[-1] * features.shape[-2] > 1:
            return nn.functional.instance_norm(
                features, weight=self.weight, bias=self.bias, eps=self.eps
            )
        # A single value is its own mean; torch refuses to normalise it.
        zeros = torch.zeros_like(features)
        return zeros if self.bias is None else zeros + self.bias.view(1, -1, 1, 1)


class SeededDropout(nn.Module):
    """Dropout whose noise comes from each image's seed: repeatable, whatever else is in the batch.

    Shape: any with the batch first, the same out. Drawn on the CPU, so every device has the same.
    """

    def __init__(self, rate: float, layer: int, noise: Noise, *, channels: bool) -> None:
        super().__init__()
        self.rate, self.layer, self.noise, self.channels = rate, layer, noise, channels

    def forward(self, features: Tensor) -> Tensor:
        if self.rate <= 0:
            return features
        if self.rate >= 1:
            return torch.zeros_like(features)
        shape = features.shape[1:]
        if self.channels:
            shape = torch.Size([shape[0], *(1 for _ in shape[1:])])
        seeds = self.noise.seeds or [0] * features.shape[0]
        masks = torch.stack([self._mask(seed, shape) for seed in seeds])
        return features * masks.to(features) / (1 - self.rate)

    def _mask(self, seed: int, shape: torch.Size) -> Tensor:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + self.layer) % 2**63)
        return torch.rand(shape, generator=generator) >= self.rate


def apply_policy(network: nn.Module, policy: Policy) -> Noise:
    """Put a network into its test-time form, in place; returns where the images' seeds go."""
    noise = Noise()
    network.eval()
    layer = 0
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (nn.Dropout, nn.Dropout2d)) and policy.dropout:
                channels = isinstance(child, nn.Dropout2d)
                setattr(parent, name, SeededDropout(child.p, layer, noise, channels=channels))
                layer += 1
    if policy.statistics == "image":
        # Afterwards, because a norm of timm's may hold a dropout.
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, (nn.BatchNorm2d, nn.SyncBatchNorm)):
                    setattr(parent, name, PerImageNorm(child))
    return noise
