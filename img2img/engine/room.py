"""Whether a disk will hold what a run keeps, said before hours have passed."""

from __future__ import annotations

import shutil
import warnings

from img2img.engine.run import Run
from img2img.files import size_in_words


def room_needed(run: Run) -> int:
    """Bytes that the run is still to write and keep, about; logs and sheets come on top.

    A checkpoint is taken for the weights and two optimizer states of each, as Adam has. While one
    is written the old ones are still there.
    """
    weights = sum(
        parameter.nbytes
        for network in run.method.networks.values()
        for parameter in network.parameters()
    )
    generator = sum(parameter.nbytes for parameter in run.method.generator.parameters())
    checkpoint = 3 * weights + (generator if run.plan.ema_decay else 0)
    there = len(run.directory.saved_steps())
    models = sum(not path.exists() for path in (run.directory.model, run.directory.best))
    # A model is written beside the old one, too.
    return max(1, run.plan.keep_checkpoints + 1 - there) * checkpoint + (models + 1) * generator


def warn_of_little_room(run: Run) -> None:
    """Warn where the disk has less free than the run will want."""
    needed = room_needed(run)
    free = shutil.disk_usage(run.directory.path).free
    if free < needed:
        warnings.warn(
            f"the disk of {run.directory.path} has {size_in_words(free)} free, and checkpoints and "
            f"models of this run want about {size_in_words(needed)} more: make space there, use "
            f"--out on another disk, or lower train.keep_checkpoints ({run.plan.keep_checkpoints})",
            UserWarning,
            stacklevel=2,
        )
