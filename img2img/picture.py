"""An image in memory at the depth it came in, and the conversions between depths and channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Pixels = NDArray[Any]
"""(H, W, C) of uint8, uint16, or float32 in [0, 1]; sRGB where C is 3, grey where it is 1."""

# In thousandths.
LUMA = (299, 587, 114)
# Pixels that are converted at once: what is made of them on the way stays in the processor's cache.
AT_ONCE = 1 << 16


class UnusableError(ValueError):
    """Why an image cannot be used, in words that need nothing before them but its name."""


@dataclass(frozen=True)
class Picture:
    """An image, upright and in sRGB, with what its result should be like.

    Attributes:
        pixels: (H, W, C) uint8, uint16, or float32 in [0, 1]. Never multiplied by alpha; of 2 and
            4 channels the last may be it.
        alpha: (H, W) opacity of the same type, where the image has it and it is not one of the
            channels.
        dtype: what it was stored as, and should be again: uint8, uint16 or one of numpy's floats.
        profiled: a colour profile said what the colours were, so results say by one that they are
            in sRGB.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.uint8))
    profiled: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, in pixels."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[0])


def fit_picture(picture: Picture, channels: int) -> Picture:
    """A picture as something that takes so many channels should see it.

    Alpha becomes the last channel of 2 (grey) and 4 (RGB). Otherwise the colours are laid on white,
    which is what people see, and alpha stays beside them for the result to carry. Colours are
    repeated from grey for 3, and become their luma for 1.

    Raises:
        UnusableError: the picture has another number of channels.
    """
    pixels, alpha = picture.pixels, picture.alpha
    have = pixels.shape[2]
    if alpha is not None and have in (1, 3) and channels in (2, 4):
        colours = fit_channels(pixels, channels - 1)
        return join_alpha(replace(picture, pixels=colours))
    if have != channels and (have, channels) not in ((1, 3), (3, 1)):
        raise UnusableError(
            f"has {have} channel{'s' * (have != 1)}{' and alpha' * (alpha is not None)}, and the "
            f"model takes {channels}"
        )
    if alpha is not None:
        pixels = lay_on_white(pixels, alpha)
    return replace(picture, pixels=fit_channels(pixels, channels))


def join_alpha(picture: Picture) -> Picture:
    """A picture with its alpha, if it has any, as the last of its channels.

    Of 2 and 4 channels the last counts as alpha already, and stays the only one.
    """
    if picture.alpha is None or picture.pixels.shape[2] in (2, 4):
        return replace(picture, alpha=None)
    alpha = to_depth(picture.alpha, picture.pixels.dtype)[..., None]
    return replace(picture, pixels=np.concatenate([picture.pixels, alpha], axis=2), alpha=None)


def to_depth(image: Pixels, dtype: DTypeLike) -> Pixels:
    """The same levels in another type: uint8 and uint16 scaled to their range, floats to [0, 1].

    Whole numbers are rounded to the nearest, and clipped where floats leave [0, 1].

    Raises:
        ValueError: from or to another type than uint8, uint16 and floats.
    """
    wanted = np.dtype(dtype)
    if image.dtype == wanted:
        return image
    have, full = white_of(image.dtype), white_of(wanted)
    if wanted.kind == "f":
        # From 8 or 16 bits float32 is exact enough for the way back; halves of it are not.
        scaled = image if image.dtype.kind == "f" else image.astype(np.float32) / np.float32(have)
        floats: Pixels = scaled.astype(wanted)
        return floats
    if image.dtype.kind == "f":
        # Half floats end at 65504.
        deep = image.astype(np.float32) if image.dtype == np.float16 else image
        levels: Pixels = np.rint(np.clip(deep, 0, 1) * deep.dtype.type(full))
        return levels.astype(wanted)
    if full > have:
        more: Pixels = image.astype(wanted) * wanted.type(full // have)
        return more
    step = have // full
    fewer: Pixels = (image.astype(np.uint32) + step // 2) // step
    return fewer.astype(wanted)


def fit_channels(image: Pixels, count: int) -> Pixels:
    """(H, W, C) with another number of channels: grey repeated as RGB, RGB as its luma.

    Luma is that of ITU-R BT.601, as JPEG and Pillow have it.

    Raises:
        UnusableError: between other numbers of channels, which is nobody's to guess.
    """
    have = image.shape[2]
    if have == count:
        return image
    if have == 1 and count == 3:
        return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
    if have == 3 and count == 1:
        return by_rows(_luma, image)
    raise UnusableError(f"has {have} channel{'s' * (have != 1)}, and the model takes {count}")


def lay_on_white(pixels: Pixels, alpha: Pixels) -> Pixels:
    """What a transparent image (H, W, C) with opacity (H, W) shows on white paper."""
    return by_rows(_mix_with_white, pixels, alpha)


def by_rows(convert: Callable[..., Pixels], *images: Pixels) -> Pixels:
    """What `convert` makes of images (H, W, ...) of one size, some rows at a time.

    So what it makes on the way takes little memory. The values are those of the whole.

    Args:
        convert: arrays (h, W, ...) to one of as many rows; each pixel from itself alone.
        images: what it takes.
    """
    height, width = images[0].shape[:2]
    rows = max(1, AT_ONCE // max(1, width))
    first = convert(*(image[:rows] for image in images))
    if rows >= height:
        return first
    result: Pixels = np.empty((height, *first.shape[1:]), first.dtype)
    result[:rows] = first
    for top in range(rows, height, rows):
        result[top : top + rows] = convert(*(image[top : top + rows] for image in images))
    return result


def to_display(image: Pixels) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 for people: grey from one or two channels, four as RGB and alpha on white.

    Of any other number the first three are shown.
    """
    count = image.shape[2]
    if count == 4:
        image = lay_on_white(image[..., :3], image[..., 3])
    shown = image[..., :3] if count >= 3 else image[..., :1]
    eight: NDArray[np.uint8] = fit_channels(to_depth(shown, np.uint8), 3)
    return eight


def white_of(dtype: np.dtype[Any]) -> int:
    """The level that is white: 255, 65535, or 1 for floats.

    Raises:
        ValueError: images of this type are not supported.
    """
    if dtype.kind == "f":
        return 1
    if dtype in (np.uint8, np.uint16):
        return int(np.iinfo(dtype).max)
    raise ValueError(f"images of {dtype} are not supported: use uint8, uint16 or floats in [0, 1]")


def _luma(image: Pixels) -> Pixels:
    whole = image.dtype.kind == "u"
    # In thousandths, which add up without error: a matrix product rounds by the image's shape.
    red, green, blue = np.moveaxis(image.astype(np.uint32 if whole else np.float64), 2, 0)
    grey: Pixels = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue) / 1000
    return (np.rint(grey) if whole else grey).astype(image.dtype)[..., None]


def _mix_with_white(pixels: Pixels, alpha: Pixels) -> Pixels:
    opacity = to_depth(alpha, np.float32)[..., None]
    mixed: Pixels = pixels * opacity + np.float32(white_of(pixels.dtype)) * (1 - opacity)
    return (mixed if pixels.dtype.kind == "f" else np.rint(mixed)).astype(pixels.dtype)
