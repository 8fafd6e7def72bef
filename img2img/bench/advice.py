"""What the figures say: what holds a run back, and settings that suit the machine better."""

from __future__ import annotations

from dataclasses import dataclass

from img2img.bench.measuring import Findings, StepTime
from img2img.bench.timing import Loading
from img2img.engine.precision import Resolved
from img2img.recipe import Recipe

# Less than this is within what two measurements of the same differ by.
WORTH = 1.1


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
    """

    step: StepTime | None
    step_s: float | None
    data_s: float
    run_s: float | None
    held_by: str | None
    settings: tuple[Setting, ...]
    remarks: tuple[str, ...]


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
    remarks: list[str] = []
    settings: list[Setting] = []
    if step is None or step.seconds is None:
        fitting = [s.batch_size for s in findings.steps if s.seconds is not None]
        if step is not None and fitting and "memory" in step.note:
            remarks.append(f"batch {batch} does not fit; the largest that did is {max(fitting)}")
        return Advice(step, None, data_s, None, None, (), tuple(remarks))
    best = step
    for other in findings.steps:
        quicker = other.batch_size == batch and other.seconds is not None
        if quicker and other.seconds * WORTH < (best.seconds or 0):  # type: ignore[operator]  # it is no None
            best = other
    if best is not step:
        assert best.seconds is not None
        times = step.seconds / best.seconds
        settings.append(
            Setting(f"train.precision={best.precision}", f"a step is {times:.1f} times as fast")
        )
    assert best.seconds is not None
    totals = {way.workers: whole(best.seconds, way) for way in findings.loading}
    least = min(totals, key=lambda workers: (totals[workers], workers))
    if totals[own.workers] > WORTH * totals[least]:
        times = totals[own.workers] / totals[least]
        settings.append(
            Setting(f"data.workers={least}", f"a step with its data is {times:.1f} times as fast")
        )
    needed = -(-findings.pairs * findings.pair_bytes // 2**20)
    kept = recipe.data.keep_mb
    if kept is not None and kept < needed and data_s > 0.1 * step.seconds and not findings.drawn:
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
    )


def rate_of(way: Loading) -> float:
    """Pairs a second in most epochs of a run."""
    return way.first if way.later is None else way.later


def _of_batches(findings: Findings, step: StepTime, best: StepTime) -> list[str]:
    alike = [s for s in findings.steps if s.precision == best.precision and s.images_per_s]
    most = max(alike, key=lambda s: s.images_per_s or 0.0)
    gain = (most.images_per_s or 0.0) / (best.images_per_s or 1.0)
    if most.batch_size == step.batch_size or gain < WORTH:
        return []
    return [
        f"batch {most.batch_size} trains on {gain:.1f} times as many pairs a second "
        f"(train.batch_size={most.batch_size}); but it is another training: fewer steps an epoch, "
        f"another learning rate that suits it, other results"
    ]
