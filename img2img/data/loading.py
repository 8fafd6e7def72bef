"""From a source of pairs to batches: order and augmentation are pure functions of the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from img2img.data.source import PairSource
from img2img.errors import DataError, ImageError
from img2img.picture import Pixels, UnusableError, fit_channels, to_depth
from img2img.tasks.base import Task, image_channels_of

Transform = Callable[[Pixels, Pixels, int], tuple[Pixels, Pixels]]
Key = tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """What one process sees in one step.

    Attributes:
        source, target: (B, C, H, W) in [-1, 1].
        skipped: pairs that could not be read, with reasons.
        pairs: how many the step has in all processes together.
        share: this process's part of them times the number of processes: what its gradients
            weigh. Not 1 only where the last batch of an epoch cannot be split evenly.
    """

    source: Tensor
    target: Tensor
    skipped: tuple[tuple[str, str], ...] = ()
    pairs: int = 1
    share: float = 1.0


class PairDataset(Dataset[Batch]):
    """Pairs of one split as tensors.

    Args:
        pairs: where they come from.
        task: turns them into tensors.
        transform: augmentation, or the resizing of validation; gets (source, target, seed).
        swap: the second image is the source (`data.direction = "BtoA"`).
        seed: the run's.
    """

    def __init__(
        self, pairs: PairSource, task: Task, transform: Transform, *, swap: bool, seed: int
    ) -> None:
        self.pairs = pairs
        self.task = task
        self.transform = transform
        self.swap = swap
        self.seed = seed
        self.channels = image_channels_of(task)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: Key) -> Batch:
        """The pair at (epoch, index) as a batch of one; an unreadable one is replaced by the next.

        Raises:
            DataError: no pair at all can be read.
        """
        epoch, index = key
        skipped = []
        for offset in range(len(self)):
            at = (index + offset) % len(self)
            try:
                source, target = self.tensors(at, epoch)
            except ImageError as error:
                skipped.append((str(error.path), error.reason))
            else:
                return Batch(source[None], target[None], tuple(skipped))
        path, reason = skipped[0]
        raise DataError(f"none of the {len(self)} pairs can be read; the first, {path}: {reason}")

    def tensors(self, index: int, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """Source and target (C, H, W) of one pair.

        Raises:
            ImageError: it cannot be read.
        """
        first, second = self.pairs.pair(index)
        source, target = (second, first) if self.swap else (first, second)
        seed = _seed_of(self.seed, epoch, index)
        source, target = self.transform(_augmentable(source), _augmentable(target), seed)
        try:
            # Not before: a source that makes the one from the other may need its colours.
            source = fit_channels(source, self.channels[0])
            target = fit_channels(target, self.channels[1])
        except UnusableError as error:
            raise ImageError(Path(self.pairs.name(index)), str(error)) from None
        return self.task.encode_source(source), self.task.encode_target(target)


class StepSampler(Sampler[list[Key]]):
    """Keys of the batches of steps `start` to `stop`: each epoch is a new order of all pairs."""

    def __init__(self, count: int, batch_size: int, seed: int, start: int, stop: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[list[Key]]:
        per_epoch = steps_per_epoch(self.count, self.batch_size)
        epoch, order = -1, np.empty(0, np.int64)
        for step in range(self.start, self.stop):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
            first = step % per_epoch * self.batch_size
            yield [(epoch, int(index)) for index in order[first : first + self.batch_size]]

    def __len__(self) -> int:
        return self.stop - self.start


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Batches in an epoch; the last one may be smaller."""
    return -(-count // batch_size)


def batches(
    dataset: PairDataset,
    *,
    batch_size: int,
    start: int,
    stop: int,
    workers: int = 0,
    pin_memory: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """The batches of steps `start` to `stop`, the same ones for any number of workers."""
    sampler = StepSampler(len(dataset), batch_size, dataset.seed, start, stop)
    return iter(
        DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=_join,
            pin_memory=pin_memory,
            worker_init_fn=_start_worker,
            # Its own, or the loader would draw from the random state that dropout uses.
            generator=torch.Generator().manual_seed(0),
        )
    )


def _augmentable(image: Pixels) -> Pixels:
    return image if image.dtype == np.uint8 else to_depth(image, np.float32)


def _join(parts: list[Batch]) -> Batch:
    return Batch(
        torch.cat([part.source for part in parts]),
        torch.cat([part.target for part in parts]),
        tuple(skip for part in parts for skip in part.skipped),
        pairs=len(parts),
    )


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)


def _seed_of(seed: int, epoch: int, index: int) -> int:
    # SeedSequence mixes, so that neighbouring indices draw unrelated crops.
    return int(np.random.SeedSequence([seed, epoch, index]).generate_state(1)[0])
