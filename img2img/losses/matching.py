"""Difference between what the discriminator sees in output and target."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.losses.adversarial import Discriminate

ACTIVATIONS: tuple[type[nn.Module], ...] = tuple(
    found
    for name in nn.modules.activation.__all__
    if isinstance(found := getattr(nn.modules.activation, name), type)
)
# What torch files under activations, and is none that ends a layer.
NO_LAYER = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin)


class FeatureMatching(nn.Module):
    """Difference between the discriminator's features of output and target, summed over its layers.

    The mean absolute difference after every activation of the discriminator. Source: arXiv
    1711.11585, section 3.2 (pix2pixHD), where its weight is 10. The layers are what its activation
    modules give, whatever else it is made of; an activation that is a mere function is not seen.

    Raises:
        ValueError: the discriminator has no activation modules.
    """

    def check_discriminator(self, discriminator: nn.Module) -> None:
        """Raise a ValueError unless the discriminator has layers to compare."""
        if not activations(discriminator):
            raise ValueError(
                f"feature_matching compares what the discriminator's activation modules give, and "
                f"{type(discriminator).__name__} has none: use another discriminator, such as "
                f"'patchgan70', or leave the loss out"
            )

    def generator_loss(self, discriminate: Discriminate, real: Tensor, fake: Tensor) -> Tensor:
        """The sum over layers, a scalar; gradients reach the generator through `fake` alone."""
        if not isinstance(discriminate, nn.Module):
            raise ValueError(
                f"feature_matching needs a discriminator made of modules, not {discriminate!r}"
            )
        # Its forward and not itself, which torch.compile may have taken over: what is compiled runs
        # no hooks that came later.
        with recorded(discriminate) as wanted, torch.no_grad():
            discriminate.forward(real)
        with recorded(discriminate) as found:
            discriminate.forward(fake)
        if not found:
            self.check_discriminator(discriminate)
            raise ValueError(
                f"feature_matching: none of the activation modules of "
                f"{type(discriminate).__name__} took part"
            )
        # In float32, whatever the discriminator computes in.
        terms = [
            F.l1_loss(full(feature), full(there))
            for feature, there in zip(found, wanted, strict=True)
        ]
        return torch.stack(terms).sum()


def activations(network: nn.Module) -> list[nn.Module]:
    """The activation modules of a network, such as its ReLUs."""
    return [
        module
        for module in network.modules()
        if isinstance(module, ACTIVATIONS) and not isinstance(module, NO_LAYER)
    ]


@contextmanager
def recorded(network: nn.Module) -> Iterator[list[Tensor]]:
    """A list that takes in what the network's activation modules give, in that order."""
    features: list[Tensor] = []

    def record(module: nn.Module, inputs: object, output: Tensor) -> None:
        features.append(output)

    handles = [module.register_forward_hook(record) for module in activations(network)]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


def full(feature: Tensor) -> Tensor:
    """In float32 or better."""
    return feature if feature.dtype == torch.float64 else feature.float()
