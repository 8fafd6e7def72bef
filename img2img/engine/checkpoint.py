"""Checkpoints: a folder with everything that resuming needs, whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import safetensors
import safetensors.torch

from img2img.bundle import save_tensors
from img2img.engine.directory import RunDirectory, sync_folder
from img2img.engine.own_state import seed_torch
from img2img.engine.processes import Processes
from img2img.engine.state import TrainState
from img2img.errors import Img2ImgError

FORMAT = 1


def save_checkpoint(
    directory: RunDirectory, state: TrainState, keep: int, processes: Processes | None = None
) -> Path:
    """Write `checkpoints/step-N/` and remove the oldest beyond `keep`.

    Called in all processes, which give the main one what only they have; it alone writes.

    Raises:
        Img2ImgError: it cannot be written; what was there before stays.
    """
    target = directory.checkpoints / f"step-{state.step:08d}"
    partial = directory.checkpoints / f".partial-{target.name}"
    processes = processes or Processes()
    own = processes.gather(state.own())
    if not processes.main:
        return target
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, tensors in state.tensors(own).items():
            # Not without a word in its header: safetensors cannot read a file that has no tensors,
            # as that of optimizers without a state, and no metadata.
            save_tensors(partial / f"{name}.safetensors", tensors, {"format": str(FORMAT)})
        with (partial / "state.json").open("w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, **state.values(own)}, file)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
        sync_folder(directory.checkpoints)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise Img2ImgError(
            f"cannot write the checkpoint {target}: {error.strerror or error}; earlier ones are "
            f"intact, and --resume goes on from the last"
        ) from error
    for old in find_checkpoints(directory)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("step-"))


def find_checkpoints(directory: RunDirectory) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path.parent for path in directory.checkpoints.glob("step-*/state.json"))


def load_checkpoint(
    path: Path, state: TrainState, processes: Processes | None = None, seed: int = 0
) -> None:
    """Take over a checkpoint; every process reads it.

    One of another number of processes is continued with random numbers that follow from `seed`,
    the step and the rank.

    Raises:
        Img2ImgError: it is damaged, or belongs to other networks.
    """
    processes = processes or Processes()
    if not (path / "state.json").is_file():
        raise Img2ImgError(
            f"process {processes.rank} does not see {path}: the run directory must lie on a file "
            f"system that all machines of a run share"
        )
    try:
        values = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}, this program reads {FORMAT}")
        files = ("networks", "optimizers", "loose")
        tensors = {
            name: safetensors.torch.load_file(path / f"{name}.safetensors") for name in files
        }
        same = state.load(tensors, values, processes)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        safetensors.SafetensorError,
    ) as error:
        raise Img2ImgError(
            f"the checkpoint {path} cannot be used ({' '.join(str(error).split())}); remove that "
            f"folder to go on from an earlier one, or use --fresh to start over"
        ) from error
    if not same:
        seed_torch(seed, state.step, processes.rank)
        before = 1 + len(values.get("other_processes", ()))
        if processes.main:
            warnings.warn(
                f"the run was saved by {before} process{'' if before == 1 else 'es'} and goes on "
                f"with {processes.world_size}: it sees the same pairs in the same order, but "
                f"dropout and other noise are drawn anew, and sums are rounded in another order",
                RuntimeWarning,
                stacklevel=2,
            )
