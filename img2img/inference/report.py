"""The report of a folder: one line of JSON an image, whole whenever a run is killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from img2img.data.images import SUFFIXES
from img2img.errors import RequestError
from img2img.names import printable

BLOCK = 1 << 16


class Report:
    """A file that lines are appended to, from any thread; each is in the file when `add` returns.

    It is a context that closes the file.

    Args:
        path: the file. Its folder is made. What a killed run left of a last line is cut off.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered, and in append mode: a line is one write, whoever else writes.
        self._file = path.open("a+b", buffering=0)
        self._lock = threading.Lock()
        _cut_torn_line(self._file)

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line.

        Raises:
            OSError: it cannot be written.
        """
        text = json.dumps(line, ensure_ascii=True, allow_nan=False) + "\n"
        with self._lock:
            self._file.write(text.encode("ascii"))

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._file.close()


def check_report(path: Path) -> None:
    """Refuse a file that is something else than a report, before anything is appended to it.

    Raises:
        RequestError: it is, or it cannot be written.
    """
    if path.suffix.lower() in SUFFIXES:
        raise RequestError(f"--report {printable(path)}: that is the name of an image; use .jsonl")
    try:
        if path.exists():
            if not path.is_file():
                raise RequestError(f"--report {printable(path)} is no file")
            with path.open("r+b") as file:
                first = file.read(1)
            if first not in (b"", b"{"):
                raise RequestError(f"--report {printable(path)} is there and is no report")
    except OSError as error:
        raise RequestError(
            f"--report {printable(path)} cannot be written: {error.strerror or error}"
        ) from error


def part_of(path: Path, rank: int) -> Path:
    """The file of one of several workers."""
    return path.with_name(f"{path.name}.{rank}")


def join_parts(path: Path) -> None:
    """Append the workers' files that are there to the report, and remove them.

    Killed in between, some lines are there twice, which says nothing else than once.

    Raises:
        OSError: one cannot be read, or the report not be written.
    """
    pattern = re.compile(re.escape(path.name) + r"\.[0-9]+", re.DOTALL)
    if not path.parent.is_dir():
        return
    parts = [part for part in path.parent.iterdir() if pattern.fullmatch(part.name)]
    if not parts:
        return
    with path.open("a+b", buffering=0) as whole:
        for part in sorted(parts):
            with part.open("r+b", buffering=0) as lines:
                _cut_torn_line(lines)
                lines.seek(0)
                _cut_torn_line(whole)
                shutil.copyfileobj(lines, whole)
            part.unlink()


def describe_name(key: str, name: str) -> dict[str, str]:
    """A file's name as a report has it: valid in any JSON parser, and exact.

    Names need not be valid UTF-8. Those that are not get U+FFFD where they are wrong, and a second
    key with all their bytes in hexadecimal.
    """
    content = os.fsencode(name)
    shown = content.decode("utf-8", "replace")
    if os.fsencode(shown) == content:
        return {key: shown}
    return {key: shown, f"{key}_hex": content.hex()}


def _cut_torn_line(file: BinaryIO) -> None:
    """Cut off what follows the last line's end; its image comes again."""
    end = file.seek(0, os.SEEK_END)
    place = end
    while place > 0:
        start = max(0, place - BLOCK)
        file.seek(start)
        found = file.read(place - start).rfind(b"\n")
        if found >= 0:
            place = start + found + 1
            break
        place = start
    if place != end:
        file.truncate(place)
