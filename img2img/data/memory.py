"""Images in memory, Pillow's and numpy's, into pictures and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from img2img.data.planes import Planes, assemble
from img2img.data.profiles import profile_for
from img2img.picture import (
    Picture,
    UnusableError,
    fit_picture,
    join_alpha,
    to_depth,
)

# How far floats may leave [0, 1]: as far as arithmetic in 32 bits carries them.
SLACK = 1e-6
_ORIENTATION = 0x0112


def from_pillow(image: PillowImage.Image, channels: int) -> Picture:
    """A Pillow image of any mode as a task that takes so many channels sees it; see `fit_picture`.

    It is turned upright as its EXIF says, and its colour profile is applied.

    Raises:
        ValueError: its channels or levels do not fit.
    """
    return fit_picture(unpack(image), channels)


def from_array(array: NDArray[Any], channels: int) -> Picture:
    """An array as a task that takes so many channels sees it; see `fit_picture`.

    Args:
        array: (H, W) or (H, W, C), sRGB or grey: bool, uint8, uint16, or float16, float32 or
            float64 in [0, 1].
        channels: what the task takes.

    Raises:
        ValueError: another type or shape, or values outside the range.
    """
    picture = picture_of(array)
    try:
        return fit_picture(picture, channels)
    except UnusableError as error:
        if array.ndim == 3 and array.shape[0] in (1, channels):
            raise UnusableError(
                f"{error}; the shape {array.shape} looks as if channels came first, and "
                f"numpy.moveaxis(array, 0, -1) puts them last"
            ) from None
        raise


def to_pillow(picture: Picture, palette: NDArray[np.uint8] | None = None) -> PillowImage.Image:
    """A picture as a Pillow image: L, LA, RGB or RGBA, and I;16 or F for deeper grey.

    Pillow has no modes for deeper colours, which become 8-bit.

    Args:
        picture: of up to 4 channels, alpha included.
        palette: colours (N, 3); the image then holds their indices, mode P.

    Raises:
        ValueError: it has more channels, or a colour that is not in the palette.
    """
    if palette is not None:
        return to_indexed(to_depth(picture.pixels, np.uint8), palette)
    pixels = join_alpha(picture).pixels
    count = pixels.shape[2]
    if count > 4:
        raise ValueError(f"Pillow has no mode for {count} channels: use an array instead")
    if count == 1:
        # All floats are 32-bit in mode F.
        deep = np.dtype(np.float32) if picture.dtype.kind == "f" else picture.dtype
        image = PillowImage.fromarray(to_depth(pixels, deep)[..., 0])
    else:
        image = PillowImage.fromarray(to_depth(pixels, np.uint8))
    profile = profile_for(count - (count in (2, 4)))
    if picture.profiled and profile is not None:
        image.info["icc_profile"] = profile
    return image


def to_indexed(image: NDArray[np.uint8], palette: NDArray[np.uint8]) -> PillowImage.Image:
    """(H, W, 3) in the colours of a palette (N, 3) as a Pillow image of indices into it, mode P.

    Raises:
        ValueError: it has another colour than those.
    """
    weights = np.array([1 << 16, 1 << 8, 1])
    codes, wanted = image @ weights, palette @ weights
    order = np.argsort(wanted, kind="stable")
    place = np.searchsorted(wanted[order], codes).clip(max=len(order) - 1)
    index = order[place]
    if (wanted[index] != codes).any():
        raise ValueError("the image has colours that the palette lacks")
    picture = PillowImage.fromarray(index.astype(np.uint8))
    picture.putpalette(palette.astype(np.uint8).tobytes())
    return picture


def picture_of(array: NDArray[Any]) -> Picture:
    """An array as it is, without alpha; which shapes and types can be, `from_array` says.

    Raises:
        UnusableError: another type or shape, or values outside the range.
    """
    if array.ndim not in (2, 3):
        raise UnusableError(f"is of shape {array.shape}, and an image is (H, W) or (H, W, C)")
    if array.size == 0:
        raise UnusableError(f"has no pixels: its shape is {array.shape}")
    values = array[..., None] if array.ndim == 2 else array
    dtype = values.dtype.newbyteorder("=")
    if dtype == np.bool_:
        return Picture(values.astype(np.uint8) * np.uint8(255))
    if dtype in (np.uint8, np.uint16):
        return Picture(np.array(values, dtype, order="C"), dtype=dtype)
    if dtype not in (np.float16, np.float32, np.float64):
        raise UnusableError(
            f"holds {dtype}, and images are of uint8, uint16, or floats in [0, 1]: convert it"
        )
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise UnusableError("holds values that are not finite (NaN or infinite)")
    if low < -SLACK or high > 1 + SLACK:
        raise UnusableError(
            f"holds values from {low:g} to {high:g}, and floats are read as black at 0 and white "
            f"at 1: scale them to that range"
        )
    return Picture(np.clip(values, 0, 1).astype(np.float32, order="C"), dtype=dtype)


def unpack(image: PillowImage.Image, name: str = "the image") -> Picture:
    """A Pillow image as it is: upright, in sRGB, straight alpha beside its colours.

    Args:
        image: of any mode.
        name: what to call it in warnings.

    Raises:
        ValueError: levels outside 16 bits, floats outside [0, 1], or CIE Lab.
    """
    image.load()
    return assemble(_planes(image), profile_of(image), orientation_of(image), name)


def profile_of(image: PillowImage.Image) -> bytes | None:
    """The colour profile that a Pillow image carries; empty where Pillow found it broken."""
    if "icc_profile" not in image.info:
        return None
    return image.info["icc_profile"] or b""


def orientation_of(image: PillowImage.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none, or where the EXIF is garbage."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return found if found in range(1, 9) else 1


def _planes(image: PillowImage.Image) -> Planes:
    mode = image.mode
    if mode.startswith("I"):
        return _sixteen_bits(image)
    if mode == "F":
        picture = picture_of(np.asarray(image))
        return Planes(picture.pixels, "grey", dtype=picture.dtype)
    if mode == "LAB":
        raise UnusableError("is in CIE Lab, which is not supported: save it as RGB")
    if image.has_transparency_data:
        grey = mode in ("1", "L", "LA", "La")
        both = np.array(image.convert("LA" if grey else "RGBA"))
        return Planes(both[..., :-1], "grey" if grey else "rgb", both[..., -1])
    if mode in ("1", "L"):
        return Planes(np.array(image.convert("L"))[..., None], "grey")
    if mode == "CMYK":
        return Planes(np.array(image), "cmyk")
    return Planes(np.array(image.convert("RGB")), "rgb")


def _sixteen_bits(image: PillowImage.Image) -> Planes:
    levels = np.asarray(image)
    deep = narrow(levels)
    clear = image.info.get("transparency")
    alpha = np.where(levels == clear, 0, 65535).astype(np.uint16) if clear is not None else None
    return Planes(deep[..., None], "grey", alpha, deep.dtype)


def narrow(array: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers of other types than uint8 and uint16 as 16-bit levels; others as they are.

    Raises:
        UnusableError: some do not fit 16 bits, or all of them fit 8, so that they may be either.
    """
    if array.dtype.kind not in "iu" or array.dtype in (np.uint8, np.uint16):
        return array
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 65535:
        raise UnusableError(
            f"holds levels from {low} to {high} as {array.dtype.name}, and the deepest whole "
            f"numbers that are supported are 16-bit, 0 to 65535"
        )
    if array.itemsize > 2 and high <= 255:
        raise UnusableError(
            f"holds levels from {low} to {high} as {array.dtype.name}, which may be of 8 bits or "
            f"very dark ones of 16: convert it to uint8 or uint16"
        )
    return array.astype(np.uint16)
