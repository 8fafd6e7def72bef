"""Options that several commands share."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from img2img.plugins import Plugins

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped one.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe key; repeatable."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE.py", help="Load a local plugin file; repeatable."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


def a_path(text: str) -> Path:
    """A path as given; an empty one, such as an unset variable of the shell, is no path."""
    if not text:
        raise typer.BadParameter("it is empty, and would be the folder that you are in")
    return Path(text)


def wants_debug() -> bool:
    """Whether `--debug` was given, known before and after the command's own parsing."""
    return "--debug" in sys.argv


def load_plugins_for(files: list[Path] | None) -> Plugins:
    """All plugins; one that is broken gets a line on stderr and is left out."""
    from img2img.plugins import load_plugins

    plugins = load_plugins(files or ())
    for origin, reason in plugins.broken.items():
        print(f"warning: plugin {origin!r} was set aside: {reason}", file=sys.stderr)
    if wants_debug():
        for failure in plugins.failures:
            traceback.print_exception(failure)
    return plugins
