"""What the figures say: what holds a run back, and settings that suit the machine better."""

from __future__ import annotations

import os
from dataclasses import dataclass

from img2img.bench.measuring import Findings
from img2img.bench.steps import SCATTER, StepTime, implausible
from img2img.bench.timing import Loading
from img2img.engine.precision import Resolved
from img2img.recipe import Recipe

# Less than this is within what two measurements of the same differ by.
WORTH = 1.1
# More programs for each core than this are more than what goes on in an idle machine.
IDLE_LOAD = 0.5


@dataclass(frozen=True)
class Setting:
    """A line for `--set`, and why."""

    assignment: str
    reason: str


@dataclass(frozen=True)
class Advice:
    """How a run of the recipe spends its time here.

    Attributes:
        step: as the recipe has it; None if that was not measured.
        step_s: seconds of a step by itself.
        data_s: seconds that its pairs take to load, as the recipe has it.
        run_s: seconds of a step with its data.
        held_by: `step` or `data`, whichever takes more; None if there is no step.
        settings: that change how fast it is, and not what is trained.
        remarks: for the eye.
        disturbance: the one of them that tells of other programs, without which no figure counts.
    """

    step: StepTime | None
    step_s: float | None
    data_s: float
    run_s: float | None
    held_by: str | None
    settings: tuple[Setting, ...]
    remarks: tuple[str, ...]
    disturbance: str | None = None


def advise(findings: Findings, recipe: Recipe, precision: Resolved, *, on_cpu: bool) -> Advice:
    """Judge what was measured.

    Args:
        findings: the measurements, one of them at the recipe's batch.
        recipe: as it is.
        precision: that it trains in here.
        on_cpu: the step wants the cores that load data.
    """
    batch = recipe.train.batch_size
    timed = {(s.batch_size, s.precision): s for s in findings.steps}
    step = timed.get((batch, precision))
    ways = {way.workers: way for way in findings.loading}
    own = ways[findings.workers]
    here = ways[0]

    def whole(step_s: float, way: Loading) -> float:
        if way.workers == 0:
            return step_s + batch / rate_of(way)
        # Beside a step on the CPU, loading takes its share of the cores.
        taken = batch / rate_of(here) / findings.cores if on_cpu else 0.0
        return max(step_s + taken, batch / rate_of(way))

    data_s = batch / rate_of(own)
    disturbance = _disturbance(findings, on_cpu)
    remarks = [] if disturbance is None else [disturbance]
    settings: list[Setting] = []
    if step is None or step.seconds is None:
        fitting = [s.batch_size for s in findings.steps if s.seconds is not None]
        if step is not None and fitting and "memory" in step.note:
            remarks.append(f"batch {batch} does not fit; the largest that did is {max(fitting)}")
        return Advice(step, None, data_s, None, None, (), tuple(remarks), disturbance)
    best = step
    for other in findings.steps:
        if other.batch_size == batch and _gain(findings, other, step) > _gain(findings, best, step):
            best = other
    if best is not step:
        times = _gain(findings, best, step)
        settings.append(
            Setting(f"train.precision={best.precision}", f"a step is {times:.1f} times as fast")
        )
    assert best.seconds is not None
    certain = best.spread <= SCATTER
    totals = {way.workers: whole(best.seconds, way) for way in findings.loading}
    least = min(totals, key=lambda workers: (totals[workers], workers))
    # A gain must be more than what either rate scatters by.
    if certain and totals[own.workers] > max(WORTH, own.spread, ways[least].spread) * totals[least]:
        times = totals[own.workers] / totals[least]
        settings.append(
            Setting(f"data.workers={least}", f"a step with its data is {times:.1f} times as fast")
        )
    needed = -(-findings.pairs * findings.pair_bytes // 2**20)
    kept = recipe.data.keep_mb
    slow = data_s / own.spread > 0.1 * step.seconds
    if certain and kept is not None and kept < needed and slow and not findings.drawn:
        settings.append(
            Setting(f"data.keep_mb={needed}", f"all {findings.pairs} pairs are decoded only once")
        )
    remarks += _of_batches(findings, step, best)
    return Advice(
        step=step,
        step_s=step.seconds,
        data_s=data_s,
        run_s=whole(step.seconds, own),
        held_by="step" if step.seconds >= data_s else "data",
        settings=tuple(settings),
        remarks=tuple(remarks),
        disturbance=disturbance,
    )


def rate_of(way: Loading) -> float:
    """Pairs a second in most epochs of a run."""
    return way.first if way.later is None else way.later


def _gain(findings: Findings, other: StepTime, than: StepTime) -> float:
    """How many times as many pairs a second another step trains on; 1 where that is uncertain."""
    odd = implausible(findings.steps)
    if other.seconds is None or than.seconds is None or other in odd or than in odd:
        return 1.0
    if max(other.spread, than.spread) > SCATTER:
        return 1.0
    slow = other.slow or other.seconds
    if slow / other.batch_size >= than.seconds / than.batch_size:
        return 1.0
    gain = (than.seconds / than.batch_size) / (other.seconds / other.batch_size)
    return gain if gain > WORTH else 1.0


def _disturbance(findings: Findings, on_cpu: bool) -> str | None:
    """What says that other programs were at work."""
    cores = os.cpu_count() or 1
    signs = []
    if findings.load is not None and findings.load > IDLE_LOAD * cores:
        signs.append(f"load {findings.load:.1f} on {cores} {'core' if cores == 1 else 'cores'}")
    spread = max((step.spread for step in findings.steps), default=1.0)
    if spread > SCATTER:
        signs.append(f"rounds of the same step differ {spread:.1f} times")
    if odd := implausible(findings.steps):
        signs.append(
            f"steps of batch {odd[0].batch_size} took longer than those of a larger one, in "
            f"{odd[0].precision}"
        )
    if not signs:
        return None
    seem = "" if "load" in signs[0] else "seem to "
    what = "processor" if on_cpu else "machine"
    # torch's threads wait for each other at every operation, awake, and one of them is not running.
    alone = ", or run with OMP_NUM_THREADS=1 where it never is" if on_cpu and cores > 1 else ""
    return (
        f"other programs {seem}use the {what} ({'; '.join(signs)}): measure again when it is "
        f"idle{alone}"
    )


def _of_batches(findings: Findings, step: StepTime, best: StepTime) -> list[str]:
    alike = [s for s in findings.steps if s.precision == best.precision]
    gains = [(_gain(findings, other, best), other.batch_size) for other in alike]
    gain, most = max(gains, default=(1.0, step.batch_size))
    if gain <= WORTH:
        return []
    return [
        f"batch {most} trains on {gain:.1f} times as many pairs a second "
        f"(train.batch_size={most}); but it is another training: fewer steps an epoch, "
        f"another learning rate that suits it, other results"
    ]
