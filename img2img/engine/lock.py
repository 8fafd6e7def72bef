"""One run at a time in a run directory."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import warnings
import weakref
from datetime import UTC, datetime
from pathlib import Path

from img2img.errors import Img2ImgError, RequestError
from img2img.files import in_words, try_lock

NAME = ".lock"
# What file systems that have no locks answer.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class RunLock:
    """The right to write into a run directory, until it is released or its process ends.

    The system holds it for an open file, so it ends with the process however that ends, holds for
    whatever path leads to the directory, and moves with it. What the file says is for people.

    Args:
        folder: the run directory.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._handle: int | None = None
        self._asked = False
        _locks.add(self)

    def take(self) -> bool:
        """Take it, unless it was asked for before; True if this is the first time.

        On a file system without locks a warning says so, and that is all.

        Raises:
            RequestError: another run has it, or nothing can be written there.
            Img2ImgError: the disk is full.
        """
        if self._asked:
            return False
        while self._handle is None and not self._asked:
            handle = self._open()
            try:
                if not try_lock(handle):
                    raise RequestError(
                        f"{self.path.parent} is being written to by another run"
                        f"{_described(handle)}; wait for it to end, stop it, or give another "
                        f"directory with --out"
                    )
                # Whoever held it before has removed the file, perhaps after it was opened here.
                if self._is(handle):
                    self._handle, handle = handle, -1
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                self._asked = True
                with contextlib.suppress(OSError):
                    self.path.unlink()
                warnings.warn(
                    f"the file system of {self.path.parent} has no locks "
                    f"({error.strerror or error}): nothing stops a second run from writing there",
                    UserWarning,
                    stacklevel=2,
                )
            finally:
                if handle >= 0:
                    os.close(handle)
        self._asked = True
        self._describe()
        return True

    def release(self) -> None:
        """Let others have it; nothing happens where it is not held."""
        handle, self._handle, self._asked = self._handle, None, False
        if handle is None:
            return
        # While it is held, so that nobody takes a lock on a file that is about to go. On Windows
        # an open file cannot be removed, and the name of one that moved may be another's now.
        with contextlib.suppress(OSError):
            if self._is(handle):
                self.path.unlink()
        os.close(handle)

    def _open(self) -> int:
        # Not through a link, which would have what it points to overwritten.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            handle = os.open(self.path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            kind = Img2ImgError if full else RequestError
            way = "make space there" if full else "give another with --out"
            raise kind(
                f"cannot write to {self.path}: {in_words(error, self.path)}; {way}"
            ) from error
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise RequestError(f"{self.path} is no regular file; remove it")
        return handle

    def _is(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), self.path.lstat())
        except FileNotFoundError:
            return False

    def _describe(self) -> None:
        if self._handle is None:
            return
        about = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        # The lock holds without it, on a full disk too.
        with contextlib.suppress(OSError):
            os.ftruncate(self._handle, 0)
            os.write(self._handle, json.dumps(about).encode() + b"\n")

    def _forget(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _described(handle: int) -> str:
    """Who holds it, as far as the file says it."""
    try:
        about = json.loads(os.read(handle, 4096))
        process, host, since = about["process"], about["host"], about["since"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    if process == os.getpid() and host == socket.gethostname():
        return f" of this very process, since {since}"
    return f" (process {process} on {host}, since {since})"


_locks: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_locks):
        lock._forget()


# Loader workers are forked with all files of their parent open, and outlive it by seconds when it
# is killed: until then a resumed run would be refused.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
