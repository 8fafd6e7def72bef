"""`img2img study`: the page of a real-or-fake study, and its score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from img2img.cli.options import (
    DebugOption,
    DeviceOption,
    JsonOption,
    PluginOption,
    QuietOption,
    SetOption,
    a_path,
    load_plugins_for,
)

if TYPE_CHECKING:
    from img2img.study.scoring import Score

# Of fewer participants, resampling them gives intervals that are clearly too narrow.
FEW = 10


class _MakeUnlessNamed(TyperGroup):
    """`study MODEL DATA` is `study make MODEL DATA`."""

    # Of which package the context is a class depends on the version of typer.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = not args or args[0] in self.commands or args[0] in ("-h", "--help")
        return super().parse_args(ctx, args if named else ["make", *args])


app = typer.Typer(
    cls=_MakeUnlessNamed,
    help="Ask people which image is real: `study MODEL DATA --out FILE.html`, then `study score`.",
    no_args_is_help=True,
)


@app.command("make")
def make(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            parser=a_path,
            help="A run directory, a .safetensors bundle, or a folder of finished outputs.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="A recipe, or a folder of pairs, whose validation pairs are shown.",
            show_default="the run's",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE.html", parser=a_path, help="The page to write."),
    ] = Path("study.html"),
    trials: Annotated[int, typer.Option(min=1, max=10_000, help="Trials that count.")] = 40,
    practice: Annotated[
        int, typer.Option(min=0, max=10_000, help="Trials with feedback before these.")
    ] = 10,
    seconds: Annotated[
        float, typer.Option(min=0.02, max=600, help="For how long each image is shown.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of pairs, order and sides.")] = 0,
    size: Annotated[
        int, typer.Option(min=8, max=4096, help="Longer side of each image, in pixels.")
    ] = 256,
    inputs: Annotated[
        str | None,
        typer.Option(
            help="same: a trial shows the real and the generated image of one pair. different: "
            "of two pairs.",
            show_default="same for colorization, else different",
        ),
    ] = None,
    direction: Annotated[
        str | None, typer.Option(help="AtoB or BtoA.", show_default="the recipe's, or a guess")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = False,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a real-or-fake study as one page; `make` may be left out.

    The page shows each image for one second, needs no network, and saves a file of answers.
    """
    from rich.console import Console
    from rich.progress import Progress

    from img2img.cli.scores import announce
    from img2img.cli.values import one_of
    from img2img.errors import RequestError
    from img2img.files import whole_file
    from img2img.names import printable

    if inputs is not None:
        one_of("--inputs", inputs, ("same", "different"))
    if direction is not None:
        one_of("--direction", direction, ("AtoB", "BtoA"))
    if out.suffix.lower() not in (".html", ".htm"):
        raise RequestError(f"--out {out}: name a file that ends in .html")
    if out.exists() and not overwrite:
        raise RequestError(f"{out} is already there; use --overwrite or another name")
    if not out.absolute().parent.is_dir():
        raise RequestError(f"--out {out}: there is no folder {str(out.parent)!r}")
    if not model.exists():
        raise RequestError(f"there is no model {str(model)!r}, nor a folder of outputs")

    from img2img.engine.precision import resolve_device
    from img2img.held_out import find_data, is_model
    from img2img.rebuild import load_translator
    from img2img.study.data import about_model
    from img2img.study.images import Inputs, alike, fakes_in_folder, images_of_model
    from img2img.study.making import Settings, make_study
    from img2img.study.page import page_of
    from img2img.tasks.base import is_comparable

    registry = load_plugins_for(plugin).registry
    translator = None
    if is_model(model):
        translator = load_translator(model, registry, device=resolve_device(device))
    found, task = find_data(
        data,
        model,
        translator.task if translator else None,
        registry,
        overrides=set_ or (),
        direction="AtoB" if direction == "AtoB" else "BtoA" if direction else None,
    )
    console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True, markup=False)
    announce(console, found)
    for alone, why in found.alone:
        console.print(f"note: left out {printable(alone)}: {printable(why)}")
    swap, how = found.direction == "BtoA", task.target_interpolation
    if translator is not None:
        seen = Inputs(found.pairs, task, swap=swap, scale=translator.scale)
        images = images_of_model(translator, seen)
        indices = list(range(len(found.pairs)))
        if min(translator.scale) < 1:
            console.print(
                "note: the model works on smaller images than these, so that real ones are shown "
                "without the detail that its outputs cannot have"
            )
    else:
        made, indices = fakes_in_folder(model, found.pairs)
        images = alike(Inputs(found.pairs, task, swap=swap).real, made, how)
    same = inputs == "same" if inputs else not is_comparable(task)
    settings = Settings(trials, practice, seconds, seed, size, same)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        drawn = bar.add_task("images", total=2 * (trials + practice))
        study = make_study(
            *images,
            indices,
            settings,
            about_model(model, found.name),
            how,
            lambda: bar.advance(drawn),
        )
    page = page_of(study)
    try:
        with whole_file(out) as partial:
            partial.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{out} cannot be written ({error.strerror or error})") from error
    console.print(
        f"wrote {printable(out)}: study {study['id']}, {trials} trials after {practice} for "
        f"practice, each of {'one pair' if same else 'two pairs'}, {len(page) / 1e6:.1f} MB\n"
        f"next: give that file to participants, and score what they send: "
        f"img2img study score FILES..."
    )


@app.command("score")
def score_(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILES...", parser=a_path, help="Answers that the page saved."),
    ],
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """The share of trials in which people took the generated image for the real one."""
    from dataclasses import asdict

    from img2img.study.answers import read_all
    from img2img.study.scoring import score

    result = score(read_all(files), files, seed=seed)
    if json:
        import json as json_module

        print(json_module.dumps(asdict(result), indent=2, ensure_ascii=False))
        return
    _print_score(result)


def _print_score(result: Score) -> None:
    from rich.console import Console
    from rich.table import Table

    from img2img.names import printable

    console = Console(highlight=False, soft_wrap=True, markup=False)
    about = ", ".join(f"{key} {value}" for key, value in result.about.items() if value is not None)
    console.print(f"study {printable(result.study)}{f': {printable(about)}' if about else ''}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("participant", "trials", "fooled", "share", "median answer"):
        table.add_column(title, justify="left" if title == "participant" else "right")
    for one in result.participants:
        table.add_row(
            printable(one.participant),
            str(one.trials),
            str(one.fooled),
            f"{one.share:.1%}",
            f"{one.median_response_ms / 1000:.2f} s",
        )
    console.print(table)
    console.print(
        f"fooled in {result.fooled} of {result.trials} trials: {result.share:.1%}, "
        f"{result.confidence:.0%} interval {result.low:.1%} to {result.high:.1%}"
    )
    few = ""
    if len(result.participants) < FEW:
        alone = result.resampled == "trials"
        few = "; one participant says nothing of others" if alone else "; of so few, too narrow"
    how = f"{result.resamples} resamples, seed {result.seed}"
    console.print(f"  bootstrap over {result.resampled}, {how}{few}")
    if result.low == result.high:
        console.print(
            f"  all {result.resampled} came out alike, and so all resamples: that the interval has "
            f"no width is no certainty"
        )
    for one in result.participants:
        if one.trials < result.planned:
            console.print(
                f"  {printable(one.participant)} answered {one.trials} of {result.planned} trials"
            )
        if one.mistimed:
            console.print(
                f"  {printable(one.participant)}: in {one.mistimed} of {one.trials} trials an "
                f"image was on the screen more than 40 ms too long or too short"
            )
