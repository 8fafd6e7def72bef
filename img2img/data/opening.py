"""Opening what may have been a file when it was found."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

from img2img.picture import UnusableError

# Bytes at a time that are not worth asking for a file's length.
_LARGE = 1 << 20


def open_file(path: Path) -> BinaryIO:
    """A file to read from; never waits, whatever has taken its place.

    It is never asked for more than it has: Python takes memory for what is asked for, and readers
    ask for what a header claims.

    Raises:
        UnusableError: it is a pipe, a socket or a device.
        OSError: it cannot be opened.
    """
    return _Bounded(io.FileIO(path, opener=_open_regular))


class _Bounded(io.BufferedReader):
    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _LARGE:
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


def _open_regular(name: str, flags: int) -> int:
    # A pipe without a writer would keep whoever opens it waiting; files know no such flag.
    descriptor = os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(descriptor).st_mode
    # What folders are refused for, Python's own error says.
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return descriptor
    os.close(descriptor)
    raise UnusableError("is not a regular file")
