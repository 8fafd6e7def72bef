"""`img2img infer`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from img2img.cli.options import (
    DebugOption,
    DeviceOption,
    JsonOption,
    PluginOption,
    QuietOption,
    a_path,
    load_plugins_for,
)
from img2img.errors import Img2ImgError, Interrupted, RequestError

if TYPE_CHECKING:
    from img2img.inference import Translator
    from img2img.inference.planning import Plan
    from img2img.inference.recording import Outcome
    from img2img.inference.workers import Workers

Prepared = TypeVar("Prepared")


def infer(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", parser=a_path, help="A run directory or a .safetensors bundle."
        ),
    ],
    input: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", parser=a_path, help="An image, or a folder searched through."
        ),
    ],
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUTPUT", parser=a_path, help="A folder, or a file when INPUT is one."
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option(help="png, jpg, webp, tiff or npy.", show_default="each input's own"),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="left or right: that half of side-by-side files.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Translate again what is already there.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the dropout noise, if it is on.")] = 0,
    samples: Annotated[
        int | None,
        typer.Option(min=2, help="Results an image, by different noise: a-1.png, a-2.png, ..."),
    ] = None,
    mean: Annotated[bool, typer.Option("--mean", help="With --samples: their mean.")] = False,
    spread: Annotated[
        bool, typer.Option("--spread", help="With --samples: a map of how far they lie apart.")
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images of one size a batch.", show_default="by their size"),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Sides of the tiles that large images are cut into, in pixels; 0 never cuts.",
            show_default="by the model",
        ),
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help="Larger images are skipped.", show_default="178956970"),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help="Append a line of JSON an image to this file."),
    ] = None,
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    plugin: PluginOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Translate an image or a folder of images with a trained model.

    Results that are there are kept: the same command goes on where it was stopped.
    """
    import os
    import time
    from contextlib import nullcontext
    from dataclasses import replace

    from img2img.cli.translating import Display, sigterm_as_interrupt
    from img2img.cli.values import one_of
    from img2img.inference.folder import translate_files
    from img2img.inference.naming import FORMATS, Naming
    from img2img.inference.planning import Plan
    from img2img.inference.report import Report, check_report, join_parts, part_of
    from img2img.inference.workers import Workers, find_place

    one_of("--precision", precision, ("auto", "float32", "bfloat16"))
    if format is not None:
        one_of("--format", format, FORMATS)
    if split is not None:
        one_of("--split", split, ("left", "right"))
    extras = tuple(name for name, given in (("mean", mean), ("spread", spread)) if given)
    if extras and samples is None:
        raise RequestError(f"--{extras[0]} is made of several samples: add --samples 8, say")
    suffix = f".{format}" if format else None
    naming = Naming(suffix, samples=samples or 0, extras=extras)
    place = find_place(os.environ)
    display = Display(place, quiet=quiet)

    def prepare() -> tuple[Translator, Plan, int]:
        # Before the model, which takes longer: the answer to a wrong path should be quick.
        Plan(input, output, naming)
        if report is not None:
            check_report(report)
            if place.size > 1:
                check_report(part_of(report, place.rank))
        translator = _load(
            model, plugin, place.device, device=device, precision=precision, seed=seed, tile=tile
        )
        if samples is not None and not translator.noisy:
            raise RequestError(
                "--samples: this model has no noise, because it has no dropout or keeps it off "
                "after training, so all samples would be equal; leave --samples out"
            )
        gives = replace(
            naming,
            channels=translator.image_channels[1],
            indexed=translator.palette is not None,
        )
        plan = Plan(input, output, gives)
        return translator, plan, plan.survey(place.share, overwrite=overwrite)

    if max_pixels is not None:
        from img2img.data.reading import set_pixel_limit

        set_pixel_limit(max_pixels)
    try:
        with sigterm_as_interrupt(), Workers(place) as workers:
            translator, plan, total = _agree(workers, prepare)
            if place.rank == 0 and split is None:
                _mention_halves(plan)
            if report is not None and place.rank == 0:
                # Lines of a run that was killed come before those of this one.
                join_parts(report)
            workers.gather()
            part = report if report is None or place.size == 1 else part_of(report, place.rank)
            started = time.perf_counter()
            with Report(part) if part else nullcontext() as lines, display.bar(total):
                outcome = translate_files(
                    translator,
                    plan,
                    share=place.share,
                    batch_size=batch_size,
                    half="left" if split == "left" else "right" if split == "right" else None,
                    overwrite=overwrite,
                    threads=place.threads,
                    report=lines,
                    on_done=display.on_done,
                )
            whole = _sum(workers, outcome)
            if place.rank == 0:
                if report is not None:
                    join_parts(report)
                # Samples are several files, none of which has the name that was given.
                display.summary(whole, plan.folder if samples else output)
                if json:
                    _print_json(whole, time.perf_counter() - started)
            # The first to leave with an error ends the others.
            workers.gather()
    except KeyboardInterrupt:
        rest = "without --overwrite it goes on" if overwrite else "the same command goes on"
        raise Interrupted(
            f"{display.who}interrupted after {display.written} translated; {rest} there"
        ) from None
    if whole.skipped:
        raise typer.Exit(1)


def _load(
    model: Path,
    plugin: list[Path] | None,
    own_device: Callable[[str, int], str],
    *,
    device: str,
    precision: str,
    seed: int,
    tile: int | None,
) -> Translator:
    import torch

    from img2img.engine.precision import resolve_device
    from img2img.rebuild import load_translator

    plugins = load_plugins_for(plugin)
    return load_translator(
        model,
        plugins.registry,
        device=resolve_device(own_device(device, torch.cuda.device_count())),
        precision=precision,
        seed=seed,
        tile=tile,
    )


def _agree(workers: Workers, prepare: Callable[[], Prepared]) -> Prepared:
    """Prepare in every worker; where it fails in one, all end alike, and it is said once.

    Raises:
        Img2ImgError: it fails here, and no worker before this one has said the same.
        typer.Exit: it fails elsewhere.
    """
    failure: Img2ImgError | None = None
    prepared: Prepared | None = None
    try:
        prepared = prepare()
    except Img2ImgError as error:
        failure = error
    said = workers.gather(f"{failure.exit_code} {failure}" if failure else "")
    rank = workers.place.rank
    # Long texts come back shortened, our own among them.
    if failure and said[rank] not in said[:rank]:
        raise failure
    for text in filter(None, said):
        raise typer.Exit(int(text.split()[0]))
    assert prepared is not None
    return prepared


def _mention_halves(plan: Plan) -> None:
    """Say so if images may be two of them side by side."""
    from img2img.data.reading import image_size
    from img2img.errors import ImageError
    from img2img.names import printable

    first = next(plan.jobs(), None)
    try:
        width, height = image_size(first.source) if first and not first.problem else (0, 1)
    except ImageError:
        return
    if first and width == 2 * height:
        print(
            f"note: {printable(first.source)} is twice as wide as high; if it is two images side "
            f"by side, --split left or right takes one of them",
            file=sys.stderr,
        )


def _sum(workers: Workers, outcome: Outcome) -> Outcome:
    """What became of the images of all workers."""
    import json
    from dataclasses import asdict

    from img2img.inference.recording import Outcome

    all_of_them = [json.loads(text) for text in workers.gather(json.dumps(asdict(outcome)))]
    return Outcome(**{key: sum(one[key] for one in all_of_them) for key in all_of_them[0]})


def _print_json(outcome: Outcome, seconds: float) -> None:
    import json
    from dataclasses import asdict

    network = round(outcome.seconds, 3)
    print(json.dumps(asdict(outcome) | {"seconds": round(seconds, 3), "network_seconds": network}))
