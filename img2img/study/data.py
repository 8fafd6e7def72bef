"""What `img2img study` is asked about: a model or finished outputs, and the pairs to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from img2img.assemble import build_source
from img2img.bundle import find_bundle, read_info
from img2img.data.shards import Shards
from img2img.data.side_by_side import SideBySide
from img2img.data.source import PairSource
from img2img.data.survey import survey
from img2img.data.two_folders import TwoFolders
from img2img.errors import RequestError
from img2img.recipe import Recipe
from img2img.recipe_files import find_recipe
from img2img.recipe_parser import load_recipe
from img2img.registry import Registry
from img2img.tasks.base import Task, image_channels_of

Direction = Literal["AtoB", "BtoA"]


@dataclass(frozen=True)
class Data:
    """The pairs held out, and how they are read.

    Attributes:
        pairs: of the validation split.
        direction: which image of a pair is the source.
        guessed: why it is this direction, where nothing said so.
        name: what to call the data.
    """

    pairs: PairSource
    direction: Direction
    name: str
    guessed: str | None = None


def is_model(path: Path) -> bool:
    """Whether a path is a run directory or a bundle, and no folder of images."""
    return not path.is_dir() or any(
        (path / name).exists() for name in ("model.safetensors", "recipe.toml")
    )


def find_data(
    data: str | None,
    model: Path,
    task: Task | None,
    registry: Registry,
    *,
    overrides: Sequence[str] = (),
    direction: Direction | None = None,
) -> tuple[Data, Task]:
    """The pairs to show, and the task that draws them.

    Args:
        data: a folder, a recipe, or None for that of the run.
        model: a run directory, a bundle, or a folder of outputs.
        task: the model's; None for outputs, which are then drawn by the recipe's.
        registry: where names are looked up.
        overrides: `key=value` for the recipe.
        direction: instead of the recipe's, or of a guess.

    Raises:
        RequestError: there is no such data, or `overrides` without a recipe.
        RecipeError, DataError: of the recipe, or of what it names.
    """
    if data is not None and Path(data).is_dir():
        if overrides:
            raise RequestError("--set changes a recipe, and DATA is a folder")
        return _folder(Path(data), model, task, registry, direction)
    if data is None:
        path = model / "recipe.toml"
        if not path.is_file():
            raise RequestError(
                f"{model} has no recipe that names its data: say which to show, a recipe or a "
                f"folder, after it"
            )
    else:
        path = find_recipe(data)
    recipe = load_recipe(path, registry, overrides)
    pairs = build_source(recipe, registry, "val")
    used = task or _task_of(recipe, registry)
    return Data(pairs, direction or recipe.data.direction, recipe.name), used


def _folder(
    root: Path, model: Path, task: Task | None, registry: Registry, direction: Direction | None
) -> tuple[Data, Task]:
    used: Task = task or registry.get("task", "paired").build({})
    recipe = model / "recipe.toml"
    guessed = None
    seen = survey(root)
    if direction is None and recipe.is_file():
        direction = load_recipe(recipe, registry).data.direction
    if direction is None:
        direction, guessed = seen.direction, seen.reasons.get("direction")
    channels = image_channels_of(used)
    if direction == "BtoA":
        channels = channels[1], channels[0]
    pairs: PairSource
    if seen.source == "side_by_side":
        pairs = SideBySide(root, "val", channels)
    elif seen.source == "derived" or seen.folders is None:
        raise RequestError(
            f"{root} holds single images and no pairs: give the recipe that makes the sources"
        )
    elif seen.source == "two_folders":
        first, second = seen.folders
        pairs = TwoFolders(root, "val", channels, first=first, second=second)
    else:
        first, second = seen.folders
        pairs = Shards(root, "val", channels, first=first, second=second)
    return Data(pairs, direction, root.resolve().name, guessed), used


def _task_of(recipe: Recipe, registry: Registry) -> Task:
    task: Task = registry.get("task", recipe.task.name).build(recipe.task.settings)
    return task


def about_model(model: Path, data: str) -> dict[str, Any]:
    """What is said of a model in the page and beside the score; the participant is not shown it."""
    if not is_model(model):
        return {"outputs": model.resolve().name, "data": data}
    info = read_info(find_bundle(model))
    return {
        "model": info.name,
        "file": model.resolve().name,
        "task": info.task.get("name"),
        "generator": info.generator.get("name"),
        "step": info.trained.get("step"),
        "data": data,
    }
