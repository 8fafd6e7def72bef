"""The live display of a run on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from img2img.hookspecs import hookimpl


class _TwoLines(Progress):
    """Losses under the bar: in one line a narrow terminal would cut the numbers that matter."""

    losses = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.losses, style="dim", no_wrap=True, overflow="ellipsis")


class ProgressDisplay:
    """Step, losses, images/s and time left; a line now and then where there is no terminal.

    Args:
        console: where it is shown.
        processes: how many train together; this one speaks for all.
    """

    def __init__(self, console: Console, processes: int = 1) -> None:
        self._console = console
        self._processes = processes
        self._progress: _TwoLines | None = None
        self._task = TaskID(0)
        self._total = 0
        self._last_line = 0.0
        self._status = console.status("setting up")

    def start(self) -> None:
        """Show that something happens while networks and data are made ready."""
        self._status.start()

    @hookimpl
    def on_run_start(self, recipe: Mapping[str, Any], start_step: int, total_steps: int) -> None:
        self._total = total_steps
        self._status.stop()
        left = total_steps - start_step
        shared = self._shared(recipe["train"]["batch_size"]) if self._processes > 1 and left else ""
        if start_step and not left:
            line = f"finished at step {start_step} before: nothing to train"
            self._console.print(line, highlight=False, soft_wrap=True)
        elif start_step:
            line = f"going on from step {start_step}: {left} steps to go{shared}"
            self._console.print(line, highlight=False, soft_wrap=True)
        elif shared or not self._console.is_terminal:
            self._console.print(f"training: {left} steps{shared}", highlight=False, soft_wrap=True)
        if not self._console.is_terminal:
            return
        self._progress = _TwoLines(
            TextColumn("[bold]step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self._console,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("", total=total_steps, completed=start_step, speed="")
        self._progress.start()

    def advance(self, step: int) -> None:
        """Show that a step is done; costs next to nothing."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    @hookimpl
    def on_metrics(self, metrics: Mapping[str, Any]) -> None:
        if "losses" not in metrics:
            return
        losses = "  ".join(f"{name} {value:.3f}" for name, value in metrics["losses"].items())
        speed = f"{metrics['images_per_s']:.1f} images/s"
        if self._progress is not None:
            self._progress.update(self._task, speed=speed)
            self._progress.losses = losses
        elif metrics["elapsed_s"] - self._last_line >= 10 or metrics["step"] == self._total:
            # A log file wants a line every ten seconds, not an animation.
            self._last_line = metrics["elapsed_s"]
            left = (self._total - metrics["step"]) * (metrics["elapsed_s"] / metrics["step"])
            self._console.print(
                f"step {metrics['step']}/{self._total}  {speed}  {left:.0f} s left  {losses}",
                highlight=False,
                soft_wrap=True,
            )

    def _shared(self, batch_size: int) -> str:
        """How the processes share a step: batch sizes are easily taken for that of all of them."""
        pairs = batch_size * self._processes
        return f", {pairs} pairs a step ({self._processes} processes with {batch_size} each)"

    @hookimpl
    def on_run_end(self, run_dir: Path) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the live display away, also after an error."""
        self._status.stop()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
