"""The files below folders; where there are many, found once and kept between runs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from img2img.data.kept_files import Arrays, Key, as_arrays, is_settled, keep, load, texts_in
from img2img.data.sequences import Lazy, Texts

# From so many files on, a list is kept. Fewer are found in less than a tenth of a second.
KEPT_FROM = 10_000

# From the names in each folder to columns of names of one length.
Arrange = Callable[[Sequence[list[str]]], Sequence[Sequence[str]]]


class FileList(Lazy[Path]):
    """Paths below a folder, by their names relative to it."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, names

    def __len__(self) -> int:
        return len(self.names)

    def item(self, index: int) -> Path:
        return self.folder / self.names[index]


@dataclass
class _Found:
    """What is below one folder.

    Attributes:
        names: of files, relative to it, in the order that `sorted` gives their paths.
        folders: it ("") and those below it, relative to it.
        changed: when each of the folders was changed last, in nanoseconds.
        settled: whether a change from now on can be told by these times.
    """

    names: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    settled: bool = True


def list_files(
    folders: Sequence[Path], suffixes: Collection[str], arrange: Arrange, purpose: str
) -> list[FileList]:
    """Files below folders by suffix, without hidden ones, as columns of as many as `arrange` gives.

    From `KEPT_FROM` files on, the columns are kept on disk, and found there as long as none of the
    folders has changed: then nothing but the folders is looked at, and the names stay on disk.

    Args:
        folders: where to look; column i holds names relative to folder i.
        suffixes: in lower case, with the dot.
        arrange: given all names in each folder, sorted as paths are, the columns.
        purpose: what `arrange` does; columns for one purpose are not taken for another.
    """
    key = {
        "purpose": purpose,
        "folders": [str(folder.resolve()) for folder in folders],
        "suffixes": sorted(suffixes),
        "names": sys.getfilesystemencoding(),
    }
    columns = _kept(key, folders)
    if columns is None:
        found = [_find(folder, suffixes) for folder in folders]
        columns = [Texts.of(column) for column in arrange([each.names for each in found])]
        total = sum(len(each.names) for each in found)
        if total >= KEPT_FROM and all(each.settled for each in found):
            _keep(key, found, columns)
            # From now on as it will be the next time: on disk instead of in memory.
            columns = _kept(key, folders) or columns
    return [FileList(folder, names) for folder, names in zip(folders, columns, strict=True)]


def _find(top: Path, suffixes: Collection[str]) -> _Found:
    found = _Found()
    began = time.time_ns()

    def unreadable(error: OSError) -> None:
        # It may become readable, which no time tells.
        found.settled = False

    for parent, folders, files in os.walk(top, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = parent[len(str(top)) :].lstrip(os.sep)
        try:
            changed = Path(parent).stat().st_mtime_ns
        except OSError:
            found.settled = False
            continue
        found.folders.append(below)
        found.changed.append(changed)
        found.settled = found.settled and is_settled(changed, began)
        for name in files:
            stem, dot, suffix = name.rpartition(".")
            if stem and dot + suffix.lower() in suffixes and not name.startswith("."):
                found.names.append(below + os.sep + name if below else name)
    # Paths are compared part by part, and no name holds a zero.
    found.names.sort(key=lambda name: os.path.normcase(name).replace(os.sep, "\0"))
    return found


def _keep(key: Key, found: Sequence[_Found], columns: Sequence[Texts]) -> None:
    arrays: Arrays = {}
    for number, each in enumerate(found):
        arrays |= as_arrays(f"folders{number}", Texts.of(each.folders))
        arrays[f"changed{number}"] = np.array(each.changed, np.int64)
    for number, column in enumerate(columns):
        arrays |= as_arrays(f"column{number}", column)
    keep(key, arrays)


def _kept(key: Key, folders: Sequence[Path]) -> list[Texts] | None:
    """The columns that were kept, unless a folder has changed since."""
    arrays = load(key)
    if arrays is None:
        return None
    try:
        for number, top in enumerate(folders):
            names, changed = texts_in(arrays, f"folders{number}"), arrays[f"changed{number}"]
            for name, then in zip(names, changed, strict=True):
                if Path(top, name).stat().st_mtime_ns != then:
                    return None
        return [texts_in(arrays, f"column{number}") for number in range(len(folders))]
    # A folder is gone, or the file is damaged.
    except (OSError, ValueError, KeyError):
        return None
