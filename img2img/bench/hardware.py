"""What the device at hand is called, and how fast it moves and multiplies numbers."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from img2img.data.resources import available_cores
from img2img.engine.precision import tensor_float32

# Far beyond any cache, so that memory is what is measured.
COPY_BYTES = {"cuda": 2**30, "cpu": 2**28}
# Large enough to reach the rate, small enough for a slow processor to finish in a second.
MATRIX_SIDE = {"cuda": 8192, "cpu": 2048}
# Images in a batch.
CONVOLVED = {"cuda": 64, "cpu": 1}
LEAST_ROUNDS, MOST_ROUNDS = 3, 50


@dataclass(frozen=True)
class Hardware:
    """Rates measured on a device.

    Attributes:
        name: of the device.
        bandwidth: bytes a second, read and written, of a large copy.
        flops: by precision (`float32`, `tf32`, `bfloat16`), floating-point operations a second of a
            large matrix product or convolution, whichever is quicker; a precision that the device
            lacks is not in it.
    """

    name: str
    bandwidth: float
    flops: dict[str, float]


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's and how many cores and threads this process has."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = available_cores()
    threads = torch.get_num_threads()
    # As many as cores unless OMP_NUM_THREADS, or whoever starts this, says otherwise.
    told = "" if threads == cores else f", {threads} {'thread' if threads == 1 else 'threads'}"
    return f"{_processor()}, {cores} {'core' if cores == 1 else 'cores'}{told}"


def measure_hardware(device: torch.device, seconds: float = 5.0) -> Hardware:
    """Bandwidth and matrix rates, each the best of several rounds.

    Args:
        device: `cpu`, `cuda` or `mps`; its threads are torch's.
        seconds: about how long it may take.
    """
    with tensor_float32(False):
        rates = {"float32": _matrix_rate(device, torch.float32, seconds / 3)}
    if device.type == "cuda":
        with tensor_float32(True):
            rates["tf32"] = _matrix_rate(device, torch.float32, seconds / 3)
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
    by_matrices = (
        2 * side**3 / _best(lambda: torch.mm(left, right, out=product), device, seconds / 2)
    )
    # Other code computes convolutions, and on some processors it is the quicker one. This one is
    # of the kind that the paper's networks have, which no trick computes with fewer operations.
    batch, channels, size = CONVOLVED.get(device.type, 1), 256, 64
    images = torch.randn(batch, channels, size, size, device=device).to(dtype)
    weights = torch.randn(2 * channels, channels, 4, 4, device=device).to(dtype)
    if device.type == "cuda":
        images, weights = (it.to(memory_format=torch.channels_last) for it in (images, weights))
    operations = 2 * batch * (size // 2) ** 2 * channels * 16 * 2 * channels
    seconds_taken = _best(
        lambda: F.conv2d(images, weights, stride=2, padding=1), device, seconds / 2
    )
    return max(by_matrices, operations / seconds_taken)


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
