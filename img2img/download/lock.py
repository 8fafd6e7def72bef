"""One process at a time; a lock that goes with its owner, however that ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from img2img.errors import Img2ImgError
from img2img.files import try_lock


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock file for as long as the context lasts.

    Raises:
        Img2ImgError: another process holds it; the message is `busy`.
        OSError: the file cannot be made.
    """
    while True:
        with path.open("wb") as file:
            if not try_lock(file.fileno()):
                raise Img2ImgError(busy)
            # Whoever held it before has removed the file, perhaps after we had opened it; then we
            # hold a lock that nobody else sees.
            if not _same(file, path):
                continue
            try:
                yield
            finally:
                # On Windows an open file cannot be removed, and an empty one does no harm.
                if sys.platform != "win32":
                    path.unlink(missing_ok=True)
            return


def _same(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
