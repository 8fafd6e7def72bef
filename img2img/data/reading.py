"""Image files of any kind and depth into pictures."""

from __future__ import annotations

import os
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
from img2img.data.limits import BESIDE, check_claim, over_limit, pixel_limit, set_pixel_limit
from img2img.data.memory import orientation_of, profile_of, unpack
from img2img.data.opening import open_file
from img2img.data.planes import Planes, assemble
from img2img.errors import ImageError
from img2img.names import printable
from img2img.picture import Picture, UnusableError, fit_picture, to_depth

__all__ = [
    "decode",
    "decoded_bytes",
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


def decoded_bytes(path: Path) -> int:
    """How much memory the decoded image will take, in bytes, by the header alone.

    Grey counts as the three channels that it becomes for most models.

    Raises:
        ImageError: it is no image, or too large.
    """
    return _explained(path, _bytes)


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
    with _open(file, magic, whole=True) as opened:
        if getattr(opened, "is_animated", False) and opened.format not in _ONE_OF_SEVERAL:
            raise UnusableError("holds several images, an animation: save the one to use as a file")
        picture = _deep(file, opened, magic, name)
        return unpack(opened, name) if picture is None else picture


def reason_of(error: Exception) -> str:
    """Why an image cannot be read, in words, from what its decoder raised."""
    if isinstance(error, UnusableError):
        return _short(str(error))
    if isinstance(error, MemoryError):
        return "out of memory while it was read"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image that can be read"
    if isinstance(error, PillowImage.DecompressionBombError):
        count = re.search(r"\d+", str(error))
        return over_limit(f"{int(count[0]):,} pixels" if count else "its pixels")
    said = " ".join(str(error).split()) or type(error).__name__
    return f"cannot be read ({_short(said)})"


def _short(text: str) -> str:
    """What may quote the file, in one line and with an end."""
    plain = printable(text)
    return plain if len(plain) <= 500 else f"{plain[:500]}..."


def _explained(path: Path, read: Callable[[BinaryIO], Result]) -> Result:
    try:
        with open_file(path) as file:
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


def _bytes(file: BinaryIO) -> int:
    magic = _magic(file)
    if magic.startswith(arrays.MAGIC):
        return arrays.array_bytes(file)
    if magic.startswith(tiff.MAGICS):
        return tiff.tiff_bytes(file)
    with _open(file, magic) as opened:
        width, height = opened.size
        clear = opened.has_transparency_data or opened.mode == "CMYK"
        channel = 2 if opened.mode.startswith("I") else 4 if opened.mode == "F" else 1
        is_ppm = (opened.format, opened.mode) == ("PPM", "RGB")
        if deep.is_deep_png(magic) or (is_ppm and deep.is_deep_ppm(file)):
            channel = 2
    return width * height * (4 if clear else 3) * channel


def _open(file: BinaryIO, magic: bytes, *, whole: bool = False) -> PillowImage.Image:
    """Let Pillow open a file, and if it is going to read the whole of it, check all of it."""
    if magic.startswith(deep.PNG) and len(magic) == deep.LONGEST_MAGIC:
        # Before Pillow does, to say how wide and how high.
        check_claim(*struct.unpack(">II", magic[16:24]))
        deep.check_chunks(file, b"IEND" if whole else b"IDAT")
    if _is_read_whole(magic):
        _check_length(file)
    opened = PillowImage.open(file)
    if opened.format == "EPS":
        # Pillow would have a program for printers run what is in it.
        raise UnidentifiedImageError
    if magic.startswith(deep.PNG) and opened.mode == "L":
        # Pillow scales levels of 2 and 4 bits, and not the one that is said to be transparent.
        clear, most = opened.info.get("transparency"), 2 ** magic[24] - 1
        if isinstance(clear, int) and most < 255 and clear <= most:
            opened.info["transparency"] = clear * 255 // most
    return opened


def _is_read_whole(magic: bytes) -> bool:
    """Whether it is WebP or AVIF, which Pillow reads to the end of the file to know their size."""
    return (magic[:4], magic[8:12]) == (b"RIFF", b"WEBP") or magic[4:8] == b"ftyp"


def _check_length(file: BinaryIO) -> None:
    limit, length = pixel_limit(), file.seek(0, os.SEEK_END)
    file.seek(0)
    if limit is not None and length > limit * 4 + BESIDE:
        raise UnusableError(over_limit(f"{length:,} bytes, of {length // 4:,} pixels at least,"))


def _deep(file: BinaryIO, opened: PillowImage.Image, magic: bytes, name: str) -> Picture | None:
    """An image deeper than Pillow would give it; None where Pillow gives all there is."""
    is_png = deep.is_deep_png(magic)
    if not is_png and (opened.format, opened.mode) != ("PPM", "RGB"):
        return None
    # Pillow goes on reading where it stopped.
    place = file.tell()
    has_exif = False
    if is_png:
        file.seek(0)
        data = deep.read_png(file)
        planes: Planes | None = deep.png_planes(data)
        # Asking Pillow for EXIF makes it decode the pixels, so not where there can be none.
        has_exif = any(hint in data for hint in (b"eXIf", b"exif", b"xmp"))
    else:
        planes = deep.ppm_planes(file)
    file.seek(place)
    if planes is None:
        return None
    return assemble(planes, profile_of(opened), orientation_of(opened) if has_exif else 1, name)
