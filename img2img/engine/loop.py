"""The training loop."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from img2img.bundle import save_bundle, saved_step
from img2img.data.loading import batches, steps_per_epoch
from img2img.engine.average import WeightAverage
from img2img.engine.best import Best
from img2img.engine.checkpoint import load_checkpoint, save_checkpoint
from img2img.engine.events import Events
from img2img.engine.feeding import on_device
from img2img.engine.finite import FiniteGuard
from img2img.engine.gradients import MeanGradients, average_statistics, make_alike
from img2img.engine.health import Health
from img2img.engine.interrupt import StopRequest
from img2img.engine.own_state import seed_torch
from img2img.engine.run import Run
from img2img.engine.state import TrainState
from img2img.engine.stepping import Stepper
from img2img.engine.unreadable import Unreadable
from img2img.errors import Interrupted
from img2img.evaluation.outputs import Outputs
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


def train(
    run: Run,
    events: Events,
    on_step: OnStep = lambda step: None,
    start: Path | None = None,
) -> None:
    """Train from the checkpoint `start`, or from nothing, to the end, and leave it finished.

    Called in all processes of a run. What they do together (gradients, means, checkpoints, when to
    stop) each calls at the same step; the main one alone writes and tells.

    Raises:
        Interrupted: by SIGINT or SIGTERM; the state was saved.
        Img2ImgError: a loss or a weight is not finite, too many pairs are unreadable, or the disk
            is full.
    """
    directory, plan, method, processes = run.directory, run.plan, run.method, run.processes
    make_alike(method, processes)
    average = WeightAverage(method.generator, plan.ema_decay) if plan.ema_decay else None
    state = TrainState(method, average=average)
    if not processes.main:
        seed_torch(plan.seed, processes.rank)  # other noise than the main one's
    if start is not None:
        load_checkpoint(start, state, processes, plan.seed)
    processes.note_saved(None if start is None else state.step)
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
    health = Health(directory, events, plan.game) if processes.main else None
    guard = FiniteGuard(run, state, health)
    unreadable = Unreadable(len(run.train_pairs), processes, health)
    best = Best(directory.best, plan.best_by) if processes.main else None
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
            unreadable.note(batch, state.step + 1)
            state.scale_rates(plan.schedule.factor(state.step, plan.total_steps))
            gradients.weigh(batch)
            losses = step(batch.source, batch.target, state.step + 1, alike=gradients.even)
            state.window.add(losses, batch.share)
            state.count_step(batch.pairs)
            guard.note(losses)
            on_step(state.step)
            if untrained is not None:
                # Nobody need wait for it before something is learned; it counts for no step.
                waited = -time.perf_counter()
                seen = _write_samples(run, untrained, 0, events)
                if health is not None:
                    health.see_outputs(0, seen)
                untrained, waited = None, waited + time.perf_counter()
                began, window_began = began + waited, window_began + waited

            ends = state.step == plan.total_steps
            last = stop.agreed() or ends
            log, sample = (ends or state.step % n == 0 for n in (plan.log_every, plan.sample_every))
            score = ends or bool(plan.validate_every and state.step % plan.validate_every == 0)
            save = last or state.step % plan.checkpoint_every == 0
            guard.check(reading=log, saving=sample or score or save)
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
                if health is not None:
                    health.see_losses(state.step, means)
            seen = Outputs()
            if sample and processes.main:
                seen = _write_samples(run, _translator(run, state), state.step, events)
            if score and best is not None:
                waited = -time.perf_counter()  # the device has nothing left to do
                seen = _validate(run, state, events, best)
                waited += time.perf_counter()
                began, window_began = began + waited, window_began + waited
            if health is not None:
                health.see_outputs(state.step, seen)
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
    unreadable.say_total()
    events.tell("on_run_end", run_dir=directory.path, step=state.step, finished=finished)
    processes.wait()  # where one ends, torchrun ends the others
    if not finished:
        raise Interrupted(
            f"stopped at step {state.step} of {plan.total_steps}; everything is saved, and the "
            f"same command with --resume goes on"
        )


def _translator(run: Run, state: TrainState) -> Translator:
    # A copy, because its test-time form must leave the network in training alone.
    return Translator(copy.deepcopy(state.shown), run.task, run.policy, device=run.device)


def _write_samples(run: Run, translator: Translator, step: int, events: Events) -> Outputs:
    task, rows, seen = run.task, [], Outputs()
    pairs = run.validation_pairs
    for source, target in readable(pairs, spread(len(pairs), run.plan.sample_count)):
        output = translator.translate(source[None]).cpu()[0]
        seen.add(task, source, output, target)
        shown = [task.decode_source(source), task.decode_target(output, source)]
        rows.append([to_display(image) for image in (*shown, task.decode_target(target, source))])
    if rows:
        path = run.directory.sample_path(step)
        write_sheet(path, rows)
        events.tell("on_samples", step=step, path=path)
    return seen


def _validate(run: Run, state: TrainState, events: Events, best: Best) -> Outputs:
    seen = Outputs()
    scores = validate(_translator(run, state), run.validation_pairs, seen=seen)
    best.offer(scores, state, run.bundle)
    if state.step == run.plan.total_steps:
        scores |= baselines(run.still_pairs, run.validation_pairs, run.task)
    if scores:
        line = {"step": state.step, "validation": scores}
        run.directory.add_metrics(line)
        events.tell("on_metrics", metrics=line)
    return seen


def _write_bundle(run: Run, state: TrainState) -> None:
    if not run.processes.main:
        return
    weights = dict(state.shown.state_dict())
    info = replace(run.bundle, trained={**run.bundle.trained, "step": state.step})
    save_bundle(run.directory.model, weights, info)
