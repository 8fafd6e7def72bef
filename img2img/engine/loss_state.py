"""What losses keep from step to step, such as running means or weights of their own."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from img2img.methods import WeightedLoss


class LossState:
    """Parameters and buffers of losses that are modules, as far as they have changed.

    What is as it was built comes again when the run goes on, so that a frozen network of hundreds
    of megabytes is in no checkpoint. It is told by checksums and not by `requires_grad`: weights
    that ask for no gradient may be moved by hand, and those of a network that somebody forgot to
    freeze stay as they are.

    Args:
        losses: those of the run, as they were built.
        networks: of the method; a loss may hold one, which is kept already.
    """

    def __init__(self, losses: Iterable[WeightedLoss], networks: Iterable[nn.Module]) -> None:
        kept = {id(t) for net in networks for t in (*net.parameters(), *net.buffers())}
        self._places = {
            f"{entry.name}.{key}": place
            for entry in losses
            if isinstance(entry.loss, nn.Module)
            for key, place in _places(entry.loss).items()
            if id(place[0][place[1]]) not in kept
        }
        self._built = {key: _checksum(tensor) for key, tensor in self._all().items()}

    def tensors(self) -> dict[str, Tensor]:
        """What has changed, by loss and name, on the CPU. Waits for the device."""
        return {
            key: tensor.detach().cpu()
            for key, tensor in self._all().items()
            if self._built.get(key) != _checksum(tensor)
        }

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Take over what `tensors` gave; all else stays as it was built.

        Raises:
            KeyError, ValueError: it is of other losses.
        """
        for key, value in tensors.items():
            members, name = self._places[key]
            current = members[name]
            if current is not None and current.shape == value.shape:
                current.copy_(value)
            elif isinstance(current, nn.Parameter):
                raise ValueError(f"{key} is of shape {tuple(value.shape)}, not its loss's")
            else:
                # A buffer that the first step makes, or that grows. A copy, because on the CPU it
                # would be the file's.
                members[name] = value.to(device, copy=True)

    def _all(self) -> dict[str, Tensor]:
        found = {key: members.get(name) for key, (members, name) in self._places.items()}
        return {key: tensor for key, tensor in found.items() if tensor is not None}


def _places(module: nn.Module) -> dict[str, tuple[dict[str, Tensor | None], str]]:
    """Where its parameters and persistent buffers are found, also if there is none yet."""
    places = {}
    for path, part in module.named_modules():
        buffers = [name for name in part._buffers if name not in part._non_persistent_buffers_set]
        for members, names in (
            (part._parameters, list(part._parameters)),
            (part._buffers, buffers),
        ):
            for name in names:
                whole = f"{path}.{name}" if path else name
                places[whole] = cast(dict[str, Tensor | None], members), name
    return places


def _checksum(tensor: Tensor) -> tuple[object, ...]:
    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return tensor.dtype, tensor.shape, zlib.crc32(plain.numpy().data)
