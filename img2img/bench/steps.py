"""Times steps by precision and batch: in turn, and again where the figures are implausible."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from img2img.assemble import build_networks
from img2img.bench.floor import StepWork, count_work
from img2img.bench.hardware import Hardware
from img2img.bench.pairs import Pairs
from img2img.bench.timing import LEAST_STEPS, WARM_UP, time_in_turn
from img2img.data.resources import available_memory
from img2img.engine.memory import is_memory, keeping_freed_memory
from img2img.engine.precision import Resolved
from img2img.engine.stepping import EAGER_STEPS, Stepper
from img2img.recipe import Recipe
from img2img.registry import Registry

Row = tuple[int, Resolved]
Tell = Callable[[str], None]

LEFT_OUT = "would take too long; try more --seconds"
NOT_RECORDED = "could not be recorded as a CUDA graph; the time is that without one"
# More than this between rounds of one step is no noise of its own.
SCATTER = 1.5
# A smaller batch may take as long as a larger one where starting kernels is what takes the time.
SLOWER = 1.1
MOST_REPEATS = 4


@dataclass(frozen=True)
class StepTime:
    """A training step of one batch in one precision.

    Attributes:
        precision, batch_size: of the step.
        seconds: of the quickest round, which other programs disturbed least; None if it was not
            measured.
        floor: the least it can take, in seconds; None where that is not known.
        note: why it was not measured, or was in another way than asked for.
        slow: seconds that three quarters of the rounds kept below; of two or three, the slowest.
    """

    precision: Resolved
    batch_size: int
    seconds: float | None
    floor: float | None
    note: str = ""
    slow: float | None = None

    @property
    def images_per_s(self) -> float | None:
        """Pairs trained on in a second, if they are there in time."""
        return None if self.seconds is None else self.batch_size / self.seconds

    @property
    def spread(self) -> float:
        """How many times the quickest round the slow ones took."""
        return 1.0 if self.seconds is None or self.slow is None else self.slow / self.seconds


def implausible(steps: Sequence[StepTime]) -> list[StepTime]:
    """Those that took longer than a larger batch in the same precision."""
    return [
        step
        for step in steps
        if any(
            step.precision == other.precision
            and step.batch_size < other.batch_size
            and (step.seconds or 0.0) > SLOWER * (other.seconds or float("inf"))
            for other in steps
        )
    ]


class StepTimer:
    """Times steps of a recipe.

    Args:
        recipe: whose networks and method they train.
        registry: where its names are looked up.
        device: where.
        hardware: its rates.
        pairs: to train on.
        tell: hears what is being measured.

    Attributes:
        work: what a step does; None if not even one pair fits into memory.
        counted_s: what the step of one pair took in which that was counted, the first of all.
    """

    def __init__(
        self,
        recipe: Recipe,
        registry: Registry,
        device: torch.device,
        hardware: Hardware,
        pairs: Pairs,
        tell: Tell,
    ) -> None:
        self.recipe, self.registry, self.device = recipe, registry, device
        self.hardware, self.pairs, self.tell = hardware, pairs, tell
        tell("what a step computes")
        self.counted_s = 0.0
        self.work = self._count()
        self._rounds: dict[Row, list[float]] = {}
        self._notes: dict[Row, str] = {}
        self._not_recorded: set[Row] = set()

    def time(
        self, batch_sizes: Sequence[int], precisions: Sequence[Resolved], ends: float, least: float
    ) -> None:
        """Time each batch in all precisions, and again what is implausible.

        Args:
            batch_sizes: in this order; when time runs out, the last are left out.
            precisions: the first is timed in the first batch, however long that takes.
            ends: when to be done, by `time.perf_counter()`.
            least: seconds that there are for a batch in any case.
        """
        for number, size in enumerate(batch_sizes):
            left = max(ends - time.perf_counter(), least)
            chosen: list[Resolved] = []
            for precision in precisions:
                taken = sum(self.expected((size, other)) for other in [*chosen, precision])
                if note := self._lacks_memory(precision, size):
                    self._notes[size, precision] = note
                # The very first is measured whatever it takes.
                elif (self._rounds or chosen or number) and taken > 1.5 * left:
                    self._notes[size, precision] = LEFT_OUT
                else:
                    chosen.append(precision)
            if chosen:
                self._time(size, chosen, left / (len(batch_sizes) - number))
        for _ in range(MOST_REPEATS):
            left = ends - time.perf_counter()
            again = {
                step.batch_size: sum(
                    self.expected((step.batch_size, p))
                    for p in precisions
                    if (step.batch_size, p) in self._rounds
                )
                for step in implausible(self.found())
            }
            repeat = next((size for size in again if again[size] < left), None)
            if repeat is None:
                break
            self._time(repeat, [p for p in precisions if (repeat, p) in self._rounds], left / 2)

    def found(self) -> tuple[StepTime, ...]:
        """All rows, by batch and precision."""
        rows = []
        for size, precision in sorted({*self._rounds, *self._notes}):
            rounds, floor = self._rounds.get((size, precision)), self._floor((size, precision))
            if rounds is None:
                rows.append(StepTime(precision, size, None, floor, self._notes[size, precision]))
                continue
            slow = max(rounds) if len(rounds) < 4 else statistics.quantiles(rounds, n=4)[2]
            note = NOT_RECORDED if (size, precision) in self._not_recorded else ""
            rows.append(StepTime(precision, size, min(rounds), floor, note, slow))
        return tuple(rows)

    def left_out_s(self) -> float | None:
        """About how long those that were left out would take; None if there are none."""
        rows = [row for row, note in self._notes.items() if note == LEFT_OUT]
        return sum(map(self.expected, rows)) if rows else None

    def expected(self, row: Row) -> float:
        """Seconds to warm up and time a row, by the least disturbed of the others in its precision.

        Where there is none, by those in another precision or by the step that was counted, and at
        least the floor.
        """
        size, precision = row
        floor = self._floor(row) or 0.0
        same = [key for key in self._rounds if key[1] == precision]
        alike = same or list(self._rounds)
        guesses = []
        for key in alike:
            best, own = min(self._rounds[key]), self._floor(key)
            # Larger batches do not take longer a pair, nor further beyond their floor.
            guesses.append(best * size / key[0])
            if own:
                guesses.append(best * floor / own)
        once = min(guesses, default=self.counted_s * size)
        if not same:
            once = max(once, floor)
        return once * (WARM_UP.get(self.device.type, 2) + LEAST_STEPS)

    def _count(self) -> StepWork | None:
        try:
            task, method = build_networks(self.recipe, self.registry, self.device, "float32")
            images = self.pairs.batch(1, task, self.device)
            began = time.perf_counter()
            work = count_work(method, *images)
            # A GPU's first step is mostly spent on preparing itself.
            self.counted_s = time.perf_counter() - began if self.device.type == "cpu" else 0.0
            return work
        except Exception as error:
            if not is_memory(error):
                raise
            return None
        finally:
            self._tidy()

    def _floor(self, row: Row) -> float | None:
        return None if self.work is None else self.work.floor(self.hardware, row[1], row[0])

    def _needed(self, size: int) -> int:
        return 0 if self.work is None else self.work.saved_bytes * size + 16 * self.work.parameters

    def _lacks_memory(self, precision: Resolved, size: int) -> str:
        if self.work is None:
            return "out of memory"
        # A CPU's memory is not refused: the system ends somebody instead.
        if self.device.type == "cpu" and self._needed(size) > available_memory():
            return f"needs about {self._needed(size) / 2**30:.0f} GiB of memory"
        return ""

    def _time(self, size: int, precisions: Sequence[Resolved], seconds: float) -> None:
        """Time a batch in all precisions in turn, or one by one if memory does not hold them."""
        self.tell(f"steps in {' and '.join(precisions)}, batch {size}")
        several = len(precisions) > 1
        together = len(precisions) * self._needed(size)
        if not (several and self.device.type == "cpu" and together > available_memory()):
            try:
                taken = self._run(size, precisions, seconds)
            except Exception as error:
                if not is_memory(error):
                    raise
                if not several:
                    self._notes[size, precisions[0]] = "out of memory"
                    return
            else:
                for precision, rounds in zip(precisions, taken, strict=True):
                    self._rounds.setdefault((size, precision), []).extend(rounds)
                return
            finally:
                self._tidy()
        for precision in precisions:
            self._time(size, [precision], seconds / len(precisions))

    def _run(self, size: int, precisions: Sequence[Resolved], seconds: float) -> list[list[float]]:
        """Rounds of each precision, of recorded steps wherever a precision can have them."""
        ends = time.perf_counter() + seconds
        taken, captured = self._in_turn(size, precisions, seconds)
        if not taken:
            # A recording keeps its memory, and may have left too little for the next one.
            for number, precision in enumerate(precisions):
                self._tidy()
                share = (ends - time.perf_counter()) / (len(precisions) - number)
                taken += self._run(size, [precision], share)
        elif self.recipe.train.capture and self.device.type == "cuda" and not any(captured):
            self._not_recorded.update((size, precision) for precision in precisions)
        return taken

    def _in_turn(
        self, size: int, precisions: Sequence[Resolved], seconds: float
    ) -> tuple[list[list[float]], list[bool]]:
        """Rounds of each, and whether it was recorded; nothing where only some would be so."""
        train = self.recipe.train
        steppers: list[Stepper] = []
        with ExitStack() as stack:
            stack.enter_context(keeping_freed_memory(self.device))

            def contender(precision: Resolved) -> Callable[[], object]:
                # Anew each time: what is captured or compiled holds memory, and fits one shape.
                task, method = build_networks(self.recipe, self.registry, self.device, precision)
                for network in method.networks.values():
                    network.train()
                source, target = self.pairs.batch(size, task, self.device)
                step = Stepper(method, self.device, capture=train.capture, compile=train.compile)
                stack.callback(step.close)
                steppers.append(step)
                numbers = itertools.count(1)
                return lambda: step(source, target, next(numbers))

            contenders = [contender(name) for name in precisions]
            ends = time.perf_counter() + seconds
            if len(contenders) > 1 and self.device.type == "cuda" and train.capture:
                for once in contenders * EAGER_STEPS:
                    once()
                if len({step.captured for step in steppers}) > 1:
                    return [], []
            taken = time_in_turn(contenders, self.device, ends - time.perf_counter())
            return taken, [step.captured for step in steppers]

    def _tidy(self) -> None:
        # Networks and optimizers know each other in circles.
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
