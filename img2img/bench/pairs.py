"""What a benchmark trains and loads: a recipe's own pairs, or drawn ones where it has none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from img2img.assemble import build_datasets
from img2img.assemble.networks import activation_of
from img2img.data.loading import PairDataset
from img2img.data.synthetic import Synthetic
from img2img.data.writing import write_picture
from img2img.errors import DataError, ImageError
from img2img.picture import Picture
from img2img.recipe import Choice, ColorSettings, Recipe
from img2img.registry import Registry
from img2img.tasks.base import Task

DRAWN = 32


class Pairs:
    """A recipe's training pairs.

    Args:
        recipe: whose source and augmentation they have.
        registry: where its names are looked up.
        task: turns them into tensors.
        drawn: they are drawn, which says nothing of the recipe's task.

    Raises:
        DataError: they are missing, or none can be read.
    """

    def __init__(
        self, recipe: Recipe, registry: Registry, task: Task, *, drawn: bool = False
    ) -> None:
        self.recipe, self.registry, self.task, self.drawn = recipe, registry, task, drawn
        dataset = self.dataset()
        self.count = len(dataset)
        first = dataset[0, 0]
        self._first = first.source, first.target

    def dataset(self) -> PairDataset:
        """As training sees them, none of them read yet."""
        return build_datasets(self.recipe, self.registry, self.task).train

    def kept_bytes(self) -> int:
        """What a pair takes in memory as it is kept; that of the first that can be read."""
        dataset = self.dataset()
        for index in range(len(dataset)):
            with suppress(ImageError):
                return sum(image.nbytes for image in dataset.prepared(index))
        return 0

    def batch(self, size: int, task: Task, device: torch.device) -> tuple[Tensor, Tensor]:
        """Source and target (B, C, H, W) for a step: one pair over and over, or noise."""
        if not self.drawn:
            source, target = (image.repeat(size, 1, 1, 1) for image in self._first)
        else:
            side = self.recipe.data.crop_size
            shapes = ((size, count, side, side) for count in _channels(task))
            source, target = (torch.rand(shape) * 2 - 1 for shape in shapes)
            if activation_of(task) == "softmax":
                target = target.softmax(1)
        return source.to(device), target.to(device)


@contextmanager
def pairs_of(recipe: Recipe, registry: Registry, task: Task) -> Iterator[tuple[Pairs, str | None]]:
    """A recipe's pairs, or drawn ones with the reason; those are gone when the context ends."""
    try:
        own = Pairs(recipe, registry, task)
    except DataError as error:
        reason = str(error)
    else:
        yield own, None
        return
    with TemporaryDirectory(prefix="img2img-bench-") as folder:
        _draw(Path(folder), recipe.data.crop_size)
        data = recipe.data.model_copy(
            update={
                "source": "side_by_side",
                "root": folder,
                "direction": "AtoB",
                "source_color": ColorSettings(),
            }
        )
        plain = Choice("paired")
        drawn = replace(recipe, task=plain, source=Choice("side_by_side"), data=data)
        made: Task = registry.get("task", plain.name).build(plain.settings)
        yield Pairs(drawn, registry, made, drawn=True), reason


def _channels(task: Task) -> tuple[int, int]:
    return task.source_channels, task.target_channels


def _draw(root: Path, size: int) -> None:
    size = max(16, size)
    for split, count in (("train", DRAWN), ("val", 1)):
        folder = root / split
        folder.mkdir()
        source = Synthetic("train", count=count, size=size)
        for index in range(count):
            both = np.concatenate(source.pair(index), axis=1)
            write_picture(folder / f"{index:03d}.jpg", Picture(both))
