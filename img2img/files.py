"""Files that are whole or not there, and files that one process holds at a time."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def try_lock(handle: int) -> bool:
        """Lock an open file for as long as it is open; False where another has it locked.

        Raises:
            OSError: its file system has no locks.
        """
        # Far behind the end, because what is locked cannot be read on Windows.
        os.lseek(handle, 1 << 30, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
        return True
else:
    import fcntl

    def try_lock(handle: int) -> bool:
        """Lock an open file for as long as it is open; False where another has it locked.

        Raises:
            OSError: its file system has no locks.
        """
        # It goes with the open file, not with the process as `lockf` does, which would let two
        # threads both have it.
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A new file beside `path` to write to; it takes the place of `path` unless something raises.

    Its content is on the disk before it gets its name, so that a loss of power leaves the old file
    or the new one, and none that is empty. Who may read it, the umask says.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; it names `path`.
    """
    # The leading dot hides it from whoever lists the folder meanwhile. Not `tempfile`, whose files
    # are private whatever the umask says, which no thread can ask for without changing it.
    temporary = path.with_name(f".partial-{secrets.token_hex(8)}{path.suffix}")
    with naming(path, temporary):
        try:
            temporary.open("xb").close()
            mode = stat.S_IMODE(temporary.stat().st_mode)
            yield temporary
            # Some libraries put a file in its place that is private.
            temporary.chmod(mode)
            with temporary.open("r+b") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def naming(path: Path, *aliases: Path) -> Iterator[None]:
    """Errors of the system that name no file, or one of `aliases`, name `path` instead.

    What a write raises names none: a full disk would be told of without a word on where.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, *map(str, aliases)):
            error.filename, error.filename2 = str(path), None
        raise


def sync_folder(path: Path) -> None:
    """Ask the disk to remember the names in a folder, where the system allows it."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems know no such thing.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def in_words(error: OSError, near: Path) -> str:
    """What the system said, and where the disk is full, how much is free where `near` lies."""
    said = error.strerror or str(error)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return said
    while not near.exists() and near != near.parent:
        near = near.parent
    try:
        free = shutil.disk_usage(near).free
    except OSError:
        return said
    return f"{said}: {size_in_words(free)} free on its disk"


def size_in_words(count: int) -> str:
    """Bytes as people say them: `1.2 MiB`."""
    power = min(max(count.bit_length() - 1, 0) // 10, 4)
    unit = ("bytes", "KiB", "MiB", "GiB", "TiB")[power]
    return f"{count / 1024**power:.{1 if power else 0}f} {unit}"
