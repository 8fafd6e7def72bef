"""Checkpoints: a folder with everything that resuming needs, whole or not there.

`networks`, `optimizers` and `loose` are safetensors files, `state.json` holds the other values, and
`manifest.json` the size and SHA-256 of each of these. It is written last, so that a folder without
one is no checkpoint. Those of format 1, from before there was a manifest, are read too: that their
JSON parses and that no tensor file is shorter than its header says is all that can be verified.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from img2img.engine.directory import RunDirectory, step_in
from img2img.engine.own_state import seed_all
from img2img.engine.processes import Processes
from img2img.engine.state import TrainState
from img2img.engine.writing import Tensors, to_host
from img2img.errors import Img2ImgError
from img2img.files import naming, sync_folder, whole_file
from img2img.names import printable
from img2img.tensor_file import FileSum, save_tensors

FORMAT = 2
TENSORS = ("networks", "optimizers", "loose")
STATE, MANIFEST = "state.json", "manifest.json"
# What a file that is not as it was written makes JSON, safetensors, torch and our own code raise.
_UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,  # a RecursionError is one
    safetensors.SafetensorError,
)


@dataclass(frozen=True)
class Found:
    """Where a run can go on.

    Attributes:
        checkpoint: the newest that is as it was written; None where there is none at all.
        damaged: newer ones that are not, each with what is wrong.
    """

    checkpoint: Path | None = None
    damaged: tuple[tuple[Path, str], ...] = ()

    @property
    def step(self) -> int | None:
        """The step after which the checkpoint was written."""
        return None if self.checkpoint is None else step_of(self.checkpoint)


@dataclass(frozen=True)
class Snapshot:
    """A run as it was after a step, for a checkpoint that is written while it goes on.

    Attributes:
        step: the step.
        tensors: by file, on the CPU.
        values: everything else, as JSON values.
        shown: weights of the generator as it is saved and judged.
    """

    step: int
    tensors: dict[str, Tensors]
    values: dict[str, Any]
    shown: Tensors


def take_snapshot(state: TrainState, processes: Processes | None = None) -> Snapshot | None:
    """The state as it is; called in all processes, of which the main one alone gets it.

    Waits for the device, and for the other processes, which give what only they have.
    """
    processes = processes or Processes()
    own = processes.gather(state.own())
    if not processes.main:
        return None
    shown = "shown", dict(state.shown.state_dict())
    copies = to_host(state.tensors(own) | dict([shown]))
    return Snapshot(state.step, copies, state.values(own), copies.pop("shown"))


def write_checkpoint(directory: RunDirectory, snapshot: Snapshot) -> None:
    """Write a checkpoint that is none before `put_checkpoint` has given it its name.

    Raises:
        Img2ImgError: it cannot be written.
    """
    with _named(directory, snapshot.step) as (partial, _):
        # Lines up to this step never come again once it is there.
        directory.sync_metrics()
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        _write(partial, snapshot)


def put_checkpoint(directory: RunDirectory, step: int) -> Path:
    """Make what was written for a step `checkpoints/step-N/`, from which a run can go on.

    Raises:
        Img2ImgError: it cannot be; what was there before stays.
    """
    with _named(directory, step) as (partial, target):
        _put(partial, target)
    return target


@contextmanager
def _named(directory: RunDirectory, step: int) -> Iterator[tuple[Path, Path]]:
    """Where a checkpoint is written and what it will be called; errors leave nothing of it."""
    target = directory.checkpoint_path(step)
    partial = directory.checkpoints / f".partial-{target.name}"
    try:
        with naming(target):
            yield partial, target
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        # By the name that it would have had.
        error.filename = str(error.filename or target).replace(partial.name, target.name)
        raise directory.failed(error) from error
    except Img2ImgError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(folder: Path, snapshot: Snapshot) -> None:
    sums = {}
    for name, tensors in snapshot.tensors.items():
        # Not without a word in its header: safetensors cannot read a file that has no tensors,
        # as that of optimizers without a state, and no metadata.
        file = f"{name}.safetensors"
        sums[file] = save_tensors(folder / file, tensors, {"format": str(FORMAT)})
    sums[STATE] = _save_json(folder / STATE, {"format": FORMAT, **snapshot.values})
    files = {name: {"bytes": found.size, "sha256": found.sha256} for name, found in sums.items()}
    _save_json(folder / MANIFEST, {"files": files})
    sync_folder(folder)


def _save_json(path: Path, values: Any) -> FileSum:
    text = json.dumps(values).encode()
    with whole_file(path) as temporary:
        temporary.write_bytes(text)
    return FileSum(len(text), hashlib.sha256(text).hexdigest())


def _put(partial: Path, target: Path) -> None:
    """Give a finished folder its name, and have the disk remember it.

    Nothing of that name is replaced: a run goes on from the newest checkpoint that is good and sets
    damaged ones aside before, so that what is there came while it ran, from somebody else.

    Raises:
        Img2ImgError: something is there.
    """
    # Asked for, because a rename takes the place of an empty folder.
    if os.path.lexists(target):
        raise Img2ImgError(
            f"cannot write the checkpoint {target}: something of that name is there, which this "
            f"run did not write, and it is left as it is. Move it elsewhere; the same command with "
            f"--resume then goes on from the checkpoint before"
        )
    partial.rename(target)
    sync_folder(target.parent)


def prune_checkpoints(directory: RunDirectory, step: int, keep: int) -> None:
    """Remove the oldest beyond `keep`, and damaged ones that a good one has overtaken."""
    good = [path for found, path in directory.saved_steps().items() if found <= step]
    for old in good[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    for aside in directory.checkpoints.glob("damaged-step-*"):
        found = step_in(aside.name.removeprefix("damaged-"))
        if found is not None and found <= step and not aside.is_symlink():
            shutil.rmtree(aside, ignore_errors=True)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written.

    Raises:
        ValueError: it does not have the name of one.
    """
    step = step_in(checkpoint.name)
    if step is None:
        raise ValueError(f"{checkpoint} is no checkpoint")
    return step


def find_checkpoints(directory: RunDirectory) -> list[Path]:
    """Checkpoints, oldest first, verified or not."""
    return list(directory.saved_steps().values())


def newest_good(directory: RunDirectory) -> Found:
    """The newest checkpoint that is as it was written; reads all of it, and of damaged ones.

    Raises:
        Img2ImgError: there are some, and none is good.
    """
    damaged: list[tuple[Path, str]] = []
    for path in reversed(find_checkpoints(directory)):
        reason = flaw(path)
        if reason is None:
            return Found(path, tuple(damaged))
        damaged.append((path, reason))
    if damaged:
        told = "".join(f"\n  {path.name}: {reason}" for path, reason in damaged)
        raise Img2ImgError(
            f"no checkpoint in {directory.checkpoints} can be used:{told}\n"
            f"Put a copy of one there if you have it, or use --fresh to start over"
        )
    return Found()


def flaw(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files; None if they are as they were written."""
    try:
        for name in (*(f"{name}.safetensors" for name in TENSORS), STATE):
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
        if (checkpoint / MANIFEST).is_file():
            sums = _read_json(checkpoint / MANIFEST)["files"]
            for name in (STATE, *(f"{name}.safetensors" for name in TENSORS)):
                if (reason := _unlike(checkpoint / name, sums[name])) is not None:
                    return f"{name} {printable(reason)[:300]}"
        values = _read_json(checkpoint / STATE)
        if values["format"] not in (1, FORMAT):
            return f"format {values['format']!r}, this program reads 1 to {FORMAT}"
        if values["format"] != 1 and not (checkpoint / MANIFEST).is_file():
            return f"{MANIFEST} is missing"
        if values["step"] != step_of(checkpoint):
            return f"{STATE} is of step {values['step']!r}"
        for name in TENSORS:
            with safetensors.safe_open(checkpoint / f"{name}.safetensors", framework="pt"):
                pass  # its header is held against the file's length
    except _UNREADABLE as error:
        return _short(error)
    return None


def _unlike(path: Path, known: Any) -> str | None:
    size = path.stat().st_size
    if size != known["bytes"]:
        return f"has {size} bytes instead of {known['bytes']}"
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != known["sha256"]:
            return "is not what was written: its checksum differs"
    return None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error


def set_aside(found: Found) -> None:
    """Rename damaged checkpoints to `damaged-step-N`, and say so.

    There they count as nothing, and are removed when a good one of that step or a later one is
    written; until then somebody may look at them, or name them back after a disk has recovered.

    Raises:
        OSError: they cannot be renamed.
    """
    for path, reason in found.damaged:
        aside = path.with_name(f"damaged-{path.name}")
        if aside.exists():
            shutil.rmtree(aside)
        path.rename(aside)
        warnings.warn(
            f"the checkpoint {path} is damaged ({reason}) and now called {aside.name}; the run "
            f"goes on from step {found.step}, and the steps since come again with the same result",
            UserWarning,
            stacklevel=2,
        )


def load_checkpoint(
    path: Path, state: TrainState, processes: Processes | None = None, seed: int = 0
) -> None:
    """Take over a checkpoint that `newest_good` found; every process reads it.

    One of another number of processes is continued with random numbers that follow from `seed`,
    the step and the rank.

    Raises:
        Img2ImgError: it belongs to other networks, or is damaged after all.
    """
    processes = processes or Processes()
    if not (path / STATE).is_file():
        raise Img2ImgError(
            f"process {processes.rank} does not see {path}: the run directory must lie on a file "
            f"system that all machines of a run share"
        )
    try:
        values = _read_json(path / STATE)
        tensors = {
            name: safetensors.torch.load_file(path / f"{name}.safetensors") for name in TENSORS
        }
        same = state.load(tensors, values, processes)
    except _UNREADABLE as error:
        raise Img2ImgError(
            f"the checkpoint {path} cannot be used ({_short(error)}); remove that folder to go on "
            f"from an earlier one, or use --fresh to start over"
        ) from error
    if not same:
        seed_all(seed, state.step, processes.rank)
        before = 1 + len(values.get("other_processes", ()))
        if processes.main:
            warnings.warn(
                f"the run was saved by {before} process{'' if before == 1 else 'es'} and goes on "
                f"with {processes.world_size}: it sees the same pairs in the same order, but "
                f"dropout and other noise are drawn anew, and sums are rounded in another order",
                RuntimeWarning,
                stacklevel=2,
            )


def _short(error: Exception) -> str:
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    if isinstance(error, KeyError):
        text = f"no {error} in it"
    # A stranger's checkpoint may hold anything.
    return printable(" ".join(text.split()))[:300] or type(error).__name__
