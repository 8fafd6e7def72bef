"""Measures a machine with a recipe: rates, loading, and steps by precision and batch."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from img2img.assemble import build_networks, worker_count
from img2img.bench.floor import StepWork, count_work
from img2img.bench.hardware import Hardware, measure_hardware
from img2img.bench.pairs import Pairs, pairs_of
from img2img.bench.timing import WARM_UP, Loading, time_loading, time_steps
from img2img.data.resources import available_cores, available_memory
from img2img.engine.memory import is_memory, keeping_freed_memory
from img2img.engine.precision import Resolved
from img2img.engine.stepping import Stepper
from img2img.recipe import Recipe
from img2img.registry import Registry

# How the time is shared; steps get the rest.
HARDWARE_SHARE, LOADING_SHARE = 0.1, 0.25
# What is quicker than that is measured, even if the time is used up.
LEAST_SHARE = 0.05

Tell = Callable[[str], None]


@dataclass(frozen=True)
class StepTime:
    """A training step of one batch in one precision.

    Attributes:
        precision, batch_size: of the step.
        seconds: its median; None if it was not measured.
        floor: the least it can take, in seconds; None where that is not known.
        note: why it was not measured.
    """

    precision: Resolved
    batch_size: int
    seconds: float | None
    floor: float | None
    note: str = ""

    @property
    def images_per_s(self) -> float | None:
        """Pairs trained on in a second, if they are there in time."""
        return None if self.seconds is None else self.batch_size / self.seconds


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


def measure(
    recipe: Recipe,
    registry: Registry,
    device: torch.device,
    *,
    precisions: Sequence[Resolved],
    batch_sizes: Sequence[int],
    seconds: float,
    tell: Tell = lambda text: None,
) -> Findings:
    """Measure one thing after the other; nothing is written but drawn pairs, in a temporary folder.

    Args:
        recipe: whose networks, method and data are measured.
        registry: where its names are looked up.
        device: where to train.
        precisions: to measure with each.
        batch_sizes: to measure, in this order: when time runs out, the last are left out.
        seconds: about how long it may take; what would take longer is left out and says so.
        tell: hears what is being measured.

    Raises:
        RecipeError: what components refuse.
    """
    tell("memory and matrix products")
    hardware = measure_hardware(device, HARDWARE_SHARE * seconds)
    bench = _Bench(recipe, registry, device, hardware, tell)
    task, _ = build_networks(recipe, registry, torch.device("cpu"), "float32")
    with pairs_of(recipe, registry, task) as (pairs, drawn):
        loading = bench.loading(pairs, LOADING_SHARE * seconds)
        work = bench.work(pairs)
        steps: list[StepTime] = []
        wanted = [(size, precision) for size in batch_sizes for precision in precisions]
        # The clock runs from here: what it took to find data and to build networks is no part.
        ends = time.perf_counter() + seconds * (1 - HARDWARE_SHARE - LOADING_SHARE)
        for number, (size, precision) in enumerate(wanted):
            left = max(ends - time.perf_counter(), LEAST_SHARE * seconds)
            share = left / (len(wanted) - number)
            steps.append(bench.step(pairs, work, precision, size, steps, left, share))
        return Findings(
            hardware=hardware,
            work=work,
            steps=tuple(sorted(steps, key=lambda step: (step.batch_size, step.precision))),
            loading=loading,
            workers=worker_count(recipe.data.workers, device),
            cores=available_cores(),
            pairs=pairs.count,
            pair_bytes=pairs.kept_bytes(),
            drawn=drawn,
        )


class _Bench:
    def __init__(
        self,
        recipe: Recipe,
        registry: Registry,
        device: torch.device,
        hardware: Hardware,
        tell: Tell,
    ) -> None:
        self.recipe, self.registry, self.device = recipe, registry, device
        self.hardware, self.tell = hardware, tell

    def loading(self, pairs: Pairs, seconds: float) -> tuple[Loading, ...]:
        cores = available_cores()
        counts = {0, min(2, cores), worker_count(self.recipe.data.workers, self.device)}
        if cores > 4:
            counts.add(min(8, cores - 1))
        found = []
        for workers in sorted(counts):
            self.tell(f"loading with {workers} workers" if workers else "loading")
            found.append(
                time_loading(
                    pairs.dataset(),
                    self.device,
                    batch_size=self.recipe.train.batch_size,
                    workers=workers,
                    seconds=seconds / len(counts),
                )
            )
        return tuple(found)

    def work(self, pairs: Pairs) -> StepWork | None:
        self.tell("what a step computes")
        try:
            task, method = build_networks(self.recipe, self.registry, self.device, "float32")
            return count_work(method, *pairs.batch(1, task, self.device))
        except Exception as error:
            if not is_memory(error):
                raise
            return None
        finally:
            self._tidy()

    def step(
        self,
        pairs: Pairs,
        work: StepWork | None,
        precision: Resolved,
        size: int,
        before: Sequence[StepTime],
        left: float,
        share: float,
    ) -> StepTime:
        """Time a step, unless those before say that memory or time will not do."""
        floor = None if work is None else work.floor(self.hardware, precision, size)

        def passed(note: str) -> StepTime:
            return StepTime(precision, size, None, floor, note)

        if work is None:
            return passed("out of memory")
        needed = work.saved_bytes * size + 16 * work.parameters
        # A CPU's memory is not refused: the system ends somebody instead.
        if self.device.type == "cpu" and needed > available_memory():
            return passed(f"needs about {needed / 2**30:.0f} GiB of memory")
        # Larger batches never take longer a pair; the first steps and one more are what is least.
        rates = [s.seconds / s.batch_size for s in before if s.precision == precision and s.seconds]
        expected = min(rates) * size if rates else 0.0
        if expected * (WARM_UP.get(self.device.type, 2) + 2) > 1.5 * left:
            return passed(f"would take too long, up to {expected:.1f} s a step; try more --seconds")
        self.tell(f"steps in {precision}, batch {size}")
        try:
            return StepTime(precision, size, self._time(pairs, precision, size, share), floor)
        except Exception as error:
            if not is_memory(error):
                raise
            return passed("out of memory")
        finally:
            self._tidy()

    def _time(self, pairs: Pairs, precision: Resolved, size: int, seconds: float) -> float:
        # Anew each time: what is captured or compiled holds memory, and fits one shape.
        task, method = build_networks(self.recipe, self.registry, self.device, precision)
        for network in method.networks.values():
            network.train()
        source, target = pairs.batch(size, task, self.device)
        train = self.recipe.train
        step = Stepper(method, self.device, capture=train.capture, compile=train.compile)
        number = 0

        def once() -> None:
            nonlocal number
            number += 1
            step(source, target, number)

        with keeping_freed_memory(self.device):
            return statistics.median(time_steps(once, self.device, seconds))

    def _tidy(self) -> None:
        # Networks and optimizers know each other in circles.
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
