"""Pairs that were replaced by others because they could not be read."""

from __future__ import annotations

import warnings

from img2img.data.loading import Batch
from img2img.engine.health import Health
from img2img.engine.processes import Processes
from img2img.errors import DataError, SaidElsewhere
from img2img.names import printable


class Unreadable:
    """Names each such pair once, counts them, and ends a run that has too many.

    The main process names and writes down its own, the others count theirs.

    Args:
        pairs: how many there are; more than a tenth of them, and than three, are too many.
        processes: those that train together.
        health: who writes them down, and knows those of before a resume; None in all processes but
            the main one.
    """

    def __init__(self, pairs: int, processes: Processes, health: Health | None) -> None:
        self.limit = max(3, pairs // 10)
        # Indices, because the data may lie elsewhere after a resume.
        self.seen = set() if health is None else set(health.unreadable)
        self._processes, self._health = processes, health

    def note(self, batch: Batch, step: int) -> None:
        """Take in the batch of a step, counted from 1."""
        for index, path, reason in batch.skipped:
            if index in self.seen:
                continue
            self.seen.add(index)
            message = printable(f"skipped {path}: {reason}")
            warnings.warn(message, RuntimeWarning, stacklevel=2)
            if self._health is not None:
                self._health.warn(step, "unreadable", message, aloud=False, pair=index, path=path)

    def check(self, *, reading: bool) -> None:
        """End a run that has too many; several processes count together where they are `reading`.

        Called by all of them with the same argument.

        Raises:
            DataError: there are too many; in all processes but the main one SaidElsewhere.
        """
        if self._processes.several and not reading:
            return
        count = self._count()
        if count <= self.limit:
            return
        if not self._processes.main:
            raise SaidElsewhere(DataError.exit_code)
        raise DataError(
            f"{count} pairs cannot be read, which is too many to go on; "
            f"`img2img check --json` lists them"
        )

    def say_total(self) -> None:
        """Say how many there were in all processes, each of which calls this."""
        count = self._count()
        if count and self._processes.main:
            text = "1 unreadable pair was" if count == 1 else f"{count} unreadable pairs were"
            message = f"{text} skipped in this run"
            warnings.warn(message, RuntimeWarning, stacklevel=2)

    def _count(self) -> int:
        return len(set().union(*self._processes.gather(self.seen)))
