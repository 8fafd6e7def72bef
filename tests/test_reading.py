"""Image files of any kind, written by other libraries: what is read, and what is refused."""

import io
import math
import struct
import subprocess
import sys
import tracemalloc
import zlib

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from img2img.data.limits import over_limit, pixel_limit
from img2img.data.reading import decoded_bytes, image_size, read_picture, set_pixel_limit
from img2img.errors import ImageError
from img2img.picture import to_depth

SIZE = (14, 18)


def noise(channels, dtype=np.uint8, seed=0, size=SIZE):
    """(H, W, channels), or (H, W) for 0 channels."""
    shape = (*size, channels) if channels else size
    random = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.floating):
        return random.random(shape).astype(dtype)
    return random.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def smooth(channels, dtype=np.uint8):
    """What lossy formats keep well."""
    y, x = np.mgrid[0:48, 0:64]
    planes = [(x * (i + 1) + y * 2) % 64 * 3 + 20 * i for i in range(channels)]
    return to_depth(cv2.GaussianBlur(np.dstack(planes).astype(np.uint8), (0, 0), 4), dtype)


def by_cv2(path, image):
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(image.shape[-1] if image.ndim == 3 else 0)
    assert cv2.imwrite(
        str(path), image if order is None else np.ascontiguousarray(image[..., order])
    )


def cv2_sees(path):
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(image.shape[-1] if image.ndim == 3 else 0)
    return image if order is None else image[..., order]


def reason(path, channels=3):
    with pytest.raises(ImageError) as caught:
        read_picture(path, channels)
    assert caught.value.path == path
    return caught.value.reason


# What goes in


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".bmp"])
@pytest.mark.parametrize("channels", [0, 3])
def test_8_bits(tmp_path, suffix, channels):
    image = noise(channels)
    by_cv2(tmp_path / f"a{suffix}", image)
    found = read_picture(tmp_path / f"a{suffix}", channels or 1)
    assert (found.pixels == image.reshape(found.pixels.shape)).all()
    assert (found.dtype, found.pixels.dtype) == (np.uint8, np.uint8)
    assert (found.alpha, found.profiled, found.size) == (None, False, (18, 14))


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
def test_16_bits_of_grey(tmp_path, suffix):
    image = noise(0, np.uint16)
    by_cv2(tmp_path / f"a{suffix}", image)
    found = read_picture(tmp_path / f"a{suffix}", 1)
    assert found.dtype == found.pixels.dtype == np.uint16
    assert (found.pixels[..., 0] == image).all()
    assert (read_picture(tmp_path / f"a{suffix}").pixels == image[..., None]).all()


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".ppm"])
def test_16_bits_of_colour(tmp_path, suffix):
    image = noise(3, np.uint16)
    by_cv2(tmp_path / f"a{suffix}", image)
    found = read_picture(tmp_path / f"a{suffix}")
    assert found.dtype == found.pixels.dtype == np.uint16
    assert (found.pixels == image).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_alpha_beside_colours_and_as_a_channel(tmp_path, suffix, dtype):
    image = noise(4, dtype)
    image[:5, ..., 3], image[5:9, ..., 3] = 0, np.iinfo(dtype).max
    by_cv2(tmp_path / f"a{suffix}", image)
    whole = read_picture(tmp_path / f"a{suffix}", 4)
    assert whole.alpha is None
    assert (whole.pixels == image).all()
    shown = read_picture(tmp_path / f"a{suffix}")
    assert (shown.alpha == image[..., 3]).all()
    assert shown.pixels.shape == (*SIZE, 3)
    assert (shown.pixels[:5] == np.iinfo(dtype).max).all()
    assert (shown.pixels[5:9] == image[5:9, :, :3]).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_grey_with_alpha(tmp_path, suffix, dtype):
    image = noise(2, dtype)
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(image))
    else:
        tifffile.imwrite(
            path,
            image,
            photometric="minisblack",
            planarconfig="contig",
            extrasamples=["unassalpha"],
        )
    found = read_picture(path, 2)
    assert found.dtype == dtype
    assert (found.pixels == image).all()
    beside = read_picture(path, 1)
    assert (beside.alpha == image[..., 1]).all()
    as_colour = read_picture(path, 4).pixels
    assert (as_colour == image[..., [0, 0, 0, 1]]).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [0, 1, 3, 4, 7])
@pytest.mark.parametrize("suffix", [".tiff", ".npy"])
def test_floats(tmp_path, suffix, channels, dtype):
    image = noise(channels, dtype)
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, image)
    else:
        options = {} if channels < 2 else {"planarconfig": "contig"}
        extras = {4: ["unassalpha"], 7: ["unspecified"] * 6}.get(channels)
        kind = "rgb" if channels in (3, 4) else "minisblack"
        tifffile.imwrite(path, image, photometric=kind, extrasamples=extras, **options)
    found = read_picture(path, channels or 1)
    assert (found.dtype, found.pixels.dtype) == (dtype, np.float32)
    assert (found.pixels == image.reshape(found.pixels.shape).astype(np.float32)).all()


def test_float_tiff_of_another_library(tmp_path):
    image = noise(3, np.float32)
    by_cv2(tmp_path / "a.tiff", image)
    assert (read_picture(tmp_path / "a.tiff").pixels == image).all()
    Image.fromarray(image[..., 0]).save(tmp_path / "b.tiff")
    assert (read_picture(tmp_path / "b.tiff", 1).pixels == image[..., :1]).all()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("swapped", [False, True])
def test_arrays_of_whole_numbers(tmp_path, dtype, order, swapped):
    image = noise(5) > 127 if dtype is bool else noise(5, dtype)
    stored = image.astype(image.dtype.newbyteorder() if swapped else image.dtype, order=order)
    np.save(tmp_path / "a.npy", stored)
    found = read_picture(tmp_path / "a.npy", 5)
    assert (found.pixels == (image * 255 if dtype is bool else image)).all()
    assert found.dtype == (np.uint8 if dtype is bool else dtype)
    assert found.pixels.dtype.isnative
    found.pixels[0] = 0  # Callers own it.


@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "separate"},
        {"compression": "lzw"},
        {"compression": "zlib", "predictor": True},
        {"compression": "zstd"},
        {"compression": "packbits"},
        {"tile": (16, 16)},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"rowsperstrip": 3},
        {"planarconfig": "separate", "tile": (16, 16), "compression": "lzma"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_ways_to_store_a_tiff(tmp_path, options, dtype):
    image = noise(5, dtype)
    options = {"planarconfig": "contig", **options}
    stored = np.moveaxis(image, -1, 0) if options["planarconfig"] == "separate" else image
    head = {name: options.pop(name) for name in ("byteorder", "bigtiff") if name in options}
    with tifffile.TiffWriter(tmp_path / "a.tif", **head) as file:
        file.write(stored, photometric="minisblack", extrasamples=["unspecified"] * 4, **options)
    found = read_picture(tmp_path / "a.tif", 5)
    assert found.dtype == dtype
    assert (found.pixels == image).all()
    assert image_size(tmp_path / "a.tif") == (18, 14)


def test_white_may_be_zero(tmp_path):
    for dtype in (np.uint8, np.uint16, np.float32):
        image = noise(0, dtype)
        white = 1 if dtype == np.float32 else np.iinfo(dtype).max
        tifffile.imwrite(tmp_path / "a.tiff", image, photometric="miniswhite")
        assert (read_picture(tmp_path / "a.tiff", 1).pixels[..., 0] == white - image).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_colours_stored_multiplied_by_their_alpha(tmp_path, dtype):
    image = noise(4, dtype)
    white = 1 if dtype == np.float32 else 65535
    image[:3, ..., 3] = 0
    image[3:6, ..., 3] = white
    share = image[..., 3:] / white
    stored = np.dstack([image[..., :3] * share, image[..., 3:]])
    stored = stored if dtype == np.float32 else np.rint(stored)
    tifffile.imwrite(
        tmp_path / "a.tiff", stored.astype(dtype), photometric="rgb", extrasamples=["assocalpha"]
    )
    found = read_picture(tmp_path / "a.tiff", 4).pixels
    assert (found[..., 3] == image[..., 3]).all()
    assert (found[:3, :, :3] == 0).all()
    error = np.abs(found[3:, :, :3].astype(np.float64) - image[3:, :, :3]) * share[3:]
    assert error.max() <= (1e-6 if dtype == np.float32 else 1)


def test_bits_between_8_and_16_use_the_whole_range(tmp_path):
    image = noise(0, np.uint16) >> 4
    image[0, :2] = 0, 4095
    tifffile.imwrite(tmp_path / "a.tiff", image, bitspersample=12, photometric="minisblack")
    found = read_picture(tmp_path / "a.tiff", 1).pixels[..., 0]
    assert (found == np.rint(image / 4095 * 65535)).all()


def test_ppm_of_other_ranges(tmp_path):
    image = noise(3, np.uint16) >> 6
    head = b"P6 # ten bits\n18 14\n1023\n"
    (tmp_path / "a.ppm").write_bytes(head + image.astype(">u2").tobytes())
    assert (read_picture(tmp_path / "a.ppm").pixels == np.rint(image / 1023 * 65535)).all()


def test_one_bit_and_palettes(tmp_path):
    bits = noise(0) > 127
    Image.fromarray(bits).save(tmp_path / "a.tiff")
    assert (read_picture(tmp_path / "a.tiff", 1).pixels[..., 0] == bits * 255).all()
    picture = Image.fromarray(noise(0) % 4)
    picture.putpalette([10, 20, 30, 200, 100, 50, 1, 2, 3, 255, 0, 0])
    colours = np.array([[10, 20, 30], [200, 100, 50], [1, 2, 3], [255, 0, 0]])
    for suffix in (".png", ".tiff", ".gif", ".bmp"):
        picture.save(tmp_path / f"b{suffix}")
        found = read_picture(tmp_path / f"b{suffix}")
        assert (found.pixels == colours[noise(0) % 4]).all()
    picture.save(tmp_path / "c.png", transparency=bytes([255, 128, 0, 255]))
    found = read_picture(tmp_path / "c.png", 4).pixels
    assert (found[..., :3] == colours[noise(0) % 4]).all()
    assert (found[..., 3] == np.array([255, 128, 0, 255])[noise(0) % 4]).all()


def with_chunk(png, kind, content):
    """A PNG with one more chunk before its pixels."""
    at = png.index(b"IDAT") - 4
    head = struct.pack(">I", len(content)) + kind + content
    return png[:at] + head + struct.pack(">I", zlib.crc32(kind + content)) + png[at:]


def test_a_colour_declared_transparent(tmp_path):
    for image in (noise(0, np.uint16), noise(3, np.uint16), noise(0), noise(3)):
        clear = image[3, 4]
        png = with_chunk(imagecodecs.png_encode(image), b"tRNS", np.asarray(clear, ">u2").tobytes())
        (tmp_path / "a.png").write_bytes(png)
        deep = image.reshape(*SIZE, -1)
        found = read_picture(tmp_path / "a.png", deep.shape[2] + 1).pixels
        assert (found[..., :-1] == deep).all()
        white = np.iinfo(image.dtype).max
        assert (found[..., -1] == np.where((deep == clear).all(axis=2), 0, white)).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_grey_declared_transparent(tmp_path, bits):
    """Every level that so few bits have, each as the transparent one."""
    levels = np.arange(2**bits)
    packed = np.packbits((levels[:, None] >> np.arange(bits)[::-1] & 1).astype(np.uint8))
    shown = levels * 255 // (2**bits - 1)
    for clear in {0, 1, 2**bits // 2, 2**bits - 1}:
        png = b"\x89PNG\r\n\x1a\n"
        for kind, content in (
            (b"IHDR", struct.pack(">IIBBBBB", len(levels), 1, bits, 0, 0, 0, 0)),
            (b"tRNS", struct.pack(">H", clear)),
            (b"IDAT", zlib.compress(b"\0" + packed.tobytes())),
            (b"IEND", b""),
        ):
            sum_ = struct.pack(">I", zlib.crc32(kind + content))
            png += struct.pack(">I", len(content)) + kind + content + sum_
        (tmp_path / "a.png").write_bytes(png)
        found = read_picture(tmp_path / "a.png", 2).pixels[0]
        assert (found[:, 0] == shown).all()
        assert (found[:, 1] == np.where(levels == clear, 0, 255)).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_ink(tmp_path, dtype):
    """As Pillow has it: of the light that black ink leaves, each colour takes its share."""
    image = noise(4, dtype)
    tifffile.imwrite(tmp_path / "a.tiff", image, photometric="separated", planarconfig="contig")
    found = read_picture(tmp_path / "a.tiff")
    assert found.dtype == dtype
    if dtype == np.uint8:
        theirs = np.asarray(Image.fromarray(image, "CMYK").convert("RGB"))
        assert (found.pixels == theirs).all()
    share = image / np.iinfo(dtype).max
    exact = (1 - share[..., :3]) * (1 - share[..., 3:])
    assert np.abs(found.pixels / np.iinfo(dtype).max - exact).max() < 1 / np.iinfo(dtype).max


def test_ink_in_jpeg(tmp_path):
    image = Image.fromarray(smooth(4), "CMYK")
    image.save(tmp_path / "a.jpg", quality=100)
    theirs = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(read_picture(tmp_path / "a.jpg").pixels - theirs).max() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "8-bit png", "16-bit png", "tiff", "deep tiff", "webp"])
def test_upright(tmp_path, orientation, kind):
    """As Pillow turns the same pixels."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{kind.split()[-1]}"
    image = noise(3, np.uint16 if "16" in kind or "deep" in kind else np.uint8)
    if kind == "16-bit png":
        path.write_bytes(with_chunk(imagecodecs.png_encode(image), b"eXIf", exif.tobytes()[6:]))
    elif kind == "deep tiff":
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(path, image, photometric="rgb", extratags=tags)
    else:
        Image.fromarray(image).save(path, exif=exif)
    stored = read_stored(path)
    planes = [
        np.asarray(ImageOps.exif_transpose(with_exif(p, exif))) for p in np.moveaxis(stored, 2, 0)
    ]
    found = read_picture(path)
    assert (found.pixels == np.dstack(planes)).all()
    assert found.size == ((18, 14) if orientation < 5 else (14, 18))
    assert found.pixels.flags.c_contiguous
    assert image_size(path) == (18, 14)


def read_stored(path):
    """Pixels as they lie in the file, turned by nobody."""
    if path.suffix == ".tiff":
        return tifffile.imread(path)
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    if path.suffix == ".png":
        return cv2.imread(str(path), flags)[..., ::-1]
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))


def with_exif(plane, exif):
    image = Image.fromarray(np.ascontiguousarray(plane).astype(np.int32))
    image.info["exif"] = exif.tobytes()
    return image


def test_alpha_is_turned_with_its_colours(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(4)).save(tmp_path / "a.png", exif=exif)
    found = read_picture(tmp_path / "a.png")
    assert (found.alpha == np.rot90(noise(4)[..., 3], -1)).all()


@pytest.mark.parametrize(
    "garbage", [b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 60]
)
def test_garbage_for_exif_turns_nothing(tmp_path, garbage):
    for image in (noise(3), noise(3, np.uint16)):
        png = with_chunk(imagecodecs.png_encode(image), b"eXIf", garbage)
        (tmp_path / "a.png").write_bytes(png)
        assert (read_picture(tmp_path / "a.png").pixels == image).all()
    Image.fromarray(smooth(3)).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + garbage)
    assert read_picture(tmp_path / "a.jpg").size == (64, 48)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_orientations_that_exif_does_not_have_turn_nothing(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for image in (noise(3), noise(3, np.uint16)):
        png = with_chunk(imagecodecs.png_encode(image), b"eXIf", exif.tobytes()[6:])
        (tmp_path / "a.png").write_bytes(png)
        assert (read_picture(tmp_path / "a.png").pixels == image).all()
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(tmp_path / "a.tiff", image, photometric="rgb", extratags=tags)
        assert (read_picture(tmp_path / "a.tiff").pixels == image).all()


def test_the_first_image_of_a_phones_photograph(tmp_path):
    """MPO: the photograph, then a smaller one or a depth map."""
    first, second = Image.fromarray(smooth(3)), Image.fromarray(255 - smooth(3))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second], quality=95)
    with Image.open(tmp_path / "a.jpg") as opened:
        assert (opened.format, opened.n_frames) == ("MPO", 2)
    assert np.abs(read_picture(tmp_path / "a.jpg").pixels.astype(int) - smooth(3)).max() < 25


# What does not fit


def test_what_does_not_fit_says_why(tmp_path):
    np.save(tmp_path / "four.npy", noise(4))
    assert reason(tmp_path / "four.npy") == "has 4 channels, and the model takes 3"
    np.save(tmp_path / "two.npy", noise(2))
    assert reason(tmp_path / "two.npy", 1) == "has 2 channels, and the model takes 1"
    by_cv2(tmp_path / "three.png", noise(3))
    assert reason(tmp_path / "three.png", 4) == "has 3 channels, and the model takes 4"
    for dtype in (np.uint8, np.uint16):
        tifffile.imwrite(
            tmp_path / "a.tiff", noise(4, dtype), photometric="rgb", extrasamples=["unspecified"]
        )
        assert reason(tmp_path / "a.tiff") == "has 4 channels, and the model takes 3"
        assert (read_picture(tmp_path / "a.tiff", 4).pixels == noise(4, dtype)).all()


def test_a_fourth_band_without_a_word_is_alpha(tmp_path):
    """As Pillow, Photoshop and GIMP take it."""
    for dtype in (np.uint8, np.uint16):
        tifffile.imwrite(
            tmp_path / "a.tiff",
            noise(4, dtype),
            photometric="rgb",
            extrasamples=["unassalpha"],
            metadata=None,
        )
        data = bytearray((tmp_path / "a.tiff").read_bytes())
        # The entry of ExtraSamples becomes one that nobody knows.
        at = data.index(struct.pack("<HHI", 338, 3, 1))
        data[at : at + 2] = struct.pack("<H", 339 + 60000)
        (tmp_path / "a.tiff").write_bytes(data)
        assert (read_picture(tmp_path / "a.tiff").alpha == noise(4, dtype)[..., 3]).all()


def test_bands_with_alpha_among_them(tmp_path):
    image = noise(6, np.uint16)
    kinds = ["unspecified", "unassalpha", "unspecified"]
    tifffile.imwrite(tmp_path / "a.tiff", image, photometric="rgb", extrasamples=kinds)
    found = read_picture(tmp_path / "a.tiff", 5)
    assert (found.alpha == image[..., 4]).all()
    assert reason(tmp_path / "a.tiff") == "has 5 channels and alpha, and the model takes 3"


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full(SIZE, 70_000, np.int32), "from 70000 to 70000 as int32"),
        (np.full(SIZE, -1, np.int16), "from -1 to -1 as int16"),
        (np.full(SIZE, 255, np.int32), "may be of 8 bits"),
        (
            np.full(SIZE, 1.5, np.float32),
            "values from 1.5 to 1.5, and floats are read as black at 0",
        ),
        (np.full(SIZE, -3.0), "values from -3 to -3"),
        (np.full(SIZE, np.nan, np.float32), "not finite"),
        (np.full(SIZE, np.inf, np.float16), "not finite"),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".tiff"])
def test_levels_that_no_image_has(tmp_path, suffix, image, words):
    path = tmp_path / f"a{suffix}"
    np.save(path, image) if suffix == ".npy" else tifffile.imwrite(path, image)
    assert words in reason(path, 1)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32, np.int64])
def test_other_whole_numbers_are_16_bit_levels_if_they_fit(tmp_path, dtype):
    image = noise(0, np.uint16) >> (1 if dtype == np.int16 else 0)
    np.save(tmp_path / "a.npy", image.astype(dtype))
    paths = [tmp_path / "a.npy"]
    if dtype != np.int64:
        tifffile.imwrite(tmp_path / "a.tiff", image.astype(dtype))
        paths.append(tmp_path / "a.tiff")
    for path in paths:
        found = read_picture(path, 1)
        assert found.dtype == np.uint16
        assert (found.pixels[..., 0] == image).all()


def test_floats_may_miss_their_range_by_a_rounding(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[-5e-8, 0.5, 1 + 2e-7]], np.float32))
    assert read_picture(tmp_path / "a.npy", 1).pixels.ravel().tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tiff"])
def test_several_images_are_refused(tmp_path, suffix):
    frames = [Image.fromarray(noise(3, seed=seed)) for seed in range(3)]
    path = tmp_path / f"a{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert "several images" in reason(path)
    frames[0].save(path)
    assert read_picture(path).size == (18, 14)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("last", [False, True])
def test_overviews_and_masks_are_no_further_images(tmp_path, dtype, last):
    image, small = noise(3, dtype, size=(32, 48)), noise(3, dtype, size=(16, 24))
    mask = noise(0, size=(32, 48)) > 127
    pages = [
        (image, {"photometric": "rgb"}),
        (small, {"photometric": "rgb", "subfiletype": 1}),
        (mask, {"photometric": "mask", "subfiletype": 4}),
    ]
    with tifffile.TiffWriter(tmp_path / "a.tiff") as file:
        for page, options in reversed(pages) if last else pages:
            file.write(page, **options)
    assert (read_picture(tmp_path / "a.tiff").pixels == image).all()
    assert image_size(tmp_path / "a.tiff") == (48, 32)


def test_volumes_and_other_kinds_of_tiff_are_refused(tmp_path):
    path = tmp_path / "a.tiff"
    stack = np.stack([noise(0)] * 4)
    tifffile.imwrite(path, stack, volumetric=True, photometric="minisblack")
    assert "volume of 4 slices" in reason(path)
    tifffile.imwrite(path, noise(3, np.uint16), photometric="cielab")
    assert "photometric interpretation CIELAB" in reason(path)
    tifffile.imwrite(path, noise(0) + 0j)
    assert "holds complex128" in reason(path, 1)
    ImageCms.profileToProfile(
        Image.fromarray(noise(3)),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    ).save(path)
    assert "photometric interpretation CIELAB" in reason(path)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "lzma", "zstd", "packbits", "jpeg"])
def test_compressions_of_usual_tiffs(tmp_path, compression):
    image = smooth(3)
    tifffile.imwrite(tmp_path / "a.tiff", image, photometric="rgb", compression=compression)
    limit = 30 if compression == "jpeg" else 0
    assert np.abs(read_picture(tmp_path / "a.tiff").pixels.astype(int) - image).max() <= limit


@pytest.mark.parametrize("compression", ["jpeg", "jpegxl", "webp", "png", "jpeg2000"])
def test_images_within_a_tiff_are_pillows_business_or_refused(tmp_path, compression):
    """They have headers of their own, which nobody has checked."""
    path = tmp_path / "a.tiff"
    image = noise(3, size=(32, 32))
    tifffile.imwrite(path, image, photometric="rgb", compression=compression)
    if compression == "jpeg":
        assert read_picture(path).size == (32, 32)
    else:
        assert "which is not supported: save it with LZW" in reason(path)
    if compression in ("png", "jpegxl"):
        deep = noise(3, np.uint16, size=(32, 32))
        tifffile.imwrite(path, deep, photometric="rgb", compression=compression)
        assert f"of 16 bits compressed as {compression.upper()}" in reason(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(imagecodecs.png_encode(noise(3, np.uint16))),
        lambda path: by_cv2(path.with_suffix(".ppm"), noise(3, np.uint16)),
        lambda path: tifffile.imwrite(path, noise(3, np.uint16), photometric="rgb"),
        lambda path: tifffile.imwrite(path, noise(0, np.float32), compression="zlib"),
        lambda path: np.save(path.open("wb"), noise(5)),
    ],
    ids=["deep png", "deep ppm", "deep tiff", "packed tiff", "npy"],
)
def test_every_cut_of_a_file_is_an_image_error(tmp_path, make):
    make(tmp_path / "whole")
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    channels = 5 if b"NUMPY" in whole else 3
    assert read_picture(path, channels).size == (18, 14)
    for length in [*range(0, 160, 7), len(whole) // 2, len(whole) - 30]:
        path.write_bytes(whole[:length])
        assert reason(path, channels)


# Limits


@pytest.fixture
def limit(monkeypatch):
    """Sets the limit for one test."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    return set_pixel_limit


def huge_png(width, height, bits=8, colour=2):
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    png = imagecodecs.png_encode(noise(3))
    chunk = b"IHDR" + head
    return png[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def huge_tiff(path, **changes):
    """A small TIFF whose tags claim something else."""
    codes = {"width": 256, "height": 257, "samples": 277, "tile_width": 322, "tile_height": 323}
    tiled = {"tile": (16, 16)} if any("tile" in name for name in changes) else {}
    tifffile.imwrite(path, noise(3, np.uint16), photometric="rgb", **tiled)
    data = bytearray(path.read_bytes())
    for name, value in changes.items():
        at = data.index(struct.pack("<H", codes[name]), data[4])
        data[at : at + 12] = struct.pack("<HHII", codes[name], 4, 1, value)
    path.write_bytes(data)


def huge_npy(path, shape, descr="|u1"):
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": descr, "fortran_order": False, "shape": shape}
        )


@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_that_claims_too_much(tmp_path, bits):
    path = tmp_path / "a.png"
    path.write_bytes(huge_png(100_000, 200_000, bits))
    words = "100000 x 200000 pixels are more than the limit of 178,956,970; raise it with"
    assert reason(path).startswith(words)
    assert "--max-pixels if the file is trusted" in reason(path)
    with pytest.raises(ImageError, match="more than the limit"):
        image_size(path)
    path.write_bytes(huge_png(0, 5))
    assert "has no pixels: 0 x 5" in reason(path)


def test_other_formats_that_claim_too_much(tmp_path):
    gif = io.BytesIO()
    Image.fromarray(noise(0)).save(gif, "GIF")
    data = bytearray(gif.getvalue())
    data[6:10] = struct.pack("<HH", 50_000, 60_000)
    (tmp_path / "a.gif").write_bytes(data)
    bmp = io.BytesIO()
    Image.fromarray(noise(3)).save(bmp, "BMP")
    data = bytearray(bmp.getvalue())
    data[18:26] = struct.pack("<ii", 50_000, 60_000)
    (tmp_path / "a.bmp").write_bytes(data)
    (tmp_path / "a.ppm").write_bytes(b"P6 50000 60000 65535 " + bytes(100))
    for name in ("a.gif", "a.bmp", "a.ppm"):
        words = "3,000,000,000 pixels are more than the limit of 178,956,970; raise it with"
        assert reason(tmp_path / name).startswith(words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 60_000, "height": 50_000}, "60000 x 50000 pixels are more"),
        ({"samples": 10_000}, "has 10000 channels, more than the 128"),
        ({"width": 20_000, "height": 8_000, "samples": 100}, "of 100 channels, 2 bytes each, take"),
        ({"tile_width": 1 << 20, "tile_height": 1 << 20}, "1048576 x 1048576 pixels are more"),
        ({"width": 0}, "has no pixels"),
        ({"width": 50_000, "tile_width": 16}, "is damaged: it says where some of its pixels are"),
    ],
)
def test_a_tiff_that_claims_too_much(tmp_path, changes, words):
    huge_tiff(tmp_path / "a.tiff", **changes)
    assert words in reason(tmp_path / "a.tiff")


@pytest.mark.parametrize(
    ("shape", "descr", "words"),
    [
        ((10**9, 10**9), "|u1", "1000000000 x 1000000000 pixels are more"),
        ((9, 9, 10**6), "|u1", "has 1000000 channels"),
        ((13_000, 13_000, 100), "<f8", "13000 x 13000 pixels of 100 channels, 8 bytes each"),
        ((0, 9, 3), "|u1", "has no pixels: 9 x 0"),
        ((-5, 9), "|u1", "has no pixels"),
        ((7,), "|u1", "is of shape (7,)"),
        ((2, 3, 4, 5), "|u1", "is of shape (2, 3, 4, 5)"),
        ((4, 4), "|O", "holds object, not numbers"),
        ((4, 4), "<U3", "holds <U3, not numbers"),
        ((4, 4), "<M8[s]", "not numbers"),
        ((1000, 1000), "<u2", "is cut short: 0 of 2,000,000 bytes"),
    ],
)
def test_an_array_that_claims_too_much_or_is_none(tmp_path, shape, descr, words):
    path = tmp_path / "a.npy"
    huge_npy(path, shape, descr)
    assert words in reason(path)
    if "pixels are more" in words:
        with pytest.raises(ImageError, match="are more"):
            image_size(path)


class Boom:
    def __reduce__(self):
        return (pytest.fail, ("an array's pickle was loaded",))


def test_a_pickle_is_never_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[Boom()] * 4] * 4, object), allow_pickle=True)
    assert "holds object" in reason(tmp_path / "a.npy")
    table = np.zeros((4, 4), [("größe", "u1"), ("π", "u1")])
    np.save(tmp_path / "b.npy", table)
    assert "a table" in reason(tmp_path / "b.npy") or "not numbers" in reason(tmp_path / "b.npy")
    (tmp_path / "c.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': __imp__")
    assert "cannot be read" in reason(tmp_path / "c.npy")


def test_the_limit_is_pillows_and_can_be_set(tmp_path, limit):
    assert pixel_limit() == 2 * Image.MAX_IMAGE_PIXELS >= 12_000 * 9_000
    paths = [tmp_path / name for name in ("a.png", "b.png", "a.jpg", "a.tiff", "b.tiff", "a.npy")]
    by_cv2(paths[0], noise(3))
    by_cv2(paths[1], noise(3, np.uint16))
    by_cv2(paths[2], noise(3))
    by_cv2(paths[3], noise(3))
    by_cv2(paths[4], noise(3, np.uint16))
    np.save(paths[5], noise(3))
    pixels = math.prod(SIZE)
    for path in paths:
        limit(pixels)
        assert read_picture(path).size == image_size(path) == (18, 14)
        limit(pixels - 2)
        assert "raise it with --max-pixels" in reason(path)
        Image.MAX_IMAGE_PIXELS = None
        assert pixel_limit() is None
        assert read_picture(path).size == (18, 14)
    limit(251)
    assert pixel_limit() == 252
    with pytest.raises(ValueError, match="refuse every image"):
        limit(0)
    limit(1000)
    assert over_limit("2 pixels") == (
        "2 pixels are more than the limit of 1,000; raise it with --max-pixels if the file is "
        "trusted"
    )


def test_nobody_is_warned_of_what_is_allowed(tmp_path):
    """Pillow warns from half of its limit on, in any thread; a fresh process has its filters."""
    by_cv2(tmp_path / "a.png", noise(3))
    code = (
        "import sys; from pathlib import Path\n"
        "from img2img.data.reading import image_size, read_picture, set_pixel_limit\n"
        "set_pixel_limit(300)\n"
        "path = Path(sys.argv[1]); print(image_size(path), read_picture(path).size)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.png")], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("(18, 14) (18, 14)\n", "")


def test_chunks_that_unpack_to_too_much(tmp_path):
    packed = zlib.compress(bytes(1 << 24), 9)
    for kind, head in ((b"iCCP", b"a\0\0"), (b"zTXt", b"a\0\0")):
        png = with_chunk(imagecodecs.png_encode(noise(3)), kind, head + packed)
        (tmp_path / "a.png").write_bytes(png)
        assert "too large" in reason(tmp_path / "a.png")


def test_nothing_is_handed_to_the_printers_language(tmp_path):
    """Pillow would run Ghostscript on it."""
    Image.fromarray(noise(3)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    assert reason(tmp_path / "a.png") == "not an image that can be read"


# Memory


def write_16_bit_ppm(path):
    path.write_bytes(b"P6 # deep\n18 14\n65535\n" + noise(3, np.uint16).astype(">u2").tobytes())


@pytest.mark.parametrize(
    ("name", "write", "bytes_per_pixel"),
    [
        ("a.png", lambda path: by_cv2(path, noise(3)), 3),
        ("a.jpg", lambda path: by_cv2(path, noise(3)), 3),
        ("a.png", lambda path: by_cv2(path, noise(4)), 4),
        ("a.png", lambda path: by_cv2(path, noise(0)), 3),
        ("a.png", lambda path: by_cv2(path, noise(3, np.uint16)), 6),
        ("a.png", lambda path: by_cv2(path, noise(4, np.uint16)), 8),
        ("a.png", lambda path: by_cv2(path, noise(0, np.uint16)), 6),
        ("a.png", lambda path: path.write_bytes(imagecodecs.png_encode(noise(2, np.uint16))), 8),
        ("a.ppm", lambda path: by_cv2(path, noise(3)), 3),
        ("a.ppm", write_16_bit_ppm, 6),
        ("a.tiff", lambda path: by_cv2(path, noise(3)), 3),
        (
            "a.tiff",
            lambda path: tifffile.imwrite(
                path, noise(32, np.float32), photometric="minisblack", planarconfig="contig"
            ),
            128,
        ),
        (
            "a.tiff",
            lambda path: tifffile.imwrite(
                path, np.zeros((*SIZE, 3), np.uint16), photometric="rgb", compression="zlib"
            ),
            6,
        ),
        ("a.tiff", lambda path: tifffile.imwrite(path, noise(0) > 127), 3),
        ("a.npy", lambda path: np.save(path, noise(5, np.float64)), 40),
        ("a.npy", lambda path: np.save(path, noise(0, np.float64)), 24),
    ],
)
def test_what_the_decoded_image_will_take(tmp_path, name, write, bytes_per_pixel):
    write(tmp_path / name)
    assert decoded_bytes(tmp_path / name) == math.prod(SIZE) * bytes_per_pixel


def test_what_is_no_image_takes_nothing(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    for name, words in (("a.png", "not an image"), ("b.png", "no such file")):
        with pytest.raises(ImageError, match=words):
            decoded_bytes(tmp_path / name)
    (tmp_path / "c.png").write_bytes(huge_png(100_000, 200_000, 16))
    with pytest.raises(ImageError, match="more than the limit"):
        decoded_bytes(tmp_path / "c.png")


def sparse(path, size=1 << 30):
    """As long as nobody should read: a file may have holes."""
    with path.open("r+b") as file:
        file.truncate(size)


def large_tag(path, code, count):
    """A TIFF with a tag, or its strip, of so many bytes."""
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<H", code), data[4])
    struct.pack_into("<I", data, at + (4 if code == 34675 else 8), count)
    path.write_bytes(data)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_chunks_of_png_that_nobody_needs_so_large(tmp_path, after, dtype):
    path = tmp_path / "a.png"
    png = imagecodecs.png_encode(noise(3, dtype))
    at = png.index(b"IEND" if after else b"IDAT") - 4
    path.write_bytes(png[:at] + struct.pack(">I", 900 << 20) + b"tEXt" + b"a\0")
    sparse(path)
    tracemalloc.start()
    try:
        assert reason(path) == "is damaged: one of its chunks has 943,718,400 bytes"
        if not after:
            with pytest.raises(ImageError, match="one of its chunks"):
                image_size(path)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 20 << 20


@pytest.mark.parametrize("kind", ["ppm", "png", "npy", "profile.tiff", "pixels.tiff", "webp"])
def test_no_more_is_read_than_the_header_claims(tmp_path, limit, kind):
    path = tmp_path / f"a.{kind}"
    image = noise(3, np.uint16)
    words = None
    if kind == "ppm":
        write_16_bit_ppm(path)
    elif kind == "png":
        path.write_bytes(imagecodecs.png_encode(image))
    elif kind == "npy":
        np.save(path, image)
    elif kind == "profile.tiff":
        tifffile.imwrite(path, image, photometric="rgb", iccprofile=bytes(200))
        large_tag(path, 34675, 900 << 20)
        words = "one of its tags is larger"
    elif kind == "pixels.tiff":
        tifffile.imwrite(path, image, photometric="rgb", compression="zlib")
        large_tag(path, 279, 900 << 20)
        words = "its pixels take many times the bytes"
    else:
        Image.fromarray(noise(3)).save(path)
        limit(10_000)
        words = "1,073,741,824 bytes, of 268,435,456 pixels at least, are more than the limit"
    sparse(path)
    tracemalloc.start()
    try:
        if words is None:
            assert (read_picture(path).pixels == image).all()
        else:
            assert words in reason(path)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 100 << 20
