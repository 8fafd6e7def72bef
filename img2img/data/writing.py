"""Pictures into image files, as deep as they came, or as deep as the format can hold."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from img2img.data.memory import to_indexed, to_pillow
from img2img.data.profiles import profile_for
from img2img.files import whole_file
from img2img.picture import Picture, join_alpha, lay_on_white, to_depth

Kind = Literal["PNG", "JPEG", "WEBP", "TIFF", "NPY"]

KINDS: dict[str, Kind] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".npy": "NPY",
}
# Sides in pixels.
_LONGEST: dict[Kind, int] = {"JPEG": 65500, "WEBP": 16383}
# Lossy formats: as good as they sensibly get.
QUALITY = 95


def write_picture(path: Path, picture: Picture, palette: NDArray[np.uint8] | None = None) -> None:
    """Write a picture in the format of the path's suffix: whole, or not at all.

    It keeps the depth of `picture.dtype` where the format can hold it: PNG has 8 and 16 bits, and
    takes floats as 16; JPEG and WebP have 8; TIFF and `.npy` have all. Alpha is kept in PNG, WebP
    and TIFF, and laid on white elsewhere; of 2 and 4 channels the last is alpha there. Other counts
    than 1 to 4 go into TIFF and `.npy` alone. Where `picture.profiled`, a profile says that it is
    sRGB. In `.npy`, one channel is (H, W), and floats are in [0, 1].

    Args:
        path: where to; its suffix says in which format.
        picture: what to write.
        palette: colours (N, 3); the file then holds their indices, which PNG and TIFF can.

    Raises:
        ValueError: the format cannot hold this.
        OSError: the folder cannot be written to.
    """
    write_whole(path, encode(path.suffix, picture, palette))


def encode(suffix: str, picture: Picture, palette: NDArray[np.uint8] | None = None) -> bytes:
    """The bytes of the file that `write_picture` writes.

    Raises:
        ValueError: the format cannot hold this.
    """
    kind = KINDS.get(suffix.lower())
    if kind is None:
        raise ValueError(f"images cannot be written as {suffix!r}: use {', '.join(KINDS)}")
    longest = _LONGEST.get(kind)
    if longest is not None and max(picture.size) > longest:
        raise ValueError(f"{suffix} cannot hold more than {longest:,} pixels a side: use .png")
    if palette is not None:
        if kind not in ("PNG", "TIFF"):
            raise ValueError(f"{suffix} cannot hold classes exactly: use .png or .tiff")
        return _saved(to_indexed(to_depth(picture.pixels, np.uint8), palette), kind)
    count = picture.pixels.shape[2]
    if count in (2, 4):
        # Their last channel is the alpha.
        picture = replace(picture, alpha=None)
    if kind == "NPY":
        return _array(picture)
    if kind != "TIFF" and count > 4:
        raise ValueError(f"{suffix} cannot hold {count} channels: use .tiff or .npy")
    if kind == "JPEG":
        picture = _flat(picture)
    if kind == "TIFF" and (picture.dtype != np.uint8 or count > 4):
        return _tiff(picture)
    picture = join_alpha(picture)
    if kind == "PNG" and picture.dtype != np.uint8:
        return _deep_png(picture)
    eight = replace(picture, pixels=to_depth(picture.pixels, np.uint8), dtype=np.dtype(np.uint8))
    image = to_pillow(eight)
    if kind == "WEBP":
        # It has no grey: Pillow writes RGB, which the profile must be about.
        image = image.convert("RGBA" if image.mode in ("LA", "RGBA") else "RGB")
        if eight.profiled:
            image.info["icc_profile"] = profile_for(3)
    return _saved(image, kind)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it there, so that no half of it is ever seen.

    Raises:
        OSError: the folder cannot be written to.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def _saved(image: Any, kind: Kind) -> bytes:
    buffer = io.BytesIO()
    options: dict[str, Any] = {}
    if kind in ("JPEG", "WEBP"):
        options["quality"] = QUALITY
    elif kind == "PNG" and image.mode != "P":
        # Photographs hardly repeat themselves: without looking for it they take a third of the
        # time to write, and are as small.
        options["compress_type"] = zlib.Z_RLE
    image.save(buffer, kind, icc_profile=image.info.get("icc_profile"), **options)
    return buffer.getvalue()


def _array(picture: Picture) -> bytes:
    if picture.alpha is not None:
        # An array cannot say that a channel is alpha.
        picture = _flat(picture)
    levels = to_depth(picture.pixels, picture.dtype)
    buffer = io.BytesIO()
    np.save(buffer, levels[..., 0] if levels.shape[2] == 1 else levels, allow_pickle=False)
    return buffer.getvalue()


def _tiff(picture: Picture) -> bytes:
    import tifffile

    levels = to_depth(join_alpha(picture).pixels, picture.dtype)
    count = levels.shape[2]
    clear = picture.alpha is not None or count in (2, 4)
    bands = count - clear
    colours = 3 if bands == 3 else 1
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        levels[..., 0] if count == 1 else levels,
        photometric="rgb" if colours == 3 else "minisblack",
        planarconfig=None if count == 1 else "contig",
        extrasamples=["unspecified"] * (bands - colours) + ["unassalpha"] * clear,
        iccprofile=profile_for(bands) if picture.profiled else None,
        # Its own notes on shapes, which other programs would show as the description.
        metadata=None,
        software=False,
    )
    return buffer.getvalue()


def _deep_png(picture: Picture) -> bytes:
    import imagecodecs

    levels = to_depth(picture.pixels, np.uint16)
    count = levels.shape[2]
    data = bytes(imagecodecs.png_encode(levels[..., 0] if count == 1 else levels))
    profile = profile_for(3 if count >= 3 else 1)
    if not picture.profiled or profile is None:
        return data
    # The encoder takes no profile; its chunk may stand right behind the header, 33 bytes in.
    chunk = b"iCCP" + b"ICC Profile\0\0" + zlib.compress(profile)
    framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data[:33] + framed + data[33:]


def _flat(picture: Picture) -> Picture:
    """A picture as it shows on white, without alpha; of 2 and 4 channels the last is alpha."""
    pixels, alpha = picture.pixels, picture.alpha
    if pixels.shape[2] in (2, 4):
        pixels, alpha = pixels[..., :-1], pixels[..., -1]
    if alpha is not None:
        pixels = lay_on_white(pixels, alpha)
    return replace(picture, pixels=pixels, alpha=None)
