"""An image in memory at the depth it came in, and the conversions between depths and channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Pixels = NDArray[Any]
"""(H, W, C) of uint8, uint16, or float32 in [0, 1]; sRGB where C is 3, grey where it is 1."""

LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Picture:
    """An image as its file or its giver has it: upright, in sRGB, alpha apart.

    Attributes:
        pixels: (H, W, C) uint8, uint16, or float32 in [0, 1], without alpha.
        alpha: (H, W) opacity of the same type; None where every pixel is opaque or where a task
            takes it as one of the channels. Pixels are not multiplied by it.
        dtype: what it was stored as, and should be again: uint8, uint16 or one of numpy's floats.
        profiled: a colour profile was embedded, so results say by one that they are in sRGB.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    dtype: np.dtype[Any] = np.dtype(np.uint8)
    profiled: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]


def to_depth(image: Pixels, dtype: DTypeLike) -> Pixels:
    """The same levels in another type: uint8 and uint16 scaled to their range, floats to [0, 1].

    Whole numbers are rounded to the nearest, and clipped where floats leave [0, 1].

    Raises:
        ValueError: from or to another type than uint8, uint16 and floats.
    """
    wanted = np.dtype(dtype)
    if image.dtype == wanted:
        return image
    have = _full(image.dtype)
    full = _full(wanted)
    if full is None:
        # From 8 or 16 bits float32 is exact enough for the way back; halves of it are not.
        scaled = image if have is None else image.astype(np.float32) / np.float32(have)
        return scaled.astype(wanted, copy=False)
    if have is None:
        return np.rint(np.clip(image, 0, 1) * image.dtype.type(full)).astype(wanted)
    if full > have:
        return image.astype(wanted) * wanted.type(full // have)
    step = have // full
    return ((image.astype(np.uint32) + step // 2) // step).astype(wanted)


def fit_channels(image: Pixels, count: int) -> Pixels:
    """(H, W, C) with another number of channels: grey repeated as RGB, RGB as its luma.

    Luma is that of ITU-R BT.601, as JPEG and Pillow have it.

    Raises:
        ValueError: between other numbers of channels, which is nobody's to guess.
    """
    have = image.shape[2]
    if have == count:
        return image
    if have == 1 and count == 3:
        return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
    if have == 3 and count == 1:
        grey = image @ LUMA
        if np.issubdtype(image.dtype, np.integer):
            grey = np.rint(grey)
        return grey.astype(image.dtype)[..., None]
    raise ValueError(f"{have} channel{'s' * (have != 1)}, and {count} are wanted")


def lay_on_white(pixels: Pixels, alpha: Pixels) -> Pixels:
    """What a transparent image (H, W, C) with opacity (H, W) shows on white paper."""
    full = _full(pixels.dtype)
    white = 1.0 if full is None else float(full)
    opacity = to_depth(alpha, np.float32)[..., None]
    mixed = pixels * opacity + np.float32(white) * (1 - opacity)
    return (mixed if full is None else np.rint(mixed)).astype(pixels.dtype)


def to_display(image: Pixels) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 for people: grey and two channels as grey, the first three of more."""
    shown = image[..., :3] if image.shape[2] >= 3 else image[..., :1]
    eight: NDArray[np.uint8] = fit_channels(to_depth(shown, np.uint8), 3)
    return eight


def _full(dtype: np.dtype[Any]) -> int | None:
    """The level that is white; None for floats, where it is 1."""
    if dtype == np.uint8:
        return 255
    if dtype == np.uint16:
        return 65535
    if np.issubdtype(dtype, np.floating):
        return None
    raise ValueError(f"images of {dtype} are not supported: use uint8, uint16 or floats in [0, 1]")
