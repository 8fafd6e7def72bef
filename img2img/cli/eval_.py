"""`img2img eval`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
from img2img.errors import MetricError, RequestError
from img2img.names import printable

if TYPE_CHECKING:
    from img2img.data.loading import PairDataset
    from img2img.evaluation.evaluating import Evaluation
    from img2img.evaluation.judge import Judge
    from img2img.inference import Translator

TRAIN_ONE = (
    "train one with the task 'photo2labels', as the recipe facades-segmenter does, and name its run"
)


def eval_(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", parser=a_path, help="A run directory or a .safetensors bundle."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="A recipe, or a folder of pairs, whose validation pairs are scored.",
            show_default="the run's",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="What to compute, or `all`; repeatable. `img2img list metric` names them.",
            show_default="the recipe's, and those that need no weights",
        ),
    ] = None,
    metric_set: Annotated[
        list[str] | None,
        typer.Option(
            "--metric-set",
            metavar="NAME.KEY=VALUE",
            help="A setting of a metric, such as fid.weights=FILE; repeatable.",
        ),
    ] = None,
    judge: Annotated[
        Path | None,
        typer.Option(
            metavar="SEGMENTER",
            parser=a_path,
            help="A model from photographs to label maps, for the FCN-score.",
        ),
    ] = None,
    direction: Annotated[
        str | None, typer.Option(help="AtoB or BtoA.", show_default="the recipe's, or a guess")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="At most so many pairs, evenly chosen.", show_default="all"),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(min=1, help="Pairs translated together; no score depends on it."),
    ] = 4,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", parser=a_path, help="Write a line an image."),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", parser=a_path, help="Draw the best, the median and the worst."
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="SCORE", help="With --sheet: by which.", show_default="the first"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there.")
    ] = False,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    plugin: PluginOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Score a trained model on pairs that it was not trained on.

    Pairs that cannot be used are named and left out, and the exit code is 1 then.
    """
    import json as json_module

    from rich.console import Console

    from img2img.cli.scores import announce, as_json, bar, print_table, raise_any, tell, write_csv
    from img2img.cli.values import one_of

    one_of("--precision", precision, ("auto", "float32", "bfloat16"))
    if direction is not None:
        one_of("--direction", direction, ("AtoB", "BtoA"))
    if by is not None and sheet is None:
        raise RequestError("--by says what a sheet shows: add --sheet FILE.png")
    _check_place("--csv", csv, (".csv",), overwrite=overwrite)
    _check_place("--sheet", sheet, (".png", ".jpg", ".jpeg", ".webp"), overwrite=overwrite)
    if not model.exists():
        raise RequestError(f"there is no model {str(model)!r}")
    if judge is not None and not judge.exists():
        raise RequestError(f"there is no judge {str(judge)!r}: {TRAIN_ONE}")

    from img2img.engine.precision import resolve_device
    from img2img.evaluation.beside import Beside
    from img2img.evaluation.choosing import USUAL, build_metrics, check_names, choose
    from img2img.evaluation.evaluating import evaluate
    from img2img.evaluation.judge import Judge
    from img2img.evaluation.overrides import check_overrides
    from img2img.evaluation.scores import spread
    from img2img.evaluation.short_names import ShortNames
    from img2img.held_out import held_out, recipe_of_run
    from img2img.rebuild import load_translator

    console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True, markup=False)
    registry = load_plugins_for(plugin).registry
    asked = list(metric or ())
    check_names(asked, registry)
    where = resolve_device(device)
    translator = load_translator(model, registry, device=where, precision=precision)
    dataset, found = held_out(
        data,
        model,
        translator,
        registry,
        overrides=set_ or (),
        direction="AtoB" if direction == "AtoB" else "BtoA" if direction else None,
    )
    check_overrides(set_ or (), of_run=recipe_of_run(model) is not None, named=data is not None)
    root = data if found.recipe is None else found.recipe.data.root
    if root is not None:
        dataset.pairs = ShortNames(dataset.pairs, Path(root).expanduser())
    announce(console, found)
    arbiter = None
    if judge is not None:
        seen = load_translator(judge, registry, device=where, precision=precision)
        arbiter = Judge(seen, f"--judge {judge}")
    settings = choose(
        asked,
        metric_set or (),
        registry,
        of_recipe=found.metrics,
        judge=arbiter is not None,
    )
    kinds, classes = _kinds(translator, arbiter)
    indices = spread(len(dataset), limit or len(dataset))
    metrics, failed = build_metrics(
        settings, registry, kinds, classes=classes, asked=asked, pairs=len(indices)
    )
    if not metrics:
        raise MetricError("; ".join(f"{name}: {why}" for name, why in failed.items()))
    if by is not None:
        scores = [name for one in metrics.values() for name in one.scores]
        one_of("--by", by, scores)
    beside = Beside(translator.task)
    with bar(console, len(indices)) as advance:
        result = evaluate(
            translator,
            dataset,
            metrics,
            indices=indices,
            judge=arbiter,
            batch_size=batch_size,
            on_pair=advance,
            on_output=beside.look,
        )
    lost = failed | result.failed
    own = [choice.name for choice in found.metrics]
    unasked = [name for name in USUAL if not asked and name not in {*own, *failed, *result.broken}]
    for name, why in found.alone:
        print(f"left out {printable(name)}: {printable(why)}", file=sys.stderr)
    tell(console, result, lost, len(indices), unasked)
    if csv is not None:
        write_csv(csv, result)
    if sheet is not None:
        _write_sheet(sheet, by, translator, dataset, result)
    if json:
        print(json_module.dumps(as_json(result), indent=2))
    elif not quiet:
        guess = f"; {found.direction}, a guess" if found.guessed else ""
        how = f"at {beside.sizes} pixels{guess}"
        print_table(result, f"{model} on {found.name}", len(dataset), how, beside.of_source)
    raise_any(result, [name for name in lost if name in asked], len(indices), len(found.alone))


def _kinds(translator: Translator, judge: Judge | None) -> tuple[tuple[str, ...], int | None]:
    """What there is to compare, and how many classes there are."""
    if translator.palette is not None:
        return ("classes",), len(translator.palette)
    if judge is not None:
        return ("images", "classes"), len(judge.palette)
    return ("images",), None


def _check_place(
    option: str, path: Path | None, suffixes: Sequence[str], *, overwrite: bool
) -> None:
    """Raise a RequestError for a file that could not be written, before anything else is done."""
    if path is None:
        return
    if path.suffix.lower() not in suffixes:
        raise RequestError(f"{option} {path}: name a file that ends in {suffixes[0]}")
    if path.exists() and not overwrite:
        raise RequestError(f"{path} is already there; use --overwrite or another name")
    if not path.absolute().parent.is_dir():
        raise RequestError(f"{option} {path}: there is no folder {str(path.parent)!r}")


def _write_sheet(
    path: Path,
    by: str | None,
    translator: Translator,
    dataset: PairDataset,
    result: Evaluation,
) -> None:
    from img2img.evaluation.sheet import draw_extremes, extremes, write_extremes

    score = by or next((name for image in result.images for name in image.scores), None)
    chosen = []
    if score is not None:
        chosen = extremes(result.images, score, higher=result.higher_is_better[score])
    if score is None or not chosen:
        print(
            f"no sheet: no image has {'a score' if score is None else score} of its own",
            file=sys.stderr,
        )
        return
    try:
        write_extremes(path, draw_extremes(translator, dataset, chosen, score))
    except OSError as error:
        raise RequestError(f"{path} cannot be written ({error.strerror or error})") from error
