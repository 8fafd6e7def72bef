"""Seams and memory of images that are translated in tiles. See README.md beside this file."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import img2img
from img2img.assemble.networks import activation_of
from img2img.bundle import BundleInfo, save_bundle
from img2img.data.reading import read_picture
from img2img.generators import UNet
from img2img.inference import Translator
from img2img.inference.tiles import cut
from img2img.tasks import Paired

Array = NDArray[np.float64]
# Kilobytes in what the system calls the greatest resident size; macOS counts bytes.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the arguments say, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a run or bundle; without it a random U-Net")
    parser.add_argument("--image", type=Path, help="a real image for the seams, too")
    parser.add_argument("--seams", type=int, default=1536, metavar="N", help="sides; 0: not")
    parser.add_argument("--tile", type=int, help="sides of tiles; the program's choice if left out")
    parser.add_argument("--memory", metavar="WxH", help="size of an image, such as 12000x9000")
    parser.add_argument("--width", type=int, default=64, help="of the random U-Net")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or random_model(Path(folder), options.width)
        result: dict[str, Any] = {"model": str(options.model or "random U-Net")}
        if options.seams:
            result["seams"] = seams(model, options)
        if options.memory:
            result["memory"] = memory(model, options, Path(folder))
    result |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    print(json.dumps(result, indent=2))


def seams(model: Path, options: Namespace) -> dict[str, Any]:
    """For each image how large the largest step across a tile's border is, tiled and not.

    Beside them, how much other noise changes: what the model itself leaves open.
    """
    images = {"smooth": smooth_image(options.seams, options.seams)}
    if options.image is not None:
        picture = Image.fromarray(read_picture(options.image).pixels.astype(np.uint8))
        images["real"] = np.asarray(picture.resize((options.seams,) * 2, Image.Resampling.BICUBIC))
    return {name: seams_of(model, image, options.tile) for name, image in images.items()}


def seams_of(model: Path, image: NDArray[np.uint8], tile: int | None) -> dict[str, float]:
    """Steps and differences in [0, 1]; see `seams`."""
    whole, made = translated(model, image, 0)
    other, _ = translated(model, image, 0, seed=1)
    side = tile or max(512, 4 * made.size_multiple)
    tiled, _ = translated(model, image, side)
    height, width = image.shape[:2]
    borders = {
        (axis, place)
        for axis, size in ((0, height), (1, width))
        for start in cut(size, side, made.size_multiple, made.size_least).starts
        for place in (start, start + side)
        if 0 < place < size
    }
    if not borders:
        raise SystemExit(f"tiles of {side} pixels do not cut {width}x{height}: give --seams more")

    def largest_step(result: Array) -> float:
        return max(
            float(np.abs(result.take(at, axis) - result.take(at - 1, axis)).max())
            for axis, at in borders
        )

    return {
        "tile": side,
        "borders": len(borders),
        "largest_step_tiled": largest_step(tiled),
        "largest_step_whole": largest_step(whole),
        "largest_step_other_noise": largest_step(other),
        "mean_difference_tiled": float(np.abs(tiled - whole).mean()),
        "mean_difference_other_noise": float(np.abs(other - whole).mean()),
    }


def translated(
    model: Path, image: NDArray[np.uint8], tile: int, seed: int = 0
) -> tuple[Array, Translator]:
    """A result in [0, 1], and what made it; nothing is resized, so that tiles are what they say."""
    made = img2img.load(model, device="cpu", seed=seed, tile=tile)
    made.scale = (1.0, 1.0)
    return made(image).astype(np.float64) / 255, made


def memory(model: Path, options: Namespace, folder: Path) -> dict[str, Any]:
    """The most memory that `img2img infer` takes for a small and for a large image, in bytes."""
    width, height = (int(side) for side in options.memory.split("x"))
    source, small = folder / "large.png", folder / "small.png"
    for path, size in ((source, (height, width)), (small, (256, 256))):
        Image.fromarray(smooth_image(*size)).save(path, compress_level=1)
    taken, seconds = {}, 0.0
    for path in (small, source):
        command = [sys.executable, "-m", "img2img", "infer", str(model), str(path)]
        command += [str(folder / f"out-{path.name}"), "--device", "cpu", "--quiet"]
        command += ["--precision", options.precision]
        began = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - began
        # The greatest of all children so far, so the small one comes first.
        taken[path.name] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * RSS_UNIT
    return {
        "size": [width, height],
        "small_bytes": taken["small.png"],
        "large_bytes": taken["large.png"],
        "image_bytes": width * height * 3,
        "seconds": seconds,
    }


def smooth_image(height: int, width: int) -> NDArray[np.uint8]:
    """Slow waves of colour, (H, W, 3)."""
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None]
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = 127.5 + 100 * np.sin(x / 120) * np.cos(y / 200)
    image[..., 1] = 127.5 + 100 * np.cos(y / 90 + x / 500)
    image[..., 2] = 127.5 + 100 * np.sin((x + y) / 200)
    return image


def random_model(folder: Path, width: int) -> Path:
    """A bundle of the paper's U-Net, not trained."""
    torch.manual_seed(0)
    task = Paired()
    network = UNet(3, 3, image_size=256, width=width)
    generator = {
        "name": "unet",
        "settings": {"width": width},
        "in_channels": 3,
        "out_channels": 3,
        "image_size": 256,
        "activation": activation_of(task),
        "origin": "img2img",
    }
    info = BundleInfo("random", {"name": "paired", "settings": {}}, generator, {}, {})
    save_bundle(folder / "model.safetensors", network.state_dict(), info)
    return folder / "model.safetensors"


if __name__ == "__main__":
    main()
