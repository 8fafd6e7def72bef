"""Pairs that stay in memory once they were decoded, shared by the processes that load."""

from __future__ import annotations

import mmap
import multiprocessing
import platform
import sys
from typing import Any, Protocol

import numpy as np

from img2img.data.resources import available_memory, local_processes
from img2img.picture import Pixels

MEBIBYTE = 1 << 20
# Types by the code that an entry holds for them; others are not kept.
TYPES = tuple(np.dtype(name) for name in ("uint8", "uint16", "float32", "float64"))
# Both images' type, height, width and channels.
HEADER = np.dtype((np.int64, (2, 4)))
SAME = -1
# Arrays begin at whole cache lines.
ALIGNMENT = 64
# Nobody holds the lock longer than microseconds; who waits longer waits for one that was killed.
PATIENCE_S = 1.0

Pair = tuple[Pixels, Pixels]


class _Lock(Protocol):
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool: ...

    def release(self) -> None: ...


class KeptPairs:
    """A store of pairs by index, filled as they come, until its memory is used up.

    It lies in anonymous shared memory, so that processes forked afterwards fill and read the same
    one; /dev/shm is small in containers. Memory is only reserved, and taken where it is written.

    Args:
        count: indices are below it.
        size: bytes to use at most, the table of 8 bytes for each index included.

    Raises:
        OSError: so much memory cannot be reserved.
    """

    def __init__(self, count: int, size: int) -> None:
        table_size = _aligned(8 * (count + 1))
        self._room = max(0, size - table_size)
        # The first word is where free memory begins, the others where each pair lies; 0: nowhere.
        self._table = np.frombuffer(reserve(table_size), np.int64)[: count + 1]
        self._memory = reserve(max(1, self._room))
        self._lock: _Lock = multiprocessing.get_context().Lock()
        self._table[0] = ALIGNMENT

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        return int(self._table[0])

    def __contains__(self, index: int) -> bool:
        return bool(self._table[index + 1])

    def get(self, index: int) -> Pair | None:
        """The pair as it was put, read-only; None if it is not kept."""
        at = int(self._table[index + 1])
        if not at:
            return None
        header = np.frombuffer(self._memory, np.int64, 8, at).reshape(HEADER.shape)
        at += HEADER.itemsize
        first = self._array(header[0], at)
        if header[1, 0] == SAME:
            return first, first
        return first, self._array(header[1], at + _aligned(first.nbytes))

    def put(self, index: int, first: Pixels, second: Pixels) -> None:
        """Keep a pair, each (H, W, C), if there is room for it and its type is one of `TYPES`."""
        images = (first,) if first is second else (first, second)
        if any(image.ndim != 3 or image.dtype not in TYPES for image in images):
            return
        needed = HEADER.itemsize + sum(_aligned(image.nbytes) for image in images)
        at = self._take(needed, index)
        if not at:
            return
        header = np.full(HEADER.shape, SAME, np.int64)
        place = at + HEADER.itemsize
        for row, image in zip(header, images, strict=False):
            row[:] = (TYPES.index(image.dtype), *image.shape)
            self._array(row, place, writeable=True)[:] = image
            place += _aligned(image.nbytes)
        np.frombuffer(self._memory, np.int64, 8, at)[:] = header.ravel()
        # Last, and after a lock, which orders memory between cores: a pair is found when it is
        # whole, even if this process is killed now.
        if self._lock.acquire(timeout=PATIENCE_S):
            self._table[index + 1] = at
            self._lock.release()

    def _take(self, needed: int, index: int) -> int:
        """Where there is room for so many bytes, or 0; also if another process was quicker."""
        if self._table[0] + needed > self._room or not self._lock.acquire(timeout=PATIENCE_S):
            return 0
        try:
            at = int(self._table[0])
            if at + needed > self._room or index in self:
                return 0
            self._table[0] = at + needed
            return at
        finally:
            self._lock.release()

    def _array(self, row: Any, at: int, writeable: bool = False) -> Pixels:
        kind, *shape = (int(value) for value in row)
        array: Pixels = np.ndarray(tuple(shape), TYPES[kind], self._memory, at)
        array.flags.writeable = writeable
        return array

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("kept pairs are shared by forking alone")


def can_share() -> bool:
    """Whether processes are forked here, and share what was reserved before."""
    # macOS can fork as well, but its system libraries do not survive it.
    return sys.platform == "linux"


def keep_pairs(
    count: int, keep_mb: int | None, *, pair_size: int | None = None
) -> KeptPairs | None:
    """A store for so many pairs, or None where nothing is to be kept or no memory can be had.

    Args:
        count: how many pairs there are.
        keep_mb: mebibytes at most; None for a quarter of what is available, shared by the run's
            processes on this machine.
        pair_size: bytes of the largest pair, if that is known: no more than needed is reserved.
    """
    size = available_memory() // 4 // local_processes() if keep_mb is None else keep_mb * MEBIBYTE
    table = 8 * (count + 1)
    if pair_size is not None:
        entry = HEADER.itemsize + _aligned(pair_size) + ALIGNMENT
        size = min(size, _aligned(table) + ALIGNMENT + count * entry)
    if size <= 2 * table:
        return None
    try:
        return KeptPairs(count, size)
    except (OSError, ValueError, OverflowError):
        return None


def reserve(size: int) -> mmap.mmap:
    """Zeros in memory that forked processes share; pages are taken when they are first written.

    Raises:
        OSError: the system does not allow so much.
    """
    if not hasattr(mmap, "MAP_SHARED"):
        return mmap.mmap(-1, size)
    lazily = getattr(mmap, "MAP_NORESERVE", 0)
    if not lazily and sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64"):
        lazily = 0x4000  # older Pythons do not name it
    return mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | lazily)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
