"""Every bad input that somebody thought of, given to `img2img infer`: refused in words.

Each is told in a line fit for a terminal and with the right exit code, at once and not after
waiting for a pipe; nothing outside OUTPUT changes, and nothing inside is half-written.
"""

import errno
import hashlib
import io
import json
import os
import pickle
import re
import resource
import signal
import stat
import struct
import subprocess
import sys
import warnings
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

from img2img import plugins
from img2img.bundle import BundleInfo, save_bundle
from img2img.cli import main
from img2img.generators import UNet
from img2img.plugins import load_plugins

# For the slowest machine; what waits for a pipe waits for ever.
SECONDS = 60
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))


class Payload:
    """What a pickle would do to whoever reads it."""

    def __reduce__(self):
        return (os.mkdir, ("harmed",))


def encoded(image=PHOTO, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def animation(kind):
    frames = [PHOTO, PHOTO.rotate(90)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks):
    """A PNG of 8-bit RGB whose header claims this size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def flipped(data, place):
    """The same with another byte at a place."""
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def tiff(array, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **{"photometric": "rgb"} | options)
    return buffer.getvalue()


def tiff_header(**tags):
    """A little-endian TIFF of one strip that is not there, with these tags, by number."""
    number = {"width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262}
    number |= {"offset": 273, "samples": 277, "rows": 278, "bytes": 279}
    usual = {"bits": 8, "compression": 1, "photometric": 1, "offset": 8, "samples": 1, "bytes": 9}
    entries = {number[name]: value for name, value in (usual | tags).items()}
    ifd = b"".join(struct.pack("<HHII", tag, 4, 1, entries[tag]) for tag in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + ifd + bytes(4)


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npy_header(text):
    data = text.encode("latin-1").ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(data)) + data


def claims(shape, kind="|u1"):
    return npy_header(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}")


def bmp(width, height):
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def cmyk_profile():
    """The beginning of a profile for printing: what it is for stands in its header."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return srgb[:16] + b"CMYK" + srgb[20:]


FLOATS = np.full((8, 8, 3), 0.5, np.float32)
BANDS = np.zeros((8, 8, 5), np.uint8)
JPEG = encoded(kind="JPEG")
LARGE = r"pixels are more than the limit of 178,956,970; raise it with --max-pixels"


def deep_png():
    noise = np.random.default_rng(0).integers(0, 65535, (32, 32, 3), dtype=np.uint16)
    return bytes(imagecodecs.png_encode(noise))


def circular_tiff():
    """The next directory of its only one is itself."""
    data = bytearray(tiff(np.zeros((8, 8), np.uint8), metadata=None, photometric="minisblack"))
    begin = struct.unpack("<I", data[4:8])[0]
    end = begin + 2 + 12 * struct.unpack("<H", data[begin : begin + 2])[0]
    data[end : end + 4] = data[4:8]
    return bytes(data)


# Files in a folder beside a good one: name, content, and why it is skipped.
IMAGES = {
    "an empty file": ("a.png", b"", "not an image that can be read"),
    "an empty .npy": ("a.npy", b"", "not an image|cannot be read"),
    "a text called .png": ("a.png", b"no image", "not an image that can be read"),
    "a program called .jpg": ("a.jpg", Path(sys.executable).read_bytes()[:5000], "not an image"),
    "a page for printers": (
        "a.png",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "not an",
    ),
    "a PNG cut short": ("a.png", encoded()[:400], "truncated|cannot be read"),
    "a PNG of a header alone": ("a.png", encoded()[:33], "cannot be read|not an image"),
    "a deep PNG cut short": ("a.png", lambda: deep_png()[:-400], "cannot be read"),
    "a JPEG cut short": ("a.jpg", JPEG[: len(JPEG) // 2], "(?i:truncated)"),
    "a TIFF cut short": ("a.tif", encoded(kind="TIFF")[:300], "cannot be read|not an image"),
    "a float TIFF cut short": ("a.tif", tiff(FLOATS)[:-300], "cannot be read|cut short"),
    "a WebP cut short": ("a.webp", encoded(kind="WEBP")[:100], "cannot be read|not an image"),
    "a BMP cut short": ("a.bmp", encoded(kind="BMP")[:100], "truncated|cannot be read"),
    "a PNG with a flipped header": ("a.png", flipped(encoded(), 30), "not an image|cannot be"),
    "a PNG with a flipped checksum": ("a.png", flipped(encoded(), -17), "cannot be read"),
    "a PNG of 4 gigapixels": ("a.png", png(65535, 65535), rf"65535 x 65535 {LARGE}"),
    "a PNG beyond all": ("a.png", png(2**31 - 1, 2**31 - 1), LARGE),
    "a TIFF of 4 gigapixels": ("a.tif", tiff_header(width=65535, height=65535, rows=65535), LARGE),
    "a BMP of 4 gigapixels": ("a.bmp", bmp(65535, 65535), LARGE),
    "a GIF of 4 gigapixels": (
        "a.gif",
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0),
        "",
    ),
    "a .npy of 10^18 pixels": ("a.npy", claims((10**9, 10**9)), LARGE),
    "a .npy of 10^40 pixels": ("a.npy", claims((10**20, 10**20)), LARGE),
    "a .npy of many bands": ("a.npy", claims((8, 8, 10**9)), "1000000000 channels, more than"),
    "a .npy of few pixels and many bytes": (
        "a.npy",
        claims((13000, 13000, 128), "<f8"),
        "memory of",
    ),
    "a text in a PNG that unpacks without end": (
        "a.png",
        png(8, 8, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100 << 20)))),
        "cannot be read|not an image",
    ),
    "a PNG of no pixels": ("a.png", png(0, 0), "has no pixels"),
    "a .npy of no pixels": ("a.npy", npy(np.zeros((0, 8, 3), np.uint8)), "has no pixels"),
    "a TIFF of no pixels": (
        "a.tif",
        tiff_header(width=0, height=0, rows=1),
        "has no pixels|not an",
    ),
    "a GIF that moves": ("a.gif", animation("GIF"), "holds several images"),
    "a PNG that moves": ("a.png", animation("PNG"), "holds several images"),
    "a WebP that moves": ("a.webp", animation("WEBP"), "holds several images"),
    "a TIFF of several pages": ("a.tif", animation("TIFF"), "holds several images"),
    "a TIFF of 200 bands": (
        "a.tif",
        lambda: tiff(np.zeros((8, 8, 200), np.uint8), planarconfig="contig"),
        "200 channels, more than the 128",
    ),
    "a TIFF that claims 10,000 bands": (
        "a.tif",
        tiff_header(width=8, height=8, rows=8, samples=10_000),
        "10000 channels, more than|cannot be read",
    ),
    "a TIFF whose directory is itself": ("a.tif", lambda: circular_tiff(), "several|cannot be"),
    "floats that are no numbers": ("a.tif", tiff(FLOATS * np.nan), "not finite"),
    "floats without end": ("a.tif", tiff(FLOATS * np.float32(np.inf)), "not finite"),
    "floats of 0 to 255": ("a.tif", tiff(FLOATS * 510), "holds values from 255 to 255, and floats"),
    "floats below 0": ("a.tif", tiff(FLOATS - 1), r"holds values from -0\.5 to -0\.5"),
    "32-bit levels": ("a.tif", tiff(np.full((8, 8, 3), -7, np.int32)), "levels from -7 to -7"),
    "complex numbers": ("a.npy", npy(FLOATS * 1j), "complex"),
    "a TIFF of five bands": ("a.tif", tiff(BANDS), "5 channels"),
    "a .npy of five bands": ("a.npy", npy(BANDS), "5 channels, and the model takes 3"),
    "a .npy with channels first": ("a.npy", npy(np.zeros((3, 8, 8), np.uint8)), "8 channels, and"),
    "a .npy of one axis": ("a.npy", npy(np.zeros(9, np.uint8)), r"shape \(9,\)"),
    "a .npy of four axes": ("a.npy", npy(np.zeros((1, 8, 8, 3), np.uint8)), "is of shape"),
    "a .npy of texts": ("a.npy", npy(np.full((8, 8), "x")), "not numbers"),
    "a .npy of dates": ("a.npy", npy(np.zeros((8, 8), "M8[s]")), "not numbers"),
    "a .npy of a table": ("a.npy", npy(np.zeros((8, 8), "u1,u1")), "not numbers|not an image"),
    "a .npy of objects": (
        "a.npy",
        npy(np.array([[Payload()]], object), allow_pickle=True),
        "holds object, not numbers",
    ),
    "a pickle called .npy": ("a.npy", pickle.dumps(Payload()), "not an image that can be read"),
    "a .npy cut short": ("a.npy", npy(np.zeros((8, 8, 3), np.uint8))[:-9], "cut short: 183 of 192"),
    "a .npy whose magic is off": ("a.npy", b"\x94" + npy(BANDS)[1:], "not an image that can be"),
    "a .npy of version 9": ("a.npy", b"\x93NUMPY\x09\x00" + bytes(100), "cannot be read|holds a"),
    "a .npy whose header is no header": ("a.npy", npy_header("__import__('os')"), "cannot be read"),
    "a .npy whose header is long": (
        "a.npy",
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 20 << 20) + b"(" * (20 << 20),
        "cannot be read",
    ),
    "a .npy whose header lies of its length": (
        "a.npy",
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{}",
        "cannot be read",
    ),
    "a .npy of fewer than no rows": ("a.npy", claims((-8, 8)), "has no pixels|cannot be read"),
    "a zip called .png": ("a.png", b"PK\x03\x04" + bytes(100), "not an image that can be read"),
}


class Place:
    """A folder with a model, an input folder with one good image, and something precious.

    Attributes:
        patch: pytest's monkeypatch.
    """

    def __init__(self, root, model, patch):
        self.root, self.patch = root, patch
        self.model, self.input, self.output = root / "model", root / "in", root / "out"
        self.model.write_bytes(model)
        self.input.mkdir()
        PHOTO.save(self.input / "good.png")
        (root / "precious.txt").write_text("as it was")

    def outside(self):
        """All that is not in OUTPUT: kind, content, time of change."""
        found = {}
        for folder, folders, files in os.walk(self.root):
            if Path(folder) == self.root:
                folders[:] = [name for name in folders if name != "out"]
            for name in (*folders, *files):
                path = Path(folder, name)
                about = path.lstat()
                content = None
                if stat.S_ISREG(about.st_mode):
                    content = about.st_mtime_ns, hashlib.sha256(path.read_bytes()).digest()
                elif stat.S_ISLNK(about.st_mode):
                    content = path.readlink()
                found[os.fsencode(path)] = stat.S_IFMT(about.st_mode), content
        return found

    def results(self):
        """Names of the files in OUTPUT, each of which must be a whole image."""
        files = [path for path in self.output.rglob("*") if not path.is_dir()]
        for path in files:
            assert not path.is_symlink()
            if path.suffix == ".npy":
                assert np.load(path).size
            else:
                Image.open(path).load()
        return {path.relative_to(self.output).as_posix() for path in files}


@dataclass(frozen=True)
class Case:
    """What is asked of `img2img infer`, and what must come of it.

    Attributes:
        says: a pattern in what is printed to people.
        code: of the exit.
        results: files in OUTPUT afterwards.
        arguments: of the command.
    """

    says: str
    code: int = 2
    results: frozenset[str] | set[str] = frozenset()
    arguments: tuple[str, ...] = ("model", "in", "out")


TABLE = {}


def bad(name):
    """Enter a function that makes an input, given a `Place`, and returns its `Case`."""

    def enter(make):
        assert name not in TABLE
        TABLE[name] = make
        return make

    return enter


def enter_image(name, file, content, says):
    @bad(name)
    def make(place):
        (place.input / file).write_bytes(content() if callable(content) else content)
        return Case(f"skipped in/{re.escape(file)}: .*({says})", 1, {"good.png"})


for name, row in IMAGES.items():
    enter_image(name, *row)


def enter_bundle(name, content, says):
    @bad(name)
    def make(place):
        place.model.write_bytes(content)
        return Case(f"error: .*model.*({says})")


def enter_request(name, arguments, says, code=2):
    @bad(name)
    def make(place):
        return Case(says, code, arguments=tuple(arguments))


def description(**changes):
    """A safetensors file without tensors and with a description."""
    whole = {
        "format": 1,
        "name": "x",
        "task": {"name": "paired", "settings": {}},
        "generator": {"name": "unet", "settings": {}, "in_channels": 3, "out_channels": 3},
        "inference": {},
        "trained": {},
    }
    return safetensors({"__metadata__": {"img2img": json.dumps(whole | changes)}})


def safetensors(header):
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(data)) + data


BUNDLES = {
    "a model that is empty": (b"", "is not a model"),
    "a model that is a text": (b"shoes", "is not a model"),
    "a model that is a pickle": (pickle.dumps(Payload()), "is not a model"),
    "a model that is an image": (encoded(), "is not a model"),
    "a model whose header is longer than the file": (struct.pack("<Q", 2**63), "is not a model"),
    "a model whose header is long": (safetensors(b"{}" + b" " * (17 << 20)), "none needs more"),
    "a model without a description": (safetensors({}), "not what this program needs"),
    "a model of another version": (description(format=9), "bundle format 9"),
    "a model whose description is deep": (
        safetensors({"__metadata__": {"img2img": "[" * 100_000}}),
        "nested too deeply",
    ),
    "a model of escapes": (
        description(task={"name": "\x1b[2J\n\u202e", "settings": {}}),
        r"the task '\\x1b\[2J\\n\\u202e', which is not here",
    ),
    "a model of nobody's network": (
        description(generator={"name": "unte", "settings": {}, "in_channels": 3}),
        "2 mistakes",
    ),
    "a model of a gigantic network": (
        description(
            generator={
                "name": "unet",
                "settings": {"width": 8000},
                "in_channels": 3,
                "out_channels": 3,
            }
        ),
        "do not fit its description",
    ),
    "a model without weights": (description(), "tensors are missing"),
}
for name, row in BUNDLES.items():
    enter_bundle(name, *row)

LONG = "x" * 300
REQUESTS = {
    "no arguments": ([], "(?i)missing argument"),
    "an option of nobody": (["model", "in", "out", "--formt", "png"], "(?i)no such option"),
    "no model there": (["nowhere", "in", "out"], "there is no model file nowhere"),
    "a model that is a folder": (["in", "in", "out"], "in holds no model.safetensors"),
    "a model of a long name": ([LONG, "in", "out"], "File name too long"),
    "no input there": (["model", "nowhere", "out"], "there is no file or folder nowhere"),
    "an input of a long name": (["model", LONG, "out"], "File name too long"),
    "an output of a long name": (["model", "in", LONG], "File name too long"),
    "an output that is a file": (["model", "in", "precious.txt"], "precious.txt is a file"),
    "an output below a file": (["model", "in", "precious.txt/out"], "Not a directory"),
    "an output that is the input": (["model", "in", "in"], "are the same folder"),
    "an output that is the input, otherwise": (["model", "in", "in/../in"], "are the same folder"),
    "an output that is the input's file": (
        ["model", "in/good.png", "in/good.png", "--overwrite"],
        "would replace the input in/good.png",
    ),
    "an output of no format": (["model", "in/good.png", "out/a.xyz"], "cannot be written as .xyz"),
    "formats that disagree": (
        ["model", "in/good.png", "out/a.png", "--format", "jpg"],
        "--format jpg disagree",
    ),
    "a format of nobody": (["model", "in", "out", "--format", "gif"], "--format .*gif.*png"),
    "a half of nobody": (["model", "in", "out", "--split", "up"], "--split .*up.*left"),
    "no batch": (["model", "in", "out", "--batch-size", "0"], "(?is)--batch-size"),
    "a tile below nothing": (["model", "in", "out", "--tile", "-1"], "(?is)--tile"),
    "a tile of a word": (["model", "in", "out", "--tile", "large"], "(?is)--tile"),
    "a seed below nothing": (["model", "in", "out", "--seed", "-1"], "(?is)--seed"),
    "no pixels allowed": (["model", "in", "out", "--max-pixels", "0"], "(?is)--max-pixels"),
    "one sample": (["model", "in", "out", "--samples", "1"], "(?is)--samples"),
    "samples without noise": (["model", "in", "out", "--samples", "3"], "this model has no noise"),
    "a mean of nothing": (["model", "in", "out", "--mean"], "--mean is made of several samples"),
    "a spread of nothing": (["model", "in", "out", "--spread"], "--spread is made of several"),
    "a precision of nobody": (["model", "in", "out", "--precision", "half"], "--precision .*half"),
    "a device of nobody": (["model", "in", "out", "--device", "gpu"], "--device .*gpu"),
    "a device that is not here": (
        ["model", "in", "out", "--device", "cuda:99"],
        "--device cuda:99",
    ),
    "a plugin that is not here": (["model", "in", "out", "--plugin", "p.py"], "p.py.*no such file"),
    "a report over a text": (
        ["model", "in", "out", "--report", "precious.txt"],
        "precious.txt is there and is no report",
    ),
    "a report over an image": (
        ["model", "in", "out", "--report", "in/good.png"],
        "that is the name of an image",
    ),
    "a report that is a folder": (
        ["model", "in", "out", "--report", "in"],
        "--report in is no file",
    ),
}
for name, row in REQUESTS.items():
    enter_request(name, *row)


@bad("images beyond --max-pixels")
def beyond_max_pixels(place):
    PHOTO.resize((32, 32)).save(place.input / "large.png")
    arguments = ("model", "in", "out", "--max-pixels", "256")
    says = r"skipped in/large.png: 32 x 32 pixels are more than the limit of 256; raise it"
    return Case(says, 1, {"good.png"}, arguments)


@bad("one image that cannot be read")
def one_image(place):
    (place.input / "good.png").write_bytes(b"no image")
    arguments = ("model", "in/good.png", "out/a.png")
    return Case("skipped in/good.png: not an image", 1, arguments=arguments)


@bad("one image whose result is there")
def one_that_is_there(place):
    place.output.mkdir()
    PHOTO.save(place.output / "good.png")
    arguments = ("model", "in/good.png", "out")
    return Case("out/good.png is already there", 2, {"good.png"}, arguments)


@bad("a folder without images")
def no_images(place):
    (place.input / "good.png").rename(place.input / "good.txt")
    return Case("no images below in")


@bad("an input that is a pipe")
def input_pipe(place):
    os.mkfifo(place.root / "pipe.png")
    says = "pipe.png is neither a file nor a folder"
    return Case(says, arguments=("model", "pipe.png", "out"))


@bad("a model that is a pipe")
def model_pipe(place):
    os.mkfifo(place.root / "pipe")
    return Case("pipe is not a model: .*no regular file", arguments=("pipe", "in", "out"))


@bad("a model that is a device")
def model_device(place):
    (place.root / "zero").symlink_to("/dev/zero")
    return Case("zero is not a model: .*no regular file", arguments=("zero", "in", "out"))


@bad("a report that is a pipe")
def report_pipe(place):
    os.mkfifo(place.root / "lines.jsonl")
    says = "--report lines.jsonl is no file"
    return Case(says, arguments=("model", "in", "out", "--report", "lines.jsonl"))


@bad("two inputs with one result")
def collision(place):
    PHOTO.save(place.input / "good.bmp")
    return Case(r"would both become out/good\.png; rename one")


# Things in the input folder that are no files


@bad("a folder called like an image")
def folder_called_png(place):
    (place.input / "a.png").mkdir()
    return Case("1 translated", 0, {"good.png"})


@bad("a pipe called like an image")
def pipe_called_png(place):
    os.mkfifo(place.input / "a.png")
    return Case("skipped in/a.png: not a regular file", 1, {"good.png"})


@bad("a device called like an image")
def device_called_png(place):
    (place.input / "a.png").symlink_to("/dev/zero")
    return Case("skipped in/a.png: (not a regular file|a link)", 1, {"good.png"})


@bad("a link to itself")
def link_to_itself(place):
    (place.input / "a.png").symlink_to("a.png")
    return Case("skipped in/a.png: (cannot be looked at|a link)", 1, {"good.png"})


@bad("a link to nothing")
def link_to_nothing(place):
    (place.input / "a.png").symlink_to("nowhere.png")
    return Case("skipped in/a.png: a link that leads nowhere", 1, {"good.png"})


@bad("a folder that links to its parent")
def link_to_parent(place):
    (place.input / "again").symlink_to(".")
    return Case("1 translated", 0, {"good.png"})


@bad("a file that may not be read")
def forbidden_file(place):
    (place.input / "a.png").write_bytes(encoded())
    (place.input / "a.png").chmod(0)
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    return Case("skipped in/a.png: cannot be read .*Permission denied", 1, {"good.png"})


# Names

NAMES = {
    "two lines": ("a\nerror: b.png", r"a\\nerror: b\.png"),
    "escapes": ("\x1b[2J\x1b]0;x\x07.png", r"\\x1b\[2J\\x1b\]0;x\\x07\.png"),
    "a reversed suffix": ("a\u202egnp.png", r"a\\u202egnp\.png"),
    "bytes that are no text": (b"\xff\xfe.png", r"\\xff\\xfe\.png"),
    "255 bytes": ("x" * 251 + ".png", "x{251}.png"),
    "an option": ("--help.png", "--help.png"),
}


def enter_name(name, file, shown):
    path = Path(os.fsdecode(file))

    @bad(f"a good image whose name is {name}")
    def make_good(place):
        PHOTO.save(place.input / path, "PNG")
        return Case("2 translated", 0, {"good.png", str(path)})

    @bad(f"a bad image whose name is {name}")
    def make_bad(place):
        (place.input / path).write_bytes(b"no image")
        return Case(f"skipped in/{shown}: not an image", 1, {"good.png"})


for name, row in NAMES.items():
    enter_name(name, *row)


@bad("a name that grows too long with its suffix")
def name_grows(place):
    PHOTO.save(place.input / ("x" * 251 + ".bmp"))
    arguments = ("model", "in", "out", "--format", "tiff")
    return Case("skipped in/x{251}.bmp: cannot write .*File name too", 1, {"good.tiff"}, arguments)


# Colour profiles, which are no reason to skip an image, but are told


@bad("a broken colour profile")
def broken_profile(place):
    PHOTO.save(place.input / "a.png", icc_profile=b"no profile" * 20)
    return Case("a.png: its colour profile is broken, and was not used", 0, {"a.png", "good.png"})


@bad("a colour profile cut short")
def short_profile(place):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    PHOTO.save(place.input / "a.png", icc_profile=srgb[:300])
    return Case("a.png: its colour profile is broken, and was not used", 0, {"a.png", "good.png"})


@bad("a colour profile of other colours")
def other_profile(place):
    PHOTO.save(place.input / "a.jpg", icc_profile=cmyk_profile())
    return Case("profile is for CMYK and the image is RGB", 0, {"a.jpg", "good.png"})


# OUTPUT


@bad("an output folder that leads elsewhere")
def folder_leads_elsewhere(place):
    (place.input / "sub").mkdir()
    PHOTO.save(place.input / "sub" / "a.png")
    (place.root / "elsewhere").mkdir()
    place.output.mkdir()
    (place.output / "sub").symlink_to("../elsewhere")
    says = "skipped in/sub/a.png: out/sub leads out of the output folder"
    place.results = lambda: {path.name for path in place.output.glob("*.png")}
    return Case(says, 1, {"good.png"})


@bad("a result that is a link elsewhere")
def result_leads_elsewhere(place):
    place.output.mkdir()
    (place.output / "good.png").symlink_to("../precious.txt")
    return Case("1 translated", 0, {"good.png"}, ("model", "in", "out", "--overwrite"))


@bad("a result that is a link to nothing")
def result_leads_nowhere(place):
    place.output.mkdir()
    (place.output / "good.png").symlink_to("../new.png")
    return Case("1 translated", 0, {"good.png"})


@bad("a result that is a folder")
def result_is_folder(place):
    (place.output / "good.png").mkdir(parents=True)
    return Case("skipped in/good.png: cannot write out/good.png: Is a directory", 1)


@bad("an output folder that may not be written")
def forbidden_output(place):
    real = os.access
    place.patch.setattr(os, "access", lambda path, mode: mode == os.R_OK and real(path, mode))
    return Case("cannot write out: Permission denied")


@bad("an output inside the input")
def output_inside(place):
    place.output = place.input / "out"
    place.outside = lambda: None
    return Case("1 translated", 0, {"good.png"}, ("model", "in", "in/out"))


@bad("a result that would be an input")
def result_among_inputs(place):
    (place.input / "in").mkdir()
    PHOTO.save(place.input / "in" / "a.png")
    return Case("would land among the inputs", arguments=("model", "in", "."))


@bad("an INPUT that is empty, as an unset variable is")
def empty_input(place):
    return Case("it is empty, and would be the folder", arguments=("model", "", "out"))


@bad("a full disk")
def full_disk(place):
    real = Path.open

    def write(path, mode="r", **options):
        if mode != "xb":
            return real(path, mode, **options)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    place.patch.setattr(Path, "open", write)
    says = "cannot write out/good.png: No space left on device; .* the same command goes on"
    return Case(says, 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The bytes of a small bundle."""
    torch.manual_seed(0)
    supplied = {"in_channels": 3, "out_channels": 3, "image_size": 16}
    settings = {"width": 2}
    info = BundleInfo(
        name="small",
        task={"name": "paired", "settings": {}},
        generator={"name": "unet", "settings": settings, **supplied},
        inference={"statistics": "image", "dropout": False},
    )
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_bundle(path, UNet(**supplied, **settings).state_dict(), info)
    return path.read_bytes()


@pytest.fixture(scope="module")
def loaded():
    return load_plugins()


@pytest.fixture
def place(tmp_path, monkeypatch, model, loaded):
    monkeypatch.chdir(tmp_path)
    # Finding plugins takes longer than all the rest, and is none of what is asked here.
    monkeypatch.setattr(plugins, "load_plugins", lambda f=(): load_plugins(f) if f else loaded)
    # --max-pixels is for the process.
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", PIL.Image.MAX_IMAGE_PIXELS)
    return Place(tmp_path, model, monkeypatch)


@contextmanager
def in_time():
    def end(*arguments):
        raise TimeoutError(f"it hangs for {SECONDS} s")

    before = signal.signal(signal.SIGALRM, end)
    # Again and again, because whoever is left waits for the thread that hangs.
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check(case, code, said, place, before):
    assert code == case.code, said
    assert re.search(case.says, said, re.DOTALL), said
    assert "Traceback" not in said
    assert "unexpected" not in said
    assert all(line.isprintable() for line in said.split("\n")), said
    assert len(said) < 5000
    assert place.outside() == before
    assert not (place.root / "harmed").exists()
    assert place.results() == case.results


@pytest.mark.parametrize("name", TABLE)
def test_a_bad_input_is_refused_in_words(name, place, monkeypatch, capfd):
    case = TABLE[name](place)
    before = place.outside()
    monkeypatch.setattr(sys, "argv", ["img2img", "infer", *case.arguments])
    capfd.readouterr()
    # Warnings are for people here, and elsewhere in the suite they are faults.
    with in_time(), warnings.catch_warnings(), pytest.raises(SystemExit) as left:
        warnings.simplefilter("default", RuntimeWarning)
        main()
    check(case, left.value.code or 0, capfd.readouterr().err, place, before)


def test_the_same_in_a_process_of_its_own(place):
    """And the system lets no file grow beyond 1,000 bytes, as a full disk or a quota would."""
    for name in ("a .npy of objects", "a device called like an image", "a TIFF of several pages"):
        TABLE[name](place)
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(place.input / "large.png")
    before = place.outside()
    done = subprocess.run(
        [sys.executable, "-m", "img2img", "infer", "model", "in", "out"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    case = Case("skipped in/large.png: cannot write out/large.png: File too large", 1, {"good.png"})
    check(case, done.returncode, done.stderr, place, before)
    assert "1 translated, 4 skipped: out" in done.stderr


def test_there_are_many():
    assert len(TABLE) > 120
