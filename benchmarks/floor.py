"""Says how long a training step takes at least on the device at hand.

Bandwidth and matrix rates are measured; what a step computes and what its optimizers move is
counted while one step is trained. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from record import add_record_option, check_page, record, shown

from img2img.assemble import build_networks
from img2img.bench.floor import StepWork, count_work
from img2img.bench.hardware import Hardware, measure_hardware
from img2img.engine.precision import resolve_device
from img2img.errors import Img2ImgError
from img2img.plugins import load_plugins
from img2img.recipe import Recipe
from img2img.recipe_files import find_recipe
from img2img.recipe_parser import load_recipe


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the arguments say, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", default="facades", help="a file or a shipped one")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="set_")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="pairs a step")
    parser.add_argument("--seconds", type=float, default=10.0, help="for the device's rates")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add_record_option(parser)
    options = parser.parse_args(arguments)
    if min(options.batch) < 1:
        parser.error(f"--batch must be at least 1, not {min(options.batch)}")
    try:
        device = resolve_device(options.device)
        check_page(options.record, device, "floor")
        registry = load_plugins().registry
        recipe = load_recipe(find_recipe(options.recipe), registry, options.set_)
        task, method = build_networks(recipe, registry, device, "float32")
    except Img2ImgError as error:
        parser.error(str(error))
    size = recipe.data.crop_size
    channels = task.source_channels, task.target_channels
    images = [torch.rand(1, count, size, size, device=device) * 2 - 1 for count in channels]
    work = count_work(method, images[0], images[1])
    del method
    result = summarize(recipe, device, measure_hardware(device, options.seconds), work, options)
    print(json.dumps(result, indent=2))
    if options.record is not None:
        keep(options.record, result, device)


def summarize(
    recipe: Recipe,
    device: torch.device,
    hardware: Hardware,
    work: StepWork,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """What `main` prints."""
    floors: list[dict[str, Any]] = []
    for precision in ("float32", "bfloat16"):
        if precision in hardware.flops:
            floors += [
                {
                    "precision": precision,
                    "batch_size": batch,
                    "seconds": (seconds := work.floor(hardware, precision, batch)),
                    "images_per_s": batch / seconds,
                }
                for batch in options.batch
            ]
    return {
        "recipe": recipe.name,
        "crop_size": recipe.data.crop_size,
        "device": str(device),
        "hardware": asdict(hardware),
        "step": asdict(work),
        "floor": floors,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def keep(page: Any, result: dict[str, Any], device: torch.device) -> None:
    """Write the outcome into the page of performance."""
    hardware, step = result["hardware"], result["step"]
    rows = [
        (row["precision"], row["batch_size"], 1000 * row["seconds"], row["images_per_s"])
        for row in result["floor"]
    ]
    rates = ", ".join(f"{name} {shown(rate / 1e12)}" for name, rate in hardware["flops"].items())
    moved = shown(step["update_bytes"] / 1e9)
    note = (
        f"Measured: {shown(hardware['bandwidth'] / 1e9)} GB/s read and written; matrix products "
        f"in TFLOP/s: {rates}. A step of the recipe `{result['recipe']}` at {result['crop_size']} "
        f"pixels: {shown(step['flops'] / 1e9)} GFLOP a pair, and {moved} GB "
        f"for the optimizers of {shown(step['parameters'] / 1e6)} million parameters."
    )
    record(page, "floor", device, ("precision", "batch", "floor, ms", "images/s"), rows, note)


if __name__ == "__main__":
    main()
