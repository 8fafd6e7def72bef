"""What is exported: a model from image to image, in a form that torch can trace for any size."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from img2img.inference import Translator
from img2img.inference.noise import SeededDropout
from img2img.inference.statistics import ImageNorm


class ImageGraph(nn.Module):
    """A translator as one module.

    Shape: (B, C, H, W) float32 in [0, 1] -> `result`, (B, C', H, W) in [0, 1]; where the model's
    outputs are classes, also `probabilities`, (B, N, H, W).

    Args:
        translator: its network is copied, except for the weights.
        source: images to what the network takes.
        target: the network's output and the images to images.
    """

    def __init__(self, translator: Translator, source: nn.Module, target: nn.Module) -> None:
        super().__init__()
        self.source, self.target = source, target
        self.network = traceable(translator.module)
        self.multiple, self.least = translator.size_multiple, translator.size_least
        self.has_classes = translator.palette is not None

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        height, width = image.shape[-2:]
        source = self.source(image)
        for axis in (-2, -1):
            source = extend(source, axis, self.multiple, self.least)
        output = crop(crop(self.network(source), -2, height), -1, width)
        result: Tensor = self.target(output, image)
        return (result, output) if self.has_classes else result


class OwnNorm(nn.Module):
    """`ImageNorm` for whole images, without its branches on sizes. Shape: (B, C, H, W), same out.

    A single value becomes the bias, as there: it is its own mean.
    """

    def __init__(self, norm: ImageNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.groups, self.after = norm.groups, norm.after

    def forward(self, features: Tensor) -> Tensor:
        normed: Tensor = self.after(self._normalise(features))
        return normed

    def _normalise(self, features: Tensor) -> Tensor:
        if self.groups is not None:
            return torch.group_norm(features, self.groups, self.weight, self.bias, self.eps)
        # Spelled out: runtimes' own instance norms lose digits where a channel is nearly constant.
        centred = features - features.mean((-2, -1), keepdim=True)
        variance = centred.square().mean((-2, -1), keepdim=True)
        normed = centred * torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            normed = normed * self.weight.view(1, -1, 1, 1)
        return normed if self.bias is None else normed + self.bias.view(1, -1, 1, 1)


def drop_noise(network: nn.Module) -> bool:
    """Take a network's dropout out, in place; whether there was any that makes a difference."""
    noisy = False
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SeededDropout):
                setattr(parent, name, nn.Identity())
                noisy = noisy or child.rate > 0
    return noisy


def copy_network(network: nn.Module) -> nn.Module:
    """A copy of a network in its test-time form, in torch's usual memory layout."""
    # They hold what belongs to a thread, which cannot be copied; no forward is going on here.
    moments = {id(m.moment): m.moment for m in network.modules() if isinstance(m, ImageNorm)}
    return copy.deepcopy(network, dict(moments)).to(memory_format=torch.contiguous_format)


def traceable(network: nn.Module) -> nn.Module:
    """A copy of a network in its test-time form that can be traced with sizes left open."""
    traced = copy_network(network)
    if isinstance(traced, ImageNorm):
        return OwnNorm(traced)
    for module in list(traced.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ImageNorm):
                setattr(module, name, OwnNorm(child))
    return traced


def extend(images: Tensor, axis: int, multiple: int, least: int) -> Tensor:
    """One side of (B, C, H, W), reflected to a multiple; as the translator does it, branch-free."""
    size = images.shape[axis]
    if max(multiple, least) <= 1:
        return images
    # Torch must not be asked which is larger where one multiple is enough.
    wanted = size if least <= multiple else torch.sym_max(size, least)
    wanted = (wanted + multiple - 1) // multiple * multiple
    # As a tensor, because ONNX has no remainder by a number that is not known yet.
    period = torch.full((1,), torch.sym_max(1, 2 * (size - 1)), dtype=torch.int64)
    at = torch.arange(wanted) % period
    return images.index_select(axis, torch.minimum(at, period - at))


def crop(images: Tensor, axis: int, size: int) -> Tensor:
    """The first `size` rows or columns; not a slice, which would ask if it changes anything."""
    return images.index_select(axis, torch.arange(size))
