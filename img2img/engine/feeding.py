"""Batches on the device before they are wanted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol

import torch

from img2img.data.loading import Batch

# Batches that are copied ahead: the next one during the present step, and one in reserve.
AHEAD = 2
# Steps that the host may have launched and the device not finished; more would only take memory,
# and hide by how much an interrupt comes late.
IN_FLIGHT = 4


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches with their tensors on the device; on CUDA they are copied ahead.

    A batch's tensors may be used on the stream that was current when it was asked for, without
    further ado, until the next one is asked for or later. Closing this closes what gives the
    batches.
    """
    try:
        if device.type == "cuda":
            yield from keep_ahead(iter(batches), CudaCopier(device))
        else:
            for batch in batches:
                yield _moved(batch, device)
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()


class Copier(Protocol):
    """Copies batches to a device while that computes."""

    def send(self, batch: Batch) -> Batch:
        """Begin to copy it; the tensors of the result are not to be used yet."""

    def receive(self) -> None:
        """Let the device's work from here on wait for the earliest copy not received before."""

    def launched(self) -> None:
        """All work on the batch received last was launched; wait if the device is far behind."""


def keep_ahead(batches: Iterator[Batch], copier: Copier) -> Iterator[Batch]:
    """Batches on the device, of which the next `AHEAD` are being copied meanwhile."""
    waiting: deque[Batch] = deque()
    # The first alone: a step should not wait for batches that come after it.
    _fill(waiting, 1, batches, copier)
    while waiting:
        batch = waiting.popleft()
        copier.receive()
        yield batch
        del batch
        copier.launched()
        _fill(waiting, AHEAD, batches, copier)


def _fill(waiting: deque[Batch], most: int, batches: Iterator[Batch], copier: Copier) -> None:
    while len(waiting) < most and (batch := next(batches, None)) is not None:
        waiting.append(copier.send(batch))


class CudaCopier:
    """Copies on a stream of its own. From pinned memory this does not hold up the host."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch types no class of it
        self._copied: deque[tuple[torch.cuda.Event, Batch]] = deque()
        self._steps: deque[torch.cuda.Event] = deque()

    def send(self, batch: Batch) -> Batch:
        with torch.cuda.stream(self._stream):
            # The allocator of pinned memory notes the stream, and gives the source's memory to
            # nobody else before the copy is done.
            moved = _moved(batch, self._device)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # as above
            event.record(self._stream)
        self._copied.append((event, moved))
        return moved

    def receive(self) -> None:
        event, batch = self._copied.popleft()
        current = torch.cuda.current_stream(self._device)
        current.wait_event(event)
        # Allocated on the other stream, where it could be used again while a step still reads it.
        batch.source.record_stream(current)
        batch.target.record_stream(current)

    def launched(self) -> None:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # as above
        event.record(torch.cuda.current_stream(self._device))
        self._steps.append(event)
        if len(self._steps) > IN_FLIGHT:
            # The only place where the host waits for the device between log lines.
            self._steps.popleft().synchronize()


def _moved(batch: Batch, device: torch.device) -> Batch:
    return replace(
        batch,
        source=batch.source.to(device, non_blocking=True),
        target=batch.target.to(device, non_blocking=True),
    )
