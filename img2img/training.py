"""From a recipe to a finished run directory: what `img2img run` and `img2img.train` share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from img2img.assemble import assemble
from img2img.engine.checkpoint import find_checkpoints, step_of
from img2img.engine.directory import RunDirectory
from img2img.engine.events import Events
from img2img.engine.loop import train
from img2img.engine.precision import resolve_device, resolve_precision
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
        "train.steps",
        "train.epochs",
        "train.log_every",
        "train.sample_every",
        "train.sample_count",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "train.validate_every",
        "train.precision",
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
) -> FinishedRun:
    """Train a recipe; see `img2img.train`. Nothing is written before all of it proved valid."""
    recipe = load_recipe(find_recipe(recipe_name), plugins.registry, overrides)
    chosen = resolve_device(device)
    directory = RunDirectory(out or Path("runs") / recipe.name)
    directory.check(resume=resume, fresh=fresh)
    before = None
    if resume and directory.holds_run():
        before = load_recipe(directory.recipe, plugins.registry)
        _check_same(recipe, before, directory)
    goes_on = resume and bool(find_checkpoints(directory))
    run = assemble(
        recipe, plugins, directory, device=chosen, precision=precision, initialize=not goes_on
    )
    finished = goes_on and step_of(find_checkpoints(directory)[-1]) >= run.plan.total_steps
    if finished and before is not None and before.inference != recipe.inference:
        raise RequestError(
            f"{directory.path} is finished, and was scored with another [inference]; train longer "
            f"with the new one (--set train.steps=N), or use --out for another directory"
        )
    directory.prepare(resume=resume, fresh=fresh)
    if not plugins.manager.has_plugin("tensorboard"):
        plugins.manager.register(TensorBoardLogger(), name="tensorboard")
    # What a finished run was trained and scored on stays as it is written.
    if not finished:
        directory.write_text(directory.recipe, recipe.to_toml())
        resolved = resolve_precision(precision or recipe.train.precision, chosen)
        about = environment(plugins, run, resolved)
        directory.write_text(directory.environment, json.dumps(about, indent=2) + "\n")
    train(run, Events(plugins.manager), on_step)
    return FinishedRun(directory.path, last_validation(directory), plugins.registry)


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


def _check_same(new: Recipe, old: Recipe, directory: RunDirectory) -> None:
    before, after = _flat(old.to_dict()), _flat(new.to_dict())
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
