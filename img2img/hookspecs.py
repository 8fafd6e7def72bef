"""What a plugin may implement. Imports nothing heavy, so that `import img2img` stays cheap.

A plugin is a module (an entry point in the group `img2img`, or one file given to `--plugin`) with
functions marked `@img2img.hookimpl`. `register` adds components. The `on_*` events are for
watching a run: they are called in the main process, with host values only, and get no handle that
could change the run. An event that raises is reported once and not called again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from img2img.registry import Registry

PROJECT = "img2img"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register(registry: Registry) -> None:
    """Add components: `registry.generator("name", Class)`, `registry.loss(...)` and so on.

    Args:
        registry: where to add them. Either everything a plugin registers is added, or, if one of
            them is refused, nothing.
    """


@hookspec
def on_run_start(
    run_dir: Path, recipe: Mapping[str, Any], start_step: int, total_steps: int
) -> None:
    """A run begins, or goes on.

    Args:
        run_dir: the run directory.
        recipe: the whole recipe as it runs, as plain values.
        start_step: steps already done, 0 for a new run.
        total_steps: the step at which the run will end.
    """


@hookspec
def on_metrics(metrics: Mapping[str, Any]) -> None:
    """One line was added to `metrics.jsonl`.

    Args:
        metrics: that line: `step` and either `losses` (with `epoch`, `images`, `elapsed_s`,
            `images_per_s`) or `validation` (with `higher_is_better`, of each score).
    """


@hookspec
def on_samples(step: int, path: Path) -> None:
    """A sample sheet was written.

    Args:
        step: steps done.
        path: the PNG file.
    """


@hookspec
def on_warning(step: int, kind: str, message: str) -> None:
    """Something is wrong with the run, which was told to whoever watches it on a terminal as well.

    Args:
        step: steps done.
        kind: `discriminator_won`, `collapsed_output`, `copied_source`, `same_images`, `unreadable`
            (a pair was skipped), or `not_finite`, after which the run ends; others may be added.
        message: what was seen, and what usually helps.
    """


@hookspec
def on_checkpoint(step: int, path: Path) -> None:
    """A checkpoint was written whole.

    Args:
        step: steps done.
        path: the checkpoint's folder.
    """


@hookspec
def on_run_end(run_dir: Path, step: int, finished: bool) -> None:
    """A run ended.

    Args:
        run_dir: the run directory.
        step: steps done.
        finished: False when it was interrupted and can be resumed.
    """
