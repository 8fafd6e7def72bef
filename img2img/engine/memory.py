"""What the C library does with memory that a step has freed."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

# Of glibc's malloc.h: the setting, what training wants, and what it is otherwise.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_TRAINING = {_TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**28, _MMAP_MAX: 0}
_USUAL = {_TRIM_THRESHOLD: 2**17, _TOP_PAD: 0, _MMAP_MAX: 2**16}


def is_memory(error: Exception) -> bool:
    """Whether an error says that memory is used up; on a CPU torch has no type for it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = str(error)
    return any(it in said for it in ("out of memory", "allocate memory", "not enough memory"))


@contextlib.contextmanager
def keeping_freed_memory(device: torch.device) -> Iterator[None]:
    """A context in which a training step on the CPU reuses the memory of the step before.

    Otherwise glibc gives every large tensor back to the system when it is freed, and the next step
    has the same pages cleared and handed to it again: a tenth of the step for the paper's network.
    Elsewhere, and with another C library, it does nothing.
    """
    linux = sys.platform == "linux"
    library = ctypes.CDLL(None) if linux and device.type == "cpu" else None
    if not (hasattr(library, "mallopt") and hasattr(library, "gnu_get_libc_version")):
        yield
        return
    assert library is not None
    for setting, value in _TRAINING.items():
        library.mallopt(setting, value)
    try:
        yield
    finally:
        for setting, value in _USUAL.items():
            library.mallopt(setting, value)
        library.malloc_trim(0)
