"""`img2img check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from img2img.cli.options import (
    DebugOption,
    JsonOption,
    PluginOption,
    QuietOption,
    RecipeArgument,
    SetOption,
    load_plugins_for,
)

if TYPE_CHECKING:
    from rich.console import Console

    from img2img.data.checking import Findings
    from img2img.data.checks.problem import Problem
    from img2img.data.images import Split
    from img2img.data.source import PairSource
    from img2img.plugins import Plugins
    from img2img.recipe import Recipe


def check(
    recipe: RecipeArgument,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Draw the suspects to this file: small, with what is wrong below."),
    ] = None,
    set_: SetOption = None,
    plugin: PluginOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Validate a recipe and look through its data without training.

    Finds pairs that cannot be used (exit code 2) and those that are suspicious (exit code 1).
    """
    import json as json_module

    from rich.console import Console

    from img2img.cli.suspects import as_json, print_problems, write_sheet_of
    from img2img.errors import DataError, RecipeError, RequestError
    from img2img.recipe_files import find_recipe

    if sheet is not None:
        _refuse_place(sheet)
    plugins = load_plugins_for(plugin)
    path = find_recipe(recipe)
    try:
        seen = _look(path, plugins, set_ or (), Console(stderr=True, quiet=quiet or json))
    except (RecipeError, DataError) as error:
        if json:
            report = {"recipe": str(path), "valid": False, "mistakes": str(error).splitlines()}
            print(json_module.dumps(report, indent=2))
        raise
    if json:
        report = {
            "recipe": str(path),
            "valid": True,
            "parameters": seen.parameters,
            "data": {
                split: {
                    "pairs": findings.pairs,
                    "sizes": {f"{w}x{h}": n for (w, h), n in sorted(findings.sizes.items())},
                }
                for split, findings in seen.data.items()
            },
            "problems": as_json(seen.problems),
        }
        print(json_module.dumps(report, indent=2))
    else:
        console = Console(quiet=quiet, highlight=False, soft_wrap=True, markup=False)
        console.print(f"{path}: the recipe is valid")
        console.print(f"  {seen.task}")
        for name, count in seen.parameters.items():
            console.print(f"  {name}: {count:,} parameters")
        for split, findings in seen.data.items():
            pairs = f"{findings.pairs} {'pair' if findings.pairs == 1 else 'pairs'}"
            sizes = f"{findings.size_range()} pixels each" if findings.sizes else "none readable"
            console.print(f"  {split}: {pairs}, {sizes}")
        print_problems(seen.problems, console)
    if sheet is not None and seen.problems:
        try:
            write_sheet_of(sheet, seen.problems, seen.sources, swap=seen.swap)
        except OSError as error:
            raise RequestError(f"{sheet} cannot be written ({error.strerror or error})") from error
        if not json and not quiet:
            print(f"\n{sheet}: the suspects")
    _raise_any(seen)


def _refuse_place(sheet: Path) -> None:
    from img2img.data.writing import KINDS
    from img2img.errors import RequestError

    if KINDS.get(sheet.suffix.lower()) not in ("PNG", "JPEG", "WEBP"):
        raise RequestError(f"--sheet {sheet}: name a file that ends in .png")
    if not sheet.absolute().parent.is_dir():
        raise RequestError(f"--sheet {sheet}: there is no folder {str(sheet.parent)!r}")


def _raise_any(seen: _Seen) -> None:
    """An error for what cannot be used, or else for what is suspicious."""
    from img2img.errors import DataError, Img2ImgError

    errors = [problem for problem in seen.problems if problem.severity == "error"]
    unusable = [problem for problem in errors if problem.kind != "unmatched"]
    if unusable:
        total = sum(findings.pairs for findings in seen.data.values())
        # So many are not odd ones out: the recipe says something else than the data.
        odd = 2 * len(unusable) <= total
        cure = "remove or mend them" if odd else "the reasons say what to do"
        alone = len(errors) - len(unusable)
        also = f", and {alone} more images have no partner" if alone else ""
        raise DataError(f"{len(unusable)} of {total} pairs cannot be used{also}; {cure}")
    if seen.unmatched:
        raise DataError("; ".join(seen.unmatched))
    warnings = [problem for problem in seen.problems if problem.severity == "warning"]
    # A pair is one thing, whatever is wrong with it; so is what holds of all pairs of both splits.
    suspects = len({p.kind if p.whole else (p.split, p.index) for p in warnings})
    if suspects:
        raise Img2ImgError(
            f"{suspects} {'thing looks' if suspects == 1 else 'things look'} wrong with the data; "
            f"training would use it as it is"
        )


@dataclass
class _Seen:
    task: str
    parameters: dict[str, int]
    data: dict[str, Findings]
    sources: dict[str, PairSource]
    problems: list[Problem]
    unmatched: list[str]
    swap: bool


def _look(path: Path, plugins: Plugins, overrides: Sequence[str], console: Console) -> _Seen:
    """Build what the recipe names, then decode all of its data."""
    import torch
    from rich.progress import Progress

    from img2img.assemble import (
        build_networks,
        judge_of,
        metrics_of,
        refuse_broken,
        warn_of_scales,
    )
    from img2img.data.checking import find_problems, look_through
    from img2img.recipe_parser import load_recipe
    from img2img.tasks.base import image_channels_of, is_comparable, plainer_of

    recipe = load_recipe(path, plugins.registry, overrides)
    refuse_broken(recipe, plugins)
    task, method = build_networks(recipe, plugins.registry, torch.device("cpu"), "float32")
    metrics_of(recipe, plugins.registry, task)
    parameters = {
        name: sum(p.numel() for p in network.parameters())
        for name, network in method.networks.items()
    }
    channels = f"{task.source_channels} to {task.target_channels} channels"
    about = f"task {recipe.task.name}: {channels}, {recipe.data.crop_size} pixels"
    warn_of_scales(recipe.data)
    sources, alone, unmatched = _sources(recipe, plugins)
    data: dict[str, Findings] = {}
    swap = recipe.data.direction == "BtoA"
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for split, source in sources.items():
            bar = progress.add_task(f"looking through {split}", total=len(source))
            data[split] = look_through(
                source,
                partial(progress.advance, bar),
                judge_of(task, recipe.data.direction),
                split=split,
                swap=swap,
                channels=image_channels_of(task),
            )
        progress.add_task("comparing", total=None)
        problems = find_problems(
            data,
            sources,
            swap=swap,
            plainer=plainer_of(task),
            compare=is_comparable(task),
            others=alone,
        )
    return _Seen(about, parameters, data, sources, problems, unmatched, swap)


def _sources(
    recipe: Recipe, plugins: Plugins
) -> tuple[dict[str, PairSource], list[Problem], list[str]]:
    """The pairs of each split, the images without a partner, and what is said of these."""
    from img2img.assemble import build_source
    from img2img.data.checks.problem import Problem
    from img2img.data.two_folders import UnmatchedError
    from img2img.errors import DataError

    sources: dict[str, PairSource] = {}
    # Splits that are held out of one pair of folders have the same.
    alone: dict[Path, Problem] = {}
    said: dict[str, None] = {}
    splits: tuple[Split, ...] = ("train", "val")
    for split in splits:
        try:
            sources[split] = build_source(recipe, plugins.registry, split)
        except UnmatchedError as error:
            if error.matched is None:
                raise _unusable(error) from error
            sources[split] = error.matched
            said[str(error)] = None
            for file in error.alone:
                reason = "no partner of the same name"
                alone.setdefault(file, Problem("unmatched", split, str(file), reason))
        except DataError as error:
            raise _unusable(error) from error
    return sources, list(alone.values()), list(said)


def _unusable(error: Exception) -> Exception:
    from img2img.errors import DataError

    return DataError(f"the recipe is valid, but its data cannot be used: {error}")
