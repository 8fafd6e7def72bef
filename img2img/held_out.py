"""Held-out pairs for a trained model, or for finished outputs: from a recipe, a folder, the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from img2img.assemble import build_source, still_transform
from img2img.data.images import resize_image
from img2img.data.limits import check_claim
from img2img.data.loading import PairDataset, Transform
from img2img.data.shards import Shards
from img2img.data.side_by_side import SideBySide
from img2img.data.source import PairSource
from img2img.data.survey import survey
from img2img.data.two_folders import TwoFolders
from img2img.errors import RequestError
from img2img.inference import Translator
from img2img.picture import Pixels
from img2img.recipe import Choice, Recipe
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
        name: what to call the data.
        guessed: why it is this direction, where nothing said so.
        recipe: the one that names them; None for a folder.
        metrics: those that the run's recipe chooses, or else that one.
    """

    pairs: PairSource
    direction: Direction
    name: str
    guessed: str | None = None
    recipe: Recipe | None = None
    metrics: tuple[Choice, ...] = ()


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
    recipe = load_recipe(path, registry, overrides)
    pairs = build_source(recipe, registry, "val")
    used = task or _task_of(recipe, registry)
    way: Direction = direction or recipe.data.direction
    return Data(pairs, way, recipe.name, recipe=recipe), used


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
        own = load_recipe(of_run, registry)
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
    seen = survey(root)
    if direction is None and of_run is not None:
        direction = load_recipe(of_run, registry).data.direction
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
