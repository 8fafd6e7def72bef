"""Building a network whose settings come from a stranger, for weights that come with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from img2img.bundle import Stored
from img2img.table import shown

# Calls of torch that building takes, besides those for each tensor. timm's networks, which are
# tried on shapes and of which only a part may be kept, need up to 90 thousand.
CALLS, CALLS_EACH = 150_000, 100
# What a network computes with and does not save, such as the masks of a Swin: values, beyond as
# many as the file has.
UNSAVED = 1 << 27
SHOWN = 3
# What only changes the values of a parameter, and takes time and memory in large ones.
DRAWING = frozenset(
    {"normal_", "uniform_", "erfinv_", "mul_", "add_", "div_", "clamp_", "fill_", "zero_"}
)
# What a file may store a tensor of the network's as. Others would be converted without a word.
FLOATS = ("F32", "F64", "BF16", "F16")
INTEGERS = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8")


class ForWeights(TorchFunctionMode):
    """Builds for weights that follow: parameters are not drawn, and there is an end to it.

    Args:
        tensors: how many the file has. A network that takes out of proportion to them is not its.

    Raises:
        ValueError: from within, where building takes too many steps.
    """

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.tensors = tensors
        self.left = CALLS + CALLS_EACH * tensors
        self.grad = torch.is_grad_enabled()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]  # torch gives it no types
        # What ends the building may come while `no_grad` is being left, which is a call as well.
        torch.set_grad_enabled(self.grad)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError(
                f"they make far too large a network for a file whose tensors number {self.tensors}"
            )
        kwargs = kwargs or {}
        # The functions of torch.nn.init pass everything on by name.
        changed = args[0] if args else kwargs.get("tensor")
        if isinstance(changed, nn.Parameter) and _only_draws(func):
            return changed
        return func(*args, **kwargs)


def _only_draws(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    of_init = getattr(func, "__module__", "") == "torch.nn.init" and name.endswith("_")
    return of_init or name in DRAWING


def misfits(network: nn.Module, stored: Mapping[str, Stored]) -> list[str]:
    """Why the tensors of a file are not those of a network, one reason for each kind of misfit.

    The network may lie on the meta device. Names and shapes must be the same, and types of a kind:
    weights in half or double precision fit a network in single precision.
    """
    state = network.state_dict()
    reasons = []
    missing, extra = sorted(state.keys() - stored.keys()), sorted(stored.keys() - state.keys())
    if missing:
        reasons.append(f"{_count(missing)} missing: {few(map(shown, missing))}")
    if extra:
        reasons.append(f"{_count(extra)} too many: {few(map(shown, extra))}")
    common = sorted(state.keys() & stored.keys())
    others = [
        f"{shown(name)} is {_shape(stored[name].shape)} and should be {_shape(state[name].shape)}"
        for name in common
        if stored[name].shape != tuple(state[name].shape)
    ]
    if others:
        reasons.append(f"of another shape: {few(others)}")
    kinds = [
        f"{shown(name)} holds {stored[name].dtype}, not {_dtypes(state[name])[0]}"
        for name in common
        if stored[name].dtype not in _dtypes(state[name])
    ]
    if kinds:
        reasons.append(f"of another type: {few(kinds)}")
    saved = sum(tensor.numel() for tensor in state.values())
    unsaved = sum(b.numel() for name, b in network.named_buffers() if name not in state)
    if not reasons and unsaved > saved + UNSAVED:
        reasons.append(f"for {saved} values it would compute with {unsaved} more")
    return reasons


def not_finite(network: nn.Module) -> list[str]:
    """Names of a network's tensors that hold values which are no finite numbers."""
    return [
        name
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point() and tensor.numel() and not _finite(tensor)
    ]


def _finite(tensor: Tensor) -> bool:
    # One pass and no memory; not a number is neither the least nor the largest, but torch says so.
    return all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor))


def _dtypes(tensor: Tensor) -> tuple[str, ...]:
    if tensor.is_floating_point():
        return FLOATS
    if tensor.is_complex():
        return ("C64",)
    return ("BOOL",) if tensor.dtype is torch.bool else INTEGERS


def _count(names: Sequence[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def few(texts: Iterable[str]) -> str:
    """The first few, and how many more there are."""
    listed = list(texts)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a single value"
