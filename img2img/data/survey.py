"""A first look at a folder of images: how its pairs are laid out, and what they might be."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from img2img.data.checks.colours import variety
from img2img.data.images import Image, Part, split_images
from img2img.data.reading import image_size, read_image
from img2img.data.shard_index import called_in, image_endings
from img2img.data.shards import Shards
from img2img.data.side_by_side import split_halves
from img2img.data.two_folders import TwoFolders, UnmatchedError
from img2img.errors import DataError, ImageError
from img2img.picture import Pixels, to_display
from img2img.tasks.classes import matching_palette

# Enough to tell a layout; a folder may hold a million.
LOOKED_AT = 24


@dataclass(frozen=True)
class Survey:
    """What a folder seems to hold; a guess, to be read before it is used.

    Attributes:
        source: the recipe's `data.source`.
        folders: the recipe's `data.first` and `data.second`: names of the two folders, or what
            images in shards are called.
        direction: which side looks like the source.
        task: which task the pairs look like.
        palette: the shipped palette whose colours the sources have, if any.
        pairs: how many there are to train on, or to score.
        size: the smaller side of a typical image, in pixels.
        reasons: what each guess rests on, for the comments of a recipe.
    """

    source: Literal["side_by_side", "two_folders", "shards", "derived"]
    folders: tuple[str, str] | None
    direction: Literal["AtoB", "BtoA"]
    task: str
    pairs: int
    size: int
    reasons: dict[str, str]
    palette: str | None = None


def survey(root: Path, split: Part = "train") -> Survey:
    """Look at a folder.

    Args:
        root: the folder.
        split: its pairs to train on, or those that a finished model is scored on.

    Raises:
        DataError: it is missing, holds no readable images, or, to train on, some to validate on
            alone.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {str(root)!r}")
    reasons: dict[str, str] = {}
    folders, both = _two_folders(root, split)
    if folders is not None and both is not None:
        samples = _readable(both.pair, len(both), root)
        count = len(both)
        reasons["source"] = (
            f"the folders {folders[0]} and {folders[1]} hold files of the same names"
        )
        source: Literal["side_by_side", "two_folders", "shards", "derived"] = "two_folders"
    elif not (files := _images(root, split)):
        folders, shards = _shards(root, split)
        source, count = "shards", len(shards)
        samples = _readable(shards.pair, count, root)
        reasons["source"] = (
            f"tar files, whose images are called {' and '.join(filter(None, folders))}"
            if any(folders)
            else "tar files of images that are twice as wide as high: two of them side by side"
        )
    else:
        count = len(files)
        if _mostly_double(files):
            source = "side_by_side"
            reasons["source"] = "the images are twice as wide as high: two of them side by side"
            samples = _readable(lambda i: split_halves(read_image(files[i]), files[i]), count, root)
        else:
            source = "derived"
            reasons["source"] = "single images, so the source has to be made from each"
            samples = _readable(lambda i: (read_image(files[i]),) * 2, count, root)
    size = int(np.median([min(first.shape[:2]) for first, _ in samples]))
    if source == "derived":
        return Survey(source, None, "AtoB", "edges", count, size, reasons)
    colours = [float(np.mean([variety(pair[side]) for pair in samples])) for side in (0, 1)]
    direction: Literal["AtoB", "BtoA"] = "AtoB" if colours[0] <= colours[1] else "BtoA"
    plain = 0 if direction == "AtoB" else 1
    reasons["direction"] = f"the {('first', 'second')[plain]} image of a pair has fewer colours"
    sources = [pair[plain] for pair in samples]
    palette = _common_palette(sources)
    if palette is not None:
        task, reasons["task"] = "labels", f"the sources have the colours of {palette}"
    else:
        task, reasons["task"] = _task_of(sources)
    return Survey(source, folders, direction, task, count, size, reasons, palette)


def _images(root: Path, split: Part) -> Sequence[Path]:
    """The images of a split; none where there are tar files instead."""
    try:
        return split_images(root, split)
    except DataError as error:
        if "no images" not in str(error):
            raise
        if any(root.rglob("*.parquet")):
            raise DataError(
                f"no images below {str(root)!r}, but parquet files: write a recipe with "
                f'data.source = "huggingface" and data.root = "{root.as_posix()}"'
            ) from error
        if not any(root.rglob("*.tar")):
            raise
        return []


def _shards(root: Path, split: Part) -> tuple[tuple[str, str], Shards]:
    """What `data.first` and `data.second` are for tar files, and the pairs in them."""
    file = min(root.rglob("*.tar"))
    names = [*image_endings(file)]
    wrong: Exception | None = None
    # One image of each name holds both halves.
    first, second = [*names, ""][:2] if names else ("", "")
    if len(names) in (1, 2) and all(name.isprintable() for name in names):
        try:
            pairs = Shards(root, split, first=first, second=second)
            if second or _is_double(pairs):
                return (first, second), pairs
        except DataError as error:
            wrong = error
    raise DataError(
        f"no images below {str(root)!r}, but tar files: write a recipe with "
        f'data.source = "shards", data.root = "{root.as_posix()}", and data.first and '
        f"data.second, which are what the two images of a pair are called behind the first dot of "
        f"their names; in {file}, {called_in(file)}{f' ({wrong})' if wrong else ''}"
    )


def _is_double(pairs: Shards) -> bool:
    """Whether halves of the first image are square."""
    try:
        height, width = pairs.pair(0)[0].shape[:2]
    except ImageError:
        return False
    return bool(height == width)


def _two_folders(root: Path, split: Part) -> tuple[tuple[str, str] | None, TwoFolders | None]:
    """The names of two folders whose files go together, and the pairs of them that have both."""
    candidates = [("A", "B")]
    parents = ("train", "") if split == "train" else ("val", "test", "train", "")
    for parent in (root / name for name in parents):
        if parent.is_dir():
            # Not by Path.iterdir: this asks about none of a million files.
            with os.scandir(parent) as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir())
            names = [n for n in names if n not in ("train", "val", "test") and n[0] != "."]
            if len(names) == 2:
                candidates.append((names[0], names[1]))
    for first, second in candidates:
        try:
            both = TwoFolders(root, split, first=first, second=second)
        except UnmatchedError as error:
            named = (first, second) == ("A", "B")
            if named and split == "scored" and error.matched is None:
                raise
            # A few names in common say nothing of two folders that are called anything.
            if error.matched is None or not (named or len(error.matched) > len(error.alone)):
                continue
            both = error.matched
        except DataError:
            continue
        return (first, second), both
    return None, None


def _mostly_double(files: Sequence[Path]) -> bool:
    double = total = 0
    for path in files[:: max(1, len(files) // LOOKED_AT)]:
        try:
            width, height = image_size(path)
        except ImageError:
            continue
        total += 1
        double += width == 2 * height
    return double * 2 > total


def _readable(
    pair: Callable[[int], tuple[Pixels, Pixels]], count: int, root: Path
) -> list[tuple[Image, Image]]:
    """Some of the pairs, as people see them."""
    found = []
    unreadable: list[ImageError] = []
    for index in range(0, count, max(1, count // LOOKED_AT)):
        try:
            first, second = pair(index)
        except ImageError as error:
            unreadable.append(error)
        else:
            found.append((to_display(first), to_display(second)))
    if not found:
        hint = ""
        if "channels" in unreadable[0].reason:
            hint = (
                "; recipes for images that are neither grey nor RGB are written by hand, with "
                "task.source_channels and task.target_channels of 'paired'"
            )
        raise DataError(
            f"none of the first images below {str(root)!r} can be read; {unreadable[0]}{hint}"
        )
    return found


def _common_palette(sources: list[Image]) -> str | None:
    """The shipped palette of most of the sources."""
    # A drawing on black ground is near Cityscapes' black.
    if _is_grey(sources):
        return None
    found = [matching_palette(image) for image in sources]
    likely = max(found, key=found.count)
    return likely if 2 * found.count(likely) > len(found) else None


def _is_grey(sources: list[Image]) -> bool:
    return bool(np.mean([np.ptp(image.astype(np.int16), axis=-1).mean() for image in sources]) < 6)


def _task_of(sources: list[Image]) -> tuple[str, str]:
    grey = _is_grey(sources)
    light = np.mean([(image.min(axis=-1) > 200).mean() for image in sources])
    colours = np.mean([variety(image) for image in sources])
    if grey and light > 0.6:
        return "edges", "the sources are grey and mostly white paper"
    # JPEG smears flat colours into many, but leaves them more vivid than photographs are.
    vivid = np.mean([(np.ptp(image.astype(np.int16), axis=-1) > 100).mean() for image in sources])
    if not grey and (colours < 3.5 or vivid > 0.5):
        return "labels", "the sources have few or unusually vivid colours"
    return "paired", "the sources are neither drawings nor flat labels"
