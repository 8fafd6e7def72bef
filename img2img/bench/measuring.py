"""Measures a machine with a recipe: rates, loading, and steps by precision and batch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from img2img.assemble import build_networks, worker_count
from img2img.bench.floor import StepWork
from img2img.bench.hardware import Hardware, measure_hardware
from img2img.bench.pairs import Pairs, pairs_of
from img2img.bench.steps import StepTime, StepTimer, Tell
from img2img.bench.timing import Loading, time_loading
from img2img.data.resources import available_cores
from img2img.engine.precision import Resolved
from img2img.recipe import Recipe
from img2img.registry import Registry

# How the time is shared; steps get the rest.
HARDWARE_SHARE, LOADING_SHARE = 0.1, 0.25
# What is quicker than that is measured, even if the time is used up.
LEAST_SHARE = 0.05
# Of all seconds, about what is there for the last batch of three.
LAST_SHARE = 0.3


@dataclass(frozen=True)
class Findings:
    """All that was measured.

    Attributes:
        hardware: the device's rates.
        work: what a step does; None if not even one pair fits into memory.
        steps: by batch and precision.
        loading: by number of workers.
        workers: as a run of the recipe would have.
        cores: that this process may use.
        pairs: in the training set.
        pair_bytes: of one as it is kept in memory.
        drawn: why the recipe's own data was not used; None if it was.
        load: how many programs wanted a core in the minute before; None where nobody counts.
        all_s: seconds that would do for the steps that were left out, too; None if none were.
    """

    hardware: Hardware
    work: StepWork | None
    steps: tuple[StepTime, ...]
    loading: tuple[Loading, ...]
    workers: int
    cores: int
    pairs: int
    pair_bytes: int
    drawn: str | None
    load: float | None = None
    all_s: float | None = None


def measure(
    recipe: Recipe,
    registry: Registry,
    device: torch.device,
    *,
    precisions: Sequence[Resolved],
    batch_sizes: Sequence[int],
    began: float,
    seconds: float,
    tell: Tell = lambda text: None,
    show: Callable[[Hardware], None] = lambda hardware: None,
) -> Findings:
    """Measure one thing after the other; nothing is written but drawn pairs, in a temporary folder.

    Args:
        recipe: whose networks, method and data are measured.
        registry: where its names are looked up.
        device: where to train.
        precisions: to measure with each; the first is the recipe's.
        batch_sizes: to measure, in this order: when time runs out, the last are left out.
        began: since when the time counts, by `time.perf_counter()`.
        seconds: about how long it may take; what would take longer is left out and says so.
        tell: hears what is being measured.
        show: hears the device's rates as soon as they are known.

    Raises:
        RecipeError: what components refuse.
    """
    load = load_average()
    ends = began + seconds
    tell("memory and matrix products")
    hardware = measure_hardware(device, HARDWARE_SHARE * seconds)
    show(hardware)
    task, _ = build_networks(recipe, registry, torch.device("cpu"), "float32")
    with pairs_of(recipe, registry, task) as (pairs, drawn):
        left = max(ends - time.perf_counter(), 0.0)
        loading = _time_loading(recipe, pairs, device, min(LOADING_SHARE * seconds, left / 2), tell)
        timer = StepTimer(recipe, registry, device, hardware, pairs, tell)
        timer.time(batch_sizes, precisions, ends, LEAST_SHARE * seconds)
        more = timer.left_out_s()
        return Findings(
            hardware=hardware,
            work=timer.work,
            steps=timer.found(),
            loading=loading,
            workers=worker_count(recipe.data.workers, device),
            cores=available_cores(),
            pairs=pairs.count,
            pair_bytes=pairs.kept_bytes(),
            drawn=drawn,
            load=load,
            all_s=None if more is None else time.perf_counter() - began + more / LAST_SHARE,
        )


def load_average() -> float | None:
    """How many programs wanted a core of this machine in the last minute."""
    # Not on every system.
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _time_loading(
    recipe: Recipe, pairs: Pairs, device: torch.device, seconds: float, tell: Tell
) -> tuple[Loading, ...]:
    cores = available_cores()
    counts = {0, min(2, cores), worker_count(recipe.data.workers, device)}
    if cores > 4:
        counts.add(min(8, cores - 1))
    found = []
    for workers in sorted(counts):
        with_ = "with 1 worker" if workers == 1 else f"with {workers} workers"
        tell(f"loading {with_}" if workers else "loading")
        found.append(
            time_loading(
                pairs.dataset(),
                device,
                batch_size=recipe.train.batch_size,
                workers=workers,
                seconds=seconds / len(counts),
            )
        )
    return tuple(found)
