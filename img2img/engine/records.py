"""What a run writes while it trains: log lines, sample sheets, scores, checkpoints and models."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor

from img2img.bundle import save_bundle, saved_step
from img2img.engine.best import Best
from img2img.engine.checkpoint import (
    Snapshot,
    prune_checkpoints,
    put_checkpoint,
    take_snapshot,
    write_checkpoint,
)
from img2img.engine.events import Events
from img2img.engine.health import Health
from img2img.engine.run import Run
from img2img.engine.state import TrainState
from img2img.engine.writing import Writer, to_host
from img2img.evaluation.evaluating import Evaluation
from img2img.evaluation.outputs import Outputs
from img2img.evaluation.scores import baselines, readable, spread, validate
from img2img.inference import Translator
from img2img.picture import to_display
from img2img.report.page import write_report
from img2img.report.sheet import write_sheet


class Records:
    """The writing side of a run. Every process has one; the main one's alone writes and tells.

    Log lines are written at once. Sheets, models, checkpoints and the report are written beside the
    steps that follow, in that order; events tell of them once they are there.

    Args:
        run: what is trained.
        state: where it stands.
        events: who is told.
        steps_per_epoch: for the log lines.
        writer: writes the files.

    Attributes:
        health: watches what is written for signs of a sick run; None in all other processes.
    """

    def __init__(
        self, run: Run, state: TrainState, events: Events, steps_per_epoch: int, writer: Writer
    ) -> None:
        self._run, self._state, self._events, self._writer = run, state, events, writer
        self._steps_per_epoch = steps_per_epoch
        self._main = run.processes.main
        self.health = Health(run.directory, events, run.plan.game) if self._main else None
        self._best = Best(run.directory.best, run.plan.best_by, state.step) if self._main else None
        # A copy of the weights before the first step.
        self._untrained = self._translator() if self._main and state.step == 0 else None
        self._without: set[str] = set()
        self._began = time.perf_counter() - state.elapsed_s
        self._window_began = time.perf_counter() - state.window_s

    def draw_untrained(self) -> None:
        """Write the sheet of step 0, once and after the first step, so that nobody waits for it."""
        if self._untrained is not None:
            with self._pause():
                self._see(0, self._draw(self._untrained, 0))
            self._untrained = None

    def log(self) -> None:
        """Write a line of losses; waits for the device, and is called in all processes."""
        state = self._state
        means = state.window.means(self._run.processes)
        now = time.perf_counter()
        state.elapsed_s = now - self._began
        speed = state.window_images / max(now - self._window_began, 1e-9)
        state.window_images, self._window_began = 0, now
        line = {
            "step": state.step,
            "epoch": (state.step - 1) // self._steps_per_epoch,
            "images": state.images,
            "elapsed_s": round(state.elapsed_s, 3),
            "images_per_s": round(speed, 3),
            "losses": means,
        }
        if self._main:
            self._run.directory.add_metrics(line)
        self._events.tell("on_metrics", metrics=line)
        if self.health is not None:
            self.health.see_losses(state.step, means)

    def look(self, *, sample: bool, score: bool) -> None:
        """Write a sample sheet, or score validation pairs, or both."""
        if not self._main:
            return
        seen = Outputs()
        if sample:
            seen = self._draw(self._translator(), self._state.step)
        if score:
            with self._pause():  # the device has nothing left to do
                seen = self._score()
        self._see(self._state.step, seen)

    def save(self, *, last: bool) -> None:
        """Write a checkpoint and the model; called in all processes."""
        run, state = self._run, self._state
        # What passed since the last log line belongs to the next one, after a resume too.
        state.elapsed_s = time.perf_counter() - self._began
        state.window_s = time.perf_counter() - self._window_began
        # What is to be written takes as much memory as weights and optimizers.
        self._writer.make_room(1)
        taken = take_snapshot(state, run.processes)
        if taken is not None:
            self._writer.submit(
                lambda: write_checkpoint(run.directory, taken),
                lambda: self._put(taken, last=last),
                kept=True,
            )

    def _put(self, taken: Snapshot, *, last: bool) -> None:
        """Make what was written the checkpoint to go on from.

        Not before all were told of what was written before it: in a run that goes on from there,
        nobody would ever be.
        """
        run, step, weights = self._run, taken.step, taken.shown
        path = put_checkpoint(run.directory, step)
        run.processes.note_saved(step)
        self._events.tell("on_checkpoint", step=step, path=path)

        def follow() -> None:
            # Older ones last that long, because somebody may have been told of them just now.
            prune_checkpoints(run.directory, step, run.plan.keep_checkpoints)
            self._write_model(weights, step)
            if not last:
                write_report(run.directory.path)

        self._writer.submit(follow)

    def finish(self) -> None:
        """Make up for what a run that was killed, or has no step to do, still lacks."""
        run, state = self._run, self._state
        if not self._main:
            return
        if saved_step(run.directory.model) != state.step:
            self._write_model(dict(state.shown.state_dict()), state.step)
        ends = state.step >= run.plan.total_steps
        if ends and state.step not in run.directory.validations():
            self.look(sample=False, score=True)
            self._writer.wait()
        write_report(run.directory.path)

    @contextmanager
    def _pause(self) -> Iterator[None]:
        """What is done inside counts for no step."""
        began = time.perf_counter()
        yield
        took = time.perf_counter() - began
        self._began, self._window_began = self._began + took, self._window_began + took

    def _see(self, step: int, seen: Outputs) -> None:
        if self.health is not None:
            self.health.see_outputs(step, seen)

    def _translator(self) -> Translator:
        # A copy, because its test-time form must leave the network in training alone.
        network = copy.deepcopy(self._state.shown)
        run = self._run
        return Translator(network, run.task, run.policy, device=run.device)

    def _draw(self, translator: Translator, step: int) -> Outputs:
        run, task = self._run, self._run.task
        rows, seen, pairs = [], Outputs(), run.validation_pairs
        for source, target in readable(pairs, spread(len(pairs), run.plan.sample_count)):
            output = translator.translate(source[None]).cpu()[0]
            # A checkpoint that is written has its name soon, however long all this takes.
            self._writer.collect()
            seen.add(task, source, output, target)
            images = (
                task.decode_source(source),
                task.decode_target(output, source),
                task.decode_target(target, source),
            )
            rows.append([to_display(image) for image in images])
        if rows:
            path = run.directory.sample_path(step)
            self._writer.submit(
                lambda: write_sheet(path, rows),
                lambda: self._events.tell("on_samples", step=step, path=path),
            )
        return seen

    def _score(self) -> Outputs:
        run, state, seen = self._run, self._state, Outputs()
        metrics = run.build_metrics()
        found = validate(
            self._translator(),
            run.validation_pairs,
            metrics,
            seen=seen,
            on_pair=self._writer.collect,  # as for samples
        )
        scores = dict(found.scores)
        self._warn_of(found)
        best = self._best.offer(found, state.step, run.bundle) if self._best else None
        if best is not None:
            self._writer.make_room(1)
            weights = to_host({"best": dict(state.shown.state_dict())})["best"]
            self._writer.submit(lambda: save_bundle(run.directory.best, weights, best))
        if state.step == run.plan.total_steps:
            # A score that a metric has is the metric's, whatever its name.
            others = baselines(run.still_pairs, run.validation_pairs, run.task, scored=scores)
            scores |= {name: value for name, value in others.items() if name not in scores}
        if scores:
            line = {
                "step": state.step,
                "validation": scores,
                "higher_is_better": found.higher_is_better,
            }
            run.directory.add_metrics(line)
            self._events.tell("on_metrics", metrics=line)
        return seen

    def _warn_of(self, found: Evaluation) -> None:
        """Say once of a metric that it gives no score.

        Of one that nobody asked for and that does not suit the images, never.
        """
        for name in found.failed.keys() - self._without:
            self._without.add(name)
            told = self._run.recipe.get("metrics") or name in found.broken
            if self.health is not None and told:
                message = f"validation goes on without {name}: {found.failed[name]}"
                self.health.warn(self._state.step, "no_score", message)

    def _write_model(self, weights: dict[str, Tensor], step: int) -> None:
        run = self._run
        info = replace(run.bundle, trained={**run.bundle.trained, "step": step})
        save_bundle(run.directory.model, weights, info)
