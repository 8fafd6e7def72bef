"""Weight averaging: the finished model is a mean over the last part of the run."""

from __future__ import annotations

import copy
from typing import cast

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
        # Walking through the modules in each step would take as long as all the rest of it.
        self._own, self._theirs = _places(self.network), _places(network)
        self._network = network

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the network after step `step` (from 1); asks the device for nothing."""
        taken = 1 - min(self.decay, (1 + step) / (10 + step))
        if network is not self._network:
            self._network, self._theirs = network, _places(network)
        both = [
            (mine[name], theirs[name])
            for (mine, name), (theirs, _) in zip(self._own, self._theirs, strict=True)
        ]
        averaged = [pair for pair in both if pair[0].is_floating_point()]
        counts = [pair for pair in both if not pair[0].is_floating_point()]  # of batches
        torch._foreach_lerp_([pair[0] for pair in averaged], [pair[1] for pair in averaged], taken)
        if counts:
            torch._foreach_copy_([pair[0] for pair in counts], [pair[1] for pair in counts])


def _places(network: nn.Module) -> list[tuple[dict[str, Tensor], str]]:
    """Where its weights and buffers are found, also if a module puts another tensor there."""
    places: list[tuple[dict[str, Tensor], str]] = []
    seen: set[int] = set()
    for module in network.modules():
        for members in (module._parameters, module._buffers):
            for name, tensor in members.items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    places.append((cast(dict[str, Tensor], members), name))
    return places
