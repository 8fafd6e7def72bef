"""`img2img list`."""

from __future__ import annotations

from typing import Annotated

import typer

from img2img.cli.options import DebugOption, JsonOption, PluginOption, load_plugins_for


def list_components(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND",
            help="generators, losses, ..., presets, recipes; everything if left out.",
        ),
    ] = None,
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List registered components: name, summary, and the plugin each came from."""
    import json as json_module

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from img2img.cli.values import one_of
    from img2img.component import KINDS
    from img2img.presets import SUMMARIES
    from img2img.recipe_files import shipped_recipes

    wanted = singular(kind) if kind is not None else None
    if wanted is not None:
        one_of("KIND", wanted, [*KINDS, "preset", "recipe"])
    rows: list[tuple[str, str, str, str]] = []
    if wanted not in ("preset", "recipe"):
        components = load_plugins_for(plugin).registry.components(wanted)
        rows += [(c.kind, c.name, c.summary, c.origin) for c in components]
    if wanted in (None, "preset"):
        rows += [("preset", name, summary, "img2img") for name, summary in SUMMARIES.items()]
    if wanted in (None, "recipe"):
        for name, path in shipped_recipes().items():
            rows.append(
                ("recipe", name, first_comment(path.read_text(encoding="utf-8")), "img2img")
            )
    if json:
        keys = ("kind", "name", "summary", "plugin")
        print(json_module.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=2))
        return
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("kind", "name"):
        table.add_column(title, no_wrap=True)
    table.add_column("summary", ratio=1)
    # A local plugin's is a path, which may be longer than the line.
    table.add_column("plugin", style="dim", overflow="fold", max_width=max(8, console.width // 4))
    for i, row in enumerate(rows):
        if i and rows[i - 1][0] != row[0]:
            table.add_row()
        # As Text, because a plugin's summary may hold brackets that rich would read as markup.
        table.add_row(*map(Text, row))
    console.print(table)


def singular(kind: str) -> str:
    """`losses` as `loss`; what is singular already stays."""
    plural = {"losses": "loss"}
    return plural.get(kind, kind[:-1] if kind.endswith("s") and not kind.endswith("ss") else kind)


def first_comment(text: str) -> str:
    """The comment a recipe opens with, up to its first full stop."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    joined = " ".join(lines)
    return joined.split(". ")[0].rstrip(".") + "." if joined else ""
