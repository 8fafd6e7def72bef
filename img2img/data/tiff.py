"""TIFF files that Pillow would flatten to 8 bits, misread or refuse: deep, float, many bands."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from img2img.data.limits import BESIDE, check_claim
from img2img.data.memory import narrow, picture_of
from img2img.data.planes import Planes, assemble
from img2img.data.profiles import Space
from img2img.picture import Picture, Pixels, UnusableError, to_depth, white_of

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Tags and their values, TIFF 6.0 and its technical notes.
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 1, 2, 3, 5, 6
_SPACES: dict[int, tuple[Space, int]] = {
    _MIN_IS_WHITE: ("grey", 1),
    _MIN_IS_BLACK: ("grey", 1),
    _RGB: ("rgb", 3),
    _SEPARATED: ("cmyk", 4),
}
_ASSOCIATED, _UNASSOCIATED = 1, 2
_INK_SET, _ORIENTATION = 332, 274
_OLD_JPEG = 6
# None, LZW, Deflate by both numbers, PackBits, LZMA and Zstandard, which are told when to stop.
# Others hold whole images, with headers of their own.
_COMPRESSIONS = (1, 5, 8, 32946, 32773, 34925, 50000)
# What every libtiff in Pillow knows: some of these, fax, and JPEG old and new.
_PILLOWS = (1, 5, 8, 32946, 32773, 2, 3, 4, _OLD_JPEG, 7)
# Enough for the overviews and masks of one image.
_MOST_PAGES = 64

# It tells of every oddity of a file, and what matters is raised.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def read_tiff(file: BinaryIO, name: str) -> Picture | None:
    """An open TIFF as a picture; None where Pillow reads all there is in it.

    Raises:
        UnusableError: several images, too large, or of a kind that is not supported.
    """
    from tifffile import TiffFile

    with TiffFile(file) as tiff:
        page, first = _only_page(tiff)
        _check(page)
        if first and _pillow_reads(page):
            return None
        planes = _planes(page)
        turn = page.tags.valueof(_ORIENTATION, 1)
        return assemble(planes, page.iccprofile, turn if turn in range(1, 9) else 1, name)


def tiff_size(file: BinaryIO) -> tuple[int, int]:
    """Width and height of the image in an open TIFF, from its header alone.

    Raises:
        UnusableError: several images, or too large.
    """
    from tifffile import TiffFile

    with TiffFile(file) as tiff:
        page, _ = _only_page(tiff)
        _check(page)
        return page.imagewidth, page.imagelength


def tiff_bytes(file: BinaryIO) -> int:
    """How much memory the image in an open TIFF takes, in bytes; see `decoded_bytes`.

    Raises:
        UnusableError: several images, or too large.
    """
    from tifffile import TiffFile

    with TiffFile(file) as tiff:
        page, _ = _only_page(tiff)
        _check(page)
        return page.imagewidth * page.imagelength * max(3, page.samplesperpixel) * _item_bytes(page)


def _item_bytes(page: TiffPage) -> int:
    return -(-int(page.bitspersample) // 8)


def _only_page(tiff: TiffFile) -> tuple[TiffPage, bool]:
    """The one page that is neither an overview nor a mask, and whether it is the file's first."""
    found: list[tuple[TiffPage, bool]] = []
    for index, each in enumerate(tiff.pages):
        if index == _MOST_PAGES or len(found) > 1:
            break
        page = each.aspage()
        if not (page.is_reduced or page.is_mask):
            found.append((page, index == 0))
    if not found:
        raise UnusableError("holds no image, or overviews alone")
    if len(found) > 1:
        raise UnusableError("holds several images: save the one to use as a file of its own")
    return found[0]


def _check(page: TiffPage) -> None:
    bits = page.bitspersample
    if not isinstance(bits, int):
        raise UnusableError(f"has channels of different depths, {bits} bits")
    item_bytes = _item_bytes(page)
    check_claim(page.imagewidth, page.imagelength, page.samplesperpixel, item_bytes)
    if page.is_tiled:
        check_claim(page.tilewidth, page.tilelength, page.samplesperpixel, item_bytes)
    if page.imagedepth != 1:
        raise UnusableError(f"is a volume of {page.imagedepth} slices, not an image")
    # Decoders make what they are not told of black. JPEG of the old kind has another list.
    if page.compression != _OLD_JPEG and len(page.dataoffsets) < math.prod(page.chunked):
        raise UnusableError("is damaged: it says where some of its pixels are, and not of all")
    # They are read whole, whatever is in them.
    stored = math.prod(page.chunked) * math.prod(page.chunks) * item_bytes
    if sum(page.databytecounts) > 4 * stored + BESIDE:
        raise UnusableError("is damaged: its pixels take many times the bytes that they have")
    # Photoshop keeps its layers in a tag.
    if any(tag.valuebytecount > 16 * stored + BESIDE for tag in page.tags):
        raise UnusableError("is damaged: one of its tags is larger than any has to be")


def _pillow_reads(page: TiffPage) -> bool:
    """Whether Pillow has a mode for all of it: up to 8 bits, no bands that it would drop."""
    if page.sampleformat != 1 or page.bitspersample > 8 or page.compression not in _PILLOWS:
        return False
    if _is_other_inks(page):
        return False
    extras = tuple(page.extrasamples)
    layout = page.photometric, page.samplesperpixel - len(extras)
    if extras:
        clear = extras in ((_ASSOCIATED,), (_UNASSOCIATED,))
        return clear and layout in ((_MIN_IS_BLACK, 1), (_RGB, 3))
    # Without a word on its fourth band, Pillow and most others take it for alpha.
    more = ((_PALETTE, 1), (_YCBCR, 1), (_YCBCR, 3), (_RGB, 4))
    return layout in more or _SPACES.get(layout[0], ("", 0))[1] == layout[1]


def _is_other_inks(page: TiffPage) -> bool:
    return page.photometric == _SEPARATED and page.tags.valueof(_INK_SET, 1) != 1


def _planes(page: TiffPage) -> Planes:
    if page.photometric not in _SPACES:
        kind = getattr(page.photometric, "name", page.photometric)
        raise UnusableError(
            f"is a TIFF of photometric interpretation {kind}, which is not supported: save "
            f"it as RGB or grey"
        )
    if page.compression not in _COMPRESSIONS:
        kind = getattr(page.compression, "name", page.compression)
        raise UnusableError(
            f"is a TIFF of {page.bitspersample} bits compressed as {kind}, which is not supported: "
            f"save it with LZW, Deflate or no compression"
        )
    # (separate bands, depth, H, W, interleaved bands), of which one kind has more than one.
    stored = page.asarray(squeeze=False, maxworkers=1)[:, 0]
    bands = np.moveaxis(stored, 0, 2).reshape(*stored.shape[1:3], -1)
    picture = picture_of(_full_range(bands, page.bitspersample))
    pixels, total = picture.pixels, picture.pixels.shape[2]
    if page.photometric == _MIN_IS_WHITE:
        pixels[..., 0] = white_of(pixels.dtype) - pixels[..., 0]
    space, colours = _SPACES[page.photometric]
    if total < colours or _is_other_inks(page):
        return Planes(pixels, None, dtype=picture.dtype)
    extras = list(page.extrasamples)
    if (space, total, extras) == ("rgb", 4, []):
        extras = [_UNASSOCIATED]
    at = next((i for i, kind in enumerate(extras) if kind in (_ASSOCIATED, _UNASSOCIATED)), None)
    if at is None:
        return Planes(pixels, space if total == colours else None, dtype=picture.dtype)
    alpha = pixels[..., colours + at]
    rest = np.delete(pixels, colours + at, axis=2)
    if extras[at] == _ASSOCIATED:
        rest = _divided(rest, alpha)
    return Planes(rest, space if total == colours + 1 else None, alpha, picture.dtype)


def _full_range(bands: NDArray[Any], bits: int) -> NDArray[Any]:
    """Levels of 2 to 7 or 9 to 15 bits, over the range of the type that they are in."""
    if bands.dtype in (np.uint8, np.uint16) and bits < 8 * bands.dtype.itemsize:
        scaled: NDArray[Any] = np.rint(bands * (white_of(bands.dtype) / (2**bits - 1)))
        return scaled.astype(bands.dtype)
    return narrow(bands)


def _divided(colours: Pixels, alpha: Pixels) -> Pixels:
    """Colours that are stored multiplied by their alpha, as they were; black where it is 0."""
    opacity = to_depth(alpha, np.float32)[..., None]
    stored = to_depth(colours, np.float32)
    straight = np.divide(stored, opacity, out=np.zeros_like(stored), where=opacity > 0)
    return to_depth(np.clip(straight, 0, 1), colours.dtype)
