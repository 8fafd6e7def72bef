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
# How every line of a report begins.
OPENING = b'{"input": '
# Bytes of a line, with thousands of samples; what is longer is none.
LONGEST = 1 << 24


class Report:
    """A file that lines are appended to, from any thread; each is in the file when `add` returns.

    It is a context that closes the file.

    Args:
        path: the file. Its folder is made. What a killed run left of a last line is cut off.

    Raises:
        OSError: it cannot be written.
        RequestError: it is there and is no report.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered, and in append mode: a line is one write, whoever else writes.
        self._file = path.open("a+b", buffering=0)
        self._lock = threading.Lock()
        try:
            _cut_torn_line(self._file, path)
        except BaseException:
            self._file.close()
            raise

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

    Of a large one, the first line is looked at, the last, and what follows that.

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
                _check_lines(file, path)
    except OSError as error:
        raise RequestError(
            f"--report {printable(path)} cannot be written: {error.strerror or error}"
        ) from error


def part_of(path: Path, rank: int) -> Path:
    """The file of one of several workers."""
    return path.with_name(f"{path.name}.part-{rank}")


def join_parts(path: Path) -> None:
    """Append the workers' files that are there to the report, and remove them.

    Killed in between, some lines are there twice, which says nothing else than once. Files that are
    only called like that stay as they are.

    Raises:
        OSError: one cannot be read, or the report not be written.
        RequestError: what is there is no report.
    """
    pattern = re.compile(re.escape(path.name) + r"\.part-[0-9]+", re.DOTALL)
    if not path.parent.is_dir():
        return
    parts = [part for part in path.parent.iterdir() if pattern.fullmatch(part.name)]
    parts = [part for part in parts if _is_report(part)]
    if not parts:
        return
    with path.open("a+b", buffering=0) as whole:
        for part in sorted(parts):
            with part.open("r+b", buffering=0) as lines:
                _cut_torn_line(lines, part)
                lines.seek(0)
                _cut_torn_line(whole, path)
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


def _is_report(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            _check_lines(file, path)
    except RequestError:
        return False
    return True


def _cut_torn_line(file: BinaryIO, path: Path) -> None:
    """Cut off what follows the last line's end; its image comes again."""
    place = _check_lines(file, path)
    if place != file.seek(0, os.SEEK_END):
        file.truncate(place)


def _check_lines(file: BinaryIO, path: Path) -> int:
    """Where the last whole line of a report ends.

    Raises:
        RequestError: it is no report.
    """
    size = file.seek(0, os.SEEK_END)
    end = _line_end(file, size)
    whole = [] if end == 0 else [0, _line_end(file, end - 1)]
    torn = _line_at(file, end)
    # One that lacks nothing but its end is a line like others; of less, the beginning must do.
    begins = torn.startswith(OPENING) or OPENING.startswith(torn)
    if _parsed(torn) is not None:
        begins = _is_line(torn)
    if not begins or not all(_is_line(_line_at(file, start)) for start in whole):
        raise RequestError(
            f"--report {printable(path)} is there and is no report; choose another name"
        )
    return end


def _line_end(file: BinaryIO, place: int) -> int:
    """Where the last line ends that ends at a place or before it; 0 if none does."""
    while place > 0:
        start = max(0, place - BLOCK)
        file.seek(start)
        found = file.read(place - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        place = start
    return 0


def _line_at(file: BinaryIO, place: int) -> bytes:
    """The line from a place on, or as much of it as a line of a report can have."""
    file.seek(place)
    line = bytearray()
    while len(line) < LONGEST and not line.endswith(b"\n"):
        more = file.read(BLOCK)
        line += more.partition(b"\n")[0] + b"\n" * (b"\n" in more)
        if not more:
            break
    return bytes(line)


def _is_line(line: bytes) -> bool:
    found = _parsed(line)
    return isinstance(found, dict) and {"input", "status"} <= found.keys()


def _parsed(line: bytes) -> Any:
    """What a line says in JSON; None where it is none."""
    try:
        return json.loads(line)
    # Deep nesting ends in the second; a line of ours has hardly any.
    except (ValueError, RecursionError):
        return None
