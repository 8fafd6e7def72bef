"""The training loop."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from img2img.bundle import save_bundle, saved_step
from img2img.data.loading import Batch, batches, steps_per_epoch
from img2img.engine.average import WeightAverage
from img2img.engine.checkpoint import find_checkpoints, load_checkpoint, save_checkpoint
from img2img.engine.events import Events
from img2img.engine.feeding import on_device
from img2img.engine.gradients import MeanGradients, average_statistics, make_alike
from img2img.engine.interrupt import StopRequest
from img2img.engine.own_state import seed_torch
from img2img.engine.run import Run
from img2img.engine.state import TrainState
from img2img.engine.stepping import Stepper
from img2img.errors import DataError, Img2ImgError, Interrupted
from img2img.evaluation.scores import baselines, readable, spread, validate
from img2img.inference import Translator
from img2img.picture import to_display
from img2img.report.page import write_report
from img2img.report.sheet import write_sheet

OnStep = Callable[[int], None]

# Steps between a request to stop and the stop, of several processes on GPUs: time for it to reach
# the others. Fewer than the host may be ahead of the device, or it would wait there for a process
# that is gone before it hears of that.
LAG = 2


def train(run: Run, events: Events, on_step: OnStep = lambda step: None) -> None:
    """Train from where the run directory stands to the end, and leave it finished.

    Called in all processes of a run. What they do together (gradients, means, checkpoints, when to
    stop) each calls at the same step; the main one alone writes and tells.

    Raises:
        Interrupted: by SIGINT or SIGTERM; the state was saved.
        Img2ImgError: a loss is not finite, too many pairs are unreadable, or the disk is full.
    """
    directory, plan, method, processes = run.directory, run.plan, run.method, run.processes
    make_alike(method, processes)
    average = WeightAverage(method.generator, plan.ema_decay) if plan.ema_decay else None
    state = TrainState(method, average=average)
    if not processes.main:
        seed_torch(plan.seed, processes.rank)  # other noise than the main one's
    found = processes.decide(lambda: find_checkpoints(directory)[-1:])
    if found:
        load_checkpoint(found[-1], state, processes, plan.seed)
    processes.note_saved(state.step if found else None)
    processes.wait()
    if processes.main:
        directory.drop_metrics_after(state.step)
        directory.drop_samples_after(state.step)
    events.tell(
        "on_run_start",
        run_dir=directory.path,
        recipe=run.recipe,
        start_step=state.step,
        total_steps=plan.total_steps,
    )
    global_batch = plan.batch_size * processes.world_size
    per_epoch = steps_per_epoch(len(run.train_pairs), global_batch)
    loader = batches(
        run.train_pairs,
        batch_size=plan.batch_size,
        start=state.step,
        stop=plan.total_steps,
        workers=plan.workers,
        pin_memory=run.device.type == "cuda",
        rank=processes.rank,
        world_size=processes.world_size,
    )
    gradients = MeanGradients(method, processes)
    step = Stepper(method, run.device, capture=plan.capture, compile=plan.compile)
    unreadable = _Unreadable(len(run.train_pairs))
    for network in method.networks.values():
        network.train()
    bundled = -1
    # A copy of the weights before the first step, which is drawn after it.
    untrained = _translator(run, state) if state.step == 0 and processes.main else None
    began = time.perf_counter() - state.elapsed_s
    window_began = time.perf_counter() - state.window_s
    lag = LAG if run.device.type == "cuda" else 0
    with closing(step), StopRequest(processes, lag) as stop:
        for batch in on_device(loader, run.device):
            unreadable.note(batch)
            state.scale_rates(plan.schedule.factor(state.step, plan.total_steps))
            gradients.weigh(batch)
            losses = step(batch.source, batch.target, state.step + 1, alike=gradients.even)
            state.window.add(losses, batch.share)
            state.count_step(batch.pairs)
            on_step(state.step)
            if untrained is not None:
                # Nobody need wait for it before something is learned; it counts for no step.
                waited = -time.perf_counter()
                _write_samples(run, untrained, 0, events)
                untrained, waited = None, waited + time.perf_counter()
                began, window_began = began + waited, window_began + waited

            ends = state.step == plan.total_steps
            last = stop.agreed() or ends
            log, sample = (ends or state.step % n == 0 for n in (plan.log_every, plan.sample_every))
            score = ends or (plan.validate_every and state.step % plan.validate_every == 0)
            save = last or state.step % plan.checkpoint_every == 0
            if sample or score or save:
                average_statistics(state.networks(), processes)
            if log:
                means = state.window.means(processes)  # waits for the device
                now = time.perf_counter()
                state.elapsed_s = now - began
                speed = state.window_images / max(now - window_began, 1e-9)
                state.window_images, window_began = 0, now
                line = {
                    "step": state.step,
                    "epoch": (state.step - 1) // per_epoch,
                    "images": state.images,
                    "elapsed_s": round(state.elapsed_s, 3),
                    "images_per_s": round(speed, 3),
                    "losses": means,
                }
                if processes.main:
                    directory.add_metrics(line)
                events.tell("on_metrics", metrics=line)
                _check_finite(means, state.step)
            if sample and processes.main:
                _write_samples(run, _translator(run, state), state.step, events)
            if score:
                _validate(run, state, events)
            if save:
                # What passed since the last log line belongs to the next one, after a resume too.
                state.elapsed_s = time.perf_counter() - began
                state.window_s = time.perf_counter() - window_began
                path = save_checkpoint(directory, state, plan.keep_checkpoints, processes)
                processes.note_saved(state.step)
                _write_bundle(run, state)
                bundled = state.step
                if not last and processes.main:
                    write_report(directory.path)
                events.tell("on_checkpoint", step=state.step, path=path)
            if last:
                break
    finished = state.step >= plan.total_steps
    # One killed between its last checkpoint and this has an older bundle.
    if processes.main:
        if bundled != state.step and saved_step(directory.model) != state.step:
            _write_bundle(run, state)
        write_report(directory.path)
    events.tell("on_run_end", run_dir=directory.path, step=state.step, finished=finished)
    processes.wait()  # where one ends, torchrun ends the others
    if not finished:
        raise Interrupted(
            f"stopped at step {state.step} of {plan.total_steps}; everything is saved, and the "
            f"same command with --resume goes on"
        )


class _Unreadable:
    """Counts pairs that were replaced because they could not be read; says each one once."""

    def __init__(self, pairs: int) -> None:
        self.limit = max(3, pairs // 10)
        self.seen: set[str] = set()

    def note(self, batch: Batch) -> None:
        for path, reason in batch.skipped:
            if path not in self.seen:
                self.seen.add(path)
                warnings.warn(f"skipped {path}: {reason}", RuntimeWarning, stacklevel=2)
        if len(self.seen) > self.limit:
            raise DataError(
                f"{len(self.seen)} pairs cannot be read, which is too many to go on; "
                f"`img2img check` lists them"
            )


def _check_finite(losses: dict[str, float], step: int) -> None:
    wrong = [name for name, value in losses.items() if not math.isfinite(value)]
    if wrong:
        raise Img2ImgError(
            f"the loss {wrong[0]!r} is not finite at step {step}; earlier checkpoints are intact. "
            f"Lower method.learning_rate or use --precision float32"
        )


def _translator(run: Run, state: TrainState) -> Translator:
    # A copy, because its test-time form must leave the network in training alone.
    return Translator(copy.deepcopy(state.shown), run.task, run.policy, device=run.device)


def _write_samples(run: Run, translator: Translator, step: int, events: Events) -> None:
    task, rows = run.task, []
    pairs = run.validation_pairs
    for source, target in readable(pairs, spread(len(pairs), run.plan.sample_count)):
        output = translator.translate(source[None]).cpu()[0]
        shown = [task.decode_source(source), task.decode_target(output, source)]
        rows.append([to_display(image) for image in (*shown, task.decode_target(target, source))])
    if rows:
        path = run.directory.sample_path(step)
        write_sheet(path, rows)
        events.tell("on_samples", step=step, path=path)


def _validate(run: Run, state: TrainState, events: Events) -> None:
    if not run.processes.main:
        return
    scores = validate(_translator(run, state), run.validation_pairs)
    if state.step == run.plan.total_steps:
        scores |= baselines(run.still_pairs, run.validation_pairs, run.task)
    if scores:
        line = {"step": state.step, "validation": scores}
        run.directory.add_metrics(line)
        events.tell("on_metrics", metrics=line)


def _write_bundle(run: Run, state: TrainState) -> None:
    if not run.processes.main:
        return
    weights = dict(state.shown.state_dict())
    info = replace(run.bundle, trained={**run.bundle.trained, "step": state.step})
    save_bundle(run.directory.model, weights, info)
