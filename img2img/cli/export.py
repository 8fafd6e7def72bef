"""`img2img export`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from img2img.cli.options import (
    DebugOption,
    JsonOption,
    PluginOption,
    QuietOption,
    a_path,
    load_plugins_for,
)
from img2img.names import printable

if TYPE_CHECKING:
    from img2img.exporting import Exported


def export(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", parser=a_path, help="A run directory or a .safetensors bundle."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=a_path,
            help="The file to write, .onnx or .pt2.",
            show_default="model.onnx beside the model",
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="onnx, or torch for torch.export.", show_default="what the suffix of --out says"
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Only images of this height and width, or of N pixels each way.",
            show_default="any",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = False,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a model as ONNX or torch.export, from image to image."""
    from rich.console import Console

    from img2img.cli.values import one_of

    if format is not None:
        one_of("--format", format, ("onnx", "torch"))
    wanted = None if size is None else parse_size(size)

    from img2img.exporting import export_model

    done = export_model(
        model,
        load_plugins_for(plugin).registry,
        out=out,
        format="onnx" if format == "onnx" else "torch" if format == "torch" else None,
        size=wanted,
        overwrite=overwrite,
    )
    if as_json:
        import json

        print(json.dumps(report(done), indent=2))
        return
    console = Console(quiet=quiet, highlight=False, soft_wrap=True, markup=False)
    for remark in done.remarks:
        console.print(f"note: {printable(remark)}")
    console.print(summary(done))


def parse_size(text: str) -> tuple[int, int]:
    """`HxW` or `N` as a height and a width.

    Raises:
        RequestError: it is neither.
    """
    from img2img.errors import RequestError

    found = re.fullmatch(r"(\d{1,5})(?:[xX](\d{1,5}))?", text)
    sides = [int(side or found[1]) for side in found.groups()] if found else [0]
    if not found or min(sides) < 1:
        raise RequestError(
            f"--size cannot be {text!r}: give height and width in pixels, such as 256x512, or one "
            f"number for both"
        )
    return sides[0], sides[1]


def summary(done: Exported) -> str:
    """What was written, in a line."""
    size = done.sizes.size
    which = "any height and width" if size is None else f"{size[0]}x{size[1]} pixels only"
    gives = "result and probabilities" if "palette" in done.notes else "result"
    return (
        f"wrote {printable(done.path)}: image {done.sizes.shape(done.channels[0])} in [0, 1] -> "
        f"{gives}, {which}; differs from the model by {done.difference:.1e} at most"
    )


def report(done: Exported) -> dict[str, object]:
    """The same for programs."""
    return {
        "file": str(done.path),
        "format": done.format,
        "image": done.sizes.shape(done.channels[0]),
        "result": done.sizes.shape(done.channels[1]),
        "difference": done.difference,
        "remarks": list(done.remarks),
        **done.notes,
    }
