"""How long steps and loading take, each by itself, within a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch

from img2img.bench.hardware import wait_for
from img2img.data.loading import PairDataset, batches
from img2img.engine.feeding import on_device

# What is captured or compiled is so in the first steps; on a CPU each may take seconds.
WARM_UP = {"cuda": 12, "cpu": 1}
# A measurement on a GPU waits for the device only once in about so many seconds.
CHUNK_S = 0.1
LEAST_STEPS = 2


@dataclass(frozen=True)
class Loading:
    """Pairs a second that are on the device, with no training beside.

    Attributes:
        workers: processes that load; 0 loads in this one.
        first: in the first epoch, when each pair is read for the first time.
        later: in later epochs, when those in memory need not be decoded; None if none was reached.
    """

    workers: int
    first: float
    later: float | None


def time_steps(step: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Seconds of a step, several times; at least twice however long it takes.

    Args:
        step: trains once, and need not wait for the device.
        device: where.
        seconds: about how long it may take, the steps that warm up included.
    """
    began = time.perf_counter()
    for _ in range(WARM_UP.get(device.type, 2)):
        step()
    wait_for(device)
    taken: list[float] = []
    chunk = 1
    while len(taken) < LEAST_STEPS or time.perf_counter() - began < seconds:
        before = time.perf_counter()
        for _ in range(chunk):
            step()
        wait_for(device)
        taken.append((time.perf_counter() - before) / chunk)
        if device.type != "cpu":
            chunk = max(1, round(CHUNK_S / taken[-1]))
    return taken


def time_loading(
    dataset: PairDataset,
    device: torch.device,
    *,
    batch_size: int,
    workers: int,
    seconds: float,
) -> Loading:
    """Load batches as training does, on and on, and count pairs.

    Args:
        dataset: a fresh one, of which no pair was read.
        device: where batches go.
        batch_size: pairs a batch.
        workers: processes that load.
        seconds: about how long it may take.

    Raises:
        DataError: no pair can be read.
    """
    loader = batches(
        dataset,
        batch_size=batch_size,
        start=0,
        stop=2**40,
        workers=workers,
        pin_memory=device.type == "cuda",
    )
    feed = on_device(loader, device)
    seen: list[tuple[float, int]] = []
    total = 0
    for batch in feed:
        total += batch.pairs
        seen.append((time.perf_counter(), total))
        if len(seen) > 1 and seen[-1][0] - seen[0][0] > seconds:
            break
    wait_for(device)
    # A generator that is closed ends its workers.
    if isinstance(feed, Generator):
        feed.close()
    ends = [at for at, (_, pairs) in enumerate(seen) if pairs <= len(dataset)]
    # Until the first batch workers start, so the clock runs from there.
    turn = max(ends[-1] if ends else 0, 1)
    later = seen[turn:]
    return Loading(
        workers, _rate(seen[: turn + 1]), _rate(later) if len(later) >= LEAST_STEPS + 1 else None
    )


def _rate(seen: list[tuple[float, int]]) -> float:
    """Pairs a second between the first and the last."""
    (began, before), (ended, after) = seen[0], seen[-1]
    return (after - before) / max(ended - began, 1e-9)
