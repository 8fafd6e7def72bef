"""Trains the rows of the paper's tables 1 to 3 for some steps each, and measures their networks.

Prints a table and, with --json, the same as JSON. Sizes and receptive fields are those of the
recipes as they ship; the training is at the size and width that are given, for a look at whether
each row learns. See README.md here.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import img2img
from img2img.assemble import build_networks
from img2img.plugins import load_plugins
from img2img.recipe_files import find_recipe, shipped_recipes
from img2img.recipe_parser import load_recipe

# What the paper says: receptive fields in the names of table 3, and the sizes known for width 64.
FIELDS = {"pixelgan": 1, "patchgan16": 16, "patchgan70": 70, "patchgan286": 286}
SIZES = {"unet": 54.41e6, "patchgan70": 2.77e6}


def receptive_field(network: nn.Module, channels: int, size: int) -> tuple[int, bool]:
    """Side in pixels of what one output in the middle depends on, and whether that is all there is.

    Measured: the extent of a gradient, with every norm at its running statistics.
    """
    network = network.eval()
    images = torch.randn(1, channels, size, size, requires_grad=True)
    output = network(images)
    row, column = (side // 2 for side in output.shape[-2:])
    output[0, :, row, column].sum().backward()
    assert images.grad is not None
    touched = images.grad.abs().sum((0, 1)) > 0
    sides = [int(touched.any(axis).nonzero().numel()) for axis in (0, 1)]
    return max(sides), max(sides) == size


def measure(name: str) -> dict[str, Any]:
    """Parameters and receptive fields of a shipped recipe's networks, as it ships."""
    registry = load_plugins(entry_points=False).registry
    recipe = load_recipe(find_recipe(name), registry, ["data.root=."])
    task, method = build_networks(recipe, registry, torch.device("cpu"), "float32")
    found: dict[str, Any] = {}
    for role, network in method.networks.items():
        choice = recipe.generator if role == "generator" else recipe.discriminator
        assert choice is not None
        seen = task.source_channels
        if role == "discriminator":
            seen = task.target_channels + (task.source_channels if recipe.conditional else 0)
        # Twice the deepest field for the discriminators; generators take multiples of 256.
        field, whole = receptive_field(network, seen, 256 if role == "generator" else 640)
        found[role] = {
            "name": choice.name,
            "parameters": sum(p.numel() for p in network.parameters()),
            "paper_parameters": SIZES.get(choice.name),
            "receptive_field": "whole image" if whole else field,
            "paper_receptive_field": FIELDS.get(choice.name),
        }
    return found


def train(
    name: str, networks: dict[str, Any], options: argparse.Namespace, out: Path
) -> dict[str, Any]:
    """Losses at the beginning and the end, and the scores, of a short run."""
    overrides: dict[str, Any] = {
        "data.root": str(options.data),
        "data.crop_size": options.size,
        "generator.width": options.width,
        "train.steps": options.steps,
        "train.log_every": max(1, options.steps // 10),
        "train.sample_every": options.steps,
        "train.seed": options.seed,
    }
    if "discriminator" in networks:
        overrides["discriminator.width"] = options.width
    began = time.perf_counter()
    done = img2img.train(name, out=out, fresh=True, device=options.device, overrides=overrides)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["losses"] for line in lines if "losses" in line]
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "first_losses": losses[0],
        "last_losses": losses[-1],
        "validation": done.validation,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="facades: train/ and val/")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--size", type=int, default=128, help="of the crops, in pixels")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="keep the run directories here")
    parser.add_argument("--only", nargs="*", default=[], help="recipes such as table1/l1")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = options.only or [name for name in shipped_recipes() if name.startswith("table")]
    console = Console(file=sys.stderr, highlight=False)
    with tempfile.TemporaryDirectory() as scratch:
        rows = {}
        for name in names:
            networks = measure(name)
            out = (options.out or Path(scratch)) / name.replace("/", "-")
            rows[name] = {"networks": networks, **train(name, networks, options, out)}
            console.print(f"{name}: {rows[name]['seconds']} s")
    if options.json:
        settings = {k: v for k, v in vars(options).items() if k not in ("data", "out", "json")}
        print(json.dumps({"settings": settings, "rows": rows}, indent=2))
    else:
        Console(width=150, highlight=False).print(as_table(rows))


def as_table(rows: dict[str, dict[str, Any]]) -> Table:
    """One line a recipe; the paper's figure, where it has one, behind a stroke."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in (
        "recipe",
        "generator, M",
        "reaches",
        "discriminator, M",
        "sees / paper",
        "adversarial",
        "L1 loss, first",
        "last",
        "val L1",
        "PSNR",
        "SSIM",
    ):
        table.add_column(title)
    for name, row in rows.items():
        generator, discriminator = (row["networks"].get(k) for k in ("generator", "discriminator"))
        first, last, scores = row["first_losses"], row["last_losses"], row["validation"]
        table.add_row(
            name,
            _beside(generator),
            str(generator["receptive_field"]),
            _beside(discriminator) if discriminator else "none",
            f"{discriminator['receptive_field']} / {discriminator['paper_receptive_field']}"
            if discriminator
            else "",
            f"{last['adversarial']:.2f}" if "adversarial" in last else "",
            f"{first['l1']:.1f}" if "l1" in first else "",
            f"{last['l1']:.1f}" if "l1" in last else "",
            f"{scores['l1']:.3f}",
            f"{scores['psnr']:.1f}",
            f"{scores['ssim']:.3f}",
        )
    return table


def _beside(network: dict[str, Any]) -> str:
    own, paper = network["parameters"] / 1e6, network["paper_parameters"]
    return f"{own:.2f}" + (f" / {paper / 1e6:.2f}" if paper else "")


if __name__ == "__main__":
    main()
