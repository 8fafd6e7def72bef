"""`img2img check`."""

from __future__ import annotations

from typing import Annotated

import typer

from img2img.cli.options import (
    DebugOption,
    JsonOption,
    PluginOption,
    QuietOption,
    SetOption,
    load_plugins_for,
)

# More are counted, not printed.
SHOWN = 20


def check(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    set_: SetOption = None,
    plugin: PluginOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Validate a recipe and look through its data without training."""
    import json as json_module

    import torch
    from rich.console import Console
    from rich.progress import track

    from img2img.assemble import build_networks, build_source
    from img2img.data.checking import look_through
    from img2img.errors import DataError
    from img2img.recipe import find_recipe, load_recipe

    plugins = load_plugins_for(plugin)
    path = find_recipe(recipe)
    parsed = load_recipe(path, plugins.registry, set_ or ())
    task, method = build_networks(parsed, plugins.registry, torch.device("cpu"), "float32")
    parameters = {
        name: sum(p.numel() for p in network.parameters())
        for name, network in method.networks.items()
    }
    progress = Console(stderr=True, quiet=quiet or json)
    found = {}
    for split in ("train", "val"):
        source = build_source(parsed, plugins.registry, "train" if split == "train" else "val")
        bar = iter(
            track(range(len(source)), f"looking through {split}", console=progress, transient=True)
        )
        found[split] = look_through(source, lambda bar=bar: next(bar, None))  # type: ignore[misc]
        for _ in bar:
            pass
    problems = [problem for findings in found.values() for problem in findings.problems]
    if json:
        report = {
            "recipe": str(path),
            "valid": True,
            "parameters": parameters,
            "data": {
                split: {
                    "pairs": findings.pairs,
                    "sizes": {f"{w}x{h}": n for (w, h), n in sorted(findings.sizes.items())},
                }
                for split, findings in found.items()
            },
            "problems": [{"file": file, "reason": reason} for file, reason in problems],
        }
        print(json_module.dumps(report, indent=2))
    else:
        console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        console.print(f"{path}: valid")
        console.print(
            f"  task {parsed.task.name}: {task.source_channels} to {task.target_channels} channels,"
            f" {parsed.data.crop_size} pixels"
        )
        for name, count in parameters.items():
            console.print(f"  {name}: {count / 1e6:.2f} million parameters")
        for split, findings in found.items():
            console.print(f"  {split}: {findings.pairs} pairs, {findings.size_range()} pixels each")
        for file, reason in problems[:SHOWN]:
            console.print(f"  {file}: {reason}", markup=False)
        if len(problems) > SHOWN:
            console.print(f"  and {len(problems) - SHOWN} more; --json lists all")
    if problems:
        total = sum(findings.pairs for findings in found.values())
        raise DataError(f"{len(problems)} of {total} pairs cannot be used; remove or mend them")
