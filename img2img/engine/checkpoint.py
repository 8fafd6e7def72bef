"""Checkpoints: a folder with everything that resuming needs, whole or not there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import safetensors
import safetensors.torch

from img2img.bundle import save_tensors
from img2img.engine.directory import RunDirectory, sync_folder
from img2img.engine.state import TrainState
from img2img.errors import Img2ImgError

FORMAT = 1


def save_checkpoint(directory: RunDirectory, state: TrainState, keep: int) -> Path:
    """Write `checkpoints/step-N/` and remove the oldest beyond `keep`.

    Raises:
        Img2ImgError: it cannot be written; what was there before stays.
    """
    target = directory.checkpoints / f"step-{state.step:08d}"
    partial = directory.checkpoints / f".partial-{target.name}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, tensors in state.tensors().items():
            save_tensors(partial / f"{name}.safetensors", tensors, {})
        with (partial / "state.json").open("w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, **state.values()}, file)
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


def load_checkpoint(path: Path, state: TrainState) -> None:
    """Take over a checkpoint.

    Raises:
        Img2ImgError: it is damaged, or belongs to other networks.
    """
    try:
        values = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}, this program reads {FORMAT}")
        files = ("networks", "optimizers", "loose")
        tensors = {
            name: safetensors.torch.load_file(path / f"{name}.safetensors") for name in files
        }
        state.load(tensors, values)
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
