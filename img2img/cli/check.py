"""`img2img check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

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
    from img2img.data.images import Split
    from img2img.plugins import Plugins

# More are counted, not printed.
SHOWN = 20


def check(
    recipe: RecipeArgument,
    set_: SetOption = None,
    plugin: PluginOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Validate a recipe and look through its data without training."""
    import json as json_module

    from rich.console import Console

    from img2img.errors import DataError, RecipeError
    from img2img.recipe_files import find_recipe

    plugins = load_plugins_for(plugin)
    path = find_recipe(recipe)
    try:
        seen = _look(path, plugins, set_ or (), Console(stderr=True, quiet=quiet or json))
    except (RecipeError, DataError) as error:
        if json:
            report = {"recipe": str(path), "valid": False, "mistakes": str(error).splitlines()}
            print(json_module.dumps(report, indent=2))
        raise
    problems = [problem for findings in seen.data.values() for problem in findings.problems]
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
            "problems": [{"file": file, "reason": reason} for file, reason in problems],
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
        by_reason: dict[str, list[str]] = {}
        for file, reason in problems:
            by_reason.setdefault(reason, []).append(file)
        left = SHOWN
        for reason, files in by_reason.items():
            if len(files) == 1 and left:
                console.print(f"  {files[0]}: {reason}")
            elif left:
                console.print(f"  {len(files)} files: {reason}")
                for file in files[:left]:
                    console.print(f"    {file}")
            left = max(0, left - len(files))
        if len(problems) > SHOWN:
            console.print(f"  and {len(problems) - SHOWN} more; --json lists all")
    if problems:
        total = sum(findings.pairs for findings in seen.data.values())
        # So many are not odd ones out: the recipe says something else than the data.
        cure = "remove or mend them" if 2 * len(problems) <= total else "the reasons say what to do"
        raise DataError(f"{len(problems)} of {total} pairs cannot be used; {cure}")


@dataclass
class _Seen:
    task: str
    parameters: dict[str, int]
    data: dict[str, Findings]


def _look(path: Path, plugins: Plugins, overrides: Sequence[str], console: Console) -> _Seen:
    """Build what the recipe names, then decode all of its data."""
    import torch
    from rich.progress import Progress

    from img2img.assemble import (
        build_networks,
        build_source,
        judge_of,
        refuse_broken,
        warn_of_scales,
    )
    from img2img.data.checking import look_through
    from img2img.errors import DataError
    from img2img.recipe_parser import load_recipe

    recipe = load_recipe(path, plugins.registry, overrides)
    refuse_broken(recipe, plugins)
    task, method = build_networks(recipe, plugins.registry, torch.device("cpu"), "float32")
    parameters = {
        name: sum(p.numel() for p in network.parameters())
        for name, network in method.networks.items()
    }
    channels = f"{task.source_channels} to {task.target_channels} channels"
    about = f"task {recipe.task.name}: {channels}, {recipe.data.crop_size} pixels"
    splits: tuple[Split, ...] = ("train", "val")
    warn_of_scales(recipe.data)
    try:
        sources = {split: build_source(recipe, plugins.registry, split) for split in splits}
    except DataError as error:
        raise DataError(f"the recipe is valid, but its data cannot be used: {error}") from error
    data: dict[str, Findings] = {}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for split, source in sources.items():
            bar = progress.add_task(f"looking through {split}", total=len(source))
            data[split] = look_through(
                source, partial(progress.advance, bar), judge_of(task, recipe.data.direction)
            )
    return _Seen(about, parameters, data)
