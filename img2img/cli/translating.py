"""What somebody sees of `img2img infer` while it works, and how it hears that it should stop."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeRemainingColumn,
)
from rich.text import Text

from img2img.inference.planning import Job
from img2img.inference.recording import Outcome
from img2img.inference.workers import Place
from img2img.names import printable


class Display:
    """A bar on a terminal, and a line for each image that is skipped, there or not.

    Args:
        place: of several workers, the first shows its own share and sums up all of them.
        quiet: only what was skipped is said.

    Attributes:
        written: images translated so far.
        who: the beginning of what a worker says, nothing where there is one.
    """

    def __init__(self, place: Place, *, quiet: bool) -> None:
        self.written = 0
        self.who = f"worker {place.rank}: " if place.size > 1 else ""
        self._console = Console(stderr=True, quiet=quiet or place.rank > 0, markup=False)
        self._progress: Progress | None = None

    @contextmanager
    def bar(self, total: int) -> Iterator[None]:
        """A bar with images/s and the time that is left, while the context lasts."""
        if total < 2 or not self._console.is_terminal:
            yield
            return
        columns = (MofNCompleteColumn(), BarColumn(), _Speed(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True) as self._progress:
            self._progress.add_task("", total=total)
            yield

    def on_done(self, job: Job, status: str, reason: str | None) -> None:
        """Take notice of an image."""
        self.written += status == "written"
        if self._progress is not None:
            self._progress.advance(self._progress.task_ids[0])
        if reason is not None:
            print(f"skipped {printable(job.source)}: {reason}", file=sys.stderr)

    def summary(self, outcome: Outcome, output: Path) -> None:
        """The last line."""
        parts = [f"{outcome.written} translated" if outcome.written else "nothing translated"]
        if outcome.kept:
            parts.append(f"{outcome.kept} already there (--overwrite replaces them)")
        if outcome.skipped:
            parts.append(f"{outcome.skipped} skipped")
        line = f"{', '.join(parts)}: {printable(output)}"
        self._console.print(line, highlight=False, soft_wrap=True)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f} images/s, left")


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does, while the context lasts."""
    # Python allows handlers in the main thread alone.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
