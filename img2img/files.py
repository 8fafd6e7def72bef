"""Files that are whole or not there."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A new file beside `path` to write to; it takes the place of `path` unless something raises.

    Its content is on the disk before it gets its name, so that a loss of power leaves the old file
    or the new one, and none that is empty. Who may read it, the umask says.

    Raises:
        OSError: the folder cannot be written to.
    """
    # The leading dot hides it from whoever lists the folder meanwhile. Not `tempfile`, whose files
    # are private whatever the umask says, which no thread can ask for without changing it.
    temporary = path.with_name(f".partial-{secrets.token_hex(8)}{path.suffix}")
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
