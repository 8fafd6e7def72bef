"""Times the way from `img2img run` to the first step, beside `python -c "import torch"`.

Every measurement is a fresh process; they take turns. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from record import add_record_option, check_page, record

from img2img.bench.hardware import device_name
from img2img.engine.precision import resolve_device
from img2img.errors import RequestError

# Tells when the first step begins and is done, by the clock on the wall, which processes share.
PLUGIN = """
import json, os, sys, time
import img2img
from img2img.engine.stepping import Stepper

step = Stepper.__call__

def timed(self, source, target, number, **options):
    began = time.time()
    losses = step(self, source, target, number, **options)
    float(next(iter(losses.values())))  # waits for the device
    print(json.dumps({"began": began, "done": time.time(), "modules": sorted(sys.modules)}))
    sys.stdout.flush()
    os._exit(0)

Stepper.__call__ = timed

@img2img.hookimpl
def on_run_end():
    pass
"""
# The recipe's networks alone, with weights drawn and on the device.
BUILDING = """
import json, sys, time
import torch
from img2img.plugins import load_plugins
from img2img.recipe_files import find_recipe
from img2img.recipe_parser import load_recipe

name, device, *overrides = sys.argv[1:]
registry = load_plugins().registry
recipe = load_recipe(find_recipe(name), registry, overrides)
task = registry.get("task", recipe.task.name).build(recipe.task.settings)
given = {"image_size": recipe.data.crop_size}
channels = {"in_channels": task.source_channels, "out_channels": task.target_channels}
began = time.perf_counter()
wanted = {**given, **channels, "activation": "tanh", "initialize": True}
making = registry.get("generator", recipe.generator.name)
networks = [making.build(recipe.generator.settings, **wanted)]
if recipe.discriminator is not None:
    seen = task.target_channels + task.source_channels * recipe.conditional
    making = registry.get("discriminator", recipe.discriminator.name)
    networks.append(making.build(recipe.discriminator.settings, **given, in_channels=seen))
for network in networks:
    network.to(device)
print(json.dumps(time.perf_counter() - began))
"""
PAIRS, SIZE = 400, 256


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the arguments say, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", default="facades", help="a file or a shipped one")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="set_")
    parser.add_argument("--data", type=Path, help="the recipe's root; noise is drawn if left out")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add_record_option(parser)
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {options.rounds}")
    try:
        device = resolve_device(options.device)
    except RequestError as error:
        parser.error(str(error))
    check_page(options.record, device, "startup")
    with tempfile.TemporaryDirectory() as work:
        if options.data is None:
            options.data = draw_pairs(Path(work, "pairs"))
        result = benchmark(options, device, Path(work))
    print(json.dumps(result, indent=2))
    if options.record is not None:
        keep(options.record, result, device)


def benchmark(options: argparse.Namespace, device: torch.device, work: Path) -> dict[str, Any]:
    """What `main` prints."""
    plugin = work / "first_step.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    overrides = [f"data.root={json.dumps(str(options.data.absolute()))}", *options.set_]
    sets = [part for override in overrides for part in ("--set", override)]
    place = ["--device", str(device), "--out", str(work / "run"), "--fresh", "--quiet"]
    run = ["-m", "img2img", "run", options.recipe, *sets, *place, "--plugin", str(plugin)]
    building = ["-c", BUILDING, options.recipe, str(device), *overrides]
    modules = 0

    def first_step() -> dict[str, float]:
        nonlocal modules
        began = time.time()
        told = json.loads(python(run))
        modules = len(told["modules"])
        return {"run": told["began"] - began, "first_step": told["done"] - told["began"]}

    kinds: tuple[Callable[[], dict[str, float]], ...] = (
        lambda: {"import_torch": wall(["-c", "import torch"])},
        lambda: {"networks": float(json.loads(python(building)))},
        first_step,
    )
    taken: dict[str, list[float]] = {}
    # The first round finds the files in no cache, and does not count.
    for turn in range(options.rounds + 1):
        for kind in kinds:
            for name, seconds in kind().items():
                taken.setdefault(name, []).extend([seconds] if turn else [])
    best = {name: min(values) for name, values in taken.items()}
    return {
        **{
            name: {"best_s": min(values), "median_s": statistics.median(values), "all_s": values}
            for name, values in taken.items()
        },
        "own_s": best["run"] - best["networks"],
        "ratio": (best["run"] - best["networks"]) / best["import_torch"],
        "modules": modules,
        "device": str(device),
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "settings": {"recipe": options.recipe, "set": options.set_, "rounds": options.rounds},
    }


def keep(page: Path, result: dict[str, Any], device: torch.device) -> None:
    """Write the outcome into the page of performance."""
    rows = [
        (what, result[name]["best_s"], result[name]["median_s"])
        for name, what in (
            ("import_torch", '`python -c "import torch"`'),
            ("networks", "building the networks"),
            ("run", "`img2img run` to the beginning of the first step"),
            ("first_step", "the first step"),
        )
    ]
    note = (
        f"Less the networks, the way to the first step is {result['ratio']:.2f} times the import "
        f"of torch, in the best of {result['settings']['rounds']} processes each."
    )
    record(page, "startup", device, ("", "best, s", "median, s"), rows, note)


def draw_pairs(root: Path) -> Path:
    """As many files side by side, in a few colours, as the facades have; gives their root."""
    generator = np.random.default_rng(0)
    for split, count in (("train", PAIRS), ("val", PAIRS // 4)):
        (root / split).mkdir(parents=True)
        for number in range(count):
            cells = generator.integers(0, 256, (16, 32, 3), dtype=np.uint8)
            pair = Image.fromarray(cells).resize((2 * SIZE, SIZE), Image.Resampling.BICUBIC)
            pair.save(root / split / f"{number:04d}.jpg", quality=90)
    return root


def wall(arguments: list[str]) -> float:
    """Seconds that a Python process takes, its end included."""
    began = time.perf_counter()
    python(arguments)
    return time.perf_counter() - began


def python(arguments: list[str]) -> str:
    """What a fresh Python process prints.

    Raises:
        SystemExit: it failed; the message is what it said.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments[:4])} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


if __name__ == "__main__":
    main()
