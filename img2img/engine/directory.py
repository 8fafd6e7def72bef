"""The run directory: what is in it, who may write into it, and how."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from img2img.engine import lock
from img2img.errors import Img2ImgError, RequestError
from img2img.files import in_words, naming, sync_folder, whole_file

_STEP = re.compile(r"step-(\d{1,15})", re.ASCII)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class RunDirectory:
    """Paths of a run and the small files in it. See the interface for the layout."""

    FILES = (
        "recipe.toml",
        "environment.json",
        "metrics.jsonl",
        "model.safetensors",
        "best.safetensors",
        "report.html",
    )
    FOLDERS = ("samples", "checkpoints", "tensorboard")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.toml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.model = path / "model.safetensors"
        self.best = path / "best.safetensors"
        self.report = path / "report.html"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"

    def holds_run(self) -> bool:
        """Whether a run was started here; without its recipe it is one that lost it."""
        return self.recipe.is_file() or bool(self.saved_steps())

    def saved_steps(self) -> dict[int, Path]:
        """Folders of checkpoints by step, oldest first, whole or damaged."""
        found = {}
        if self.checkpoints.is_dir():
            for path in self.checkpoints.iterdir():
                # A link is nobody's of ours, and what it leads to is not ours to remove.
                step = step_in(path.name)
                if step is not None and path.is_dir() and not path.is_symlink():
                    found[step] = path
        return dict(sorted(found.items()))

    def check(self, *, resume: bool, fresh: bool) -> None:
        """Whether a run may write here, before any work is done.

        Raises:
            RequestError: it holds a run and neither was asked for, or holds something else.
        """
        if resume and fresh:
            raise RequestError("--resume and --fresh exclude each other")
        self._check_links()
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

    def _check_links(self) -> None:
        """Raise a RequestError for links that would have a stranger's run written elsewhere."""
        for name in (*self.FILES, *self.FOLDERS, lock.NAME, ".writable"):
            path = self.path / name
            if path.is_symlink() and not path.resolve().is_relative_to(self.path.resolve()):
                raise RequestError(
                    f"{path} is a link that leads out of the run directory, to {path.readlink()}: "
                    f"a run replaces and removes files behind it, and a run directory from "
                    f"elsewhere could so have it do that to any of yours. To keep runs on another "
                    f"disk, put the whole run directory there, with what the link leads to in the "
                    f"link's place; a link to all of it is fine. Or give another with --out"
                )

    def make(self) -> None:
        """Make the folders that are missing, and see that they can be written to.

        Raises:
            RequestError: they cannot.
            Img2ImgError: the disk is full.
        """
        try:
            for folder in (self.path, self.samples, self.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink(missing_ok=True)  # another run that begins here may have
            sync_folder(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            if error.errno in _FULL:
                raise self.failed(error) from error
            raise RequestError(
                f"cannot write to {self.path}: {error.strerror or error}; give another with --out"
            ) from error

    def prepare(self, *, fresh: bool) -> None:
        """Make the directory ready to write into: rid of an earlier run if `fresh`, and of halves.

        For whoever holds its lock. `fresh` is also a run that finds nothing to go on from: what is
        there then is of one that was killed before its first checkpoint, or while it was removed,
        and must not pass for the new run's. Its recipe stays until the new one takes its place.

        Raises:
            RequestError, Img2ImgError: see `make`.
        """
        self.make()
        if fresh:
            self._clear()
            self.make()
        # What a run that was killed left half-written.
        for folder in (self.path, self.samples, self.checkpoints):
            for path in list(folder.glob(".partial-*")):
                _remove(path)

    def write_text(self, path: Path, text: str) -> None:
        """Write a small file whole or not at all."""
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8")

    def add_metrics(self, line: Mapping[str, Any]) -> None:
        """Append one line to `metrics.jsonl`; a number that JSON lacks becomes null.

        Raises:
            OSError: it cannot be written; names the file.
        """
        with naming(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(line)) + "\n")

    def sync_metrics(self) -> None:
        """See that what was appended is on the disk.

        Raises:
            OSError: it cannot be written; names the file.
        """
        if self.metrics.is_file():
            with naming(self.metrics), self.metrics.open("r+b") as file:
                os.fsync(file.fileno())

    def drop_metrics_after(self, step: int) -> None:
        """Keep only whole lines up to a step: those after it will come again."""
        if not self.metrics.is_file():
            return
        data = self.metrics.read_bytes()
        kept = []
        for line in data.decode("utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # cut off when the run was killed
        # As bytes, so that one that is no text does not stay: others may read it strictly.
        if (mended := "".join(kept)).encode() != data:
            self.write_text(self.metrics, mended)

    def drop_samples_after(self, step: int) -> None:
        """Remove sheets that will be drawn again."""
        for path in list(self.samples.glob("step-*.png")):
            drawn = step_in(path.stem)
            if drawn is not None and drawn > step and not path.is_dir():
                path.unlink()

    def validations(self) -> dict[int, dict[str, float]]:
        """Scores in `metrics.jsonl` by step, oldest first."""
        found: dict[int, dict[str, float]] = {}
        if not self.metrics.is_file():
            return found
        for text in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
                step, scores = line["step"], line["validation"]
            except (ValueError, LookupError, TypeError, RecursionError):
                continue
            if isinstance(step, int) and isinstance(scores, dict):
                found[step] = scores
        return found

    def sample_path(self, step: int) -> Path:
        return self.samples / f"step-{step:08d}.png"

    def checkpoint_path(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:08d}"

    def failed(self, error: OSError) -> Img2ImgError:
        """What to tell of a write that failed, and how to go on."""
        what = Path(error.filename) if error.filename else self.path
        told = f"cannot write {what}: {in_words(error, what)}"
        steps = self.saved_steps()
        goes_on = f"goes on from step {max(steps)}" if steps else "starts it again"
        if error.errno in _FULL:
            return Img2ImgError(
                f"{told}. Make space there, or move the run directory to where there is some; the "
                f"same command with --resume then {goes_on}"
            )
        if not self.path.is_dir():
            return Img2ImgError(f"{told}. {self.path} is gone: was it moved or removed?")
        return Img2ImgError(
            f"{told}. When that is mended, the same command with --resume {goes_on}"
        )

    def concerns(self, error: OSError) -> bool:
        """Whether an error is about a file of this run, or a full disk."""
        if error.errno in _FULL:
            return True
        name = error.filename
        return isinstance(name, str) and Path(name).absolute().is_relative_to(self.path.absolute())

    def _foreign(self) -> bool:
        """Whether something lies here that no run made; one killed at its start leaves folders."""
        ours = {*self.FILES, *self.FOLDERS, lock.NAME, ".writable"}
        return any(
            item.name not in ours and not item.name.startswith(".partial-")
            for item in self.path.iterdir()
        )

    def _clear(self) -> None:
        # Checkpoints go in one step, so that nothing goes on with half of a run if this is cut
        # short. The recipe stays, or somebody's notes beside it would have this be no run directory
        # then. In the folders only what a run writes goes: without a run, they may be anybody's.
        if self.saved_steps():
            gone = self.path / ".partial-cleared"
            _remove(gone)
            self.checkpoints.rename(gone)
        for name in self.FILES:
            if name != self.recipe.name:
                (self.path / name).unlink(missing_ok=True)
        for path in list(self.checkpoints.glob("damaged-step-*")):
            _remove(path)
        sheets = [
            path for path in self.samples.glob("step-*.png") if step_in(path.stem) is not None
        ]
        for path in (*sheets, *(self.path / "tensorboard").glob("events.out.tfevents.*")):
            if not path.is_dir():
                path.unlink()


def step_in(name: str) -> int | None:
    """The step in a name such as `step-00000100`; None in any other."""
    found = _STEP.fullmatch(name)
    return int(found[1]) if found else None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
