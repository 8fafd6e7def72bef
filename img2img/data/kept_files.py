"""What took long to find out about data, kept between runs: arrays in files that are mapped.

Below IMG2IMG_CACHE, or the folder where the platform has caches. All of it can be deleted at any
time.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from img2img.data.sequences import Texts
from img2img.files import whole_file

Arrays = dict[str, NDArray[Any]]
Key = Mapping[str, Any]

# A change of what is in these files is a change of this line.
_MAGIC = b"img2img kept 3\n\0"
# Behind it: the CRC-32 of all that follows, and how long the header is that comes next.
_START = len(_MAGIC) + 16
_TYPES = {"uint8": np.uint8, "int64": np.int64}
_ALIGNED = 8
# A clock of files may tick slowly, in the worst case (FAT) every two seconds: what was changed that
# shortly before it was looked at may have changed again without a trace.
_TICK_NS = 2_000_000_000


def cache_folder() -> Path | None:
    """Where things are kept; None where that cannot be told."""
    if named := os.environ.get("IMG2IMG_CACHE"):
        return Path(named)
    try:
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA")
            base = Path(local) if local else Path.home() / "AppData" / "Local"
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            # The XDG Base Directory Specification has relative paths ignored.
            base = Path(os.environ.get("XDG_CACHE_HOME", ""))
            base = base if base.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return base / "img2img"


def is_settled(changed_ns: int, looked_ns: int) -> bool:
    """Whether something last changed at one time can be told from what changes after another."""
    return changed_ns < looked_ns - _TICK_NS


def keep(key: Key, arrays: Arrays) -> None:
    """Write arrays of uint8 and int64 so that `load` with the same key finds them.

    Where that fails, nothing is kept: what cannot be kept can be found out again.
    """
    path = _place(key)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, temporary.open("wb") as file:
            described, at = [], 0
            for name, array in arrays.items():
                described.append([name, str(array.dtype), len(array), at])
                at += -(-array.nbytes // _ALIGNED) * _ALIGNED
            header = json.dumps({"key": key, "arrays": described, "bytes": at}).encode()
            head = len(header).to_bytes(8, "little") + header
            head += bytes(_first(len(header)) - len(_MAGIC) - 8 - len(head))
            file.write(_MAGIC + bytes(8) + head)
            found = zlib.crc32(head)
            for array in map(np.ascontiguousarray, arrays.values()):
                for part in (array.data, bytes(-array.nbytes % _ALIGNED)):
                    file.write(part)
                    found = zlib.crc32(part, found)
            file.seek(len(_MAGIC))
            file.write(found.to_bytes(8, "little"))
    except OSError:
        return


def load(key: Key) -> Arrays | None:
    """What was kept, mapped from its file; None where there is nothing that can be used.

    It takes no memory, and hardly any time: every byte is checked, a million names in 5 ms.
    """
    path = _place(key)
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _arrays(mapped, key)
    # None there, another version's, or damaged: all of it can be found out again.
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def texts_in(arrays: Arrays, name: str) -> Texts:
    """Texts that were kept under a name.

    Raises:
        KeyError: there are none.
        ValueError: they are damaged.
    """
    return Texts(arrays[f"{name}.joined"], arrays[f"{name}.starts"])


def as_arrays(name: str, texts: Texts) -> Arrays:
    """Texts as arrays to keep."""
    return {f"{name}.joined": texts.joined, f"{name}.starts": texts.starts}


def _place(key: Key) -> Path | None:
    folder = cache_folder()
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return None if folder is None else folder / "lists" / name


def _first(header: int) -> int:
    """Where the first array begins, by the length of the header."""
    return -(-(_START + header) // _ALIGNED) * _ALIGNED


def _arrays(mapped: mmap.mmap, key: Key) -> Arrays | None:
    if mapped[: len(_MAGIC)] != _MAGIC:
        return None
    middle = len(_MAGIC) + 8
    written = int.from_bytes(mapped[len(_MAGIC) : middle], "little")
    # A wrong name or place would cost a pair, or give another image for it, and nobody would know.
    if zlib.crc32(memoryview(mapped)[middle:]) != written:
        return None
    length = int.from_bytes(mapped[middle:_START], "little")
    header = json.loads(mapped[_START : _START + length])
    first = _first(length)
    if header["key"] != key or len(mapped) != first + header["bytes"]:
        return None
    return {
        name: np.frombuffer(mapped, _TYPES[kind], count, first + at)
        for name, kind, count, at in header["arrays"]
        if count >= 0
    }
