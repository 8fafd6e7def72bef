"""`img2img import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from img2img.cli.options import DebugOption, JsonOption, QuietOption, load_plugins_for

if TYPE_CHECKING:
    from img2img.importing import Imported


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A generator's checkpoint of pytorch-CycleGAN-and-pix2pix."
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="BUNDLE", help="The bundle to write, a .safetensors file.")
    ],
    name: Annotated[
        str | None,
        typer.Option(help="What the bundle calls itself.", show_default="its file's name"),
    ] = None,
    statistics: Annotated[
        str,
        typer.Option(
            help="What batch norm normalises with: each image's own statistics (image), as that "
            "project's test.py does, or those of training (running), as its --eval does."
        ),
    ] = "image",
    dropout: Annotated[
        bool | None,
        typer.Option(
            "--dropout/--no-dropout",
            help="Keep dropout on, as that project's test.py does. A U-Net's file does not show "
            "whether it had any.",
            show_default="on where the file shows it",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pixels of the training crops.",
            show_default="the smallest of a U-Net's depth, 256 of a ResNet",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a bundle that is there.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Turn another project's checkpoint (*_net_G.pth) into a bundle for infer."""
    from rich.console import Console

    from img2img.cli.values import one_of
    from img2img.importing import import_checkpoint

    one_of("--statistics", statistics, ("image", "running"))
    done = import_checkpoint(
        file,
        out,
        load_plugins_for(None).registry,
        name=name,
        statistics="running" if statistics == "running" else "image",
        dropout=dropout,
        size=size,
        overwrite=overwrite,
    )
    if as_json:
        import json
        from dataclasses import asdict

        report = {"bundle": str(done.path), **asdict(done.info), "parameters": done.parameters}
        print(json.dumps(report, indent=2))
        return
    console = Console(quiet=quiet, highlight=False, soft_wrap=True, markup=False)
    for line in report_lines(file, done):
        console.print(line)


def report_lines(file: Path, done: Imported) -> list[str]:
    """What was found in the file, what was assumed, and how to go on."""
    found, inference = done.architecture, done.info.inference
    task = done.info.task["name"]
    lines = [
        f"{file}: {found}, {found.in_channels} to {found.out_channels} channels, "
        f"{done.parameters / 1e6:.3g} M parameters; task {task}"
    ]
    if found.norm == "batch":
        lines.append(
            "  batch norm uses each image's own statistics (--statistics running: training's)"
            if inference["statistics"] == "image"
            else "  batch norm uses the statistics gathered in training"
        )
    if inference["dropout"]:
        lines.append("  dropout stays on (--no-dropout turns it off)")
    elif found.dropout is None and found.depth > 4:
        lines.append("  dropout is off: a U-Net's file does not show it (--dropout keeps it on)")
    lines.append(f"wrote {done.path}")
    lines.append(f"next: img2img infer {done.path} INPUT OUTPUT")
    return lines
