"""Which file a recipe's name stands for."""

from __future__ import annotations

import difflib
from pathlib import Path

from img2img.errors import RequestError


def find_recipe(name: str) -> Path:
    """A recipe's path: a file, or the name of one that ships with the package.

    Raises:
        RequestError: there is neither; the message names the nearest.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    if path.is_dir():
        raise RequestError(f"{name} is a folder; a recipe is a .toml file")
    near = difflib.get_close_matches(name.removesuffix(".toml"), shipped, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise RequestError(
        f"there is no recipe file {name!r}, nor a shipped recipe of that name; {hint}"
        f"`img2img list recipes` lists those"
    )


def shipped_recipes() -> dict[str, Path]:
    """Recipes that come with the package, by name; those in a folder as `table1/l1`."""
    here = Path(__file__).parent
    # Inside the package in a wheel, beside it in a checkout.
    for folder in (here / "recipes", here.parent / "recipes"):
        if folder.is_dir():
            found = {
                path.relative_to(folder).with_suffix("").as_posix(): path
                for path in folder.rglob("*.toml")
            }
            # Those of the top first.
            return dict(sorted(found.items(), key=lambda item: ("/" in item[0], item[0])))
    return {}
