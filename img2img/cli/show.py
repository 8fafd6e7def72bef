"""`img2img show`."""

from __future__ import annotations

from typing import Annotated

import typer

from img2img.cli.options import DebugOption, JsonOption, PluginOption, load_plugins_for


def show(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="generator, discriminator, loss, task, ...")
    ],
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Its name, as `img2img list` shows it.")
    ],
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show one component: its settings with types and defaults, its docstring, its source."""
    import inspect
    import json as json_module
    import textwrap

    from rich.console import Console
    from rich.syntax import Syntax
    from rich.table import Table
    from rich.text import Text

    from img2img.cli.listing import singular
    from img2img.cli.values import one_of
    from img2img.component import KINDS, own_doc
    from img2img.errors import RequestError
    from img2img.recipe_files import find_recipe

    wanted = singular(kind)
    one_of("KIND", wanted, [*KINDS, "recipe"])
    if wanted == "recipe":
        path = find_recipe(name)
        text = path.read_text(encoding="utf-8")
        if json:
            print(json_module.dumps({"kind": "recipe", "name": name, "text": text}, indent=2))
        elif (console := Console()).is_terminal:
            console.print(Syntax(text, "toml", background_color="default", word_wrap=True))
        else:
            # As it is, so that `img2img show recipe facades > mine.toml` is a recipe.
            print(text, end="")
        return
    try:
        component = load_plugins_for(plugin).registry.get(wanted, name)
    except KeyError as error:
        raise RequestError(error.args[0]) from None
    doc = own_doc(component.factory)
    try:
        lines, start = inspect.getsourcelines(component.factory)
        source, place = "".join(lines), f"{inspect.getsourcefile(component.factory)}:{start}"
    except (OSError, TypeError):
        source, place = "", "not available"
    if json:
        settings = [
            {
                "name": s.name,
                "type": s.type_name,
                "required": s.required,
                "default": None if s.required else s.default,
                "help": s.help,
            }
            for s in component.settings
        ]
        print(
            json_module.dumps(
                {
                    "kind": wanted,
                    "name": name,
                    "plugin": component.origin,
                    "summary": component.summary,
                    "settings": settings,
                    "docstring": doc,
                    "source": place,
                },
                indent=2,
                default=str,
            )
        )
        return
    console = Console()
    title = Text.assemble(f"{wanted} ", (name, "bold"), f" from {component.origin}\n")
    console.print(title, soft_wrap=True)
    # The arguments come as a table. Paragraphs are filled anew: a line that was broken for the
    # source is not for this terminal.
    paragraphs = doc.partition("\nArgs:")[0].strip().split("\n\n")
    width = min(console.width, 100)
    filled = [p if "\n " in p else textwrap.fill(p, width) for p in paragraphs]
    console.print("\n\n".join(filled), markup=False, highlight=False, soft_wrap=True)
    if component.settings:
        table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
        for heading in ("setting", "type", "default"):
            table.add_column(heading, no_wrap=heading == "setting")
        table.add_column("", ratio=1)
        for setting in component.settings:
            default = "required" if setting.required else _plain(setting.default)
            cells = (setting.name, setting.type_name, default, setting.help)
            table.add_row(*map(Text, cells))
        console.print()
        console.print(table)
    else:
        console.print("\nIt has no settings.")
    console.print(f"\n{place}", style="dim", highlight=False, soft_wrap=True)
    if console.is_terminal:
        console.print(Syntax(source, "python", theme="ansi_dark", word_wrap=True))
    else:
        # Into a file or a pipe it goes as it is.
        print(source, end="")


def _plain(value: object) -> str:
    """A default as a recipe would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return "not set" if value is None else repr(value)
