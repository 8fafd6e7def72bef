"""How a fetch looks on a terminal, and in a log."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from img2img.download.partial import progress_text
from img2img.download.transfer import Watcher

# Between two lines in a log, in seconds.
LOG_EVERY = 30.0


class Display(Watcher):
    """Notes as lines; on a terminal a bar as well, with speed and time left, that goes at the end.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=console.quiet or not console.is_terminal,
        )
        self.tasks: dict[str, TaskID] = {}
        self.have = 0
        self.logged = time.monotonic()

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def note(self, text: str) -> None:
        self.console.print(text)

    def downloading(self, have: int, total: int | None) -> None:
        # Speed is measured from where an attempt begins, not from nothing.
        if "downloading" not in self.tasks or have < self.have:
            self._start("downloading", have, total)
        self.have = have
        self.bar.update(self.tasks["downloading"], completed=have, total=total)
        now = time.monotonic()
        if not self.console.is_terminal and now >= self.logged + LOG_EVERY:
            self.logged = now
            self.note(progress_text(have, total))

    def unpacking(self, done: int, total: int) -> None:
        if "unpacking" not in self.tasks:
            self._start("unpacking", 0, total)
        self.bar.update(self.tasks["unpacking"], completed=done)

    def _start(self, what: str, done: int, total: int | None) -> None:
        for task in self.tasks.values():
            self.bar.remove_task(task)
        self.tasks = {what: self.bar.add_task(what, total=total, completed=done)}
