"""TensorBoard events, as a plugin that watches the run like any other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image as PillowImage

from img2img.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class TensorBoardLogger:
    """Writes losses, validation scores and sample sheets below `tensorboard/`."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._purge: int | None = None
        self._writer: SummaryWriter | None = None

    @hookimpl
    def on_run_start(self, run_dir: Path, start_step: int) -> None:
        self._folder = run_dir / "tensorboard"
        self._purge = start_step + 1 if start_step else None

    @hookimpl
    def on_metrics(self, metrics: Mapping[str, Any]) -> None:
        if (writer := self._open()) is None:
            return
        for group in ("losses", "validation"):
            for name, value in metrics.get(group, {}).items():
                if value is not None:
                    writer.add_scalar(f"{group}/{name}", value, metrics["step"])
        if "images_per_s" in metrics:
            writer.add_scalar("speed/images_per_s", metrics["images_per_s"], metrics["step"])

    @hookimpl
    def on_samples(self, step: int, path: Path) -> None:
        if (writer := self._open()) is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        with PillowImage.open(path) as sheet:
            width, height = sheet.size
        # The file as it is: `add_image` would decode it and encode it again, for longer than a
        # hundred steps of a quick device.
        image = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes()
        )
        summary = Summary(value=[Summary.Value(tag="samples", image=image)])
        assert writer.file_writer is not None  # until it is closed
        writer.file_writer.add_summary(summary, step)

    @hookimpl
    def on_checkpoint(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    @hookimpl
    def on_run_end(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = self._folder = None

    def _open(self) -> SummaryWriter | None:
        """The run's writer, made when something is first to be written; None outside a run."""
        if self._writer is None and self._folder is not None:
            # Here, because the first step need not wait for the import.
            from torch.utils.tensorboard.writer import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=self._purge)
        return self._writer
