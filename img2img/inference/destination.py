"""OUTPUT: nothing is written outside it, and what killed runs left half-written goes."""

from __future__ import annotations

import errno
import os
import re
import time
from functools import lru_cache
from pathlib import Path

from img2img.errors import Img2ImgError
from img2img.names import printable

# As `data.writing.write_whole` calls files that are not whole yet; others are somebody else's.
PARTIAL = re.compile(r"\.partial-[0-9a-f]{16}\.\w+")
# Older ones belong to no run that still lives: writing one file does not take so long.
STALE_SECONDS = 3600
# What befalls the next file as well. Other errors belong to a name or a place.
FATAL = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ESTALE,
    }
)
FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class Destination:
    """The folder that results go to. Its methods may be called from any thread.

    Args:
        root: OUTPUT, which may be a link itself.
        source: INPUT; a file or a folder.
    """

    def __init__(self, root: Path, source: Path) -> None:
        self.root = root
        self._root = Path(os.path.realpath(root))
        self._source = Path(os.path.realpath(source))
        # Neighbours in a walk lie in few folders. As many are remembered and no more.
        self._checked = lru_cache(maxsize=1024)(self._find_problem)
        self._prepared = lru_cache(maxsize=1024)(self._prepare)

    def problem(self, folder: Path) -> str | None:
        """Why nothing may be written into a folder below OUTPUT; None where it may."""
        return self._checked(folder)

    def prepare(self, folder: Path) -> None:
        """Make a folder, and remove what killed runs left in it.

        Raises:
            OSError: it cannot be made.
        """
        self._prepared(folder)

    def error(self, path: Path, error: OSError) -> Img2ImgError | None:
        """What to say of a file that could not be written if it ends the job; None if it does not.

        Args:
            path: the file.
            error: what happened.
        """
        reason = f"cannot write {printable(path)}: {error.strerror or error}"
        if error.errno in FORBIDDEN and not os.access(self.root, os.W_OK | os.X_OK):
            return Img2ImgError(reason)
        if error.errno in FATAL:
            return Img2ImgError(f"{reason}; once that is mended, the same command goes on there")
        return None

    def _find_problem(self, folder: Path) -> str | None:
        real = Path(os.path.realpath(folder))
        if not real.is_relative_to(self._root):
            return f"{printable(folder)} leads out of the output folder"
        if real.is_relative_to(self._source) and not self._root.is_relative_to(self._source):
            return f"{printable(folder)} leads into the input folder"
        return None

    def _prepare(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        before = time.time() - STALE_SECONDS
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if (
                        PARTIAL.fullmatch(entry.name)
                        and entry.is_file(follow_symlinks=False)
                        and entry.stat(follow_symlinks=False).st_mtime < before
                    ):
                        Path(entry.path).unlink()
        except OSError:
            # They are in nobody's way, and another worker may have been faster.
            return
