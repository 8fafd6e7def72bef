"""Weights in the order that a CPU's convolutions read them in, put there once."""

from __future__ import annotations

from types import MethodType
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

Convolution = nn.Conv2d | nn.ConvTranspose2d
# What torch's own compiler calls; other names, or none, in a torch to come mean no packing.
_OPERATIONS = torch.ops.mkldnn


# Tensors that are made in inference mode keep no count of changes.
@torch.inference_mode(False)
def pack_weights(network: nn.Module) -> int:
    """Keep a copy of convolutions' weights as oneDNN wants them, which it makes in every forward.

    Results are the same to the last bit. For a U-Net of 54 M weights a forward of one image takes
    half of the time, and takes as much more memory as the weights do.

    Returns:
        How many convolutions were packed; none where torch cannot, or does not do it right.
    """
    try:
        packed = [_Packed(module) for module in network.modules() if _can_be_packed(module)]
        if not all(_agrees(dtype) for dtype in {one.weight.dtype for one in packed}):
            return 0
    # They are no public operations: whatever they raise, the plain ones are still there.
    except (RuntimeError, AttributeError, TypeError):
        return 0
    for one in packed:
        vars(one.layer)["forward"] = MethodType(_forward, one)
    return len(packed)


class _Packed:
    """A convolution and its weight in oneDNN's order."""

    def __init__(self, layer: Convolution) -> None:
        self.layer, self.weight = layer, layer.weight
        self.plain = layer.forward
        # Somebody may change the weights afterwards; then they are as good as not packed.
        self.version = layer.weight._version
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
        """Whether the packed weight may be used now."""
        layer = self.layer
        plain = features.device.type == "cpu" and not torch.compiler.is_compiling()
        same = layer.weight is self.weight and layer.weight._version == self.version
        return plain and same and not (torch.is_grad_enabled() and features.requires_grad)


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
    if type(module).forward not in (nn.Conv2d.forward, nn.ConvTranspose2d.forward):
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
