"""The validation pairs of a variant, and what tells them from others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from img2img.assemble import build_source, still_transform
from img2img.data.loading import PairDataset
from img2img.evaluation.short_names import ShortNames
from img2img.recipe import Recipe
from img2img.registry import Registry


def validation_pairs(recipe: Recipe, registry: Registry) -> PairDataset:
    """The validation pairs of a recipe, all of them, as its runs see them.

    Raises:
        DataError: there are none.
        RecipeError: settings that the source or the task refuses.
    """
    pairs = build_source(recipe, registry, "val")
    task = registry.get("task", recipe.task.name).build(recipe.task.settings)
    return PairDataset(
        pairs,
        task,
        still_transform(recipe.data, task, getattr(pairs, "degrade", None)),
        swap=recipe.data.direction == "BtoA",
        seed=recipe.train.seed,
    )


def pair_names(recipe: Recipe, dataset: PairDataset) -> list[str]:
    """What the pairs are called, below the folder of the data."""
    names = ShortNames(dataset.pairs, _root(recipe))
    return [names.name(index) for index in range(len(names))]


def pairs_settings(recipe: Recipe) -> str:
    """All settings on which validation pairs depend, as a text; the folder is not among them."""
    whole = recipe.to_dict()
    said = {key: whole.get(key) for key in ("source", "task")}
    said["data"] = {key: value for key, value in whole["data"].items() if key not in NOT_SEEN}
    return json.dumps(said, sort_keys=True, default=str)


def pairs_digest(recipe: Recipe, dataset: PairDataset) -> str:
    """A sum over the settings of validation pairs and over names, sizes and dates of their files.

    What the files hold is not read. Of a source that does not say which files its pairs lie in, all
    files below `data.root` count.
    """
    found = hashlib.sha256(pairs_settings(recipe).encode())
    for name in pair_names(recipe, dataset):
        found.update(f"\0{name}".encode("utf-8", "surrogateescape"))
    for path in _files(recipe, dataset):
        try:
            told = path.stat()
        except OSError:
            continue  # it is told of where it is read
        found.update(f"\0{told.st_size} {told.st_mtime_ns}".encode())
    return found.hexdigest()


# Of `[data]`: where the pairs lie, and what happens to those that are trained on alone.
NOT_SEEN = (
    "root",
    "workers",
    "keep_mb",
    "jitter",
    "load_size",
    "mirror",
    "rotate",
    "source_color",
)


def _files(recipe: Recipe, dataset: PairDataset) -> Iterator[Path]:
    paths = getattr(dataset.pairs, "paths", None)
    if callable(paths):
        for index in range(len(dataset)):
            yield from map(Path, paths(index))
        return
    root = _root(recipe)
    yield from sorted(root.rglob("*")) if root.is_dir() else [root]


def _root(recipe: Recipe) -> Path:
    return Path(recipe.data.root or ".").expanduser()
