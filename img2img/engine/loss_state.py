"""What losses keep from step to step, such as running means or weights of their own."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from img2img.errors import Img2ImgError
from img2img.methods import WeightedLoss
from img2img.tensor_file import has_type

# Comes after the name of a loss where what follows was set to None; neither this nor the stroke
# that ends both is in any loss's name.
_NONE = ":none"


class LossState:
    """Parameters and buffers of losses that are modules, as far as they have changed.

    What is as it was built comes again when the run goes on, so that a frozen network of hundreds
    of megabytes is in no checkpoint. It is told by checksums and not by `requires_grad`: weights
    that ask for no gradient may be moved by hand, and those of a network that somebody forgot to
    freeze stay as they are.

    Args:
        losses: those of the run, as they were built.
        networks: of the method; a loss may hold one, which is kept already.

    Raises:
        Img2ImgError: a loss has a tensor that no checkpoint can hold.
    """

    def __init__(self, losses: Iterable[WeightedLoss], networks: Iterable[nn.Module]) -> None:
        self._losses = {e.name: e.loss for e in losses if isinstance(e.loss, nn.Module)}
        self._networks = list(networks)
        self._built = {key: _checksum(tensor) for key, tensor in self._all().items()}

    def tensors(self) -> dict[str, Tensor]:
        """What has changed, by loss and name, on the CPU. Waits for the device.

        Raises:
            Img2ImgError: a loss has a tensor by now that no checkpoint can hold.
        """
        found = {}
        for (owner, name), tensor in self._all().items():
            # What is not among those that were built was registered by a step.
            if self._built.get((owner, name), ()) == _checksum(tensor):
                continue
            if tensor is None:
                found[f"{owner}{_NONE}/{name}"] = torch.zeros(0)
            else:
                found[f"{owner}/{name}"] = _plain(tensor)
        return found

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Take over what `tensors` gave; all else stays as it was built.

        Raises:
            AttributeError, KeyError, ValueError: it is of other losses.
        """
        for key, value in tensors.items():
            owner, _, whole = key.partition("/")
            path, _, name = whole.rpartition(".")
            loss = self._losses.get(owner.removesuffix(_NONE))
            if loss is None:
                raise KeyError(key)
            part = loss.get_submodule(path)
            if name not in part._parameters and name not in part._buffers:
                if hasattr(part, name):
                    raise ValueError(f"{key} is no buffer of its loss")
                # One that the first step registers.
                part.register_buffer(name, None)
            members: dict[str, Tensor | None] = cast(
                dict[str, Tensor | None],
                part._parameters if name in part._parameters else part._buffers,
            )
            current = members[name]
            if owner.endswith(_NONE):
                members[name] = None
            elif current is not None and _takes(current, value):
                # In place, because another name or an optimizer may have the same tensor.
                current.copy_(value)
            elif isinstance(current, nn.Parameter):
                kind = str(value.dtype).removeprefix("torch.")
                raise ValueError(f"{key} is {kind} of shape {tuple(value.shape)}, not its loss's")
            else:
                # A buffer that the first step makes, or that grows. A copy, because on the CPU it
                # would be the file's.
                made = value.to(device, copy=True)
                fixed = members is part._parameters
                members[name] = nn.Parameter(made, requires_grad=False) if fixed else made

    def _all(self) -> dict[tuple[str, str], Tensor | None]:
        """What there is now, by loss and name: a step may register, replace and remove it."""
        kept = {id(t) for net in self._networks for t in (*net.parameters(), *net.buffers())}
        found = {}
        for owner, loss in self._losses.items():
            for name, tensor in _persistent(loss):
                if id(tensor) in kept:
                    continue
                if tensor is not None and (told := _unfit(name, tensor)):
                    raise Img2ImgError(f"the loss {owner!r} {told}")
                found[owner, name] = tensor
        return found


def unfit_tensors(loss: nn.Module) -> list[str]:
    """What of a loss no checkpoint can hold: the rest of a sentence about the loss for each."""
    found = [_unfit(name, tensor) for name, tensor in _persistent(loss) if tensor is not None]
    return [told for told in found if told]


def _persistent(loss: nn.Module) -> Iterator[tuple[str, Tensor | None]]:
    """Its parameters and persistent buffers by name, also those that are None."""
    for path, part in loss.named_modules():
        buffers = {
            n: b for n, b in part._buffers.items() if n not in part._non_persistent_buffers_set
        }
        for name, tensor in (*part._parameters.items(), *buffers.items()):
            yield f"{path}.{name}" if path else name, tensor


def _unfit(name: str, tensor: Tensor) -> str | None:
    if is_lazy(tensor):
        kind = "a tensor without a shape"
    elif tensor.layout is not torch.strided or tensor.is_nested:
        kind = "a sparse or nested tensor"
    elif not has_type(tensor.dtype):
        kind = f"a tensor of {tensor.dtype}"
    else:
        return None
    return (
        f"keeps {kind}, {name!r}, that no checkpoint can hold: keep a plain one of a type such as "
        f"float32; or, if it need not go on with --resume, make it a buffer with persistent=False"
    )


def _takes(current: Tensor, value: Tensor) -> bool:
    """Whether a value can be copied into a tensor and be the same there."""
    # Where a tensor is expanded, one place in memory is several elements.
    strides = zip(current.shape, current.stride(), strict=True)
    expanded = any(size > 1 and stride == 0 for size, stride in strides)
    return (current.dtype, current.shape) == (value.dtype, value.shape) and not expanded


def _plain(tensor: Tensor) -> Tensor:
    """Its values on the CPU; a conjugate view is otherwise only marked as one."""
    plain = tensor.detach().cpu().resolve_conj().contiguous()
    # One element or none counts as contiguous whatever its stride, and is not read as bytes then.
    return plain.clone(memory_format=torch.contiguous_format) if plain.numel() < 2 else plain


def _checksum(tensor: Tensor | None) -> tuple[object, ...] | None:
    if tensor is None:
        return None
    plain = _plain(tensor).reshape(-1).view(torch.uint8)
    return tensor.dtype, tensor.shape, zlib.crc32(plain.numpy().data)
