"""Loading in other processes: several steps in one message, and an orderly end."""

from __future__ import annotations

import gc
import os
import re
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from img2img.data.batch import Batch, Skipped
from img2img.data.kept_pairs import can_share
from img2img.data.slots import Placed, Slots
from img2img.errors import Img2ImgError

Step = TypeVar("Step")

# A message costs the main process much of a millisecond whatever is in it, as long as a whole step
# takes on a fast device; so it holds several steps where they are small.
MESSAGE_PAIRS = 16
MESSAGE_BYTES = 1 << 25
PREFETCHED = 2
# Held back while processes start: a child would answer them as its parent does.
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class _Message:
    """Some steps' batches: what is in `tensors` alternates between sources and targets."""

    steps: tuple[tuple[tuple[Skipped, ...], int, float], ...]
    tensors: Placed | tuple[Tensor, ...]
    error: Img2ImgError | None


def load_in_processes(
    load: Callable[[Step], Batch],
    steps: Sampler[Step],
    *,
    workers: int,
    steps_at_once: int,
    step_bytes: int,
    pin_memory: bool,
) -> _Received:
    """What `load` makes of each step, in order, made by other processes, which start now.

    Args:
        load: is called in the other processes.
        steps: what it is called with.
        workers: how many processes.
        steps_at_once: how many steps a message holds, once all are at work.
        step_bytes: of the tensors of a step, at most.
        pin_memory: give tensors in pinned memory.

    Raises:
        Img2ImgError: raised by `load`, or a process was ended from outside.
    """
    slots = None
    if can_share():
        with suppress(OSError):
            slots = Slots(workers, PREFETCHED + 1, steps_at_once * step_bytes)
    loader = DataLoader(
        _Loading(load, slots),
        batch_sampler=_Grouped(steps, workers, steps_at_once),
        num_workers=workers,
        prefetch_factor=PREFETCHED,
        collate_fn=_as_it_is,
        worker_init_fn=partial(_start_worker, slots),
        multiprocessing_context="fork" if can_share() else None,
        # Its own, or the loader would draw from the random state that dropout uses.
        generator=torch.Generator().manual_seed(0),
    )
    try:
        with _signals_held(), _child_handler_kept():
            iterator = iter(loader)
    # Also where Ctrl-C came: those that have started would wait for ever, and Python for them.
    except BaseException:
        if slots is not None:
            slots.close()
        raise
    return _Received(iterator, slots, pin_memory)


class _Received(Iterator[Batch]):
    """The batches in the workers' messages.

    No generator, which cannot be closed before its first batch was asked for: the workers would
    wait for ever then, and Python, at its end, for them.
    """

    def __init__(self, messages: Iterator[_Message], slots: Slots | None, pin_memory: bool) -> None:
        self._slots = slots
        self._batches = _unpacked(messages, slots, pin_memory)

    def __next__(self) -> Batch:
        return next(self._batches)

    def close(self) -> None:
        """End the processes, which stop at the pair they are at."""
        if self._slots is not None:
            self._slots.close()
        # The last reference to the messages.
        self._batches.close()


def _unpacked(
    messages: Iterator[_Message], slots: Slots | None, pin_memory: bool
) -> Generator[Batch, None, None]:
    try:
        while (message := _next(messages)) is not None:
            for number, (skipped, pairs, share) in enumerate(message.steps):
                both = []
                for at in (2 * number, 2 * number + 1):
                    if isinstance(message.tensors, Placed):
                        assert slots is not None
                        both.append(slots.get(message.tensors, at, pin_memory=pin_memory))
                    else:
                        tensor = message.tensors[at]
                        both.append(tensor.pin_memory() if pin_memory else tensor)
                yield Batch(both[0], both[1], skipped, pairs, share)
            if isinstance(message.tensors, Placed) and slots is not None:
                slots.free(message.tensors)
            if message.error is not None:
                raise message.error
    finally:
        if slots is not None:
            slots.close()
        del messages  # the last reference


def _next(messages: Iterator[_Message]) -> _Message | None:
    try:
        return next(messages, None)
    except RuntimeError as error:
        lost = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", str(error))
        if lost is None:
            raise
        raise Img2ImgError(
            f"a process that loads data (pid {lost[1]}) was ended from outside, most often because "
            f"memory ran out: use fewer with data.workers (0 loads in the main process), keep "
            f"fewer pairs with data.keep_mb, or give the run more memory"
        ) from error


class _Loading(Dataset[Batch | Img2ImgError], Generic[Step]):
    """The loader's data set: its indices are steps."""

    def __init__(self, load: Callable[[Step], Batch], slots: Slots | None) -> None:
        self.load, self.slots = load, slots

    def __getitems__(self, steps: Sequence[Step]) -> _Message:
        """The batches before the first error, and that error."""
        about: list[tuple[tuple[Skipped, ...], int, float]] = []
        errors: list[Img2ImgError] = []

        def tensors() -> Iterator[Tensor]:
            for step in steps:
                batch = self[step]
                if isinstance(batch, Img2ImgError):
                    errors.append(batch)
                    return
                about.append((batch.skipped, batch.pairs, batch.share))
                yield from (batch.source, batch.target)

        worker = get_worker_info()
        placed: Placed | tuple[Tensor, ...]
        if self.slots is None or worker is None:
            placed = tuple(tensors())
        else:
            placed = self.slots.put(worker.id, tensors())
        return _Message(tuple(about), placed, errors[0] if errors else None)

    def __getitem__(self, step: Step) -> Batch | Img2ImgError:
        if self.slots is not None and self.slots.closed:
            return Img2ImgError("nobody waits for this")
        try:
            return self.load(step)
        except Img2ImgError as error:
            # As a value, because the loader would lay this process's traceback around its text.
            return error


class _Grouped(Sampler[list[Step]]):
    """Steps in groups that grow with each round of the workers, so that the first come soon."""

    def __init__(self, steps: Sampler[Step], workers: int, most: int) -> None:
        self.steps, self.workers, self.most = steps, workers, most

    def __iter__(self) -> Iterator[list[Step]]:
        group: list[Step] = []
        done = 0
        for step in self.steps:
            group.append(step)
            if len(group) == min(self.most, 1 << min(done // self.workers, 30)):
                yield group
                group, done = [], done + 1
        if group:
            yield group


def _as_it_is(message: Any) -> Any:
    return message


def _start_worker(slots: Slots | None, worker: int) -> None:
    torch.set_num_threads(1)
    gc.enable()  # a run that starts does without

    def end(number: int, frame: FrameType | None) -> None:
        # Whoever sends it to a whole group means the main process, which saves first and then
        # closes. It sends this itself to a worker that does not end by itself.
        if slots is not None and slots.closed:
            os._exit(0)

    # Ctrl-C goes to all processes of the terminal, and the main one says what is to be said.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if slots is not None:
        signal.signal(signal.SIGTERM, end)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def _signals_held() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _child_handler_kept() -> Iterator[None]:
    """Without the loader's, which raises in the midst of whatever runs; it polls as well."""
    main = threading.current_thread() is threading.main_thread()
    if not (main and hasattr(signal, "SIGCHLD")):
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGCHLD, before)
