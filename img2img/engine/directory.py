"""The run directory: what is in it, who may write into it, and how."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from img2img.errors import RequestError


class RunDirectory:
    """Paths of a run and the small files in it. See the interface for the layout."""

    FILES = ("recipe.toml", "environment.json", "metrics.jsonl", "model.safetensors", "report.html")
    FOLDERS = ("samples", "checkpoints", "tensorboard")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.toml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.model = path / "model.safetensors"
        self.report = path / "report.html"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"

    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return self.recipe.is_file()

    def check(self, *, resume: bool, fresh: bool) -> None:
        """Whether a run may write here, before any work is done.

        Raises:
            RequestError: it holds a run and neither was asked for, or holds something else.
        """
        if resume and fresh:
            raise RequestError("--resume and --fresh exclude each other")
        if self.holds_run():
            if not (resume or fresh):
                raise RequestError(
                    f"{self.path} already holds a run; use --resume to go on with it, --fresh to "
                    f"replace it, or --out for another directory"
                )
        elif self.path.exists() and (not self.path.is_dir() or self._foreign()):
            raise RequestError(
                f"{self.path} is there and is not a run directory; give another with --out"
            )

    def prepare(self, *, resume: bool, fresh: bool) -> None:
        """Make the directory ready to write into, emptied of an earlier run if `fresh`.

        Raises:
            RequestError: as `check`, or it cannot be written to.
        """
        self.check(resume=resume, fresh=fresh)
        if fresh and self.holds_run():
            self._clear()
        try:
            for folder in (self.path, self.samples, self.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RequestError(
                f"cannot write to {self.path}: {error.strerror or error}; give another with --out"
            ) from error

    def write_text(self, path: Path, text: str) -> None:
        """Write a small file whole or not at all."""
        partial = path.with_name(f".partial-{path.name}")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)

    def add_metrics(self, line: Mapping[str, Any]) -> None:
        """Append one line to `metrics.jsonl`; a number that JSON lacks becomes null."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(line)) + "\n")

    def drop_metrics_after(self, step: int) -> None:
        """Keep only whole lines up to a step: those after it will come again."""
        if not self.metrics.is_file():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue  # cut off when the run was killed
        self.write_text(self.metrics, "".join(line + "\n" for line in kept))

    def drop_samples_after(self, step: int) -> None:
        """Remove sheets that will be drawn again."""
        for path in self.samples.glob("step-*.png"):
            if int(path.stem.removeprefix("step-")) > step:
                path.unlink()

    def sample_path(self, step: int) -> Path:
        return self.samples / f"step-{step:08d}.png"

    def _foreign(self) -> bool:
        """Whether something lies here that no run made; one killed at its start leaves folders."""
        ours = {*self.FILES, *self.FOLDERS, ".writable"}
        return any(
            item.name not in ours and not item.name.startswith(".partial-")
            for item in self.path.iterdir()
        )

    def _clear(self) -> None:
        # Only what a run writes: somebody may keep notes beside it.
        for name in self.FILES:
            (self.path / name).unlink(missing_ok=True)
        for name in self.FOLDERS:
            folder = self.path / name
            if folder.is_symlink():
                folder.unlink()
            elif folder.is_dir():
                shutil.rmtree(folder)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sync_folder(path: Path) -> None:
    """Ask the disk to remember the names in a folder, where the system allows it."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
