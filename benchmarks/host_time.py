"""Times what the training loop costs the host beside the step, with a step that costs nothing.

Pairs are kept in memory; log lines, samples and checkpoints are left out. See README.md beside
this file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from record import add_record_option, measure, record, shown
from torch import Tensor

from img2img.assemble import build_networks
from img2img.bench.hardware import device_name
from img2img.bench.timing import time_steps
from img2img.engine import loop
from img2img.engine.finite import FiniteGuard
from img2img.engine.precision import resolve_precision
from img2img.engine.state import LossWindow
from img2img.engine.stepping import Stepper
from img2img.methods import Pix2Pix
from img2img.plugins import Plugins, load_plugins
from img2img.recipe_files import find_recipe
from img2img.recipe_parser import load_recipe
from img2img.training import train_recipe

RECIPE = "facades"
PAIRS, STILL = 16, 1
# As many as the recipe's own step gives.
LOSSES = ("d_real", "d_fake", "adversarial", "l1")
PARTS = ("batch", "losses", "rest", "whole")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the arguments say, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256, help="of the crops, in pixels")
    parser.add_argument("--width", type=int, default=64, help="channels of the real step, on a GPU")
    parser.add_argument("--batch", type=int, default=1, help="pairs a step")
    parser.add_argument("--steps", type=int, default=3000, help="of which the second half counts")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1], help="that load")
    parser.add_argument("--seconds", type=float, default=5.0, help="for the real step, on a GPU")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add_record_option(parser)
    options = parser.parse_args(arguments)
    for name, least in (("size", 1), ("width", 1), ("batch", 1), ("steps", 4)):
        if (value := getattr(options, name)) < least:
            parser.error(f"--{name} must be at least {least}, not {value}")
    if min(options.workers) < 0:
        parser.error(f"--workers must be at least 0, not {min(options.workers)}")
    measure(parser, options, "host", benchmark, keep)


def benchmark(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """What `main` prints."""
    plugins = load_plugins()
    with tempfile.TemporaryDirectory() as work:
        draw_pairs(Path(work, "pairs"), options.size)
        rows = [time_loop(options, plugins, Path(work), device, n) for n in options.workers]
    return {
        "microseconds": rows,
        "real_step_us": real_step(options, plugins, device),
        "device": str(device),
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "settings": {name: getattr(options, name) for name in ("size", "width", "batch", "steps")},
    }


def draw_pairs(root: Path, size: int) -> None:
    """Noise side by side; what is in a picture does not matter once it was decoded."""
    generator = np.random.default_rng(0)
    for split, count in (("train", PAIRS), ("val", STILL)):
        (root / split).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (size, 2 * size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / f"{number}.png")


def overrides(options: argparse.Namespace, root: Path, workers: int) -> list[str]:
    """What the recipe is given: small networks, which are not used, and nothing to write."""
    given = {
        "data.root": json.dumps(str(root)),
        "data.crop_size": options.size,
        "data.load_size": options.size + options.size // 8,
        "data.workers": workers,
        "generator.width": 2,
        "discriminator.width": 2,
        "train.batch_size": options.batch,
        "train.steps": options.steps,
        "train.validate_every": 0,
    }
    given |= {f"train.{name}_every": options.steps for name in ("log", "sample", "checkpoint")}
    return [f"{key}={value}" for key, value in given.items()]


class Clock:
    """Seconds of each step by part."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._parts = dict.fromkeys(PARTS, 0.0)
        self._last = 0.0

    def timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same, but what it takes counts as this part of the step."""

        def run(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return work(*arguments, **options)
            finally:
                self._parts[part] += time.perf_counter() - began

        return run

    def received(
        self, feed: Callable[..., Generator[Any, None, None]]
    ) -> Callable[..., Iterator[Any]]:
        """The same batches, each timed while it is waited for."""

        def run(*arguments: Any) -> Iterator[Any]:
            batches = feed(*arguments)
            ask = self.timed("batch", lambda: next(batches, None))
            try:
                while (batch := ask()) is not None:
                    yield batch
            finally:
                batches.close()  # which ends its workers

        return run

    def on_step(self, step: int) -> None:
        """One more step was counted; the next begins here."""
        now = time.perf_counter()
        whole, self._last = now - self._last, now
        known = self._parts["batch"] + self._parts["losses"]
        self.steps.append({**self._parts, "whole": whole, "rest": whole - known})
        self._parts = dict.fromkeys(PARTS, 0.0)


@contextmanager
def free_steps(clock: Clock, device: torch.device) -> Iterator[None]:
    """A step that gives the same losses again and again, and parts of the loop that are timed."""
    losses = {name: torch.tensor(0.5, device=device) for name in LOSSES}

    def step(self: Pix2Pix, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        return losses

    note, check, add = (
        clock.timed("losses", work)
        for work in (FiniteGuard.note, FiniteGuard.check, LossWindow.add)
    )
    with (
        patch.object(Pix2Pix, "step", step),
        # Methods again, which plain functions are and what `timed` gives is as well.
        patch.object(FiniteGuard, "note", note),
        patch.object(FiniteGuard, "check", check),
        patch.object(LossWindow, "add", add),
        patch.object(loop, "on_device", clock.received(loop.on_device)),
    ):
        yield


def time_loop(
    options: argparse.Namespace, plugins: Plugins, work: Path, device: torch.device, workers: int
) -> dict[str, Any]:
    """Microseconds of a step by part, medians of the second half of a run."""
    clock = Clock()
    with free_steps(clock, device), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a model that learns nothing
        train_recipe(
            RECIPE,
            plugins,
            overrides=overrides(options, work / "pairs", workers),
            out=work / f"run-{workers}",
            device=str(device),
            on_step=clock.on_step,
        )
    # The last step waits for its files.
    counted = clock.steps[options.steps // 2 : -1]
    medians = {part: 1e6 * statistics.median(step[part] for step in counted) for part in PARTS}
    mean = 1e6 * statistics.fmean(step["whole"] for step in counted)
    return {"workers": workers, **medians, "whole_mean": mean}


def real_step(
    options: argparse.Namespace, plugins: Plugins, device: torch.device
) -> dict[str, Any] | None:
    """Microseconds of the recipe's own step with its batch on a GPU; a CPU is its own host."""
    if device.type != "cuda":
        return None
    given = [f"{network}.width={options.width}" for network in ("generator", "discriminator")]
    recipe = load_recipe(
        find_recipe(RECIPE), plugins.registry, [*given, f"data.crop_size={options.size}"]
    )
    precision = resolve_precision(recipe.train.precision, device)
    task, method = build_networks(recipe, plugins.registry, device, precision)
    for network in method.networks.values():
        network.train()
    source, target = (
        torch.rand(options.batch, channels, options.size, options.size, device=device) * 2 - 1
        for channels in (task.source_channels, task.target_channels)
    )
    step = Stepper(method, device)
    taken = time_steps(lambda: step(source, target, 1), device, options.seconds)
    captured = step.captured
    step.close()
    return {"median": 1e6 * statistics.median(taken), "captured": captured, "precision": precision}


def keep(page: Path, result: dict[str, Any], device: torch.device) -> None:
    """Write the outcome into the page of performance."""
    rows = [
        [f"{row['workers']} workers", *(row[part] for part in PARTS), row["whole_mean"]]
        for row in result["microseconds"]
    ]
    settings, real = result["settings"], result["real_step_us"]
    note = (
        f"Microseconds a step: medians, and the mean of the whole, of {settings['steps'] // 2} "
        f"steps of batch {settings['batch']} at {settings['size']} pixels, {len(LOSSES)} losses."
    )
    if real is not None:
        kind = "recorded" if real["captured"] else "not recorded"
        note += (
            f" The real step ({real['precision']}, width {settings['width']}, {kind}) takes "
            f"{shown(real['median'])}."
        )
    headings = ["", "batch received", "losses noted", "the rest", "whole", "whole, mean"]
    record(page, "host", device, headings, rows, note)


if __name__ == "__main__":
    main()
