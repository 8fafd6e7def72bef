"""What a terminal shows of a comparison: how far it is, and its table."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table as RichTable
from rich.text import Text

from img2img.cli.values import plain
from img2img.comparison.table import CEILING, Table, legend, number, text, title

if TYPE_CHECKING:
    from img2img.comparison.comparing import Comparison
    from img2img.comparison.running import Job, Slot


class Progress:
    """A bar for all runs and one for each that is training; lines where there is no terminal.

    Args:
        console: where.
        comparison: whose runs.
    """

    def __init__(self, console: Console, comparison: Comparison) -> None:
        self._console = console
        self._jobs = comparison.all_jobs
        self._steps = {job: job.steps if job.finished() else 0 for job in self._jobs}
        self._begun: dict[Job, float] = {}
        self._tasks: dict[Job, TaskID] = {}
        self._scored = 0
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            refresh_per_second=4,
        )
        self._all = self._bars.add_task(
            "[bold]steps of all runs",
            total=sum(job.steps for job in self._jobs),
            completed=sum(self._steps.values()),
        )

    def __enter__(self) -> Progress:
        done = sum(job.finished() for job in self._jobs)
        count = len(self._jobs)
        self._console.print(f"{count} run{'' if count == 1 else 's'}, {done} finished")
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def started(self, job: Job, slot: Slot) -> None:
        """A run begins, or goes on."""
        self._begun[job] = time.monotonic()
        self._tasks[job] = self._bars.add_task(_short(job.name), total=job.steps)
        if not self._console.is_terminal:
            place = self._jobs.index(job) + 1
            self._console.print(
                f"run {place} of {len(self._jobs)}: {job.name}, on {slot.device}; "
                f"its log: {job.log}",
                soft_wrap=True,
            )

    def reached(self, job: Job, step: int) -> None:
        """How far a run is."""
        if step <= self._steps[job]:
            return
        self._steps[job] = step
        self._bars.update(self._tasks[job], completed=step)
        self._bars.update(self._all, completed=sum(self._steps.values()))

    def ended(self, job: Job, error: str | None) -> None:
        """A run is finished, or failed."""
        self._bars.remove_task(self._tasks.pop(job))
        took = time.monotonic() - self._begun[job]
        said = f"finished in {_duration(took)}" if error is None else f"failed: {error}"
        self._console.print(f"{job.name}: {said}", soft_wrap=True)

    def scoring(self, job: Job, count: int) -> Callable[[], None]:
        """Called before a run's `count` pairs are scored; gives what is called after each."""
        if not self._console.is_terminal:
            self._console.print(f"scoring {job.name}: {count} pairs", soft_wrap=True)
        self._scored = 0
        self._bars.update(self._all, visible=False)
        task = self._bars.add_task(_short(f"scoring {job.name}"), total=count)

        def advance() -> None:
            self._bars.advance(task)
            self._scored += 1
            if self._scored == count:
                self._bars.remove_task(task)

        return advance


def print_table(table: Table, console: Console) -> None:
    """Print a comparison's table, in as many pieces as the width of the console asks for."""

    def shown(text: str) -> str:
        return plain(text, console.encoding)

    names = [shown(table.label(name)) for name in table.rows]
    titles = {score: shown(title(score, up)) for score, up in table.scores.items()}
    texts = [
        {score: shown(text(score, cell, table.scored[name])) for score, cell in cells.items()}
        for name, cells in table.rows.items()
    ]
    first = max(map(len, [*names, CEILING if table.ceiling else ""]), default=0)
    groups: list[list[str]] = []
    room = 0
    for score in table.scores:
        width = max(map(len, [*(row.get(score, "") for row in texts), titles[score]])) + 2
        if not groups or width > room:
            groups.append([])
            room = console.width - first
        groups[-1].append(score)
        room -= width
    for group in groups:
        pieces = RichTable(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 1))
        pieces.add_column("", overflow="fold")
        for score in group:
            pieces.add_column(titles[score], justify="right", no_wrap=True)
        for name, row, cells in zip(names, texts, table.rows.values(), strict=True):
            best = {score for score, cell in cells.items() if cell.best}
            styled = [
                Text(row.get(score, ""), style="bold" if score in best else "") for score in group
            ]
            pieces.add_row(Text(name), *styled)
        if any(score in table.ceiling for score in group):
            values = [number(score, table.ceiling.get(score)) for score in group]
            pieces.add_row(CEILING, *(value and f"{value}  " for value in values), style="dim")
        console.print(pieces)
        console.print()
    console.print(shown(legend(table)), markup=False)


def _short(name: str) -> str:
    from rich.markup import escape

    return escape(name if len(name) <= 32 else f"{name[:31]}…")


def _duration(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"
