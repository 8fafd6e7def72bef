"""From a recipe to a finished run directory: what `img2img run` and `img2img.train` share."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pluggy
import torch

from img2img import hookspecs
from img2img.assemble import assemble
from img2img.engine.checkpoint import (
    Found,
    find_checkpoints,
    newest_good,
    set_aside,
    step_of,
)
from img2img.engine.directory import RunDirectory
from img2img.engine.events import Events
from img2img.engine.lock import RunLock
from img2img.engine.loop import train
from img2img.engine.memory import keeping_freed_memory
from img2img.engine.precision import resolve_device, resolve_precision
from img2img.engine.processes import Processes
from img2img.engine.room import warn_of_little_room
from img2img.engine.run import Run
from img2img.environment import environment
from img2img.errors import Note, RequestError
from img2img.inference import Translator
from img2img.plugins import Plugins
from img2img.rebuild import load_translator
from img2img.recipe import Recipe
from img2img.recipe_files import find_recipe
from img2img.recipe_parser import load_recipe
from img2img.registry import Registry
from img2img.report.tensorboard import TensorBoardLogger
from img2img.resuming import (
    Earlier,
    check_length,
    check_same,
    look_back,
    tell_changes,
    tell_finished,
    to_inline,
)


@dataclass(frozen=True)
class FinishedRun:
    """A run directory and what its last validation said.

    Attributes:
        path: the run directory.
        steps: how long it was trained.
        validation: scores by name, with the two baselines; empty if no pair could be read.
        registry: where the recipe's names were looked up.
    """

    path: Path
    steps: int
    validation: dict[str, float]
    registry: Registry = field(repr=False)

    def load(self, *, device: str = "auto") -> Translator:
        """The trained model."""
        return load_translator(self.path, self.registry, device=resolve_device(device))


def train_recipe(
    recipe_name: str,
    plugins: Plugins,
    *,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    resume: bool = False,
    fresh: bool = False,
    device: str = "auto",
    precision: str | None = None,
    on_step: Callable[[int], None] = lambda step: None,
    processes: Processes | None = None,
) -> FinishedRun:
    """Train a recipe; see `img2img.train`. Nothing is written before all of it proved valid.

    Called in all of `processes`; the main one alone looks at the run directory and writes.
    """
    processes = processes or Processes()
    if processes.restarts:
        resume, fresh = True, False
    recipe = load_recipe(find_recipe(recipe_name), plugins.registry, overrides)
    chosen = processes.device(device)
    directory = RunDirectory(out or Path("runs") / recipe.name)
    lock = RunLock(directory.path)
    try:
        with _readable(directory):
            return _train(
                recipe,
                plugins,
                directory,
                lock,
                resume=resume,
                fresh=fresh,
                device=chosen,
                precision=precision,
                on_step=on_step,
                processes=processes,
            )
    finally:
        lock.release()


def _train(
    recipe: Recipe,
    plugins: Plugins,
    directory: RunDirectory,
    lock: RunLock,
    *,
    resume: bool,
    fresh: bool,
    device: torch.device,
    precision: str | None,
    on_step: Callable[[int], None],
    processes: Processes,
) -> FinishedRun:
    resolved = resolve_precision(precision or recipe.train.precision, device)

    def look() -> tuple[Found, Earlier | None]:
        """Where to go on, and what is there: for whoever has the lock, if there is a place for it.

        An earlier recipe may name what only it needs, so that it is read here alone.
        """
        directory.check(resume=resume, fresh=fresh)
        if directory.path.is_dir():
            lock.take()
            directory.check(resume=resume, fresh=fresh)
        if not (resume and directory.holds_run()):
            return Found(), None
        earlier = look_back(directory, plugins.registry)
        check_same(recipe, earlier, directory, processes)
        return newest_good(directory), earlier

    found, earlier = processes.decide(look)
    with warnings.catch_warnings():
        if not processes.main:
            warnings.simplefilter("ignore")  # the main one says the same
        run = assemble(
            recipe,
            plugins,
            directory,
            device=device,
            precision=precision,
            initialize=found.step is None,
            processes=processes,
        )
    finished = found.step is not None and found.step >= run.plan.total_steps
    if found.step is not None and earlier is not None:
        check_length(found.step, run.plan.total_steps, directory)
        if finished and earlier.recipe.inference != recipe.inference:
            raise RequestError(
                f"{directory.path} is finished, and was scored with another [inference]; train "
                f"longer with the new one (--set train.steps=N), or use --out for another directory"
            )

    def prepare() -> None:
        directory.make()
        # A directory that was not there when it was looked at may be another run's by now.
        if lock.take() and directory.holds_run():
            raise RequestError(f"another run has just begun in {directory.path}; use --out")
        directory.prepare(fresh=fresh or found.step is None)
        set_aside(found)
        # What a finished run was trained and scored on stays as it is written.
        if finished:
            if earlier is not None:
                tell_finished(recipe, earlier)
            return
        if earlier is not None and found.step is None:
            warnings.warn(
                f"{directory.path} has no checkpoint yet: the run begins anew", Note, stacklevel=2
            )
        pairs, batch = len(run.train_pairs), run.plan.batch_size * processes.world_size
        if batch > pairs:
            warnings.warn(
                f"steps have {batch} pairs by train.batch_size, and there are {pairs} to train on: "
                f"each step takes all of them once",
                UserWarning,
                stacklevel=2,
            )
        warn_of_little_room(run)
        if run.plan.compile:
            on_cpu = ", and gains nothing on a CPU" if device.type == "cpu" else ""
            warnings.warn(
                f"train.compile: networks are compiled in the first step, which takes a minute or "
                f"more{on_cpu}",
                UserWarning,
                stacklevel=2,
            )
        about = environment(plugins, run, resolved)
        if found.step is not None and earlier is not None:
            tell_changes(recipe, earlier, about)
        directory.write_text(directory.recipe, recipe.to_toml())
        directory.write_text(directory.environment, json.dumps(about, indent=2) + "\n")

    processes.wait()  # nothing is written before all are ready
    with _saying_what_is_saved(directory):
        processes.decide(prepare)
        _train_in(run, plugins, on_step, start=found.checkpoint)
    scores = processes.decide(lambda: last_validation(directory))
    return FinishedRun(directory.path, run.plan.total_steps, scores, plugins.registry)


def _train_in(
    run: Run, plugins: Plugins, on_step: Callable[[int], None], *, start: Path | None
) -> None:
    """Train in a directory that is prepared, watched by plugins and TensorBoard."""
    device = run.device
    watching, logger = plugins.manager, TensorBoardLogger()
    if not run.processes.main:
        watching = pluggy.PluginManager(hookspecs.PROJECT)
        watching.add_hookspecs(hookspecs)
    elif not watching.has_plugin("tensorboard"):
        watching.register(logger, name="tensorboard")
    # What asks for "the" device, such as a graph's replay, means `--device cuda:N` then.
    on_it = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    try:
        with on_it, keeping_freed_memory(device):
            train(run, Events(watching), on_step, start=start)
    finally:
        # A run that fails has no `on_run_end`; the next of this process has a logger of its own.
        if watching.is_registered(logger):
            watching.unregister(logger)
        logger.close()


@contextmanager
def _saying_what_is_saved(directory: RunDirectory) -> Iterator[None]:
    """Ctrl-C, before the first step, after the last or for the second time, says what is left."""
    try:
        yield
    except KeyboardInterrupt as asked:
        told = "nothing was saved yet, and the same command starts again"
        if saved := find_checkpoints(directory):
            step = step_of(saved[-1])
            told = f"step {step} is saved, and the same command with --resume goes on from there"
        elif directory.holds_run():
            told = "nothing was saved yet, and the same command with --resume begins anew"
        raise KeyboardInterrupt(f"interrupted; {told}") from asked


@contextmanager
def _readable(directory: RunDirectory) -> Iterator[None]:
    """A file of the run that cannot be written is told of with the way out."""
    try:
        yield
    except OSError as error:
        if not directory.concerns(error):
            raise
        raise directory.failed(error) from error


def last_validation(directory: RunDirectory) -> dict[str, float]:
    """The last validation scores in `metrics.jsonl`."""
    return next(reversed(directory.validations().values()), {})


def to_assignments(overrides: Mapping[str, Any]) -> list[str]:
    """Python values as `key=value`, the form `--set` has."""
    return [f"{key}={to_inline(value)}" for key, value in overrides.items()]
