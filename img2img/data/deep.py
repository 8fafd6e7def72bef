"""Colours of 16 bits in files whose decoder in Pillow gives 8: PNG and PPM."""

from __future__ import annotations

import re

import numpy as np

from img2img.data.planes import Planes
from img2img.data.profiles import Space
from img2img.picture import UnusableError

PNG = b"\x89PNG\r\n\x1a\n"
# How long a file's beginning has to be for the questions below.
LONGEST_MAGIC = 26
# Colour types of PNG that Pillow cuts to 8 bits; it keeps those of grey without alpha.
_SPACES: dict[int, Space] = {2: "rgb", 4: "grey", 6: "rgb"}
_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PPM = re.compile(rb"P6" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)\s")


def is_deep_png(magic: bytes) -> bool:
    """Whether a file that begins so is a PNG of 16-bit colours, or of 16-bit grey with alpha."""
    return magic.startswith(PNG) and magic[24:25] == b"\x10" and magic[25] in _SPACES


def png_planes(data: bytes) -> Planes:
    """The channels of such a PNG; a colour that it declares transparent becomes alpha."""
    import imagecodecs

    space = _SPACES[data[25]]
    stored = imagecodecs.png_decode(data)
    count = 1 if space == "grey" else 3
    alpha = stored[..., count] if stored.shape[2] > count else None
    return Planes(stored[..., :count], space, alpha, np.dtype(np.uint16))


def ppm_planes(data: bytes) -> Planes | None:
    """The channels of a PPM of 16-bit colours; None of others.

    Raises:
        UnusableError: it is cut short.
    """
    head = _PPM.match(data)
    if head is None or int(head[3]) <= 255:
        return None
    width, height, white = (int(number) for number in head.groups())
    size = width * height * 6
    if len(data) - head.end() < size:
        raise UnusableError(f"is cut short: {len(data) - head.end():,} of {size:,} bytes")
    stored = np.frombuffer(data, ">u2", width * height * 3, head.end())
    levels = np.rint(np.minimum(stored, white) * (65535 / white)).astype(np.uint16)
    return Planes(levels.reshape(height, width, 3), "rgb", dtype=np.dtype(np.uint16))
