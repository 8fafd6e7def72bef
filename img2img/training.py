"""From a recipe to a finished run directory: what `img2img run` and `img2img.train` share."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pluggy
import tomli_w
import torch

from img2img import hookspecs
from img2img.assemble import assemble
from img2img.engine.checkpoint import find_checkpoints, step_of
from img2img.engine.directory import RunDirectory
from img2img.engine.events import Events
from img2img.engine.loop import train
from img2img.engine.memory import keeping_freed_memory
from img2img.engine.precision import resolve_device, resolve_precision
from img2img.engine.processes import Processes
from img2img.environment import environment
from img2img.errors import RequestError
from img2img.inference import Translator
from img2img.plugins import Plugins
from img2img.rebuild import load_translator
from img2img.recipe import Recipe
from img2img.recipe_files import find_recipe
from img2img.recipe_parser import load_recipe
from img2img.registry import Registry
from img2img.report.tensorboard import TensorBoardLogger

# What may differ between a run and its continuation: it changes how long, where and how often
# something is written, not what is learned in a step.
MAY_CHANGE = frozenset(
    [
        "description",
        "preset",
        "requires",
        "data.root",
        "data.workers",
        "data.keep_mb",
        "train.steps",
        "train.epochs",
        "train.log_every",
        "train.sample_every",
        "train.sample_count",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "train.validate_every",
        "train.precision",
        "train.capture",
        "train.compile",
        "inference.statistics",
        "inference.dropout",
    ]
)


@dataclass(frozen=True)
class FinishedRun:
    """A run directory and what its last validation said.

    Attributes:
        path: the run directory.
        validation: scores by name, with the two baselines; empty if no pair could be read.
        registry: where the recipe's names were looked up.
    """

    path: Path
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

    def look() -> tuple[int | None, Recipe | None]:
        """The step of the last checkpoint to go on from, and the recipe of the run that is there.

        An earlier recipe may name what only it needs, so that it is read here alone.
        """
        directory.check(resume=resume, fresh=fresh)
        before = None
        if resume and directory.holds_run():
            before = load_recipe(directory.recipe, plugins.registry)
            _check_same(recipe, before, directory, processes)
        found = find_checkpoints(directory) if resume else []
        return step_of(found[-1]) if found else None, before

    step, before = processes.decide(look)
    with warnings.catch_warnings():
        if not processes.main:
            warnings.simplefilter("ignore")  # the main one says the same
        run = assemble(
            recipe,
            plugins,
            directory,
            device=chosen,
            precision=precision,
            initialize=step is None,
            processes=processes,
        )
    finished = step is not None and step >= run.plan.total_steps
    if finished and before is not None and before.inference != recipe.inference:
        raise RequestError(
            f"{directory.path} is finished, and was scored with another [inference]; train longer "
            f"with the new one (--set train.steps=N), or use --out for another directory"
        )

    def prepare() -> None:
        directory.prepare(resume=resume, fresh=fresh)
        # What a finished run was trained and scored on stays as it is written.
        if not finished:
            directory.write_text(directory.recipe, recipe.to_toml())
            resolved = resolve_precision(precision or recipe.train.precision, chosen)
            about = environment(plugins, run, resolved)
            directory.write_text(directory.environment, json.dumps(about, indent=2) + "\n")

    processes.wait()  # nothing is written before all are ready
    processes.decide(prepare)
    watching = plugins.manager
    if not processes.main:
        watching = pluggy.PluginManager(hookspecs.PROJECT)
        watching.add_hookspecs(hookspecs)
    elif not watching.has_plugin("tensorboard"):
        watching.register(TensorBoardLogger(), name="tensorboard")
    # What asks for "the" device, such as a graph's replay, means `--device cuda:N` then.
    on_it = torch.cuda.device(chosen) if chosen.type == "cuda" else nullcontext()
    with on_it, keeping_freed_memory(chosen):
        train(run, Events(watching), on_step)
    scores = processes.decide(lambda: last_validation(directory))
    return FinishedRun(directory.path, scores, plugins.registry)


def last_validation(directory: RunDirectory) -> dict[str, float]:
    """The last validation scores in `metrics.jsonl`."""
    scores: dict[str, float] = {}
    for line in directory.metrics.read_text(encoding="utf-8").splitlines():
        scores = json.loads(line).get("validation", scores)
    return scores


def to_assignments(overrides: Mapping[str, Any]) -> list[str]:
    """Python values as `key=value`, the form `--set` has."""
    return [f"{key}={_inline(value)}" for key, value in overrides.items()]


def _inline(value: Any) -> str:
    """A value as TOML on the right of an equals sign, tables included."""
    # Within a list of lists, where tables cannot become sections of their own.
    text = tomli_w.dumps({"v": [[value]]}).partition("=")[2].strip()
    return text[1:-1].strip(", \n")[1:-1].strip(", \n")


def _check_same(new: Recipe, old: Recipe, directory: RunDirectory, processes: Processes) -> None:
    before, after = _flat(old.to_dict()), _flat(new.to_dict())
    recorded = _recorded(directory)
    batch = recorded.get("global_batch", old.train.batch_size)
    if recorded.get("processes", 1) != processes.world_size or processes.several:
        _check_batch(batch, new.train.batch_size, processes.world_size, directory)
    if batch == new.train.batch_size * processes.world_size:
        after["train.batch_size"] = before["train.batch_size"]
    changed = [
        f"  {key}: {before.get(key, 'not set')!r} -> {after.get(key, 'not set')!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key not in MAY_CHANGE
    ]
    if changed:
        raise RequestError(
            f"{directory.path} was started with other settings, which a run cannot change midway:\n"
            + "\n".join(changed)
            + "\nUse --fresh to start over, or --out for another directory"
        )


def _check_batch(was: int, batch_size: int, count: int, directory: RunDirectory) -> None:
    """Refuse another number of pairs a step than a run was started with."""
    if batch_size * count == was:
        return
    if was % count == 0:
        way = f"give --set train.batch_size={was // count}"
    else:
        fitting = [str(n) for n in range(1, was + 1) if was % n == 0]
        way = f"start {' or '.join(fitting[-8:])} processes, with a train.batch_size that fits"
    raise RequestError(
        f"{directory.path} was started with {was} pairs a step over all processes, and {count} "
        f"process{'' if count == 1 else 'es'} with train.batch_size {batch_size} would take "
        f"{batch_size * count}: {way}"
    )


def _recorded(directory: RunDirectory) -> dict[str, Any]:
    """What `environment.json` says, as far as it can be read."""
    try:
        found = json.loads(directory.environment.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        items = [(str(i), inner) for i, inner in enumerate(value)]
    else:
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in items:
        found |= _flat(inner, f"{prefix}.{key}" if prefix else key)
    return found
