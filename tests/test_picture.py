"""Depths and channels of images in memory, against whole ranges of levels and other libraries."""

import tracemalloc
from functools import partial

import numpy as np
import pytest
from PIL import Image

from img2img.picture import (
    Picture,
    UnusableError,
    fit_channels,
    fit_picture,
    join_alpha,
    lay_on_white,
    to_depth,
    to_display,
)

EIGHT = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
SIXTEEN = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)


def noise(channels, dtype=np.uint8, seed=0, size=(6, 9)):
    random = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.floating):
        return random.random((*size, channels)).astype(dtype)
    return random.integers(0, np.iinfo(dtype).max + 1, (*size, channels), dtype=dtype)


# Depths


@pytest.mark.parametrize("deeper", [np.uint16, np.float16, np.float32, np.float64])
def test_all_levels_of_8_bits_there_and_back(deeper):
    there = to_depth(EIGHT, deeper)
    assert there.dtype == deeper
    assert (there[0, 0, 0], there[-1, -1, 0]) == (0, 65535 if deeper == np.uint16 else 1)
    back = to_depth(there, np.uint8)
    assert back.dtype == np.uint8
    assert (back == EIGHT).all()


@pytest.mark.parametrize("deeper", [np.float32, np.float64])
def test_all_levels_of_16_bits_there_and_back(deeper):
    there = to_depth(SIXTEEN, deeper)
    assert np.abs(there - SIXTEEN / 65535).max() < 1e-7
    assert (to_depth(there, np.uint16) == SIXTEEN).all()


def test_8_bits_become_16_exactly():
    assert (to_depth(EIGHT, np.uint16) == np.rint(EIGHT / 255 * 65535)).all()


def test_16_bits_become_the_nearest_8():
    exact = SIXTEEN.astype(np.int64) * 255
    found = to_depth(SIXTEEN, np.uint8).astype(np.int64)
    # Half a level at most, and no tie exists: 65535 is odd.
    assert (2 * np.abs(exact - found * 65535) < 65535).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("whole", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_floats_are_rounded_and_clipped(dtype, whole, white):
    values = np.array([-0.5, -0.0, 0.4 / white, 0.6 / white, 1.0, 1.25, 7.0], np.float64)
    found = to_depth(values.astype(dtype).reshape(1, -1, 1), whole)
    assert found.dtype == whole
    # Half floats have no levels so fine.
    small = [0, 1] if dtype != np.float16 or white == 255 else found.ravel()[2:4].tolist()
    assert found.ravel().tolist() == [0, 0, *small, white, white, white]


def test_the_same_type_is_the_same_image():
    for image in (EIGHT, SIXTEEN, noise(3, np.float32)):
        assert to_depth(image, image.dtype) is image


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.uint32, bool, np.complex64])
def test_other_types_are_refused(dtype):
    with pytest.raises(ValueError, match=f"images of {np.dtype(dtype)} are not supported"):
        to_depth(EIGHT.astype(dtype), np.uint8)
    with pytest.raises(ValueError, match="are not supported"):
        to_depth(EIGHT, dtype)


# Channels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_luma_is_pillows(dtype):
    image = noise(3)
    theirs = np.asarray(Image.fromarray(image).convert("L"))[..., None].astype(int)
    found = fit_channels(to_depth(image, dtype), 1)
    assert (found.dtype, found.shape) == (dtype, (6, 9, 1))
    # Theirs is rounded to 8 bits, from weights of 16.
    assert np.abs(to_depth(found, np.float64) * 255 - theirs).max() < 0.51


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_grey_as_colour_and_back_is_the_same(dtype):
    grey = to_depth(SIXTEEN, dtype)
    colour = fit_channels(grey, 3)
    assert colour.shape == (256, 256, 3)
    assert (colour == grey).all()
    back = fit_channels(colour, 1)
    if dtype == np.float32:
        assert np.abs(back - grey).max() < 1e-7
    else:
        assert (back == grey).all()
    # Callers own it: three views of one memory would change together.
    colour[0, 0, 0] = 1
    assert colour[0, 0, 1] == grey[0, 0, 0] == 0


def test_what_fits_is_not_copied():
    image = noise(5)
    assert fit_channels(image, 5) is image


@pytest.mark.parametrize(("have", "wanted"), [(4, 3), (2, 1), (3, 4), (5, 3), (1, 2), (3, 5)])
def test_other_channels_are_nobodys_to_guess(have, wanted):
    words = f"has {have} channels?, and the model takes {wanted}"
    with pytest.raises(UnusableError, match=words):
        fit_channels(noise(have), wanted)
    with pytest.raises(UnusableError, match=words):
        fit_picture(Picture(noise(have)), wanted)


# Alpha


def test_white_paper_is_pillows_to_the_last_bit():
    """All levels under all opacities."""
    levels, opacity = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    rgba = np.dstack([levels, levels[::-1], levels, opacity])
    white = Image.new("RGBA", (256, 256), "white")
    theirs = np.asarray(Image.alpha_composite(white, Image.fromarray(rgba)).convert("RGB"))
    assert (lay_on_white(rgba[..., :3], opacity) == theirs).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_white_paper_at_depth(dtype):
    colours, alpha = noise(3, dtype), noise(1, dtype, seed=1)[..., 0]
    white = 65535 if dtype == np.uint16 else 1
    share = alpha[..., None].astype(np.float64) / white
    found = lay_on_white(colours, alpha)
    assert found.dtype == dtype
    limit = 0.51 if dtype == np.uint16 else 1e-6
    assert np.abs(found - (colours * share + white * (1 - share))).max() < limit


@pytest.mark.parametrize(("colours", "channels"), [(3, 4), (1, 2)])
def test_alpha_can_be_a_channel(colours, channels):
    pixels, alpha = noise(colours, np.uint16), noise(1, np.uint16, seed=1)[..., 0]
    picture = Picture(pixels, alpha, np.dtype(np.uint16), profiled=True)
    found = fit_picture(picture, channels)
    assert found.alpha is None
    assert (found.pixels[..., :-1] == pixels).all()
    assert (found.pixels[..., -1] == alpha).all()
    assert (found.dtype, found.profiled) == (np.uint16, True)


def test_alpha_of_grey_can_be_that_of_colour_and_back():
    grey, alpha = noise(1), noise(1, seed=1)[..., 0]
    found = fit_picture(Picture(grey, alpha), 4).pixels
    assert (found[..., :3] == grey).all()
    assert (found[..., 3] == alpha).all()
    found = fit_picture(Picture(noise(3), alpha), 2).pixels
    assert (found[..., :1] == fit_channels(noise(3), 1)).all()
    assert (found[..., 1] == alpha).all()


@pytest.mark.parametrize(("colours", "channels"), [(3, 3), (1, 1), (1, 3), (3, 1), (5, 5)])
def test_alpha_is_otherwise_kept_beside_what_shows_on_white(colours, channels):
    pixels, alpha = noise(colours), noise(1, seed=1)[..., 0]
    found = fit_picture(Picture(pixels, alpha), channels)
    assert (found.alpha == alpha).all()
    assert (found.pixels == fit_channels(lay_on_white(pixels, alpha), channels)).all()


def test_no_alpha_is_not_made_up():
    with pytest.raises(UnusableError, match="has 3 channels, and the model takes 4"):
        fit_picture(Picture(noise(3)), 4)
    with pytest.raises(UnusableError, match="has 5 channels and alpha, and the model takes 6"):
        fit_picture(Picture(noise(5), noise(1)[..., 0]), 6)


def test_joining_alpha():
    alpha = noise(1, seed=1)[..., 0]
    joined = join_alpha(Picture(noise(3), alpha))
    assert joined.alpha is None
    assert (joined.pixels == np.dstack([noise(3), alpha])).all()
    deep = join_alpha(Picture(noise(3, np.float32), alpha)).pixels
    assert (deep[..., 3] == to_depth(alpha, np.float32)).all()
    for picture in (Picture(noise(4), alpha), Picture(noise(2), alpha), Picture(noise(3))):
        found = join_alpha(picture)
        assert found.alpha is None
        assert (found.pixels == picture.pixels).all()


# Pictures


def test_a_picture_says_its_size_and_is_8_bit_unless_told():
    picture = Picture(noise(3))
    assert picture.size == (9, 6)
    assert (picture.dtype, picture.alpha, picture.profiled) == (np.uint8, None, False)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_people_see_8_bits_of_colour(dtype):
    for count in (1, 2, 3, 4, 5):
        image = noise(count)
        shown = to_display(to_depth(image, dtype))
        assert (shown.dtype, shown.shape) == (np.uint8, (6, 9, 3))
        if count <= 2:
            assert (shown == image[..., :1]).all()
        elif count == 4:
            paper = lay_on_white(image[..., :3], image[..., 3])
            assert np.abs(shown.astype(int) - paper).max() <= (dtype != np.uint8)
        else:
            assert (shown == image[..., :3]).all()


# Memory


def peak(convert, *images):
    """The most bytes that a call holds, its result included."""
    tracemalloc.start()
    try:
        result = convert(*images)
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_luma_and_white_take_little_memory():
    image = noise(3, size=(2000, 2000))
    alpha = noise(1, seed=1, size=(2000, 2000))[..., 0]
    for convert, images in (
        (partial(fit_channels, count=1), (image,)),
        (lay_on_white, (image, alpha)),
    ):
        _, most = peak(convert, *images)
        assert most < 1.6 * image.nbytes


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("size", [(700, 300), (3, 70_000), (1, 1), (219, 300)])
def test_rows_at_a_time_are_the_whole_to_the_last_bit(dtype, size):
    image, alpha = noise(3, dtype, size=size), noise(1, dtype, seed=1, size=size)[..., 0]
    whole = np.issubdtype(dtype, np.integer)
    wide = image.astype(np.uint32 if whole else np.float64)
    grey = (299 * wide[..., 0] + 587 * wide[..., 1] + 114 * wide[..., 2]) / 1000
    grey = (np.rint(grey) if whole else grey).astype(dtype)
    assert (fit_channels(image, 1)[..., 0] == grey).all()
    share = to_depth(alpha, np.float32)[..., None]
    mixed = image * share + np.float32(np.iinfo(dtype).max if whole else 1) * (1 - share)
    mixed = (np.rint(mixed) if whole else mixed).astype(dtype)
    assert (lay_on_white(image, alpha) == mixed).all()
