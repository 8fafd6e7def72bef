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
from torch.utils._python_dispatch import TorchDispatchMode

from img2img.assemble import build_networks
from img2img.bench.floor import StepWork, count_work
from img2img.bench.hardware import Hardware, measure_hardware
from img2img.engine.precision import Resolved, make_current, resolve_device
from img2img.errors import Img2ImgError
from img2img.plugins import load_plugins
from img2img.recipe import Recipe
from img2img.recipe_files import find_recipe
from img2img.recipe_parser import load_recipe

# Reserves memory, or is a view that its schema does not call one.
NOTHING = ("aten::empty", "aten::_unsafe_view")
PRECISIONS: tuple[Resolved, ...] = ("float32", "bfloat16")


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
        device = make_current(resolve_device(options.device))
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
    beyond = {}
    for precision in PRECISIONS:
        _, method = build_networks(recipe, registry, device, precision)
        method.step(images[0], images[1])  # the first makes the optimizers' state
        with Started() as started:
            method.step(images[0], images[1])
        beyond[precision] = {"operations": started.operations, "cast_bytes": started.cast_bytes}
        del method
    hardware = measure_hardware(device, options.seconds)
    result = summarize(recipe, device, hardware, work, options) | {"beyond": beyond}
    print(json.dumps(result, indent=2))
    if options.record is not None:
        keep(options.record, result, device)


class Started(TorchDispatchMode):
    """Counts what the floor leaves out: operations, each of which starts a kernel or several, and
    the bytes read and written to change the precision of weights, images and gradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.cast_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # Views and memory that is only reserved start nothing.
        view = any(it.alias_info and not it.alias_info.is_write for it in func._schema.returns)
        if not (view or func._schema.name.startswith(NOTHING)):
            self.operations += 1
        if func is torch.ops.aten._to_copy.default:
            self.cast_bytes += args[0].nbytes + result.nbytes
        return result


def summarize(
    recipe: Recipe,
    device: torch.device,
    hardware: Hardware,
    work: StepWork,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """What `main` prints."""
    floors: list[dict[str, Any]] = []
    for precision in PRECISIONS:
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
    beyond = result["beyond"]["bfloat16"]
    note = (
        f"Measured: {shown(hardware['bandwidth'] / 1e9)} GB/s read and written; matrix products "
        f"in TFLOP/s: {rates}. A step of the recipe `{result['recipe']}` at {result['crop_size']} "
        f"pixels: {shown(step['flops'] / 1e9)} GFLOP a pair, and {moved} GB "
        f"for the optimizers of {shown(step['parameters'] / 1e6)} million parameters. Beyond the "
        f"floor: a step of one pair in bfloat16 starts {beyond['operations']} operations, and its "
        f"casts move {shown(beyond['cast_bytes'] / 1e9)} GB."
    )
    record(page, "floor", device, ("precision", "batch", "floor, ms", "images/s"), rows, note)


if __name__ == "__main__":
    main()
