"""`img2img new`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from img2img.cli.options import DebugOption, QuietOption

if TYPE_CHECKING:
    from img2img.data.survey import Survey


def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The run's name; the recipe becomes NAME.toml.")
    ],
    data: Annotated[Path, typer.Option(metavar="DIR", help="The folder of images to look at.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a recipe that is there.")
    ] = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Look at a folder of images and write a commented recipe for it."""
    from rich.console import Console

    from img2img.data.survey import survey
    from img2img.document import Document
    from img2img.errors import RequestError
    from img2img.plugins import load_plugins
    from img2img.recipe_parser import can_be_folder, parse_recipe

    path = Path(name if name.endswith(".toml") else f"{name}.toml")
    if not can_be_folder(path.stem):
        raise RequestError(f"{path.stem!r} cannot be the name of a run, which becomes a folder")
    if not str(data).isprintable():
        raise RequestError(f"{str(data)!r} cannot be written into a recipe; rename the folder")
    if path.exists() and not overwrite:
        raise RequestError(f"{path} is already there; use --overwrite or another name")
    seen = survey(data)
    text = recipe_text(path.stem, data, seen)
    # What is written must be valid; this says so before a file exists.
    parse_recipe(Document(text, str(path)), load_plugins(entry_points=False).registry)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror or error}") from error
    console = Console(quiet=quiet, highlight=False, soft_wrap=True, markup=False)
    console.print(f"wrote {path}: {seen.pairs} pairs to train on, {seen.source}, task {seen.task}")
    for reason in seen.reasons.values():
        console.print(f"  {reason}")
    console.print(f"next: img2img check {path}, then img2img run {path}")


def recipe_text(name: str, data: Path, seen: Survey) -> str:
    """The recipe for what a survey saw, with a comment on every choice."""
    crop = 256
    while crop > seen.size and crop > 16:
        crop //= 2
    # As many pairs in all as the paper's facades: 400 pairs, 200 epochs; its larger sets had 15.
    epochs = min(200, max(15, round(80_000 / seen.pairs)))
    # Reasons name folders, and no folder's name may end a comment.
    because = {key: " ".join(reason.split()) for key, reason in seen.reasons.items()}
    lines = [
        f"# {name}: {seen.task}, from {seen.pairs} pairs. Written by `img2img new`; its guesses",
        "# are marked, change what is wrong.",
        f"name = {_quoted(name)}",
        "",
        "[task]",
        f"# A guess: {because.get('task', 'line drawings, made from the images')}.",
        "# Others: img2img list tasks",
        f"name = {_quoted(seen.task)}",
        *_palette_lines(seen.palette),
        "",
        "[data]",
        f"# {because['source'][0].upper()}{because['source'][1:]}.",
        f"source = {_quoted(seen.source)}",
        f"root = {_quoted(str(data))}",
    ]
    if seen.folders and seen.folders != ("A", "B"):
        lines += [f"first = {_quoted(seen.folders[0])}", f"second = {_quoted(seen.folders[1])}"]
    if seen.source == "derived":
        lines += ["# edges, grey, or copy (with the task colorization).", 'derive = "edges"']
    else:
        lines += [
            f"# A guess: {because['direction']}, so it is the source. The other way: "
            + ('"BtoA"' if seen.direction == "AtoB" else '"AtoB"'),
            f"direction = {_quoted(seen.direction)}",
        ]
    lines += [
        f"# Images are about {seen.size} pixels. Jitter resizes to crop_size * 286 / 256 before it",
        "# crops, unless load_size says otherwise.",
        f"crop_size = {crop}",
        "# false where left and right differ, as in writing.",
        "mirror = true",
        "",
        "[generator]",
        'name = "unet"',
        "# Channels after the first layer. 64 is the paper's; 32 trains three times as fast.",
        "width = 64",
        "",
        "# Leave this table and the adversarial loss out to train on L1 alone (blurred, but safe).",
        "[discriminator]",
        f"name = {_quoted('patchgan70' if crop >= 32 else 'patchgan16')}",
        "width = 64",
        "",
        "[[losses]]",
        'name = "adversarial"',
        'mode = "vanilla"',
        "",
        "[[losses]]",
        'name = "l1"',
        "weight = 100",
        "",
        "[train]",
        f"epochs = {epochs}",
        "batch_size = 1",
        "seed = 0",
        "log_every = 50",
        "sample_every = 1000",
        "checkpoint_every = 5000",
        "",
    ]
    return "\n".join(lines)


def _palette_lines(palette: str | None) -> list[str]:
    """The palette of label maps, if it is one that ships."""
    if palette is None:
        return []
    return [
        "# Gives each pixel the colour of its class, which repairs what JPEG smeared. Without it,",
        "# colours are fed as they are. The other way, photo to labels, is the task photo2labels.",
        f"palette = {_quoted(palette)}",
    ]


def _quoted(text: str) -> str:
    import json

    # A JSON string is a TOML basic string, except for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
