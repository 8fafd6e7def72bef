"""`img2img show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from img2img.cli.options import DebugOption, JsonOption, PluginOption, load_plugins_for


def show(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND", help="generator, discriminator, loss, task, ..., preset, recipe"
        ),
    ],
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Its name, as `img2img list` shows it.")
    ],
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show one component: its settings, docstring and source; or a preset, or a recipe."""
    from img2img.cli.listing import singular
    from img2img.cli.values import one_of
    from img2img.component import KINDS

    wanted = singular(kind)
    one_of("KIND", wanted, [*KINDS, "preset", "recipe"])
    if wanted == "recipe":
        _show_recipe(name, json)
    elif wanted == "preset":
        _show_preset(name, json)
    else:
        _show_component(wanted, name, plugin, json)


def _show_recipe(name: str, json: bool) -> None:
    import json as json_module

    from rich.console import Console
    from rich.syntax import Syntax

    from img2img.names import printable
    from img2img.recipe_files import find_recipe

    path = find_recipe(name)
    text = path.read_text(encoding="utf-8")
    if json:
        print(json_module.dumps({"kind": "recipe", "name": name, "text": text}, indent=2))
    elif (console := Console()).is_terminal:
        # Strangers' recipes may hold what a terminal obeys.
        plain = "\n".join(printable(line) for line in text.expandtabs().splitlines())
        console.print(Syntax(plain, "toml", background_color="default", word_wrap=True))
    else:
        # As it is, so that `img2img show recipe facades > mine.toml` is a recipe.
        print(text, end="")


def _show_preset(name: str, json: bool) -> None:
    import json as json_module

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from img2img.cli.values import one_of
    from img2img.presets import FORKS, SUMMARIES, preset_names

    one_of("NAME", name, preset_names())
    preset = next(known for known in SUMMARIES if known == name)
    if json:
        choices = [
            {"key": f.key, "value": f.value(preset), "about": f.about, "source": f.source}
            for f in FORKS
        ]
        shown = {"kind": "preset", "name": name, "summary": SUMMARIES[preset], "choices": choices}
        print(json_module.dumps(shown, indent=2))
        return
    console = Console()
    console.print(Text.assemble("preset ", (name, "bold"), f"\n\n{SUMMARIES[preset]}"))
    console.print(
        f'Name it in a recipe with preset = "{name}", above the first table. What the recipe sets '
        "itself wins, and what a component does not have is passed over.\n",
        markup=False,
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 1, 0))
    table.add_column("key", no_wrap=True)
    table.add_column("value", no_wrap=True)
    table.add_column("what it decides, and who says so", ratio=1)
    for fork in FORKS:
        value = _plain(fork.value(preset))
        about = f"{fork.about[0].upper()}{fork.about[1:]}."
        table.add_row(fork.key, value, Text.assemble(about, (f" {fork.source}", "dim")))
    console.print(table)


def _show_component(wanted: str, name: str, plugin: list[Path] | None, json: bool) -> None:
    import inspect
    import json as json_module
    import textwrap

    from rich.console import Console
    from rich.syntax import Syntax
    from rich.table import Table
    from rich.text import Text

    from img2img.component import own_doc
    from img2img.errors import RequestError

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
