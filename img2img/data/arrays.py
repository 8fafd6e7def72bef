"""Arrays in `.npy` files, and what may be in one that a stranger wrote."""

from __future__ import annotations

import math
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from img2img.data.limits import check_claim
from img2img.data.memory import narrow, picture_of
from img2img.picture import Picture, UnusableError

MAGIC = npy.MAGIC_PREFIX

Header = tuple[tuple[int, ...], bool, np.dtype[Any]]


def read_array(file: BinaryIO) -> Picture:
    """An open `.npy` file as a picture; no pickle is ever loaded.

    Raises:
        UnusableError: it is no image, too large, or cut short.
    """
    shape, fortran, dtype = _header(file)
    size = math.prod(shape) * dtype.itemsize
    data = file.read(size)
    if len(data) < size:
        raise UnusableError(f"is cut short: {len(data):,} of {size:,} bytes")
    flat: NDArray[Any] = np.frombuffer(data, dtype)
    return picture_of(narrow(flat.reshape(shape, order="F" if fortran else "C")))


def array_size(file: BinaryIO) -> tuple[int, int]:
    """Width and height of the image in an open `.npy` file, from its header alone.

    Raises:
        UnusableError: it is no image, or too large.
    """
    shape = _header(file)[0]
    return shape[1], shape[0]


def array_bytes(file: BinaryIO) -> int:
    """How much memory the image in an open `.npy` file takes, in bytes; see `decoded_bytes`.

    Raises:
        UnusableError: it is no image, or too large.
    """
    shape, _, dtype = _header(file)
    bands = shape[2] if len(shape) == 3 else 1
    return shape[0] * shape[1] * max(3, bands) * dtype.itemsize


def _header(file: BinaryIO) -> Header:
    version = npy.read_magic(file)
    # Version 3 is for tables whose columns have names beyond Latin-1.
    if version not in ((1, 0), (2, 0)):
        raise UnusableError("holds a table, not an image")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.kind not in "biufc":
        raise UnusableError(f"holds {dtype}, not numbers, so it is no image")
    if len(shape) not in (2, 3):
        raise UnusableError(f"is of shape {shape}, and an image is (H, W) or (H, W, C)")
    check_claim(shape[1], shape[0], shape[2] if len(shape) == 3 else 1, dtype.itemsize)
    return shape, fortran, dtype
