"""Checkpoints of run directories that came from elsewhere."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuzzing.archives import zipped
from fuzzing.bundles import WORDS, break_tensors
from fuzzing.mutators import mutate_bytes, mutate_tree
from img2img.discriminators import PatchGAN16
from img2img.engine.checkpoint import (
    load_checkpoint,
    newest_good,
    put_checkpoint,
    take_snapshot,
    write_checkpoint,
)
from img2img.engine.directory import RunDirectory
from img2img.engine.losses import StepLosses
from img2img.engine.state import TrainState
from img2img.generators import UNet
from img2img.losses import L1, Adversarial
from img2img.methods import Pix2Pix
from img2img.methods.base import WeightedLoss


def small_state() -> TrainState:
    """A run's state after its first step: networks, optimizers, losses since the last log line."""
    torch.manual_seed(0)

    def generator(source: int, target: int) -> UNet:
        return UNet(source, target, image_size=16, width=2)

    losses = [WeightedLoss("adversarial", 1.0, Adversarial()), WeightedLoss("l1", 100.0, L1())]
    method = Pix2Pix(generator, lambda channels: PatchGAN16(channels, width=2), losses, 3, 3, True)
    state = TrainState(method)
    images = torch.rand(1, 3, 16, 16)
    state.window.add(StepLosses.of(method.step(images, images), images.device))
    state.count_step(1)
    return state


class Checkpoints:
    """Goes on from a checkpoint of a run directory that came from elsewhere."""

    def __init__(self) -> None:
        random.seed(0)
        np.random.seed(0)
        self.state = small_state()
        self.images = torch.rand(1, 3, 16, 16)
        self.groups = [dict(group) for group in self._groups()]
        with tempfile.TemporaryDirectory() as folder:
            directory = RunDirectory(Path(folder))
            directory.checkpoints.mkdir(parents=True)
            taken = take_snapshot(self.state)
            assert taken is not None  # in several processes the main one alone gets it
            write_checkpoint(directory, taken)
            path = put_checkpoint(directory, taken.step)
            self.files = {file.name: file.read_bytes() for file in sorted(path.iterdir())}
        self.values = {n: json.loads(d) for n, d in self.files.items() if n.endswith(".json")}
        # 625 numbers of a random state take most of the places, and few of the faults.
        self.tensors = [name for name in self.files if name.endswith(".safetensors")]

    def _groups(self) -> list[dict[str, Any]]:
        """What an earlier case may have set to a number of another type."""
        optimizers = self.state.method.optimizers.values()
        return [group for each in optimizers for group in each.param_groups]

    def valid(self) -> list[bytes]:
        return [zipped(self.files)]

    def make(self, rng: random.Random) -> bytes:
        files = dict(self.files)
        change = rng.randrange(10)
        name = rng.choice(sorted(self.values))
        if change < 5:
            tree = self.values[name]
            keys = (
                [key for key in tree if "random" not in key] if rng.random() < 0.9 else list(tree)
            )
            part = mutate_tree(rng, {key: tree[key] for key in keys}, WORDS) if keys else tree
            kept = {key: tree[key] for key in tree if key not in keys}
            files[name] = json.dumps({**kept, **part} if isinstance(part, dict) else part).encode()
        elif change < 6:
            files[name] = mutate_bytes(rng, files[name])
        elif change < 9:
            name = rng.choice(self.tensors)
            files[name] = break_tensors(rng, files[name])
        else:
            name = rng.choice(sorted(files))
            other = rng.choice(sorted(files))
            files[name] = rng.choice((b"", files[other], b"{}", b"null", b"[" * 100_000))
            if rng.random() < 0.3:
                del files[name]
        if rng.random() < 0.9:
            files = _with_sums(files)
        return zipped(files)

    def prepare(self, content: bytes, folder: Path) -> None:
        for group, values in zip(self._groups(), self.groups, strict=True):
            group.update(values)
        place = folder / "checkpoints" / "step-00000001"
        place.mkdir(parents=True, exist_ok=True)
        for file in place.iterdir():
            file.unlink()
        with zipfile.ZipFile(io.BytesIO(content)) as files:
            for name in files.namelist():
                (place / name).write_bytes(files.read(name))

    def run(self, content: bytes, folder: Path) -> None:
        found = newest_good(RunDirectory(folder)).checkpoint
        assert found is not None
        load_checkpoint(found, self.state)
        # A step that an earlier case broke off leaves them frozen.
        for network in self.state.networks():
            network.requires_grad_(True)
        # What the loop does next: rates by the schedule, a step, a line of the log.
        self.state.scale_rates(0.5)
        losses = self.state.method.step(self.images, self.images)
        self.state.window.add(StepLosses.of(losses, self.images.device))
        self.state.count_step(1)
        self.state.window.means()


def _with_sums(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same with a manifest that fits, or nothing behind it would be reached."""
    try:
        manifest = json.loads(files["manifest.json"])
        for name in manifest["files"]:
            sums = {"bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}
            manifest["files"][name] = sums
    except (ValueError, KeyError, TypeError, RecursionError):
        return files
    return {**files, "manifest.json": json.dumps(manifest).encode()}
