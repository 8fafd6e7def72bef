"""Image files of any kind and depth into pictures."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from img2img.data import arrays, deep, tiff
from img2img.data.limits import check_claim, over_limit, pixel_limit, set_pixel_limit
from img2img.data.memory import orientation_of, profile_of, unpack
from img2img.data.planes import assemble
from img2img.errors import ImageError
from img2img.picture import Picture, UnusableError, fit_picture, to_depth

__all__ = [
    "decode",
    "image_size",
    "pixel_limit",
    "read_image",
    "read_picture",
    "reason_of",
    "set_pixel_limit",
]

Result = TypeVar("Result")

# These hold several images of one thing: previews of a photograph, layers under their sum.
_ONE_OF_SEVERAL = ("MPO", "PSD", "TIFF", "ICO")


def read_picture(path: Path, channels: int = 3) -> Picture:
    """One image file as a task that takes so many channels sees it, at the file's own depth.

    Upright, by its colour profile in sRGB, and with alpha as `fit_picture` has it.

    Raises:
        ImageError: it is missing, truncated, no image, too large, or of other channels.
    """
    return _explained(path, lambda file: fit_picture(decode(file, str(path)), channels))


def read_image(path: Path) -> NDArray[np.uint8]:
    """One image file as people see it: (H, W, 3) uint8 sRGB, upright, on white.

    Raises:
        ImageError: it is missing, truncated, no image, too large, or of other channels.
    """
    eight: NDArray[np.uint8] = to_depth(read_picture(path).pixels, np.uint8)
    return eight


def image_size(path: Path) -> tuple[int, int]:
    """Width and height from the header alone, before any EXIF turn.

    Raises:
        ImageError: it is no image, or too large.
    """
    return _explained(path, _size)


def decode(file: BinaryIO, name: str) -> Picture:
    """An open image file as it is: upright, in sRGB, straight alpha beside its colours.

    Args:
        file: at its beginning, and able to seek.
        name: what to call it in warnings.

    Raises:
        Exception: whatever decoders raise; `reason_of` puts it into words.
    """
    magic = _magic(file)
    if magic.startswith(arrays.MAGIC):
        return arrays.read_array(file)
    if magic.startswith(tiff.MAGICS):
        found = tiff.read_tiff(file, name)
        if found is not None:
            return found
        file.seek(0)
    with _open(file, magic) as opened:
        if getattr(opened, "is_animated", False) and opened.format not in _ONE_OF_SEVERAL:
            raise UnusableError("holds several images, an animation: save the one to use as a file")
        picture = _deep(file, opened, magic, name)
        return unpack(opened, name) if picture is None else picture


def reason_of(error: Exception) -> str:
    """Why an image cannot be read, in words, from what its decoder raised."""
    if isinstance(error, UnusableError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image that can be read"
    if isinstance(error, PillowImage.DecompressionBombError):
        count = re.search(r"\d+", str(error))
        return over_limit(f"{int(count[0]):,} pixels" if count else "its pixels")
    return f"cannot be read ({' '.join(str(error).split())})"


def _explained(path: Path, read: Callable[[BinaryIO], Result]) -> Result:
    try:
        with path.open("rb") as file:
            return read(file)
    # Decoders meet strangers' bytes and raise whatever they like: struct.error, SyntaxError, ...
    except Exception as error:
        raise ImageError(path, reason_of(error)) from error


def _magic(file: BinaryIO) -> bytes:
    magic = file.read(deep.LONGEST_MAGIC)
    file.seek(0)
    return magic


def _size(file: BinaryIO) -> tuple[int, int]:
    magic = _magic(file)
    if magic.startswith(arrays.MAGIC):
        return arrays.array_size(file)
    if magic.startswith(tiff.MAGICS):
        return tiff.tiff_size(file)
    with _open(file, magic) as opened:
        return opened.size


def _open(file: BinaryIO, magic: bytes) -> PillowImage.Image:
    if magic.startswith(deep.PNG) and len(magic) == deep.LONGEST_MAGIC:
        # Before Pillow does, to say how wide and how high.
        check_claim(*struct.unpack(">II", magic[16:24]))
    opened = PillowImage.open(file)
    if opened.format == "EPS":
        # Pillow would have a program for printers run what is in it.
        raise UnidentifiedImageError
    return opened


def _deep(file: BinaryIO, opened: PillowImage.Image, magic: bytes, name: str) -> Picture | None:
    """An image deeper than Pillow would give it; None where Pillow gives all there is."""
    is_png = deep.is_deep_png(magic)
    if not is_png and (opened.format, opened.mode) != ("PPM", "RGB"):
        return None
    # Pillow goes on reading where it stopped.
    place = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(place)
    planes = deep.png_planes(data) if is_png else deep.ppm_planes(data)
    if planes is None:
        return None
    # Asking Pillow for EXIF makes it decode the pixels, so not where there can be none.
    has_exif = any(hint in data for hint in (b"eXIf", b"exif", b"xmp"))
    return assemble(planes, profile_of(opened), orientation_of(opened) if has_exif else 1, name)
