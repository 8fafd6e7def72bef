"""How long steps and loading take, each by itself, within a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch

from img2img.bench.hardware import wait_for
from img2img.data.loading import PairDataset, batches
from img2img.data.workers import MESSAGE_PAIRS
from img2img.engine.feeding import on_device

# What is captured or compiled is so in the first steps; on a CPU each may take seconds.
WARM_UP = {"cuda": 12, "cpu": 1}
# A measurement on a GPU waits for the device only once in about so many seconds.
CHUNK_S = 0.1
LEAST_STEPS = 2
# What workers' rate may be off by, if it was taken before all of them were at work.
UNSETTLED = 3.0


@dataclass(frozen=True)
class Loading:
    """Pairs a second that are on the device, with no training beside.

    Attributes:
        workers: processes that load; 0 loads in this one.
        first: in the first epoch, when each pair is read for the first time.
        later: in later epochs, when those in memory need not be decoded; None if none was reached.
        spread: how many times as fast the quicker half of that was as the slower.
    """

    workers: int
    first: float
    later: float | None
    spread: float = 1.0


def time_steps(step: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Seconds of a step, several times; at least twice however long it takes.

    Args:
        step: trains once, and need not wait for the device.
        device: where.
        seconds: about how long it may take, the steps that warm up included.
    """
    return time_in_turn([step], device, seconds)[0]


def time_in_turn(
    steps: Sequence[Callable[[], object]], device: torch.device, seconds: float
) -> list[list[float]]:
    """Seconds of each of several steps, which take turns, so that a disturbance meets them all.

    Args:
        steps: as for `time_steps`.
        device: where.
        seconds: about how long all may take together.
    """
    began = time.perf_counter()
    for step in steps:
        for _ in range(WARM_UP.get(device.type, 2)):
            step()
    wait_for(device)
    taken: list[list[float]] = [[] for _ in steps]
    chunks = [1] * len(steps)
    while len(taken[-1]) < LEAST_STEPS or time.perf_counter() - began < seconds:
        for number, step in enumerate(steps):
            before = time.perf_counter()
            for _ in range(chunks[number]):
                step()
            wait_for(device)
            taken[number].append((time.perf_counter() - before) / chunks[number])
            if device.type != "cpu":
                chunks[number] = max(1, round(CHUNK_S / taken[number][-1]))
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
        seconds: about how long it may take, starting the workers included; half of it is for
            loading in any case. Where one pair takes long, until workers are at their pace, but no
            longer than four times that.

    Raises:
        DataError: no pair can be read.
    """
    called = time.perf_counter()
    # Workers send one step at first, then two, four and so on, while others are under way.
    settled = workers * (-(-MESSAGE_PAIRS // batch_size) - 1)
    if 2 * settled * batch_size > len(dataset):
        settled = 0
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
    try:
        for batch in feed:
            total += batch.pairs
            seen.append((time.perf_counter(), total))
            now, first = seen[-1][0], seen[min(settled, len(seen) - 1)][0]
            if now > first and now - called > seconds and now - first > seconds / 2:
                break
            if now - called > 4 * seconds and len(seen) > 1:
                break
        wait_for(device)
    finally:
        # A generator that is closed ends its workers.
        if isinstance(feed, Generator):
            feed.close()
    ends = [at for at, (_, pairs) in enumerate(seen) if pairs <= len(dataset)]
    # Until the first batch workers start, so the clock runs from there.
    turn = max(ends[-1] if ends else 0, 1)
    is_settled = turn > settled
    early, late = seen[settled if is_settled else 0 : turn + 1], seen[turn:]
    if len(late) <= LEAST_STEPS:
        spread = _spread(early) if is_settled else max(_spread(early), UNSETTLED)
        return Loading(workers, _rate(early), None, spread)
    return Loading(workers, _rate(early), _rate(late), _spread(late))


def _rate(seen: list[tuple[float, int]]) -> float:
    """Pairs a second between the first and the last."""
    (began, before), (ended, after) = seen[0], seen[-1]
    return (after - before) / max(ended - began, 1e-9)


def _spread(seen: list[tuple[float, int]]) -> float:
    half = (seen[0][0] + seen[-1][0]) / 2
    middle = next(at for at, (when, _) in enumerate(seen) if when >= half)
    # So few batches have no halves that could be told apart.
    if min(middle, len(seen) - 1 - middle) < LEAST_STEPS:
        return 1.0
    rates = _rate(seen[: middle + 1]), _rate(seen[middle:])
    return max(rates) / max(min(rates), 1e-9)
