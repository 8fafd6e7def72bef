"""Times translating a folder of images, and a checkout of the peer doing the same, in turn.

From files to files, in one process. The peer is github.com/junyanz/pytorch-CycleGAN-and-pix2pix;
it is driven through its own test loop. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders import PRECISIONS, Contender, file_threads, load_contenders
from peer import result_in
from photos import draw_images, fit_images, images_in
from PIL import Image

# Images of which decoding, the network and encoding are timed apart, and how many times.
STAGE_IMAGES, STAGE_PASSES = 256, 3
# Levels by which a picture may differ: the peer cuts off fractions of levels, ours rounds them.
TOLERANCE = 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the arguments say, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, metavar="DIR", help="a checkout; without it only ours")
    parser.add_argument("--images", type=Path, metavar="DIR", help="real ones; else they are drawn")
    parser.add_argument("--count", type=int, default=64, help="images, at most")
    parser.add_argument("--size", type=int, default=256, help="height and width, in pixels")
    parser.add_argument("--width", type=int, default=64, help="channels after the first layer")
    parser.add_argument("--dropout", action="store_true", help="keep it on, here and there")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--threads", type=int, help="torch's, on the CPU; its own choice if left out"
    )
    options = parser.parse_args(arguments)
    for name in ("count", "size", "width", "rounds", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1, not {value}")
    if options.size % 128:
        parser.error("the peer has U-Nets of depth 7 and 8: --size must be a multiple of 128")
    if options.images is not None and not images_in(options.images):
        parser.error(f"--images {options.images}: there are no images below it")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        options.device = chosen_device(options.device)
    except ValueError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(benchmark(options, Path(folder)), indent=2))


def chosen_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: there is none, or the time that a network takes on it cannot be told.
    """
    # Late, as everything of ours: importing it is timed.
    from img2img.engine.precision import resolve_device
    from img2img.errors import RequestError

    try:
        device = resolve_device(name)
    except RequestError as error:
        raise ValueError(str(error)) from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"the network cannot be timed on {device.type}: use --device cpu")
    return device


def benchmark(options: Namespace, folder: Path) -> dict[str, Any]:
    """What `main` prints; all files go below `folder`."""
    (images := folder / "images").mkdir()
    if options.images is None:
        files = draw_images(images, options.count, options.size)
    else:
        files = fit_images(options.images, images, options.count, options.size)
    contenders = load_contenders(options, images, len(files), folder)
    comparable = "peer" in contenders and not options.dropout
    pictures = compare(contenders, files, folder) if comparable else None
    result: dict[str, Any] = measure(contenders, options.rounds, len(files), folder)
    for name in PRECISIONS:
        if "peer" in result:
            result |= ratios(f"ratio_{name}", result[name], result["peer"])
        result[name] |= stages(contenders[name], files[:STAGE_IMAGES], folder)
    device = options.device
    return {
        **result,
        "pictures": pictures,
        "images": len(files),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "file_threads": file_threads(),
        "torch": torch.__version__,
        "settings": {
            "images": "drawn" if options.images is None else str(options.images),
            **{name: getattr(options, name) for name in ("size", "width", "dropout", "rounds")},
        },
    }


def compare(contenders: dict[str, Contender], files: list[Path], folder: Path) -> dict[str, Any]:
    """How the pictures of ours in float32 differ from the peer's, in levels of 8 bits.

    Neither computes in TensorFloat-32 for this, which the peer does on GPUs while it is timed.

    Raises:
        SystemExit: they are not the same, but for the rounding.
    """
    theirs, ours = folder / "compared-peer", folder / "compared-float32"
    for name, results in (("peer", theirs), ("float32", ours)):
        replace(contenders[name].switches, allow_tf32=False).set()
        contenders[name].translate(results)
    worst, means, deviations = 0, [], []
    for file in files:
        pairs = (result_in(theirs, file.stem), ours / f"{file.stem}.png")
        their, our = (np.asarray(Image.open(path), np.int16) for path in pairs)
        worst = max(worst, int(np.abs(our - their).max()))
        means.append(float((our - their).mean()))
        deviations.append(float(our.std()))
    if worst > TOLERANCE:
        raise SystemExit(f"not the same pictures: they differ by up to {worst} levels of 255")
    return {
        "largest_difference": worst,
        "mean_difference": statistics.mean(means),
        "mean_deviation": statistics.mean(deviations),
    }


def measure(
    contenders: dict[str, Contender], rounds: int, count: int, folder: Path
) -> dict[str, dict[str, Any]]:
    """Seconds of every round by contender, and what follows from them.

    They alternate, so that noise hits all, and the first round of each only warms up.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    shares: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            results = folder / f"{name}-{number}"
            contender.switches.set()
            began = time.perf_counter()
            contender.translate(results)
            seconds = time.perf_counter() - began
            taken[name].append(seconds)
            shares[name].append(contender.clock.read() / seconds)
            shutil.rmtree(results)
    return {
        name: {
            "images_per_s": count / statistics.median(seconds[1:]),
            "median_s": statistics.median(seconds[1:]),
            "best_s": min(seconds[1:]),
            "rounds_s": seconds[1:],
            "warm_up_s": seconds[0],
            "network_share": statistics.median(shares[name][1:]),
            "batch": contenders[name].clock.batch,
            "startup_s": contenders[name].startup,
        }
        for name, seconds in taken.items()
    }


def ratios(key: str, ours: dict[str, Any], peer: dict[str, Any]) -> dict[str, Any]:
    """Ours over the peer's: of the medians, of the best, and round by round."""
    each = [a / b for a, b in zip(ours["rounds_s"], peer["rounds_s"], strict=True)]
    return {
        key: ours["median_s"] / peer["median_s"],
        f"{key}_of_best": ours["best_s"] / peer["best_s"],
        f"{key}_spread": [min(each), max(each)],
    }


def stages(contender: Contender, files: list[Path], folder: Path) -> dict[str, Any]:
    """Images a second that each stage of ours does with nothing beside it, and the slowest.

    Files are decoded and encoded in as many threads as in the whole, and batches are as large.
    Converting is what is done besides the network from pictures to pictures, in one thread.
    """
    from img2img.data.reading import read_picture
    from img2img.data.writing import write_picture

    translator, clock = contender.translator, contender.clock
    assert translator is not None, "only ours has stages"
    (results := folder / "stages").mkdir(exist_ok=True)
    contender.switches.set()
    taken: dict[str, list[float]] = {"decode": [], "convert": [], "network": [], "encode": []}
    with ThreadPoolExecutor(file_threads()) as pool:
        for _ in range(STAGE_PASSES):
            began = time.perf_counter()
            pictures = list(pool.map(read_picture, files))
            taken["decode"].append(time.perf_counter() - began)
            began = time.perf_counter()
            made = []
            for first in range(0, len(pictures), clock.batch):
                made += translator.translate_pictures(pictures[first : first + clock.batch])
            both = time.perf_counter() - began
            network = clock.read()
            taken["network"].append(network)
            taken["convert"].append(both - network)
            places = [results / f"{file.stem}.png" for file in files]
            began = time.perf_counter()
            list(pool.map(write_picture, places, made))
            taken["encode"].append(time.perf_counter() - began)
    rates = {name: len(files) / statistics.median(seconds) for name, seconds in taken.items()}
    return {"stages_images_per_s": rates, "bound": min(rates, key=lambda name: rates[name])}


if __name__ == "__main__":
    main()
