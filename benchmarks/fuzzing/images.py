"""Small image files of every kind that the program reads, and how to break each in its own way."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from fuzzing.mutators import NUMBERS, mutate_bytes
from img2img.data.reading import decoded_bytes, image_size, read_picture

Breaker = Callable[[random.Random, bytes], bytes]
PNG = b"\x89PNG\r\n\x1a\n"
SIDES = (0, 1, 2, 7, 255, 4095, 65535, 65536, (1 << 31) - 1, (1 << 32) - 1)
# Of every format's grammar: what a random byte would hardly hit upon.
PIECES = (
    *(b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"acTL"),
    *(
        b"fdAT",
        b"fcTL",
        b"\xff\xd8\xff",
        b"\xff\xc0",
        b"\xff\xc2",
        b"\xff\xda",
        b"\xff\xdd",
        b"\xff\xe1",
    ),
    *(
        b"\xff\xe2",
        b"\xff\xee\0\x0eAdobe",
        b"\xff\xd9",
        b"Exif\0\0",
        b"ICC_PROFILE\0\1\1",
        b"MPF\0",
    ),
    *(b"II*\0", b"MM\0*", b"II+\0", b"GIF89a", b"!\xf9\4", b"!\xff\x0bNETSCAPE2.0", b",", b";"),
    *(b"RIFF", b"WEBP", b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"ICCP", b"EXIF"),
    *(b"ftypavif", b"meta", b"iloc", b"iinf", b"ispe", b"av1C", b"mdat", b"BM", b"P6\n", b"P5 "),
    *(b"P4\n", b"P7\n", b"Pf\n", b"\x93NUMPY\1\0", b"'descr': '|O'", b"'shape': (", b"65535", b"#"),
    *(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"8BPS\0\1",
        b"\0\0\1\0",
        b"DDS ",
        b"qoif",
    ),
    *(
        b"\0\0\0\x0cjP  \r\n\x87\n",
        b"SIMPLE  =",
        b"/* XPM */",
        b"\x59\xa6\x6a\x95",
        b"GRIB",
        b"PK\3\4",
    ),
)
_RNG = np.random.default_rng(0)
PHOTO = _RNG.integers(0, 255, (12, 16, 3), dtype=np.uint8)


def seeds() -> dict[str, list[bytes]]:
    """Valid files by format, some with profile, EXIF, text, alpha, palette, layers and tiles."""
    rgb = Image.fromarray(PHOTO)
    rgba = Image.fromarray(_RNG.integers(0, 255, (12, 16, 4), dtype=np.uint8))
    grey, indexed = rgb.convert("L"), rgb.quantize(16)
    deep = _RNG.integers(0, 65535, (12, 16, 3), dtype=np.uint16)
    profile = _dateless(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    other = _dateless(bytes(imagecodecs.cms_profile("adobergb")))
    exif = Image.Exif()
    exif[274], exif[270] = 6, "a text"
    about = {"icc_profile": profile, "exif": exif.tobytes()}
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 200, zip=True)
    text.add_itxt("Title", "y" * 20)
    frames = {"save_all": True, "append_images": [rgb.rotate(90)]}
    found = {
        "png": [
            *(saved(image, "PNG") for image in (rgb, rgba, grey, indexed, rgb.convert("1"))),
            saved(rgb, "PNG", pnginfo=text, **about),
            saved(rgb, "PNG", **frames),
            *(
                bytes(imagecodecs.png_encode(each.copy()))
                for each in (deep, deep[..., 0], deep[..., :2])
            ),
        ],
        "jpeg": [
            *(saved(image, "JPEG") for image in (rgb, grey, rgb.convert("CMYK"))),
            saved(rgb, "JPEG", progressive=True, icc_profile=other, exif=exif.tobytes()),
            saved(rgb, "MPO", **frames),
        ],
        "webp": [
            saved(rgb, "WEBP"),
            saved(rgba, "WEBP", lossless=True, **about),
            saved(rgb, "WEBP", **frames),
        ],
        "gif": [saved(indexed, "GIF", transparency=3, comment=b"c"), saved(rgb, "GIF", **frames)],
        "bmp": [saved(image, "BMP") for image in (rgb, rgba, grey, indexed, rgb.convert("1"))],
        "pnm": [
            *(saved(image, "PPM") for image in (rgb, grey, rgb.convert("1"))),
            b"P6 # deep\n16 12 65535\n" + deep.astype(">u2").tobytes(),
            b"P5\n4 4\n1000\n" + bytes(32),
            b"P3 2 2 9 " + b"1 2 3 " * 4,
            b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" + bytes(12),
        ],
        "npy": [
            _array(each) for each in (PHOTO, PHOTO[..., 0], deep, (PHOTO / 255).astype(np.float32))
        ],
        "tiff": [
            _tiff(PHOTO, compression="zlib", predictor=True),
            _tiff(deep, compression="lzw"),
            _tiff(deep[..., 0], photometric="minisblack", tile=(16, 16)),
            _tiff(np.float32(PHOTO / 255), bigtiff=True, iccprofile=other),
            _tiff(deep, byteorder=">", compression="zstd", rowsperstrip=2),
            _tiff(
                np.zeros((5, 8, 9), np.uint16), photometric="minisblack", planarconfig="separate"
            ),
            _tiff(deep, compression="packbits"),
            saved(rgb, "TIFF", compression="jpeg"),
            saved(rgb.convert("1"), "TIFF", compression="group4"),
            saved(rgb, "TIFF", compression="tiff_lzw", **about),
            saved(rgba, "TIFF"),
            saved(rgb, "TIFF", save_all=True, append_images=[rgb]),
        ],
        "others": [saved(rgb, kind) for kind in ("ICO", "TGA", "SGI", "PCX", "DDS", "EPS")],
    }
    found["avif"] = [bytes(imagecodecs.avif_encode(PHOTO))]
    return found


def _dateless(profile: bytes) -> bytes:
    """A profile that says nothing of when it was made, so that a case is the same tomorrow."""
    return profile[:24] + bytes(12) + profile[36:84] + bytes(16) + profile[100:]


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]  # each format has its own
    return buffer.getvalue()


def _array(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _tiff(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    usual = {"photometric": "rgb", "metadata": None}
    tifffile.imwrite(buffer, array, **usual | options)  # type: ignore[arg-type]
    return buffer.getvalue()


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], len(PNG)
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def break_png(rng: random.Random, data: bytes) -> bytes:
    """Chunks changed, moved, doubled, with sums that fit, and texts that unpack to megabytes."""
    chunks = _chunks(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(chunks))
        kind, body = chunks[at]
        change = rng.randrange(8)
        if change < 2 and len(chunks[0][1]) >= 13:
            place, size = rng.choice(((0, 4), (4, 4), (8, 1), (9, 1), (10, 1), (11, 1), (12, 1)))
            value = rng.choice(SIDES if size == 4 else (0, 1, 2, 3, 4, 6, 8, 16, 32, 255))
            head = bytearray(chunks[0][1])
            head[place : place + size] = value.to_bytes(size, "big")
            chunks[0] = chunks[0][0], bytes(head)
        elif change == 2:
            chunks[at] = kind, mutate_bytes(rng, body, PIECES)
        elif change == 3:
            chunks[at] = rng.choice(PIECES[:12])[:4].ljust(4, b"x"), body
        elif change == 4:
            chunks.insert(rng.randrange(len(chunks) + 1), (kind, body))
        elif change == 5:
            del chunks[at]
            chunks = chunks or [(b"IEND", b"")]
        elif change == 6:
            bomb = zlib.compress(bytes(rng.choice((10, 1 << 16, 1 << 21, 1 << 23))), 1)
            new = rng.choice(
                ((b"zTXt", b"k\0\0" + bomb), (b"iCCP", b"k\0\0" + bomb), (b"IDAT", bomb))
            )
            chunks.insert(rng.randrange(len(chunks) + 1), new)
        else:
            text = (b"tEXt", b"Comment\0" + rng.randbytes(20))
            new = rng.choice((text, (b"eXIf", rng.choice(PIECES) * 9), (b"gAMA", rng.randbytes(4))))
            chunks.insert(rng.randrange(len(chunks) + 1), new)
    return PNG + b"".join(_packed(kind, body) for kind, body in chunks)


def _packed(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def break_jpeg(rng: random.Random, data: bytes) -> bytes:
    """Segments changed, with another length, doubled, or of another kind."""
    changed, places = bytearray(data), []
    at = 2
    while at + 4 < len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        places.append(at)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    for _ in range(rng.choice((1, 2))):
        at = rng.choice(places)
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        change = rng.randrange(4)
        if change == 0:
            changed[at + 2 : at + 4] = (rng.choice(NUMBERS) & 0xFFFF).to_bytes(2, "big")
        elif change == 1:
            inside = at + 4 + rng.randrange(max(1, length - 2))
            changed[inside : inside + 2] = (rng.choice(SIDES) & 0xFFFF).to_bytes(2, "big")
        elif change == 2:
            changed[at + 1 : at + 2] = rng.choice(PIECES[11:20])[1:2] or b"\xc0"
        else:
            changed[at:at] = data[at : at + 2 + length] * rng.choice((1, 3))
    return bytes(changed)


def break_tiff(rng: random.Random, data: bytes) -> bytes:
    """Entries of the directory with other tags, types, counts and values; directories in a ring."""
    changed = bytearray(data)
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:3] in (b"+",) or data[3:4] == b"+"
    where, count, entry, word = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    begin_at = 8 if big else 4
    begin = struct.unpack_from(order + where, data, begin_at)[0]
    number = struct.unpack_from(order + count, data, begin)[0]
    first = begin + struct.calcsize(count)
    end = first + number * entry
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = first + entry * rng.randrange(number)
        change = rng.randrange(6)
        form, place = rng.choice((("H", at), ("H", at + 2), (where, at + 4)))
        if change == 0:
            tags = (254, 256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 320, 322, 324, 330)
            value = rng.choice(
                (*tags, 338, 339, 347, 32997, 34665, 34675, 37724, 50838, rng.randrange(65536))
            )
            form, place = "H", at
        elif change == 1:
            form, place, value = "H", at + 2, rng.randrange(20)
        elif change == 2:
            form, place, value = where, at + 4, rng.choice(NUMBERS)
        elif change == 5:
            # The next directory: this one, or some other place.
            form, place = where, rng.choice((end, begin_at))
            value = rng.choice((begin, 0, 1, begin_at, len(data) - 9, rng.choice(NUMBERS)))
        else:
            form, place = (where, at + 4 + word) if rng.random() < 0.7 else ("H", at + 4 + word)
            value = rng.choice(
                (*NUMBERS, begin, rng.randrange(len(data)), 3, 5, 6, 7, 8, 34892, 33003)
            )
        size = struct.calcsize(form)
        if place + size <= len(changed):
            struct.pack_into(order + form, changed, place, value % (1 << 8 * size))
    return bytes(changed)


def break_text(rng: random.Random, data: bytes) -> bytes:
    """Headers that are texts, of PNM and .npy, with other numbers and words."""
    head, rest = bytearray(data[:128]), data[128:]
    digits = [i for i, byte in enumerate(head) if chr(byte).isdigit()]
    for _ in range(rng.choice((1, 2))):
        at = rng.choice(digits)
        words = (
            "0",
            "-1",
            "1e9",
            "(1,)",
            "b",
            "'|O8'",
            "'>f8'",
            "'<U9'",
            "None",
            "[[",
            "9" * 5000,
            "#",
        )
        new = rng.choice((str(rng.choice(NUMBERS)), rng.choice(words))).encode()
        head[at : at + 1] = new
    # Of .npy, whose header has a length, often the same as before.
    fits = bytes(head[:128]) if data.startswith(b"\x93") and rng.random() < 0.8 else bytes(head)
    return fits + rest


BREAKERS: dict[str, Breaker] = {
    "png": break_png,
    "jpeg": break_jpeg,
    "tiff": break_tiff,
    "pnm": break_text,
    "npy": break_text,
}


class Images:
    """Reads an image file as training, `check` and `infer` do: its size, its memory, its pixels."""

    def __init__(self) -> None:
        self.seeds = seeds()
        # Most readers' attention to the formats that most data sets are of.
        self.formats = [*self.seeds, "png", "jpeg", "tiff", "tiff"]

    def valid(self) -> list[bytes]:
        return [data for each in self.seeds.values() for data in each]

    def make(self, rng: random.Random) -> bytes:
        kind = rng.choice(self.formats)
        data = rng.choice(self.seeds[kind])
        breaker = BREAKERS.get(kind)
        if breaker is not None and rng.random() < 0.6:
            data = breaker(rng, data)
        if breaker is None or rng.random() < 0.4:
            data = mutate_bytes(rng, data, PIECES)
        return data

    def run(self, content: bytes, folder: Path) -> None:
        path = folder / "image"
        channels = (3, 1, 3, 5)[len(content) % 4]
        read_picture(path, channels)
        image_size(path)
        decoded_bytes(path)

    def prepare(self, content: bytes, folder: Path) -> None:
        (folder / "image").write_bytes(content)
