"""How batches come from loader processes: through memory that all of them share."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from img2img.data.kept_pairs import reserve

# Tensors begin at whole cache lines.
ALIGNMENT = 64
POLL_S = 0.0005


class Place(NamedTuple):
    """Where a tensor begins, in bytes, and what it is."""

    at: int
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Placed:
    """Tensors that lie in a slot; those that did not fit into it are here themselves."""

    slot: int
    tensors: tuple[Place | Tensor, ...]


class Slots:
    """Pieces of shared memory, some for each worker, that messages of tensors pass through.

    The way torch has for this makes a file in /dev/shm for each tensor, which takes longer than a
    short step, and is 64 MB in all in many containers. This is anonymous memory from before the
    workers are forked, of which the same pages are used again and again.

    Args:
        workers: processes that write.
        each: slots of a worker.
        size: bytes of a slot.

    Raises:
        OSError: so much memory cannot be reserved.
    """

    def __init__(self, workers: int, each: int, size: int) -> None:
        self.each, self.size = each, -(-size // ALIGNMENT) * ALIGNMENT
        self._memory = reserve(workers * each * self.size)
        # One byte for each slot says whether it holds what was not read yet; the last one, that
        # nobody reads any more.
        self._flags = np.frombuffer(reserve(workers * each + 1), np.uint8)
        self._next = 0
        self._owner = os.getpid()

    def put(self, worker: int, tensors: Iterable[Tensor]) -> Placed:
        """Lay tensors into the worker's next slot, once it is free.

        Each is copied before the next is asked for: while it is in the processor's cache, and so
        that its memory can be that of the next.
        """
        slot = worker * self.each + self._next % self.each
        self._next += 1
        while self._flags[slot] and not self.closed:
            time.sleep(POLL_S)
        at, end = slot * self.size, (slot + 1) * self.size
        places: list[Place | Tensor] = []
        for tensor in tensors:
            if at + tensor.nbytes > end:
                places.append(tensor)
                continue
            place = Place(at, tensor.dtype, tuple(tensor.shape))
            if tensor.numel():
                self._view(place).copy_(tensor)
            places.append(place)
            at += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        self._flags[slot] = 1
        return Placed(slot, tuple(places))

    def get(self, placed: Placed, number: int, *, pin_memory: bool) -> Tensor:
        """A copy of one of the tensors, in pinned memory if asked for."""
        place = placed.tensors[number]
        if isinstance(place, Tensor):
            return place.pin_memory() if pin_memory else place
        view = self._view(place)
        return torch.empty_like(view, pin_memory=pin_memory).copy_(view)

    def free(self, placed: Placed) -> None:
        """All of them were read."""
        self._flags[placed.slot] = 0

    @property
    def closed(self) -> bool:
        """Whether nobody reads any more, so that a worker should end what it does."""
        return bool(self._flags[-1]) or os.getppid() != self._owner

    def close(self) -> None:
        """Nothing more will be read."""
        self._flags[-1] = 1

    def _view(self, place: Place) -> Tensor:
        at, dtype, shape = place
        flat = torch.frombuffer(self._memory, dtype=dtype, count=math.prod(shape), offset=at)
        return flat.view(shape)
