"""The training loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from img2img.data.loading import Batches, batches, steps_per_epoch
from img2img.engine.average import WeightAverage
from img2img.engine.checkpoint import load_checkpoint
from img2img.engine.events import Events
from img2img.engine.feeding import on_device
from img2img.engine.finite import FiniteGuard
from img2img.engine.gradients import MeanGradients, average_statistics, make_alike
from img2img.engine.interrupt import StopRequest
from img2img.engine.own_state import seed_all
from img2img.engine.records import Records
from img2img.engine.run import Run
from img2img.engine.state import TrainState
from img2img.engine.stepping import Stepper
from img2img.engine.unreadable import Unreadable
from img2img.engine.writing import Writer
from img2img.errors import Interrupted

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
    state = TrainState(method, average=average, losses=run.losses)
    if not processes.main:
        seed_all(plan.seed, processes.rank)  # other noise than the main one's
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
    # A smaller one at the end of an epoch is not worth recording.
    whole = min(plan.batch_size, -(-len(run.train_pairs) // processes.world_size))
    gradients = MeanGradients(method, processes)
    step = Stepper(method, run.device, capture=plan.capture, compile=plan.compile)
    with Writer() as writer, closing(_loading(run, state)) as loader:
        records = Records(run, state, events, per_epoch, writer)
        guard = FiniteGuard(run, state, records.health, writer.wait)
        unreadable = Unreadable(len(run.train_pairs), processes, records.health)
        for network in method.networks.values():
            network.train()
        lag = LAG if run.device.type == "cuda" else 0
        with closing(step), StopRequest(processes, lag) as stop:
            for batch in on_device(loader, run.device):
                unreadable.note(batch, state.step + 1)
                state.scale_rates(plan.schedule.factor(state.step, plan.total_steps))
                gradients.weigh(batch)
                alike = gradients.even and len(batch.source) == whole
                losses = step(batch.source, batch.target, state.step + 1, alike=alike)
                state.window.add(losses, batch.share)
                state.count_step(batch.pairs)
                guard.note(losses)
                on_step(state.step)
                records.draw_untrained()
                writer.collect()

                ends = state.step == plan.total_steps
                last = stop.agreed() or ends
                log, sample = (
                    ends or state.step % n == 0 for n in (plan.log_every, plan.sample_every)
                )
                score = ends or bool(plan.validate_every and state.step % plan.validate_every == 0)
                save = last or state.step % plan.checkpoint_every == 0
                unreadable.check(reading=log)
                guard.check(reading=log, saving=sample or score or save)
                if sample or score or save:
                    average_statistics(state.networks(), processes)
                if log:
                    records.log()
                if sample or score:
                    records.look(sample=sample, score=score)
                if save:
                    records.save(last=last)
                if last:
                    writer.wait()  # while a signal only asks for what is being done
                    break
        records.finish()
        unreadable.say_total()
    finished = state.step >= plan.total_steps
    events.tell("on_run_end", run_dir=directory.path, step=state.step, finished=finished)
    processes.wait()  # where one ends, torchrun ends the others
    if not finished:
        raise Interrupted(
            f"stopped at step {state.step} of {plan.total_steps}; everything is saved, and the "
            f"same command with --resume goes on"
        )


def _loading(run: Run, state: TrainState) -> Batches:
    """This process's batches from where training stands; the processes that load start now."""
    return batches(
        run.train_pairs,
        batch_size=run.plan.batch_size,
        start=state.step,
        stop=run.plan.total_steps,
        workers=run.plan.workers,
        pin_memory=run.device.type == "cuda",
        rank=run.processes.rank,
        world_size=run.processes.world_size,
    )
