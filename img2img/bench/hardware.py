"""What the device at hand is called, and how fast it moves and multiplies numbers."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from img2img.data.resources import available_cores

# Far beyond any cache, so that memory is what is measured.
COPY_BYTES = {"cuda": 2**30, "cpu": 2**28}
# Large enough to reach the rate, small enough for a slow processor to finish in a second.
MATRIX_SIDE = {"cuda": 8192, "cpu": 2048}
LEAST_ROUNDS, MOST_ROUNDS = 3, 50


@dataclass(frozen=True)
class Hardware:
    """Rates measured on a device.

    Attributes:
        name: of the device.
        bandwidth: bytes a second, read and written, of a large copy.
        flops: by precision (`float32`, `tf32`, `bfloat16`), floating-point operations a second of a
            large matrix product; a precision that the device lacks is not in it.
    """

    name: str
    bandwidth: float
    flops: dict[str, float]


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's and how many cores of it this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = available_cores()
    return f"{_processor()}, {cores} {'core' if cores == 1 else 'cores'}"


def measure_hardware(device: torch.device, seconds: float = 5.0) -> Hardware:
    """Bandwidth and matrix rates, each the best of several rounds.

    Args:
        device: `cpu`, `cuda` or `mps`; its threads are torch's.
        seconds: about how long it may take.
    """
    rates = {"float32": _matrix_rate(device, torch.float32, seconds / 3)}
    if device.type == "cuda":
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            rates["tf32"] = _matrix_rate(device, torch.float32, seconds / 3)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
    if device.type in ("cpu", "cuda"):
        rates["bfloat16"] = _matrix_rate(device, torch.bfloat16, seconds / 3)
    return Hardware(device_name(device), _bandwidth(device, seconds / 3), rates)


def wait_for(device: torch.device) -> None:
    """Let the device finish what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _bandwidth(device: torch.device, seconds: float) -> float:
    count = COPY_BYTES.get(device.type, 2**28) // 4
    source = torch.ones(count, device=device)
    target = torch.empty_like(source)
    # Each number is read once and written once.
    return 8 * count / _best(lambda: target.copy_(source), device, seconds)


def _matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    side = MATRIX_SIDE.get(device.type, 2048)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    return 2 * side**3 / _best(lambda: torch.mm(left, right, out=product), device, seconds)


def _best(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds of the quickest round; the first warms up and does not count."""
    work()
    best, began = float("inf"), time.perf_counter()
    for number in range(MOST_ROUNDS):
        if number >= LEAST_ROUNDS and time.perf_counter() - began > seconds:
            break
        best = min(best, _timed(work, device))
    return best


def _timed(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        # By the device's own clock: the way there and back is no part of the work.
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch gives it no types
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize(device)
        return float(begin.elapsed_time(end)) / 1000
    wait_for(device)
    began = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - began


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (models or [platform.processor() or platform.machine()])[0]
