"""Pairs that were replaced by others because they could not be read."""

from __future__ import annotations

import warnings

from img2img.data.loading import Batch
from img2img.engine.health import Health
from img2img.engine.processes import Processes
from img2img.errors import DataError


class Unreadable:
    """Names each such pair once, counts them, and ends a run that has too many.

    Every process names and counts its own; the main one also those that it skipped before a
    resume.

    Args:
        pairs: how many there are; more than a tenth of them, and than three, are too many.
        processes: those that train together.
        health: who writes them down; None in all processes but the main one.
    """

    def __init__(self, pairs: int, processes: Processes, health: Health | None) -> None:
        self.limit = max(3, pairs // 10)
        self.seen = set() if health is None else set(health.unreadable)
        self._processes, self._health = processes, health

    def note(self, batch: Batch, step: int) -> None:
        """Take in the batch of a step, counted from 1.

        Raises:
            DataError: there are too many.
        """
        for path, reason in batch.skipped:
            if path in self.seen:
                continue
            self.seen.add(path)
            message = f"skipped {path}: {reason}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
            if self._health is not None:
                self._health.warn(step, "unreadable", message, aloud=False, path=path)
        if len(self.seen) > self.limit:
            raise DataError(
                f"{len(self.seen)} pairs cannot be read, which is too many to go on; "
                f"`img2img check` lists them"
            )

    def say_total(self) -> None:
        """Say how many there were in all processes, each of which calls this."""
        count = len(set().union(*self._processes.gather(self.seen)))
        if count and self._processes.main:
            text = "1 pair was" if count == 1 else f"{count} pairs were"
            message = f"{text} skipped in this run, because they could not be read"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
