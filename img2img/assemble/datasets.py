"""A recipe's source into datasets, and a first look at what they hold."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from img2img.assemble.problems import Problems
from img2img.data.checks.seen import Misfit
from img2img.data.checks.unsuitable import Judge, explain, find_misfit, is_direction
from img2img.data.images import Split
from img2img.data.kept_pairs import KeptPairs, keep_pairs
from img2img.data.loading import PairDataset, Transform
from img2img.data.source import PairSource
from img2img.download.catalog import CATALOG
from img2img.errors import DataError, ImageError
from img2img.evaluation.scores import spread
from img2img.names import printable
from img2img.picture import Pixels, UnusableError, fit_channels
from img2img.recipe import DataSettings, Recipe
from img2img.registry import Registry
from img2img.tasks.base import Task, image_channels_of


@dataclass(frozen=True)
class Datasets:
    """The three views a run has of its data; see `Run`."""

    train: PairDataset
    still: PairDataset
    validation: PairDataset


def build_datasets(recipe: Recipe, registry: Registry, task: Task) -> Datasets:
    """The pairs to train on, augmented and not, and those held out.

    Raises:
        DataError: the data is missing, empty or does not pair up.
        RecipeError: settings that the source refuses.
    """
    # Here, because `infer` needs none of albumentations and would wait a second for it.
    from img2img.data.augmentation import Augmentation, ColorChange, use_one_thread

    use_one_thread()
    data = recipe.data
    assert data.test_size is not None
    warn_of_scales(data)
    train, held_out = (build_source(recipe, registry, split) for split in ("train", "val"))
    derive = getattr(train, "degrade", None)
    swap = data.direction == "BtoA"
    prepare = partial(
        Augmentation,
        source_interpolation=task.source_interpolation,
        target_interpolation=task.target_interpolation,
        derive=derive,
    )
    augment = prepare(
        data.load_size,
        data.crop_size,
        mirror=data.mirror,
        rotate=data.rotate,
        color=ColorChange(**data.source_color.model_dump()),
    )
    still = still_transform(data, task, derive)

    def dataset(
        pairs: PairSource, transform: Transform, kept: KeptPairs | None = None
    ) -> PairDataset:
        return PairDataset(pairs, task, transform, swap=swap, seed=recipe.train.seed, kept=kept)

    # Those held out are looked at too seldom to be worth memory.
    kept = keep_pairs(len(train), data.keep_mb, pair_size=_prepared_size(data, task))
    return Datasets(
        train=dataset(train, augment, kept),
        still=dataset(train, still),
        validation=dataset(held_out, still),
    )


def still_transform(
    data: DataSettings, task: Task, derive: Callable[[Pixels, int], Pixels] | None
) -> Transform:
    """What validation does with a pair: it is resized, or cropped, to `test_size`."""
    from img2img.data.augmentation import Augmentation, use_one_thread

    use_one_thread()
    assert data.test_size is not None
    return Augmentation(
        data.test_size if data.resize else None,
        data.test_size,
        center=True,
        source_interpolation=task.source_interpolation,
        target_interpolation=task.target_interpolation,
        derive=derive,
    )


def _prepared_size(data: DataSettings, task: Task) -> int | None:
    """Most bytes of a pair at `load_size`; None where pairs stay as large as they are."""
    if data.load_size is None:
        return None
    # Of as many channels as the task has them reduced to later, and four bytes for each at most.
    channels = sum(max(3, count) for count in image_channels_of(task))
    return 4 * channels * data.load_size**2


def warn_of_scales(data: DataSettings) -> None:
    """A RuntimeWarning where training and validation see things at different sizes."""
    assert data.test_size is not None
    if data.load_size is not None and data.load_size > 1.5 * data.test_size:
        warnings.warn(
            f"training sees crops of {data.crop_size} out of {data.load_size} pixels, validation "
            f"whole images at {data.test_size}: things differ in size. Set data.load_size to "
            f"{round(data.crop_size * 286 / 256)} or {data.crop_size}, or data.test_size",
            RuntimeWarning,
            stacklevel=3,
        )


def build_source(recipe: Recipe, registry: Registry, split: Split) -> PairSource:
    """The pairs of one split as the recipe's source gives them.

    Raises:
        DataError: the data is missing, empty or does not pair up.
        RecipeError: settings that the source refuses.
    """
    problems = Problems(recipe)
    component = registry.get("source", recipe.source.name)
    root = Path(recipe.data.root or ".").expanduser()
    task: Task | None = problems.build(
        ("task",), registry.get("task", recipe.task.name), recipe.task
    )
    problems.raise_any()
    assert task is not None
    channels = image_channels_of(task)
    if any(recipe.data.source_color.model_dump().values()) and channels[0] not in (1, 3):
        problems.add(
            ("data", "source_color"),
            f"only grey and RGB have colours that can change, not the {channels[0]} channels of "
            f"the task's source: leave it out",
        )
    if recipe.data.direction == "BtoA":
        channels = channels[1], channels[0]
    try:
        source: PairSource | None = problems.build(
            ("data",), component, recipe.source, root=root, split=split, channels=channels
        )
    except DataError as error:
        known = [name for name in CATALOG if root == Path("data", name)]
        if known and not root.exists():
            raise DataError(f"{error}; `img2img data fetch {known[0]}` gets it") from error
        raise
    if hasattr(source, "degrade") and recipe.data.direction == "BtoA":
        problems.add(
            ("data", "direction"),
            "the source is made from the target here, so it can only be AtoB",
        )
    problems.raise_any()
    assert source is not None
    return source


def judge_of(task: Task, direction: str) -> Judge:
    """What keeps a task from a pair's first and second image: their channels, or what they show."""
    misfit: Judge | None = getattr(task, "misfit", None)

    def judge(first: Pixels, second: Pixels) -> str | None:
        pair = (first, second) if direction == "AtoB" else (second, first)
        sides = zip(("source", "target"), pair, image_channels_of(task), strict=True)
        for side, image, channels in sides:
            try:
                fit_channels(image, channels)
            except UnusableError as error:
                return f"the {side} {error}"
        return misfit(*pair) if misfit is not None else None

    return judge


def check_pairs(pairs: PairSource, recipe: Recipe, task: Task) -> list[tuple[int, int]]:
    """Look at up to 16 training pairs before a run begins; gives the readable ones' sizes.

    Raises:
        DataError: none of them can be read, or the task cannot use most of them, such as
            photographs where it needs labels. For fewer there is a RuntimeWarning, because a run
            can do without some.
    """
    judge = judge_of(task, recipe.data.direction)
    sizes: list[tuple[int, int]] = []
    odd: list[tuple[int, Misfit]] = []
    unreadable: list[ImageError] = []
    for index in spread(len(pairs), 16):
        try:
            first, second = pairs.pair(index)
        except ImageError as error:
            unreadable.append(error)
            continue
        sizes.append((first.shape[1], first.shape[0]))
        misfit = find_misfit(judge, first, second)
        if misfit is not None:
            odd.append((index, misfit))
    if unreadable and not sizes:
        raise DataError(
            f"none of the {len(unreadable)} training pairs looked at can be read; {unreadable[0]}"
        )
    if odd:
        direction = is_direction([misfit for _, misfit in odd], len(sizes))
        # Where it is the direction, a pair that says so is the example.
        index, misfit = next(each for each in odd if each[1].exchanged or not direction)
        message = (
            f"{len(odd)} of {len(sizes)} training pairs looked at do not suit the task "
            f"{recipe.task.name!r}; {pairs.name(index)}: {explain(misfit, direction=direction)}"
        )
        if 2 * len(odd) > len(sizes):
            raise DataError(message)
        message = f"{printable(message)}. `img2img check --json` lists all"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return sizes


def seen_scale(sizes: list[tuple[int, int]], test_size: int) -> list[float]:
    """Factors on width and height by which validation resizes a typical training image.

    The bundle carries them, so that a folder of the same kind is translated as validation was.
    """
    if not sizes:
        return [1.0, 1.0]
    return [test_size / statistics.median(side) for side in zip(*sizes, strict=True)]
