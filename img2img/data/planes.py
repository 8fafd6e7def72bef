"""What decoders find in an image, and the one way from there to a picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from img2img.data.profiles import Space, into_srgb
from img2img.picture import Picture, Pixels


@dataclass(frozen=True)
class Planes:
    """Decoded channels, as they are stored.

    Attributes:
        colours: (H, W, C) uint8, uint16, or float32 in [0, 1].
        space: what they are; None for bands that no colour profile can be about.
        alpha: (H, W) of the same type, or None. Colours are not multiplied by it.
        dtype: what the image holds.
    """

    colours: Pixels
    space: Space | None
    alpha: Pixels | None = None
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.uint8))


def assemble(planes: Planes, profile: bytes | None, orientation: int, name: str) -> Picture:
    """Planes into a picture: colours by their profile into sRGB, and everything upright.

    Args:
        planes: from a decoder.
        profile: the embedded one; None if there is none, empty if it could not be read.
        orientation: EXIF's, 1 to 8.
        name: what to call the image in warnings.
    """
    colours, profiled = planes.colours, False
    if planes.space is not None:
        colours, profiled = into_srgb(colours, planes.space, profile, name)
    alpha = planes.alpha
    if alpha is not None:
        alpha = turn(alpha, orientation)
    return Picture(turn(colours, orientation), alpha, planes.dtype, profiled)


def turn(image: Pixels, orientation: int) -> Pixels:
    """(H, W, ...) stored in one of EXIF's eight orientations, upright."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)
