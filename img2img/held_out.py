"""Held-out pairs for a trained model, or for finished outputs: from a recipe, a folder, the run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from img2img.assemble import build_source, still_transform
from img2img.component import KINDS
from img2img.data.images import resize_image
from img2img.data.limits import check_claim
from img2img.data.loading import PairDataset, Transform
from img2img.data.source import PairSource
from img2img.data.survey import survey
from img2img.errors import DataError, RecipeError, RequestError
from img2img.inference import Translator
from img2img.names import printable
from img2img.pairs_folder import Direction, exchanged, look_round, pairs_in, place_of
from img2img.picture import Pixels
from img2img.recipe import Choice, Recipe
from img2img.recipe_files import find_recipe
from img2img.recipe_parser import load_recipe
from img2img.registry import Registry
from img2img.tasks.base import Task, plainer_of


@dataclass(frozen=True)
class Data:
    """The pairs held out, and how they are read.

    Attributes:
        pairs: of the validation split.
        direction: which image of a pair is the source.
        name: what to call the data.
        guessed: why it is this direction, where nothing said so.
        recipe: the one that names them; None for a folder.
        metrics: those that the run's recipe chooses, or else that one.
        notes: what whoever asked should know about these pairs, in sentences.
        alone: images without a partner, which are in no pair: their file below the folder, and why.
    """

    pairs: PairSource
    direction: Direction
    name: str
    guessed: str | None = None
    recipe: Recipe | None = None
    metrics: tuple[Choice, ...] = ()
    notes: tuple[str, ...] = ()
    alone: tuple[tuple[str, str], ...] = ()


def is_model(path: Path) -> bool:
    """Whether a path is a run directory or a bundle, and no folder of images."""
    return not path.is_dir() or any(
        (path / name).exists() for name in ("model.safetensors", "recipe.toml")
    )


def recipe_of_run(model: Path) -> Path | None:
    """The recipe of the run that a model belongs to: its directory, or a bundle in it."""
    ours = model.name in ("model.safetensors", "best.safetensors")
    folder = model if model.is_dir() or not ours else model.parent
    path = folder / "recipe.toml"
    return path if path.is_file() else None


def find_data(
    data: str | None,
    model: Path,
    task: Task | None,
    registry: Registry,
    *,
    overrides: Sequence[str] = (),
    direction: Direction | None = None,
) -> tuple[Data, Task]:
    """The pairs held out, and the task that draws them.

    Of a folder these are the pairs of `val/`, else `test/`, else all that it has.

    Args:
        data: a folder, a recipe, or None for that of the run.
        model: a run directory, a bundle, or a folder of outputs.
        task: the model's; None for outputs, which are then drawn by the recipe's.
        registry: where names are looked up.
        overrides: `key=value` for the recipe.
        direction: instead of the recipe's, or of a guess.

    Raises:
        RequestError: there is no such data, or no longer, or `overrides` without a recipe.
        RecipeError, DataError: of the recipe, or of what it names.
    """
    of_run = recipe_of_run(model)
    if data is not None and Path(data).is_dir():
        if overrides:
            raise RequestError("--set changes a recipe, and DATA is a folder")
        return _folder(Path(data), of_run, task, registry, direction)
    if data is not None:
        path = find_recipe(data)
    elif of_run is not None:
        path = of_run
    else:
        raise RequestError(
            f"{model} has no recipe that names its data: say which to take, a recipe or a folder, "
            f"after it"
        )
    recipe = _load(path, of_run, registry, overrides)
    try:
        pairs = build_source(recipe, registry, "val")
    except DataError as error:
        root = recipe.data.root
        there = root is None or Path(root).expanduser().exists()
        if data is not None or there or "there is no" not in str(error):
            raise
        raise RequestError(
            f"the run was trained on {printable(str(root))}, which is not here: name the folder of "
            f"its pairs after it: img2img eval {printable(model)} FOLDER"
        ) from error
    used = task or _task_of(recipe, registry)
    own = recipe.data.direction
    notes: list[str] = []
    # That of the run itself was looked at before it began.
    if data is not None or direction not in (None, own):
        notes += look_round(pairs, used, direction or own)
    if path == of_run:
        notes = notes or _unlike_run(direction, recipe)
    return Data(pairs, direction or own, recipe.name, recipe=recipe, notes=tuple(notes)), used


def held_out(
    data: str | None,
    model: Path,
    translator: Translator,
    registry: Registry,
    *,
    overrides: Sequence[str] = (),
    direction: Direction | None = None,
) -> tuple[PairDataset, Data]:
    """The pairs held out, as a model's own validation would see them.

    Pairs of a recipe are resized as the run's recipe says, so that scores are those of its last
    validation. Those of a folder, or for a bundle without its run, are resized by the factors that
    the bundle carries, which `img2img infer` uses as well.

    Args:
        data: a folder, a recipe, or None for that of the run.
        model: a run directory or a bundle.
        translator: that model.
        registry: where names are looked up.
        overrides: `key=value` for the recipe.
        direction: instead of the recipe's, or of a guess.

    Raises:
        RequestError: there is no such data, or `overrides` without a recipe.
        RecipeError, DataError: of the recipe, or of what it names.
    """
    task = translator.task
    found, _ = find_data(data, model, task, registry, overrides=overrides, direction=direction)
    derive = getattr(found.pairs, "degrade", None)
    of_run = recipe_of_run(model)
    own = found.recipe
    if of_run is not None and data is not None:
        own = _load(of_run, of_run, registry)
    transform: Transform
    if of_run is not None and own is not None and found.recipe is not None:
        transform = still_transform(own.data, task, derive)
    else:
        transform = AtScale(translator.scale, task, derive)
    seed = found.recipe.train.seed if found.recipe is not None else 0
    swap = found.direction == "BtoA"
    dataset = PairDataset(found.pairs, task, transform, swap=swap, seed=seed)
    return dataset, replace(found, metrics=() if own is None else own.metrics)


class AtScale:
    """Both images of a pair resized by the factors on width and height that a bundle carries.

    Shape: (H, W, C) and (H, W, C') -> the same at H and W times their factors, rounded.

    Args:
        scale: factors on width and height.
        task: says how its images are resized.
        derive: makes the source from the resized target and the seed.
    """

    def __init__(
        self, scale: Sequence[float], task: Task, derive: Callable[[Pixels, int], Pixels] | None
    ) -> None:
        self._scale, self._derive = scale, derive
        self._how = task.source_interpolation, task.target_interpolation

    def __call__(self, source: Pixels, target: Pixels, seed: int, /) -> tuple[Pixels, Pixels]:
        height, width = target.shape[:2]
        size = round(width * self._scale[0]) or 1, round(height * self._scale[1]) or 1
        if size != (width, height):
            # The scale is the model file's word, which may be a stranger's.
            for image in (source, target):
                check_claim(*size, image.shape[2], image.itemsize)
            source = resize_image(source, size, self._how[0])
            target = resize_image(target, size, self._how[1])
        if self._derive is not None:
            source = self._derive(target, seed)
            source = source if source.ndim == 3 else source[..., None]
        return source, target


def _folder(
    root: Path,
    of_run: Path | None,
    task: Task | None,
    registry: Registry,
    direction: Direction | None,
) -> tuple[Data, Task]:
    used: Task = task or registry.get("task", "paired").build({})
    guessed = None
    seen = survey(root, "scored")
    recipe = _load(of_run, of_run, registry) if of_run is not None else None
    way = direction or (recipe.data.direction if recipe is not None else None)
    if way is None:
        way, guessed = seen.direction, seen.reasons.get("direction")
        if plainer_of(used) == 1:
            way = exchanged(way)
            guessed = f"{guessed}, as the task expects of targets"
    pairs, alone = pairs_in(root, seen, used, way)
    notes = look_round(pairs, used, way)
    if not notes and recipe is not None:
        notes = _unlike_run(direction, recipe)
    if notes and guessed is not None:
        way = exchanged(way)
        guessed, notes = "the task cannot use the pairs otherwise", []
        pairs, alone = pairs_in(root, seen, used, way)
    place = place_of(root, pairs, seen)
    if place == "train":
        notes.append(
            f"{printable(root)} holds pairs to train on alone, neither val/ nor test/: if the "
            f"model was trained on these, their scores say little of others"
        )
    elif not place and recipe is not None and _is_root(recipe, root):
        notes.append(
            f"the run was trained on pairs of {printable(root)}, all of which are scored here: "
            f"leave the folder out for those that were held out"
        )
    reason = "its partner is missing: there is no file of the same name in the other folder"
    found = Data(
        *(pairs, way, root.resolve().name, guessed),
        notes=tuple(notes),
        alone=tuple((str(path.relative_to(root)), reason) for path in alone),
    )
    return found, used


def _unlike_run(direction: Direction | None, recipe: Recipe) -> list[str]:
    own = recipe.data.direction
    if direction in (None, own):
        return []
    return [f"--direction {direction}, and the run was trained with {own}"]


def _is_root(recipe: Recipe, root: Path) -> bool:
    trained = Path(recipe.data.root or ".").expanduser()
    return trained.is_dir() and trained.resolve() == root.resolve()


def _load(
    path: Path, of_run: Path | None, registry: Registry, overrides: Sequence[str] = ()
) -> Recipe:
    """A recipe; where that of a run names what is not here, it is said which plugin it needs.

    Raises:
        RecipeError: with every mistake.
    """
    try:
        return load_recipe(path, registry, overrides)
    except RecipeError as error:
        kinds = "|".join(KINDS)
        unknown = any(re.search(f"' is not a ({kinds})\\b", line) for line in error.problems)
        if path != of_run or not unknown:
            raise
        raise RecipeError([*error.problems, _which_plugin(path.parent, registry)]) from error


def _which_plugin(run: Path, registry: Registry) -> str:
    """What to do about a recipe that needs a plugin, by what the run wrote down of those it had."""
    try:
        plugins: Any = json.loads((run / "environment.json").read_text("utf-8"))["plugins"]
        names = [str(name) for name in plugins]
    # It is only a record, and may be anybody's.
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        names = []
    here = {component.origin for component in registry.components()}
    missing = [printable(name)[:200] for name in names if name not in here]
    had = f" (it was trained with {', '.join(missing[:5])})" if missing else ""
    return (
        f"the run's recipe needs a plugin that is not loaded{had}: give its file with "
        f"--plugin FILE.py, or install it"
    )


def _task_of(recipe: Recipe, registry: Registry) -> Task:
    task: Task = registry.get("task", recipe.task.name).build(recipe.task.settings)
    return task
