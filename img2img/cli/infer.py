"""`img2img infer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from img2img.cli.options import (
    DebugOption,
    DeviceOption,
    PluginOption,
    QuietOption,
    load_plugins_for,
)


def is_double(path: Path) -> bool:
    """Whether an image may be two of them side by side."""
    from img2img.data.images import image_size
    from img2img.errors import ImageError

    try:
        width, height = image_size(path)
    except ImageError:
        return False
    return width == 2 * height


def infer(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A run directory or a .safetensors bundle.")
    ],
    input: Annotated[
        Path, typer.Argument(metavar="INPUT", help="An image, or a folder searched through.")
    ],
    output: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="A folder, or a file when INPUT is one.")
    ],
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images of one size that go through together.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the dropout noise, if it is on.")] = 0,
    format: Annotated[
        str | None,
        typer.Option(help="png, jpg, webp or tiff.", show_default="each input's own"),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="left or right: that half of side-by-side files.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Translate again what is already there.")
    ] = False,
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    plugin: PluginOption = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Translate an image or a folder of images with a trained model."""
    import sys

    from rich.console import Console
    from rich.progress import track

    from img2img.cli.values import one_of
    from img2img.data.images import formats
    from img2img.inference.folder import INDEXED, Job, plan_jobs, translate_files

    one_of("--precision", precision, ("auto", "float32", "bfloat16"))
    if format is not None:
        one_of("--format", format, formats())
    if split is not None:
        one_of("--split", split, ("left", "right"))
    # Before the model, which takes longer: the answer to a wrong path should be quick.
    suffix = f".{format}" if format else None
    # A model that gives classes may rename this one, so whether it is already there shows below.
    renamed = suffix is None and input.suffix.lower() not in INDEXED
    jobs = plan_jobs(input, output, suffix, overwrite=overwrite or renamed)

    from img2img.engine.precision import resolve_device
    from img2img.rebuild import load_translator

    if split is None and is_double(jobs[0].source):
        print(
            f"note: {jobs[0].source} is twice as wide as high; if it is two images side by side, "
            f"--split left or right takes one of them",
            file=sys.stderr,
        )
    plugins = load_plugins_for(plugin)
    translator = load_translator(
        model, plugins.registry, device=resolve_device(device), precision=precision, seed=seed
    )
    jobs = plan_jobs(
        input, output, suffix, overwrite=overwrite, indexed=translator.palette is not None
    )
    console = Console(stderr=True, quiet=quiet, markup=False)
    bar = iter(
        track(
            jobs,
            "translating",
            console=console,
            disable=len(jobs) == 1 or not console.is_terminal,
            transient=True,
        )
    )

    def on_done(job: Job, problem: str | None) -> None:
        next(bar, None)
        if problem is not None:
            print(f"skipped {job.source}: {problem}", file=sys.stderr)

    outcome = translate_files(
        translator,
        jobs,
        batch_size=batch_size,
        half="left" if split == "left" else "right" if split == "right" else None,
        overwrite=overwrite,
        on_done=on_done,
    )
    next(bar, None)
    parts = [f"{len(outcome.written)} translated" if outcome.written else "nothing translated"]
    if outcome.kept:
        parts.append(f"{len(outcome.kept)} already there (--overwrite replaces them)")
    if outcome.failed:
        parts.append(f"{len(outcome.failed)} skipped")
    console.print(f"{', '.join(parts)}: {output}", highlight=False, soft_wrap=True)
    if outcome.failed:
        raise typer.Exit(1)
