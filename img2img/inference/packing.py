"""Weights in the order that a CPU's convolutions read them in, put there once."""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from img2img import layers
from img2img.inference.moment import Moment

Convolution = nn.Conv2d | nn.ConvTranspose2d
# What torch's own compiler calls; other names, or none, in a torch to come mean no packing.
_OPERATIONS = torch.ops.mkldnn


# Tensors that are made in inference mode keep no count of changes.
@torch.inference_mode(False)
def packed_copy(network: nn.Module, moment: Moment) -> nn.Module:
    """A copy of a network that keeps convolutions' weights as oneDNN wants them.

    Otherwise oneDNN reorders them in every forward. Results are the same to the last bit; for a
    U-Net of 54 M weights one image takes half of the time. The copy shares parameters, buffers and
    the moment with the network, and takes as much memory as the packed weights do.

    Args:
        network: in its test-time form, on a CPU.
        moment: that of its layers.

    Returns:
        The network itself where nothing can be packed, or torch does not do it right.
    """
    shared = [moment, *network.parameters(), *network.buffers()]
    try:
        copied: nn.Module = copy.deepcopy(network, {id(one): one for one in shared})
        packed = [_Packed(module) for module in copied.modules() if _can_be_packed(module)]
        if not all(_agrees(dtype) for dtype in {one.weight.dtype for one in packed}):
            return network
    # They are no public operations, and a network may be one that cannot be copied: whatever is
    # raised, the plain one is still there.
    except (RuntimeError, AttributeError, TypeError):
        return network
    for one in packed:
        vars(one.layer)["forward"] = MethodType(_forward, one)
    return copied if packed else network


class _Packed:
    """A convolution and its weight in oneDNN's order."""

    def __init__(self, layer: Convolution) -> None:
        self.layer, self.weight = layer, layer.weight
        self.plain = layer.forward
        self.state = _state(layer.weight)
        sizes: list[Any] = [layer.padding]
        self.operation = _OPERATIONS._convolution_pointwise
        reorder = _OPERATIONS._reorder_convolution_weight
        if isinstance(layer, nn.ConvTranspose2d):
            sizes.append(layer.output_padding)
            self.operation = _OPERATIONS._convolution_transpose_pointwise
            reorder = _OPERATIONS._reorder_convolution_transpose_weight
        self.options = (*sizes, layer.stride, layer.dilation, layer.groups)
        self.packed: Tensor = reorder(layer.weight.detach(), *self.options)

    def fits(self, features: Tensor) -> bool:
        """Whether the packed weight is still the layer's, and of the kind of the features.

        Somebody may change the weights that the copy shares; then they are as good as not packed.
        """
        layer = self.layer
        same = layer.weight is self.weight and _state(layer.weight) == self.state
        return same and features.device.type == "cpu"


def _state(weight: Tensor) -> tuple[int, int, torch.dtype]:
    return weight._version, weight.data_ptr(), weight.dtype


def _forward(self: _Packed, features: Tensor, *arguments: Any, **options: Any) -> Tensor:
    wanted = features.dtype
    if torch.is_autocast_enabled("cpu"):
        wanted = torch.get_autocast_dtype("cpu")
    if arguments or options or wanted != self.weight.dtype or not self.fits(features):
        plain: Tensor = self.plain(features, *arguments, **options)
        return plain
    ready, bias = features.to(wanted), self.layer.bias
    made: Tensor = self.operation(ready, self.packed, bias, *self.options, "none", [], "")
    return made


def _can_be_packed(module: nn.Module) -> TypeGuard[Convolution]:
    if not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        return False
    # Ours is torch's own where nothing is trained.
    known = (nn.Conv2d, nn.ConvTranspose2d, layers.ConvTranspose2d)
    if type(module).forward not in [kind.forward for kind in known]:
        return False
    plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    # Weights of grouped ones are small, and it is not worth knowing how those are ordered.
    return plain and module.groups == 1 and module.weight.device.type == "cpu"


def _agrees(dtype: torch.dtype) -> bool:
    """Whether packed convolutions give what plain ones do."""
    noise = torch.Generator().manual_seed(0)
    features = torch.randn(2, 16, 12, 12, generator=noise).to(dtype)
    features = features.contiguous(memory_format=torch.channels_last)
    for kind in (nn.Conv2d, nn.ConvTranspose2d):
        # Not initialised, which would draw from the random state that a training run counts on.
        with torch.device("meta"):
            layer = kind(16, 32, 4, stride=2, padding=1)
        layer = layer.to_empty(device="cpu").requires_grad_(False)
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=noise) * 0.1)
        layer = layer.to(dtype).to(memory_format=torch.channels_last)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            if not torch.allclose(_forward(_Packed(layer), features), layer(features)):
                return False
    return True
