"""Finding the images below a folder, however many there are."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from img2img.data.images import SUFFIXES

# Folders within folders that are kept open at a time; deeper ones are listed at once, because a
# process may have few files open.
OPEN_FOLDERS = 64


@dataclass(frozen=True)
class Found:
    """An image file below a folder, or a place there that cannot be looked at.

    Attributes:
        path: where it is.
        name: the same from the folder on, parts joined by `/`.
        problem: why it is no image to translate; None where it is one.
    """

    path: Path
    name: str
    problem: str | None = None


def walk_images(folder: Path, *, without: str | None = None) -> Iterator[Found]:
    """Files with an image's suffix below a folder, as they come, in the order the system gives.

    Hidden files and folders are passed over, and links to folders; links to files are not. Memory
    depends on how deep the folders lie and not on how many files there are.

    Args:
        folder: where to look.
        without: a folder below it that is passed over, as its name from there on.

    Raises:
        OSError: the folder itself cannot be listed.
    """
    stack = [(_listing(folder, 0), "")]
    try:
        while stack:
            entries, inside = stack[-1]
            try:
                entry = next(entries, None)
            except OSError as error:
                entry = None
                yield Found(Path(folder, inside), inside or ".", _unlisted(error))
            if entry is None:
                _close(stack.pop()[0])
                continue
            name = f"{inside}/{entry.name}" if inside else entry.name
            if entry.name.startswith(".") or name == without:
                continue
            if _is_folder(entry):
                try:
                    stack.append((_listing(entry.path, len(stack)), name))
                except OSError as error:
                    yield Found(Path(entry.path), name, _unlisted(error))
            elif Path(entry.name).suffix.lower() in SUFFIXES and not _is_link_away(entry):
                yield Found(Path(entry.path), name, _problem(entry))
    finally:
        for entries, _ in stack:
            _close(entries)


def is_file(path: Path) -> bool:
    """Whether there is a file, or a link to one; False also where nobody can tell."""
    # Path.is_file raises where the name is too long.
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def is_result(path: Path) -> bool:
    """Whether a result is there: a file with something in it.

    Where a machine went down, a file may be there whose content never came to the disk.
    """
    try:
        return is_file(path) and path.stat().st_size > 0
    except OSError:
        return False


def _listing(path: str | Path, depth: int) -> Iterator[os.DirEntry[str]]:
    entries = os.scandir(path)
    if depth < OPEN_FOLDERS:
        return entries
    with entries:
        return iter(list(entries))


def _close(entries: Iterator[os.DirEntry[str]]) -> None:
    close = getattr(entries, "close", None)
    if close is not None:
        close()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _is_link_away(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link to a folder: one that leads back up would have no end."""
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:
        return False


def _problem(entry: os.DirEntry[str]) -> str | None:
    try:
        if entry.is_file():
            return None
    except OSError as error:
        return f"cannot be looked at ({error.strerror or error})"
    # Reading a pipe or a device might never end.
    return "a link that leads nowhere" if entry.is_symlink() else "not a regular file"


def _unlisted(error: OSError) -> str:
    return f"the folder cannot be listed ({error.strerror or error})"
