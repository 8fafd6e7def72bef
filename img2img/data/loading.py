"""From a source of pairs to batches: order and augmentation are pure functions of the step."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from img2img.data.batch import Batch, Skipped, join
from img2img.data.kept_pairs import KeptPairs
from img2img.data.order import Indices, Order
from img2img.data.source import PairSource
from img2img.data.workers import MESSAGE_BYTES, MESSAGE_PAIRS, load_in_processes
from img2img.errors import DataError, ImageError
from img2img.picture import Pixels, UnusableError, fit_channels, to_depth
from img2img.tasks.base import Task, image_channels_of

__all__ = ["Batch", "PairDataset", "Part", "StepSampler", "batches", "steps_per_epoch"]

Key = tuple[int, int]
Pair = tuple[Pixels, Pixels]
# Positions whose indices are computed at once: one takes as long as thousands.
AT_ONCE = 4096


class Transform(Protocol):
    """Augmentation, or the resizing of validation."""

    def __call__(self, source: Pixels, target: Pixels, seed: int, /) -> Pair: ...


@runtime_checkable
class Preparing(Protocol):
    """A transform of two parts, of which the first is the same in each epoch."""

    def prepare(self, source: Pixels, target: Pixels, /) -> Pair: ...

    def vary(self, source: Pixels, target: Pixels, seed: int, /) -> Pair: ...


class PairDataset(Dataset[Batch]):
    """Pairs of one split as tensors.

    Args:
        pairs: where they come from.
        task: turns them into tensors.
        transform: augmentation, or the resizing of validation; gets (source, target, seed).
        swap: the second image is the source (`data.direction = "BtoA"`).
        seed: the run's.
        kept: where pairs stay once they were read, if the transform has a first part that is the
            same in each epoch (`Preparing`).
    """

    def __init__(
        self,
        pairs: PairSource,
        task: Task,
        transform: Transform,
        *,
        swap: bool,
        seed: int,
        kept: KeptPairs | None = None,
    ) -> None:
        self.pairs = pairs
        self.task = task
        self.transform = transform
        self.swap = swap
        self.seed = seed
        self.kept = kept
        self._preparing = transform if isinstance(transform, Preparing) else None
        self.channels = image_channels_of(task)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getstate__(self) -> dict[str, Any]:
        # A process that is started afresh cannot share what is kept.
        return {**self.__dict__, "kept": None}

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
                skipped.append(Skipped(at, str(error.path), error.reason))
            else:
                return Batch(source[None], target[None], tuple(skipped))
        _, path, reason = skipped[0]
        raise DataError(f"none of the {len(self)} pairs can be read; the first, {path}: {reason}")

    def tensors(self, index: int, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """Source and target (C, H, W) of one pair.

        Raises:
            ImageError: it cannot be read.
        """
        seed = _seed_of(self.seed, epoch, index)
        if self._preparing is None:
            source, target = self.transform(*self._read(index), seed)
        else:
            source, target = self._preparing.vary(*self.prepared(index), seed)
        try:
            # Not before: a source that makes the one from the other may need its colours.
            source = fit_channels(source, self.channels[0])
            target = fit_channels(target, self.channels[1])
        except UnusableError as error:
            raise ImageError(Path(self.pairs.name(index)), str(error)) from None
        return self.task.encode_source(source), self.task.encode_target(target)

    def prepared(self, index: int) -> Pair:
        """Both images of a pair before anything random, which is how they are kept.

        Raises:
            ImageError: it cannot be read.
        """
        pair = None if self.kept is None else self.kept.get(index)
        if pair is None:
            pair = self._read(index)
            if self._preparing is not None:
                pair = self._preparing.prepare(*pair)
            if self.kept is not None:
                self.kept.put(index, *pair)
        return pair

    def batch(self, part: Part) -> Batch:
        """This process's part of a step.

        Raises:
            DataError: no pair at all can be read.
        """
        return join([self[part.epoch, index] for index in part.indices], part.pairs, part.share)

    def _read(self, index: int) -> Pair:
        first, second = self.pairs.pair(index)
        first, second = _augmentable(first), _augmentable(second)
        return (second, first) if self.swap else (first, second)


@dataclass(frozen=True)
class Part:
    """What a process does in a step: the indices of its pairs, and `Batch.pairs` and `share`."""

    epoch: int
    indices: tuple[int, ...]
    pairs: int
    share: float


class StepSampler(Sampler[Part]):
    """One process's parts of steps `start` to `stop`; each epoch is a new order of all pairs.

    A step takes the next `batch_size * world_size` pairs, and process `rank` the rank-th slice of
    them, so that N processes see what one sees with a batch N times as large. The last pairs of an
    epoch are split as evenly as can be. A process that gets none of them repeats the last, with a
    share of 0, because all must take part in every step.

    Args:
        order: of the pairs.
        batch_size: of one process.
        start, stop: steps from 0.
        rank, world_size: this process among those that train together.
    """

    def __init__(
        self,
        order: Order,
        batch_size: int,
        start: int,
        stop: int,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.order, self.batch_size = order, batch_size
        self.start, self.stop = start, stop
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[Part]:
        count, whole = self.order.count, self.batch_size * self.world_size
        per_epoch = steps_per_epoch(count, whole)
        # A block is what all processes see in some whole steps; each keeps its part of it.
        steps_at_once = max(1, AT_ONCE // whole)
        step = self.start
        while step < self.stop:
            epoch, at = divmod(step, per_epoch)
            end = min(at + steps_at_once, per_epoch, at + self.stop - step)
            block = self.order.indices(epoch, at * whole, min(end * whole, count))
            for first in range(0, len(block), whole):
                yield self._part(epoch, block[first : first + whole])
            step += end - at

    def __len__(self) -> int:
        return self.stop - self.start

    def _part(self, epoch: int, pairs: Indices) -> Part:
        count = len(pairs)
        each, more = divmod(count, self.world_size)
        begin = self.rank * each + min(self.rank, more)
        own = pairs[begin : begin + each + (self.rank < more)]
        share = len(own) * self.world_size / count
        shown = own if len(own) else pairs[-1:]
        return Part(epoch, tuple(int(index) for index in shown), count, share)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Batches in an epoch; the last one may be smaller."""
    return -(-count // batch_size)


class Batches(Iterator[Batch], Protocol):
    """Batches in order; closing it ends the processes that load them, also before the first."""

    def close(self) -> None:
        """End them."""


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
) -> Batches:
    """This process's batches of steps `start` to `stop`, the same ones for any number of workers.

    Nothing is drawn from the global random states.

    Args:
        dataset: where pairs come from.
        batch_size: of this process.
        start, stop: steps from 0.
        workers: processes that load, which start now; 0 loads when a batch is asked for.
        pin_memory: give tensors in pinned memory, where there is a CUDA device.
        rank, world_size: this process among those that train together; see `StepSampler`.

    Raises:
        DataError: no pair can be read.
        Img2ImgError: a worker was ended from outside.
    """
    order = Order(len(dataset), dataset.seed, getattr(dataset.pairs, "shards", None))
    parts = StepSampler(order, batch_size, start, stop, rank=rank, world_size=world_size)
    pin = pin_memory and torch.cuda.is_available()
    workers = min(workers, stop - start)
    if workers <= 0:
        return _load_here(dataset, parts, pin)
    # All pairs are of one size, or they could not be batched.
    pair = dataset[0, 0]
    step_bytes = batch_size * (pair.source.nbytes + pair.target.nbytes) + 2 * 64
    return load_in_processes(
        dataset.batch,
        parts,
        workers=workers,
        steps_at_once=max(1, min(-(-MESSAGE_PAIRS // batch_size), MESSAGE_BYTES // step_bytes)),
        step_bytes=step_bytes,
        pin_memory=pin,
    )


def _load_here(
    dataset: PairDataset, parts: StepSampler, pin_memory: bool
) -> Generator[Batch, None, None]:
    for part in parts:
        batch = dataset.batch(part)
        if pin_memory:
            pinned = batch.source.pin_memory(), batch.target.pin_memory()
            batch = replace(batch, source=pinned[0], target=pinned[1])
        yield batch


def _augmentable(image: Pixels) -> Pixels:
    return image if image.dtype == np.uint8 else to_depth(image, np.float32)


def _seed_of(seed: int, epoch: int, index: int) -> int:
    # SeedSequence mixes, so that neighbouring indices draw unrelated crops.
    return int(np.random.SeedSequence([seed, epoch, index]).generate_state(1)[0])
