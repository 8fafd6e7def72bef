"""Pictures into files and into memory, looked at by other libraries."""

import io
import os
import stat
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from img2img.data.memory import from_array, from_pillow, to_pillow
from img2img.data.reading import read_picture
from img2img.data.writing import KINDS, encode, write_picture, write_whole
from img2img.files import whole_file
from img2img.inference.naming import FORMATS
from img2img.picture import Picture, fit_picture, lay_on_white, to_depth
from img2img.tensor_file import save_tensors

SIZE = (14, 18)
DTYPES = [np.uint8, np.uint16, np.float16, np.float32, np.float64]


def noise(channels, dtype=np.uint8, seed=0):
    """(H, W, channels), or (H, W) for 0 channels."""
    shape = (*SIZE, channels) if channels else SIZE
    random = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.floating):
        return random.random(shape).astype(dtype)
    return random.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def picture_of(channels, dtype, *, alpha=False, profiled=False):
    """As reading gives it: floats are float32, and `dtype` says what they were."""
    held = dtype if dtype in (np.uint8, np.uint16) else np.float32
    pixels = noise(channels, dtype).astype(held)
    beside = noise(0, dtype, seed=1).astype(held) if alpha else None
    return Picture(pixels, beside, np.dtype(dtype), profiled)


def smooth():
    y, x = np.mgrid[0:48, 0:64]
    planes = [(x * (i + 1) + y * 2) % 64 * 3 + 20 * i for i in range(3)]
    return cv2.GaussianBlur(np.dstack(planes).astype(np.uint8), (0, 0), 4)


def seen(path):
    """Pixels (H, W, C) by a library that did not write them."""
    if path.suffix == ".npy":
        image = np.load(path, allow_pickle=False)
    elif path.suffix == ".webp":
        image = np.asarray(Image.open(path))
    elif path.suffix == ".tiff" and tifffile.imread(path).dtype == np.uint8:
        # Pillow wrote these, and OpenCV multiplies by alpha.
        image = tifffile.imread(path)
    else:
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(image.shape[-1] if image.ndim == 3 else 0)
        image = image if order is None else image[..., order]
    return image[..., None] if image.ndim == 2 else image


# Depth and channels


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".npy"])
def test_other_libraries_see_what_was_written(tmp_path, suffix, dtype, channels):
    path = tmp_path / f"a{suffix}"
    picture = picture_of(channels, dtype)
    write_picture(path, picture)
    found = seen(path)
    # PNG has no floats, and 16 bits are its deepest.
    held = np.uint16 if suffix == ".png" and dtype not in (np.uint8, np.uint16) else dtype
    assert found.dtype == held
    assert (found == to_depth(picture.pixels, held)).all()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7, 12])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_what_is_written_is_read_back(tmp_path, suffix, dtype, channels):
    path = tmp_path / f"a{suffix}"
    picture = picture_of(channels, dtype)
    if suffix == ".png" and channels > 4:
        with pytest.raises(ValueError, match=f"cannot hold {channels} channels: use .tiff or .npy"):
            write_picture(path, picture)
        assert not any(tmp_path.iterdir())
        return
    write_picture(path, picture)
    found = read_picture(path, channels)
    kept = suffix != ".png" or dtype == np.uint8
    assert found.dtype == (dtype if kept else np.uint16)
    assert (to_depth(picture.pixels, found.pixels.dtype) == found.pixels).all()
    assert found.alpha is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_alpha_is_kept_exactly(tmp_path, suffix, channels, dtype):
    path = tmp_path / f"a{suffix}"
    picture = picture_of(channels, dtype, alpha=True)
    write_picture(path, picture)
    found = read_picture(path, channels)
    held = found.pixels.dtype
    assert (found.alpha == to_depth(picture.alpha, held)).all()
    whole = read_picture(path, channels + 1).pixels
    assert (whole[..., :-1] == to_depth(picture.pixels, held)).all()


def test_alpha_beside_bands(tmp_path):
    picture = picture_of(5, np.uint16, alpha=True)
    write_picture(tmp_path / "a.tiff", picture)
    found = read_picture(tmp_path / "a.tiff", 5)
    assert (found.alpha == picture.alpha).all()
    assert (found.pixels == lay_on_white(picture.pixels, picture.alpha)).all()
    with tifffile.TiffFile(tmp_path / "a.tiff") as file:
        assert file.pages[0].extrasamples == (0, 0, 0, 0, 2)
        assert file.pages[0].description == ""


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".jfif", ".JPG"])
def test_jpeg_shows_alpha_on_white(tmp_path, suffix):
    alpha = np.zeros((48, 64), np.uint8)
    alpha[:, 32:] = 255
    for picture in (Picture(smooth(), alpha), Picture(np.dstack([smooth(), alpha]))):
        write_picture(tmp_path / f"a{suffix}", picture)
        found = np.asarray(Image.open(tmp_path / f"a{suffix}"))
        assert found[:, :24].min() > 235
        assert np.abs(found[:, 40:].astype(int) - smooth()[:, 40:]).mean() < 2


def test_webp_keeps_alpha_exactly(tmp_path):
    alpha = noise(0).repeat(4, axis=0).repeat(4, axis=1)[:48, :64]
    for picture in (Picture(smooth(), alpha), Picture(np.dstack([smooth(), alpha]))):
        write_picture(tmp_path / "a.webp", picture)
        assert (seen(tmp_path / "a.webp")[..., 3] == alpha).all()
    write_picture(tmp_path / "a.webp", Picture(smooth()[..., :1]))
    found = seen(tmp_path / "a.webp").astype(int)
    assert np.abs(found - smooth()[..., :1]).mean() < 2


def test_an_array_cannot_say_what_is_alpha(tmp_path):
    picture = picture_of(3, np.uint16, alpha=True)
    write_picture(tmp_path / "a.npy", picture)
    found = np.load(tmp_path / "a.npy")
    assert (found == lay_on_white(picture.pixels, picture.alpha)).all()
    write_picture(tmp_path / "a.npy", picture_of(1, np.uint8))
    assert (np.load(tmp_path / "a.npy") == noise(1)[..., 0]).all()


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".npy", ".webp"])
def test_alpha_of_its_own_goes_before_that_of_the_source(tmp_path, suffix, channels):
    own = picture_of(channels, np.uint8)
    both = Picture(own.pixels, noise(0, seed=1))
    assert encode(suffix, both) == encode(suffix, own)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_8_bits_where_there_are_no_more(tmp_path, suffix, dtype):
    deep = Picture(to_depth(smooth(), dtype), dtype=np.dtype(dtype))
    assert encode(suffix, deep) == encode(suffix, Picture(smooth()))


def test_deep_results_of_models_become_what_the_source_was(tmp_path):
    """Tasks decode to float32, whatever went in."""
    levels = np.random.default_rng(0).random((*SIZE, 3), dtype=np.float32)
    for dtype in (np.uint8, np.uint16):
        write_picture(tmp_path / "a.png", Picture(levels, dtype=np.dtype(dtype)))
        assert (seen(tmp_path / "a.png") == to_depth(levels, dtype)).all()


def test_what_cannot_be_written_says_why(tmp_path):
    cases = [
        ("a.gif", picture_of(3, np.uint8), "cannot be written as '.gif': use .png, .jpg"),
        ("a", picture_of(3, np.uint8), "cannot be written as ''"),
        ("a.jpg", picture_of(5, np.uint8), ".jpg cannot hold 5 channels: use .tiff or .npy"),
        ("a.webp", Picture(np.zeros((2, 16_384, 3), np.uint8)), "more than 16,383 pixels a side"),
        ("a.jpg", Picture(np.zeros((65_501, 2, 3), np.uint8)), "more than 65,500 pixels a side"),
    ]
    for name, picture, words in cases:
        with pytest.raises(ValueError, match=words):
            write_picture(tmp_path / name, picture)
    assert not any(tmp_path.iterdir())


def test_every_format_of_the_command_line_can_be_written(tmp_path):
    for name in FORMATS:
        assert f".{name}" in KINDS
        write_picture(tmp_path / f"a.{name}", picture_of(3, np.uint8))
        assert read_picture(tmp_path / f"a.{name}").size == (18, 14)


# Classes

PALETTE = np.array([[0, 0, 0], [250, 10, 20], [3, 2, 1]], np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_classes_are_written_as_indices(tmp_path, suffix):
    classes = noise(0) % 3
    for pixels in (PALETTE[classes], to_depth(PALETTE[classes], np.float32)):
        write_picture(tmp_path / f"a{suffix}", Picture(pixels), PALETTE)
        with Image.open(tmp_path / f"a{suffix}") as opened:
            assert opened.mode == "P"
            assert (np.asarray(opened) == classes).all()
        assert (read_picture(tmp_path / f"a{suffix}").pixels == PALETTE[classes]).all()
    for bad in (".jpg", ".webp", ".npy"):
        with pytest.raises(ValueError, match="cannot hold classes exactly"):
            encode(bad, Picture(PALETTE[classes]), PALETTE)


# Profiles


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff"])
def test_what_had_a_profile_gets_one_of_srgb(tmp_path, suffix, channels, dtype):
    path = tmp_path / f"a{suffix}"
    write_picture(path, picture_of(channels, dtype))
    assert b"acsp" not in path.read_bytes()
    assert profile_in(path) is None
    write_picture(path, picture_of(channels, dtype, profiled=True))
    profile = profile_in(path)
    grey = channels <= 2 and suffix != ".webp"
    assert profile[16:20] == (b"GRAY" if grey else b"RGB ")
    # Reading it back changes nothing, and says that it is there.
    if suffix in (".png", ".tiff"):
        found = read_picture(path, channels)
        assert found.profiled
        held = found.pixels.dtype
        assert (found.pixels == to_depth(picture_of(channels, dtype).pixels, held)).all()


def profile_in(path):
    if path.suffix == ".tiff":
        with tifffile.TiffFile(path) as file:
            return file.pages[0].iccprofile
    with Image.open(path) as opened:
        return opened.info.get("icc_profile")


def test_bands_get_no_profile(tmp_path):
    write_picture(tmp_path / "a.tiff", picture_of(5, np.uint8, profiled=True))
    assert profile_in(tmp_path / "a.tiff") is None


# Pillow's images


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "La", "CMYK", "YCbCr", "HSV", "RGBX"]


@pytest.mark.parametrize("mode", MODES)
def test_any_mode_is_what_pillow_shows(mode):
    start = Image.fromarray(noise(4)).convert("RGB" if mode in ("P", "HSV", "YCbCr") else "RGBA")
    for step in {"La": ["LA", "La"], "PA": ["LA", "PA"], "CMYK": ["RGB", "CMYK"]}.get(mode, [mode]):
        start = start.convert(step)
    found = from_pillow(start, 3)
    assert found.dtype == np.uint8
    start = start.convert("LA") if mode == "La" else start
    shown = start.convert("RGBA" if start.has_transparency_data else "RGB")
    if start.has_transparency_data:
        assert (found.alpha == np.asarray(shown)[..., 3]).all()
        white = Image.new("RGBA", shown.size, "white")
        shown = Image.alpha_composite(white, shown).convert("RGB")
    assert (found.pixels == np.asarray(shown)).all()


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_deep_modes(mode):
    levels = noise(0, np.uint16)
    if mode == "I;16B":
        image = Image.frombytes(mode, (18, 14), levels.astype(">u2").tobytes())
    elif mode == "F":
        image = Image.fromarray(levels.astype(np.float32) / 65535)
    else:
        image = Image.fromarray(levels.astype(np.int32 if mode == "I" else np.uint16))
    assert image.mode == mode
    found = from_pillow(image, 1)
    assert (to_depth(found.pixels, np.uint16)[..., 0] == levels).all()
    assert found.dtype == (np.float32 if mode == "F" else np.uint16)
    for wrong, words in ((70_000, "16-bit, 0 to 65535"), (-1, "from -1 to -1")):
        with pytest.raises(ValueError, match=words):
            from_pillow(Image.new("I", (3, 2), wrong), 1)
    with pytest.raises(ValueError, match="values from 3 to 3"):
        from_pillow(Image.new("F", (3, 2), 3.0), 1)
    with pytest.raises(ValueError, match="CIE Lab"):
        from_pillow(Image.new("LAB", (3, 2)), 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("profiled", [False, True])
def test_into_pillow_and_back(channels, dtype, profiled):
    picture = picture_of(channels, dtype, profiled=profiled)
    image = to_pillow(picture)
    deep = {np.dtype(np.uint8): "L", np.dtype(np.uint16): "I;16"}.get(np.dtype(dtype), "F")
    assert image.mode == (deep, "LA", "RGB", "RGBA")[channels - 1]
    found = from_pillow(image, channels)
    held = found.pixels.dtype
    assert (found.pixels == to_depth(picture.pixels, held)).all()
    assert held == ((np.float32 if deep == "F" else dtype) if channels == 1 else np.uint8)
    assert found.profiled == profiled
    # What Pillow writes keeps the profile.
    buffer = io.BytesIO()
    if image.mode != "F":
        image.save(buffer, "PNG")
        assert (b"iCCP" in buffer.getvalue()) == profiled


def test_into_pillow_with_alpha_and_classes():
    picture = picture_of(3, np.uint16, alpha=True)
    image = to_pillow(picture)
    assert image.mode == "RGBA"
    assert (np.asarray(image)[..., 3] == to_depth(picture.alpha, np.uint8)).all()
    assert to_pillow(picture_of(1, np.uint16, alpha=True)).mode == "LA"
    indexed = to_pillow(Picture(PALETTE[noise(0) % 3]), PALETTE)
    assert indexed.mode == "P"
    assert (np.asarray(indexed) == noise(0) % 3).all()
    with pytest.raises(ValueError, match="colours that the palette lacks"):
        to_pillow(Picture(noise(3)), PALETTE)
    with pytest.raises(ValueError, match="no mode for 5 channels"):
        to_pillow(picture_of(5, np.uint8))


def test_the_image_given_is_left_alone():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(noise(3))
    image.info["exif"] = exif.tobytes()
    found = from_pillow(image, 3)
    assert (found.pixels == np.rot90(noise(3), -1)).all()
    found.pixels[...] = 0
    assert (np.asarray(image) == noise(3)).all()


# Arrays


@pytest.mark.parametrize("dtype", [bool, *DTYPES])
@pytest.mark.parametrize("channels", [0, 1, 3, 5])
def test_arrays(dtype, channels):
    image = noise(channels) > 127 if dtype is bool else noise(channels, dtype)
    kept = image.copy()
    found = from_array(image, channels or 1)
    assert found.dtype == (np.uint8 if dtype is bool else dtype)
    expected = image * np.uint8(255) if dtype is bool else image
    assert (found.pixels == expected.reshape(found.pixels.shape).astype(found.pixels.dtype)).all()
    assert found.alpha is None
    found.pixels[...] = 0
    assert (image == kept).all()


def test_four_channels_of_an_array_are_no_alpha():
    with pytest.raises(ValueError, match="has 4 channels, and the model takes 3"):
        from_array(noise(4), 3)
    assert (from_array(noise(4), 4).pixels == noise(4)).all()
    assert (from_array(noise(0), 3).pixels == noise(0)[..., None]).all()
    assert from_array(noise(3), 1).pixels.shape == (*SIZE, 1)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 5, 3), np.int64), "holds int64, and images are of uint8, uint16, or floats"),
        (np.zeros((4, 5), complex), "holds complex128"),
        (np.zeros((4, 5), object), "holds object"),
        (np.full((4, 5), 255.0), r"values from 255 to 255, .*scale them to that range"),
        (np.full((4, 5), np.nan), "not finite"),
        (np.zeros((3, 40, 50), np.uint8), r"has 50 channels.*moveaxis\(array, 0, -1\)"),
        (np.zeros((1, 40, 50), np.uint8), "moveaxis"),
        (np.zeros((2, 3, 4, 5), np.uint8), r"shape \(2, 3, 4, 5\), and an image is"),
        (np.zeros(7, np.uint8), r"shape \(7,\)"),
        (np.zeros((0, 5, 3), np.uint8), r"no pixels: its shape is \(0, 5, 3\)"),
    ],
)
def test_arrays_that_are_no_images(array, words):
    with pytest.raises(ValueError, match=words):
        from_array(array, 3)


# The whole way


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_file_to_file(tmp_path, dtype, channels):
    """As a model that changes nothing would do it."""
    first, second = tmp_path / "a.tiff", tmp_path / "b.tiff"
    write_picture(first, picture_of(channels, dtype))
    write_picture(second, read_picture(first, channels))
    assert second.read_bytes() == first.read_bytes()
    if channels in (2, 4):
        beside = read_picture(first, channels - 1)
        assert fit_picture(Picture(beside.pixels, beside.alpha), channels - 1).alpha is not None


# Whole or not at all


@pytest.fixture
def umask():
    """Sets the umask for one test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_who_may_read_a_file_the_umask_says(tmp_path, umask):
    for mask, mode in ((0o077, 0o600), (0o022, 0o644), (0o002, 0o664)):
        umask(mask)
        write_picture(tmp_path / "a.png", picture_of(3, np.uint8))
        save_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)}, {})
        for name in ("a.png", "a.safetensors"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.safetensors"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("before")
    synced = []

    def fsync(number):
        assert path.read_text() == "before"
        synced.append(os.pread(number, 100, 0))

    monkeypatch.setattr(os, "fsync", fsync)
    write_whole(path, b"after")
    assert path.read_text() == "after"
    assert synced == [b"after"]


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("when", ["written", "synced", "named"])
def test_what_is_cut_short_leaves_the_file_of_before(tmp_path, monkeypatch, kind, when):
    path = tmp_path / "a.txt"
    path.write_text("before")

    def stop(*_):
        raise kind

    if when != "written":
        place = (os, "fsync") if when == "synced" else (Path, "replace")
        monkeypatch.setattr(*place, stop)
    with pytest.raises(kind), whole_file(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".txt")
        assert temporary.name.startswith(".partial-")
        temporary.write_text("half")
        if when == "written":
            stop()
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "before"
