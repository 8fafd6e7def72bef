"""Times a whole run, from `img2img run` to the finished run directory, and what it is made of.

Beside it, on the same pairs for as many steps, the `train.py` of a checkout of the peer,
github.com/junyanz/pytorch-CycleGAN-and-pix2pix. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from record import add_record_option, check_page, record, shown

from img2img.assemble import build_datasets, build_networks
from img2img.bench.floor import count_work
from img2img.bench.hardware import device_name, measure_hardware
from img2img.bench.timing import time_steps
from img2img.data.loading import steps_per_epoch
from img2img.engine.precision import make_current, resolve_device, resolve_precision
from img2img.engine.stepping import Stepper
from img2img.errors import Img2ImgError
from img2img.plugins import load_plugins
from img2img.recipe import Recipe
from img2img.recipe_files import find_recipe
from img2img.recipe_parser import load_recipe
from img2img.registry import Registry

RECIPE = "facades"
# The peer's U-Nets by the multiple of pixels that each wants.
PEER_GENERATORS = {256: "unet_256", 128: "unet_128"}
PEER_NAME = "benchmark"
PARTS = {
    "start_up_s": "start-up, until the run directory is there",
    "sheets_s": "until the first step begins, and the first and the last sheet of samples",
    "steps_s": "steps, at the median of those between two log lines",
    "between_s": "between steps: the first ones, samples, validations, checkpoints",
    "last_scores_s": "the last validation",
    "last_files_s": "the last checkpoint, the model and the report",
    "end_s": "until the process has ended",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the arguments say, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="facades")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, help="the recipe's 200 if left out")
    length.add_argument("--steps", type=int, help="instead of epochs")
    parser.add_argument("--size", type=int, default=256, help="of the crops, in pixels")
    parser.add_argument("--width", type=int, default=64, help="channels after the first layers")
    parser.add_argument("--batch", type=int, default=1, help="pairs a step")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="set_")
    parser.add_argument("--peer", type=Path, metavar="DIR", help="a checkout; without it only ours")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--seconds", type=float, default=10.0, help="for the device's rates")
    add_record_option(parser)
    options = parser.parse_args(arguments)
    for name in ("epochs", "steps", "size", "width", "batch"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1, not {value}")
    given = overrides(options)
    try:
        device = make_current(resolve_device(options.device))
        check_page(options.record, device, "run")
        registry = load_plugins().registry
        recipe = load_recipe(find_recipe(RECIPE), registry, given)
        task, _ = build_networks(recipe, registry, torch.device("cpu"), "float32")
        pairs = len(build_datasets(recipe, registry, task).train)
    except Img2ImgError as error:
        parser.error(str(error))
    per_epoch = steps_per_epoch(pairs, recipe.train.batch_size)
    steps = recipe.train.steps or (recipe.train.epochs or 1) * per_epoch
    theirs = None
    if options.peer is not None:
        try:
            theirs = peer_command(options.peer, recipe, device, steps, pairs)
        except ValueError as error:
            parser.error(f"--peer: {error}")
    result = benchmark(options, recipe, registry, device, given, steps, theirs)
    print(json.dumps(result, indent=2))
    if options.record is not None:
        keep(options.record, result, device)


def overrides(options: argparse.Namespace) -> list[str]:
    """What the run is given by `--set`; the caller's own come last."""
    given = {
        "data.root": json.dumps(str(options.data.absolute())),
        "data.crop_size": options.size,
        "generator.width": options.width,
        "discriminator.width": options.width,
        "train.batch_size": options.batch,
    }
    given |= {
        f"train.{name}": value
        for name in ("epochs", "steps")
        if (value := getattr(options, name)) is not None
    }
    return [*(f"{key}={value}" for key, value in given.items()), *options.set_]


def benchmark(
    options: argparse.Namespace,
    recipe: Recipe,
    registry: Registry,
    device: torch.device,
    given: list[str],
    steps: int,
    theirs: list[str] | None,
) -> dict[str, Any]:
    """What `main` prints."""
    with tempfile.TemporaryDirectory() as work:
        # Ours first: it reads the files when none of them is in memory yet.
        ours = our_run(Path(work, "run"), device, given, recipe.train.batch_size)
        if ours["steps"] != steps:
            raise SystemExit(f"the run made {ours['steps']} steps, and not {steps}")
        peer = None
        if theirs is not None:
            wall = peer_run(theirs, Path(work), device)
            peer = {"wall_s": wall, "ratio": ours["wall_s"] / wall}
    precision = resolve_precision(recipe.train.precision, device)
    alone = alone_and_floor(recipe, registry, device, options.seconds)
    floor_s = alone.pop("floor_step_s") * steps
    busy = {**alone, "busy": None, "busy_note": "on CUDA alone: a CPU does all else as well"}
    if alone["step_alone_s"] is not None:
        share = alone["step_alone_s"] * steps / ours["wall_s"]
        busy |= {"busy": share, "busy_note": "steps alone, back to back, over the whole run"}
    return {
        "ours": {**ours, **busy},
        "peer": peer,
        "floor_s": floor_s,
        "precision": precision,
        "device": str(device),
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "settings": {
            "steps": steps,
            "size": recipe.data.crop_size,
            "batch": recipe.train.batch_size,
            "width": options.width,
            "set": options.set_,
        },
    }


def our_run(out: Path, device: torch.device, given: list[str], batch: int) -> dict[str, Any]:
    """Seconds of `img2img run` in a fresh process, and what they were spent on."""
    sets = [part for one in given for part in ("--set", one)]
    place = ["--device", str(device), "--out", str(out)]
    # By the clock on the wall, which is that of the files, too.
    began = time.time()
    run_program([sys.executable, "-m", "img2img", "run", RECIPE, *sets, *place])
    return parts_of(out, began, time.time(), batch)


def parts_of(run: Path, began: float, ended: float, batch: int) -> dict[str, Any]:
    """What a run was made of, by its metrics and by when its files were written.

    The training clock in `metrics.jsonl` starts with the first step and stands still for the first
    sheet, which is drawn after it. Steps count at the median of those between two log lines, so
    that what happens now and then is not part of them; with one line or two, it hardly shows.
    """
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [line for line in map(json.loads, text.splitlines()) if "losses" in line]
    points = [(0, 0.0), *((line["step"], line["elapsed_s"]) for line in lines)]
    taken = [(t - s) / (n - m) for (m, s), (n, t) in pairwise(points)]
    steps, elapsed = points[-1]
    step_s = statistics.median(taken[1:] or taken)  # the first steps do more, if others follow
    files = ("environment.json", "metrics.jsonl", "report.html")
    assembled, scored, reported = ((run / name).stat().st_mtime for name in files)
    sheet = run / "samples" / f"step-{steps:08}.png"
    sampled = sheet.stat().st_mtime if sheet.is_file() else assembled + elapsed
    parts = {
        "start_up_s": assembled - began,
        "sheets_s": sampled - assembled - elapsed,
        "steps_s": step_s * steps,
        "between_s": elapsed - step_s * steps,
        "last_scores_s": scored - sampled,
        "last_files_s": reported - scored,
        "end_s": ended - reported,
    }
    return {
        "wall_s": ended - began,
        "steps": steps,
        "step_s": step_s,
        "pairs_per_s": batch / step_s,
        "log_lines": len(lines),
        "parts": parts,
    }


def alone_and_floor(
    recipe: Recipe, registry: Registry, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Seconds of a step with its batch on the device and nothing beside it, and of its floor."""
    size, batch, train = recipe.data.crop_size, recipe.train.batch_size, recipe.train
    precision = resolve_precision(train.precision, device)
    task, counted = build_networks(recipe, registry, device, "float32")
    channels = task.source_channels, task.target_channels
    source, target = (torch.rand(batch, n, size, size, device=device) * 2 - 1 for n in channels)
    work = count_work(counted, source[:1], target[:1])
    del counted
    told: dict[str, Any] = {"step_alone_s": None, "captured": None}
    if device.type == "cuda":
        _, method = build_networks(recipe, registry, device, precision)
        for network in method.networks.values():
            network.train()
        step = Stepper(method, device, capture=train.capture, compile=train.compile)
        with closing(step):
            taken = time_steps(lambda: step(source, target, 1), device, seconds)
            told = {"step_alone_s": statistics.median(taken), "captured": step.captured}
        del step, method
    hardware = measure_hardware(device, seconds)
    return {**told, "floor_step_s": work.floor(hardware, precision, batch)}


def peer_command(
    checkout: Path, recipe: Recipe, device: torch.device, steps: int, pairs: int
) -> list[str]:
    """The peer's `train.py` with the options that make its training that of the recipe.

    Raises:
        ValueError: there is no such checkout, or it cannot train the same.
    """
    if not (checkout / "train.py").is_file():
        raise ValueError(f"{checkout} has no train.py; give a checkout of the peer")
    if str(device) not in ("cpu", "cuda", "cuda:0"):
        raise ValueError(f"it trains on the CPU or on the first GPU, and not on {device}")
    size, batch = recipe.data.crop_size, recipe.train.batch_size
    generator = next((name for n, name in PEER_GENERATORS.items() if size % n == 0), None)
    if generator is None:
        raise ValueError("it has U-Nets of depth 7 and 8: --size must be a multiple of 128")
    shown = recipe.generator.name, recipe.discriminator and recipe.discriminator.name
    if recipe.discriminator is None or shown != ("unet", "patchgan70"):
        raise ValueError(f"its networks are a U-Net and the 70x70 PatchGAN, and not {shown}")
    per_epoch = steps_per_epoch(pairs, batch)
    if steps > per_epoch and steps % per_epoch:
        raise ValueError(f"it trains whole epochs: take a multiple of {per_epoch} steps, or fewer")
    arguments = {
        "dataroot": Path(str(recipe.data.root)).absolute(),
        "name": PEER_NAME,
        "model": "pix2pix",
        "direction": recipe.data.direction,
        "netG": generator,
        "ngf": recipe.generator.settings["width"],
        "ndf": recipe.discriminator.settings["width"],
        "load_size": recipe.data.load_size or size,
        "crop_size": size,
        "batch_size": batch,
        "n_epochs": max(1, steps // per_epoch),
        "n_epochs_decay": 0,
    }
    if steps < per_epoch:
        arguments["max_dataset_size"] = steps * batch
    flags = [] if recipe.data.mirror else ["--no_flip"]
    script = str((checkout / "train.py").absolute())
    given = [f"--{key}={value}" for key, value in arguments.items()]
    return [sys.executable, script, *given, *flags]


def peer_run(command: list[str], work: Path, device: torch.device) -> float:
    """Seconds of the peer's training in a fresh process; its files go below `work`."""
    environment = peer_environment(device, work)
    began = time.time()
    told = run_program([*command, f"--checkpoints_dir={work}"], cwd=work, env=environment)
    taken = time.time() - began
    epochs = next(part.split("=")[1] for part in command if part.startswith("--n_epochs="))
    # Whatever options it has one day: less work than was asked for must not look like speed.
    if not re.search(rf"End of epoch {epochs} / {epochs}\b", told):
        raise SystemExit(f"the peer did not train {epochs} epochs; it ended with: {told[-500:]}")
    if not (work / PEER_NAME / "loss_log.txt").is_file():
        raise SystemExit(f"the peer wrote nothing below {work / PEER_NAME}")
    return taken


def peer_environment(device: torch.device, work: Path) -> dict[str, str]:
    """Without a GPU where none is wanted, and with an empty wandb, which it imports, if missing."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    if device.type == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if importlib.util.find_spec("wandb") is None:
        nothing = work / "nothing"
        nothing.mkdir()
        (nothing / "wandb.py").touch()
        known = filter(None, [os.environ.get("PYTHONPATH"), str(nothing)])
        environment["PYTHONPATH"] = os.pathsep.join(known)
    return environment


def run_program(
    command: list[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """What a program prints.

    Raises:
        SystemExit: it failed; the message is what it said.
    """
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env=env,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} failed: {done.stderr.strip()[-1000:]}")
    return done.stdout


def keep(page: Path, result: dict[str, Any], device: torch.device) -> None:
    """Write the outcome into the page of performance."""
    ours, peer, settings = result["ours"], result["peer"], result["settings"]
    wall = ours["wall_s"]
    rows = [["**the whole run**", wall, "100%"]]
    rows += [[text, (t := ours["parts"][n]), f"{t / wall:.1%}"] for n, text in PARTS.items()]
    if peer is not None:
        rows.append(["the peer's `train.py`", peer["wall_s"], f"{peer['wall_s'] / wall:.0%}"])
    rows.append(["the floor of the steps", result["floor_s"], f"{result['floor_s'] / wall:.1%}"])
    note = (
        f"{settings['steps']} steps of batch {settings['batch']}, {settings['size']} pixels, width "
        f"{settings['width']}, {result['precision']}: {shown(1000 * ours['step_s'])} ms a step."
    )
    if ours["log_lines"] < 3:
        note += " So few log lines hardly tell steps from what is between them."
    if ours["busy"] is not None:
        alone, busy = shown(1000 * ours["step_alone_s"]), f"{ours['busy']:.0%}"
        note += f" A step alone takes {alone} ms, so the device is busy for {busy} of the run."
        if not ours["captured"]:
            note += " Steps were not recorded as a CUDA graph."
    if peer is not None:
        note += f" The run takes {peer['ratio']:.3g} of the peer's time."
    record(page, "run", device, ["", "s", "of the run"], rows, note)


if __name__ == "__main__":
    main()
