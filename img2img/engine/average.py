"""Weight averaging: the finished model is a mean over the last part of the run."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a network's weights and running statistics.

    After n steps the average keeps min(decay, (1 + n) / (10 + n)) of itself, so that it forgets the
    first, random weights soon however high the decay (the warm-up of TensorFlow's
    ExponentialMovingAverage). For generators of images: arXiv 1710.10196, with a decay of 0.999.

    Args:
        network: what to average; a copy of it, `self.network`, holds the average.
        decay: share of the average that a step keeps, below 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the network after step `step` (from 1); asks the device for nothing."""
        taken = 1 - min(self.decay, (1 + step) / (10 + step))
        own, new = _tensors(self.network), _tensors(network)
        averaged = [i for i, tensor in enumerate(own) if tensor.is_floating_point()]
        torch._foreach_lerp_([own[i] for i in averaged], [new[i] for i in averaged], taken)
        for mine, theirs in zip(own, new, strict=True):
            if not mine.is_floating_point():  # a count of batches
                mine.copy_(theirs)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
