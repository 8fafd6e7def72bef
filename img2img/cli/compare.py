"""`img2img compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from img2img.cli.options import (
    DebugOption,
    DeviceOption,
    JsonOption,
    PluginOption,
    QuietOption,
    RecipeArgument,
    SetOption,
    a_path,
    load_plugins_for,
)

if TYPE_CHECKING:
    from rich.console import Console

    from img2img.comparison.comparing import Comparison


def compare(
    recipe: RecipeArgument,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            metavar="KEY=A,B,...",
            help="Values of a recipe key, such as losses=l1,cgan,l1+cgan; repeatable, for every "
            "combination.",
            show_default="the recipe's",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Runs of each variant.", show_default="the recipe's, 3"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=a_path, help="The comparison's directory.", show_default="runs/compare-NAME"
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help="What to score by; repeatable.", show_default="the recipe's"),
    ] = None,
    judge: Annotated[
        Path | None,
        typer.Option(
            parser=a_path,
            metavar="MODEL",
            help="A model from photographs to label maps, for the FCN-score.",
            show_default="the recipe's",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at once.", show_default="one for each GPU, else 1"),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=100, help="Rows of the figure.")] = 5,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Replace the runs that are there.")
    ] = False,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    precision: Annotated[
        str | None, typer.Option(help="auto, float32 or bfloat16.", show_default="the recipe's")
    ] = None,
    plugin: PluginOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Train variants of a recipe with several seeds, and set scores and images side by side.

    The same command again goes on where it stopped.
    """
    import contextlib
    import os

    import torch
    from rich.console import Console

    from img2img.cli.comparing import Progress
    from img2img.cli.values import one_of
    from img2img.comparison.comparing import prepare, score_runs, train_runs, write_outcome
    from img2img.comparison.directory import ComparisonDirectory
    from img2img.comparison.running import make_slots
    from img2img.comparison.scoring import choose_metrics, make_scorer
    from img2img.comparison.variants import make_variants, parse_vary
    from img2img.data.resources import available_cores
    from img2img.engine.lock import RunLock
    from img2img.engine.precision import resolve_device
    from img2img.errors import Img2ImgError, Interrupted, RequestError
    from img2img.evaluation.choosing import ALL, JUDGED
    from img2img.recipe_files import find_recipe
    from img2img.recipe_parser import load_recipe

    if precision is not None:
        one_of("--precision", precision, ("auto", "float32", "bfloat16"))
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise RequestError("compare starts its runs itself: start it without torchrun")
    console = Console(stderr=True, quiet=quiet, highlight=False, markup=False)
    plugins = load_plugins_for(plugin)
    registry = plugins.registry
    path = find_recipe(recipe)
    base = load_recipe(path, registry, set_ or ())
    wanted = base.compare
    varied: dict[str, Sequence[Any]] = dict(wanted.vary)
    if vary:
        given = [parse_vary(text) for text in vary]
        if twice := [key for i, (key, _) in enumerate(given) if key in dict(given[:i])]:
            raise RequestError(f"--vary {twice[0]} is there twice: put all values into one")
        varied = dict(given)
    variants = make_variants(path, registry, varied, set_ or ())
    count = wanted.seeds if seeds is None else seeds
    all_seeds = [base.train.seed + i for i in range(count)]
    names = metric or wanted.metrics
    judged_by = judge
    if judge is None and wanted.judge and {JUDGED, ALL} & set(names):
        judged_by = Path(wanted.judge)
    metrics = choose_metrics(names, judged_by is not None, base, registry)
    on = resolve_device(device)
    slots = make_slots(on.type, device, jobs, torch.cuda.device_count(), available_cores())
    scorer = make_scorer(
        variants,
        registry,
        metrics,
        judged_by,
        on,
        precision or base.train.precision,
        asked=names,
        named_by="--judge" if judge else f"[compare].judge of the recipe {base.name}",
    )
    directory = ComparisonDirectory(out or Path("runs") / f"compare-{base.name}")
    directory.check()
    lock = RunLock(directory.path)
    try:
        directory.path.mkdir(parents=True, exist_ok=True)
        lock.take()
        reference = {
            "recipe": base.name,
            "vary": {key: list(values) for key, values in varied.items()},
            "metrics": metrics,
            "judge": str(judged_by) if judged_by else None,
            "figure": directory.read_outcome().get("figure"),
        }
        made = prepare(
            variants, all_seeds, directory, plugins, reference, scorer, names, fresh=fresh
        )
        arguments = ["--precision", precision] if precision else []
        for file in plugin or ():
            arguments += ["--plugin", str(file)]
        if left := directory.others(variants, all_seeds):
            console.print(
                f"note: not asked for, and left out of the table: {', '.join(left)}",
                style="dim",
                soft_wrap=True,
            )
        with Progress(console, made) as progress:
            train_runs(made, slots, arguments, progress)
            score_runs(made, scorer, progress.scoring)
            undrawn = write_outcome(made, scorer, registry, rows)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; what was trained and scored is in {directory.path}, and the same "
            f"command goes on from there"
        ) from None
    finally:
        lock.release()
        # Where nothing could begin, nothing stays.
        with contextlib.suppress(OSError):
            directory.path.rmdir()
    _report(made, console, undrawn, as_json=json, quiet=quiet)
    problems = []
    if made.failed:
        problems.append(f"{len(made.failed)} of {len(made.all_jobs)} runs failed and are left out")
    if lost := [name for name in metrics if name in names and name in made.missing]:
        problems.append(f"{', '.join(lost)} could not be computed")
    if problems:
        raise Img2ImgError(f"{'; '.join(problems)}; the reasons are above")


def _report(
    made: Comparison, console: Console, undrawn: str | None, *, as_json: bool, quiet: bool
) -> None:
    """Print the outcome, and what is missing from it; `undrawn` is why there is no figure."""
    import json
    import sys

    from rich.console import Console

    from img2img.cli.comparing import print_table
    from img2img.names import printable

    if as_json:
        print(json.dumps(made.as_json(), indent=2))
    elif not quiet and made.scores:
        print_table(made.table(), Console(highlight=False))
    for job, why in made.failed.items():
        print(f"failed: {printable(job.name)}: {printable(why)}", file=sys.stderr)
        if job.log.is_file():
            print(f"  all that it said: {printable(str(job.log))}", file=sys.stderr)
    missing = dict(made.missing)
    if any(made.scores_of(job).skipped for job in made.scores):
        missing["some pairs"] = "they cannot be read"
    if undrawn is not None:
        print(f"no figure: {printable(undrawn)}", file=sys.stderr)
    for name, why in missing.items():
        print(f"warning: without {printable(name)}: {printable(why)}", file=sys.stderr)
    for path in (made.directory.figure, made.directory.markdown, made.directory.outcome):
        if path.is_file():
            console.print(f"wrote {printable(str(path))}", soft_wrap=True)
