"""TensorBoard events, as a plugin that watches the run like any other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PillowImage

from img2img.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class TensorBoardLogger:
    """Writes losses, validation scores and sample sheets below `tensorboard/`."""

    def __init__(self) -> None:
        self._writer: SummaryWriter | None = None

    @hookimpl
    def on_run_start(self, run_dir: Path, start_step: int) -> None:
        # Here, because importing it takes a second that `check` and `list` need not wait.
        from torch.utils.tensorboard.writer import SummaryWriter

        purge = start_step + 1 if start_step else None
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=purge)

    @hookimpl
    def on_metrics(self, metrics: Mapping[str, Any]) -> None:
        if self._writer is None:
            return
        for group in ("losses", "validation"):
            for name, value in metrics.get(group, {}).items():
                if value is not None:
                    self._writer.add_scalar(f"{group}/{name}", value, metrics["step"])
        if "images_per_s" in metrics:
            self._writer.add_scalar("speed/images_per_s", metrics["images_per_s"], metrics["step"])

    @hookimpl
    def on_samples(self, step: int, path: Path) -> None:
        if self._writer is not None:
            with PillowImage.open(path) as sheet:
                self._writer.add_image("samples", np.array(sheet), step, dataformats="HWC")

    @hookimpl
    def on_checkpoint(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    @hookimpl
    def on_run_end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
