"""Colours of 16 bits in files whose decoder in Pillow gives 8: PNG and PPM."""

from __future__ import annotations

import re
import struct
from typing import BinaryIO

import numpy as np

from img2img.data.limits import BESIDE
from img2img.data.planes import Planes
from img2img.data.profiles import Space
from img2img.picture import UnusableError

PNG = b"\x89PNG\r\n\x1a\n"
# How long a file's beginning has to be for the questions below.
LONGEST_MAGIC = 26
# Where a PPM says what it is; comments may be in it.
_HEAD = 4096
# Colour types of PNG that Pillow cuts to 8 bits; it keeps those of grey without alpha.
_SPACES: dict[int, Space] = {2: "rgb", 4: "grey", 6: "rgb"}
_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PPM = re.compile(rb"P6" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)\s")


def is_deep_png(magic: bytes) -> bool:
    """Whether a file that begins so is a PNG of 16-bit colours, or of 16-bit grey with alpha."""
    return magic.startswith(PNG) and magic[24:25] == b"\x10" and magic[25] in _SPACES


def read_png(file: BinaryIO) -> bytes:
    """Such a PNG, but no more than its pixels can take by the size that its header claims."""
    magic = file.read(LONGEST_MAGIC)
    width, height = struct.unpack(">II", magic[16:24])
    # At most four channels of two bytes, which packing may swell a little.
    file.seek(0)
    return file.read(9 * width * height + BESIDE)


def check_chunks(file: BinaryIO, last: bytes) -> None:
    """Refuse a PNG with a chunk that Pillow would read whole and that none needs so large.

    Args:
        file: the PNG; it is at its beginning afterwards.
        last: the chunk to stop at. Those of pixels are read piece by piece.

    Raises:
        UnusableError: there is one.
    """
    place, kind = len(PNG), b""
    while kind != last:
        file.seek(place)
        head = file.read(8)
        length, kind = int.from_bytes(head[:4]), head[4:]
        # What is cut short or no chunk, Pillow says.
        if not kind.isalpha():
            break
        if kind != b"IDAT" and length > BESIDE:
            raise UnusableError(f"is damaged: one of its chunks has {length:,} bytes")
        place += 12 + length
    file.seek(0)


def png_planes(data: bytes) -> Planes:
    """The channels of such a PNG; a colour that it declares transparent becomes alpha."""
    import imagecodecs

    space = _SPACES[data[25]]
    stored = imagecodecs.png_decode(data)
    count = 1 if space == "grey" else 3
    alpha = stored[..., count] if stored.shape[2] > count else None
    return Planes(stored[..., :count], space, alpha, np.dtype(np.uint16))


def is_deep_ppm(file: BinaryIO) -> bool:
    """Whether an open file is a PPM of 16-bit colours."""
    return _ppm_head(file) is not None


def ppm_planes(file: BinaryIO) -> Planes | None:
    """The channels of a PPM of 16-bit colours; None of others.

    Raises:
        UnusableError: it is cut short.
    """
    found = _ppm_head(file)
    if found is None:
        return None
    width, height, white = found
    size = width * height * 6
    data = file.read(size)
    if len(data) < size:
        raise UnusableError(f"is cut short: {len(data):,} of {size:,} bytes")
    stored = np.frombuffer(data, ">u2")
    levels = np.rint(np.minimum(stored, white) * (65535 / white)).astype(np.uint16)
    return Planes(levels.reshape(height, width, 3), "rgb", dtype=np.dtype(np.uint16))


def _ppm_head(file: BinaryIO) -> tuple[int, int, int] | None:
    """Width, height and the level of white; the file is then behind them."""
    file.seek(0)
    head = _PPM.match(file.read(_HEAD))
    if head is None or int(head[3]) <= 255:
        return None
    file.seek(head.end())
    return int(head[1]), int(head[2]), int(head[3])
