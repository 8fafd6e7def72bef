"""Which device a run uses, and in which precision its networks compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from img2img.errors import RequestError

Resolved = Literal["float32", "bfloat16"]


def resolve_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps` as a device that is there.

    Raises:
        RequestError: it is none of these, or not available here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RequestError(
            f"--device {name!r} is not a device; use auto, cpu, cuda, cuda:N or mps"
        ) from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise RequestError(
                f"--device {name}: this machine has {count or 'no'} CUDA device"
                f"{'' if count == 1 else 's'}{'; use cpu or auto' if not count else ''}"
            )
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise RequestError("--device mps: not available on this machine; use cpu or auto")
    elif device.type != "cpu":
        raise RequestError(f"--device {name!r}: use auto, cpu, cuda, cuda:N or mps")
    return device


def make_current(device: torch.device) -> torch.device:
    """Have all that asks for "the" GPU, as an event on its clock does, mean this one from now on.

    For programs that work on one device and then end.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def resolve_precision(name: str, device: torch.device) -> Resolved:
    """`auto` is bfloat16 where the device computes in it natively, else float32.

    Raises:
        RequestError: bfloat16 on a device that has none.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):  # it asks for that of the current one
            native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        native = _cpu_has_bfloat16()
    else:
        native = False
    if name == "bfloat16":
        if device.type == "mps":
            raise RequestError("--precision bfloat16: not supported on mps; use float32")
        return "bfloat16"
    return "bfloat16" if name == "auto" and native else "float32"


def set_precision(network: nn.Module, precision: Resolved) -> nn.Module:
    """Make a network compute in a precision, whoever calls it; weights and outputs stay float32.

    The boundary is the network's own forward, so that losses, optimizers and a plugin's method need
    not know.
    """
    if precision == "bfloat16":
        if next(network.parameters(), torch.empty(0)).device.type == "cuda":
            # What tensor cores read; in any other order every convolution turns its input around.
            network.to(memory_format=torch.channels_last)
        # Bound to the network, so that a deep copy's forward is the copy's own.
        network.forward = MethodType(_forward_in_bfloat16, network)
    return network


def set_full_float32(network: nn.Module) -> nn.Module:
    """Make a network on a GPU compute in float32 without TensorFloat-32, which keeps 10 bits."""
    network.forward = MethodType(_forward_in_full, network)
    return network


@contextmanager
def tensor_float32(allowed: bool) -> Iterator[None]:
    """Whether GPUs may round float32 to TensorFloat-32 in products and convolutions."""
    places: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = allowed
    try:
        yield
    finally:
        for place, was in zip(places, before, strict=True):
            place.allow_tf32 = was


def _forward_in_full(network: nn.Module, images: Tensor) -> Tensor:
    with tensor_float32(False):
        output: Tensor = type(network).forward(network, images)
    return output


def _forward_in_bfloat16(network: nn.Module, images: Tensor) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16):
        output: Tensor = type(network).forward(network, images)
    return output.float()


def _cpu_has_bfloat16() -> bool:
    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    # Where torch has no public name for it yet.
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
