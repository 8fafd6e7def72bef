"""`img2img data`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from img2img.cli.options import DebugOption, JsonOption, QuietOption

if TYPE_CHECKING:
    from img2img.download import Fetched

app = typer.Typer(help="Known public data sets: list them, and fetch one.", no_args_is_help=True)


@app.command("list")
def list_data_sets(json: JsonOption = False, debug: DebugOption = False) -> None:
    """List the data sets that can be fetched: what they show, how large they are, on what terms."""
    import json as json_module

    from rich.console import Console
    from rich.table import Table

    from img2img.download import CATALOG, size_text

    if json:
        rows = [
            {
                "name": data.name,
                "summary": data.summary,
                "pairs": dict(data.pairs),
                "download_bytes": data.download_bytes,
                "url": data.url,
                "layout": "side_by_side",
                "left": data.left,
                "right": data.right,
                "task": data.task,
                "direction": data.direction,
                "recipes": list(data.recipes),
                "terms": data.terms,
                "cite": data.cite,
            }
            for data in CATALOG.values()
        ]
        print(json_module.dumps(rows, indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("name", "pairs", "download"):
        table.add_column(title, no_wrap=True, justify="left" if title == "name" else "right")
    table.add_column("what, direction, terms", ratio=1)
    for data in CATALOG.values():
        size = size_text(data.download_bytes) if data.download_bytes else "?"
        if not data.exact:
            size = f"about {size}"
        table.add_row(
            data.name,
            "\n".join(f"{count} {split}" for split, count in data.pairs.items()),
            size,
            f"{data.summary}\n"
            f"[dim]{data.left} | {data.right}; {data.task}: {data.direction}\n"
            f"{data.terms}. Cite {data.cite}[/dim]",
        )
    console.print(table)
    console.print("\nfetch one: img2img data fetch NAME", soft_wrap=True)


@app.command("fetch")
def fetch_data_set(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="One of those that `img2img data list` shows.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where it goes.", show_default="data/NAME"),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Another copy of the archive: the address or path of a .tar.gz."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "--fresh", help="Replace the data set that is there.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds without a byte until a connection is given up.")
    ] = 30.0,
    quiet: QuietOption = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Download a data set, check it, unpack it; what breaks goes on with the same command."""
    import json as json_module

    from rich.console import Console

    from img2img.download import fetch, find_data_set
    from img2img.download.display import Display

    data = find_data_set(name)
    folder = out or Path("data", data.name)
    console = Console(stderr=True, quiet=quiet, markup=False, highlight=False, soft_wrap=True)
    with Display(console) as watch:
        fetched = fetch(data, folder, url=url, replace=force, timeout=timeout, watch=watch)
    if json:
        print(json_module.dumps(_result(fetched, data.recipes), indent=2))
    counts = ", ".join(f"{count} {split}" for split, count in fetched.pairs.items())
    state = "is there already" if fetched.already else "is there"
    console.print(f"{folder} {state}: {counts}")
    if not fetched.already:
        console.print(f"terms: {data.terms}; cite {data.cite}")
    console.print("next: " + ", or ".join(_commands(data.recipes, folder, data.name)))


def _commands(recipes: tuple[str, ...], folder: Path, name: str) -> list[str]:
    import shlex

    # The recipes look where the data goes by default.
    elsewhere = folder != Path("data", name)
    more = f" --set {shlex.quote(f'data.root={folder}')}" if elsewhere else ""
    return [f"img2img run {recipe}{more}" for recipe in recipes]


def _result(fetched: Fetched, recipes: tuple[str, ...]) -> dict[str, object]:
    return {
        "name": fetched.name,
        "folder": str(fetched.folder),
        "pairs": fetched.pairs,
        "url": fetched.url,
        "bytes": fetched.bytes,
        "sha256": fetched.sha256,
        "already": fetched.already,
        "next": _commands(recipes, fetched.folder, fetched.name),
    }
