"""Tasks against references of their own: scikit-image, numpy formulas, brute force."""

import io
import itertools

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from img2img.picture import to_depth, to_display
from img2img.tasks import Colorization, Edges, Labels, Maps, Paired, PhotoToLabels
from img2img.tasks.base import image_channels_of, to_grey, to_image, to_tensor


def noise(height=20, width=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def grid(step=15):
    """Every `step`th sRGB colour, as one image."""
    levels = range(0, 256, step)
    return np.array(list(itertools.product(levels, repeat=3)), np.uint8).reshape(-1, 18, 3)


# Conversions


def test_to_tensor_is_exactly_x_over_127_5_minus_1():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = levels.astype(np.float32) / np.float32(127.5) - np.float32(1)
    assert (to_tensor(levels).numpy() == expected[None]).all()
    assert to_tensor(levels).dtype == torch.float32
    image = noise()
    tensor = to_tensor(image)
    for channel in range(3):
        found = image[..., channel].astype(np.float32) / np.float32(127.5) - np.float32(1)
        assert (tensor[channel].numpy() == found).all()


def test_to_image_inverts_every_level():
    image = noise()
    assert (to_depth(to_image(to_tensor(image)), np.uint8) == image).all()
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = to_image(to_tensor(levels))
    assert found.shape == (16, 16, 1)
    assert (to_depth(found, np.uint8) == levels[..., None]).all()


def test_16_bits_pass_through_tensors():
    levels = np.arange(65536, dtype=np.uint16).reshape(128, 256, 2)
    tensor = to_tensor(levels)
    expected = levels.transpose(2, 0, 1).astype(np.float64) / 32767.5 - 1
    assert np.abs(tensor.numpy() - expected).max() < 1e-7
    assert (to_depth(to_image(tensor), np.uint16) == levels).all()


def test_floats_pass_through_tensors():
    levels = np.random.default_rng(0).random((9, 7, 5), dtype=np.float32)
    tensor = to_tensor(levels)
    assert (tensor.numpy() == levels.transpose(2, 0, 1) * np.float32(2) - np.float32(1)).all()
    found = to_image(tensor)
    assert found.dtype == np.float32
    assert np.abs(found - levels).max() < 1e-7
    assert to_tensor(levels[..., 0].astype(np.float64)).dtype == torch.float32


def test_to_image_clips():
    values = torch.tensor([-7.0, -1.0, 0.0, 0.5, 1.0, 7.0])
    assert to_image(values.view(1, 1, -1))[0, :, 0].tolist() == [0, 0, 0.5, 0.75, 1, 1]


def test_8_bits_of_an_output_are_rounded_as_ever():
    """To (x + 1) * 127.5 in float32, half to even, as this project has from the beginning."""
    torch.manual_seed(0)
    ties = (torch.arange(255) + 0.5) / 127.5 - 1
    values = torch.cat([torch.randn(200_000), torch.rand(200_000) * 2 - 1, ties]).view(1, 1, -1)
    expected = values.add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    assert (to_depth(to_image(values), np.uint8)[..., 0] == expected).all()


def test_to_image_may_be_written_to():
    """An output's own memory must not change with its image."""
    tensor = torch.zeros(1, 2, 2)
    to_image(tensor)[...] = 7
    assert not tensor.any()


def test_to_grey_is_pillows():
    image = noise()
    theirs = np.asarray(Image.fromarray(image).convert("L")).astype(int)
    assert np.abs(to_grey(image).astype(int) - theirs).max() <= 1
    assert (to_grey(np.repeat(image[..., :1], 3, axis=2)) == image[..., 0]).all()


# Paired, maps


@pytest.mark.parametrize("channels", [1, 3])
def test_paired_channels(channels):
    task = Paired(source_channels=channels, target_channels=4 - channels)
    image = noise()
    grey = np.asarray(Image.fromarray(image).convert("L")) / 127.5 - 1
    colour = image.transpose(2, 0, 1) / 127.5 - 1
    for tensor, count in (
        (task.encode_source(image), channels),
        (task.encode_target(image), 4 - channels),
    ):
        expected = colour if count == 3 else grey[None]
        assert np.abs(tensor.numpy() - expected).max() < 1.01 / 127.5


def test_maps_are_colour_both_ways():
    task, image = Maps(), noise()
    assert (task.source_channels, task.target_channels) == (3, 3)
    shown = task.decode_target(task.encode_target(image), task.encode_source(image))
    assert (to_depth(shown, np.uint8) == image).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(("first", "second"), [(5, 2), (4, 4), (1, 7), (2, 3)])
def test_paired_takes_any_channels(first, second, dtype):
    task = Paired(source_channels=first, target_channels=second)
    assert image_channels_of(task) == (first, second)
    random = np.random.default_rng(0)
    pair = [to_depth(random.random((6, 8, count)), dtype) for count in (first, second)]
    source, target = task.encode_source(pair[0]), task.encode_target(pair[1])
    assert (source.shape, target.shape) == ((first, 6, 8), (second, 6, 8))
    decoded = task.decode_source(source), task.decode_target(target, source)
    for image, found in zip(pair, decoded, strict=True):
        assert (found.dtype, found.shape) == (np.float32, image.shape)
        if dtype == np.float32:
            assert np.abs(found - image).max() < 1e-7
        else:
            assert (to_depth(found, dtype) == image).all()


def test_paired_refuses_what_cannot_be_channels():
    with pytest.raises(ValueError, match="at least 1 channel, not 0"):
        Paired(target_channels=0)


def test_tasks_that_say_nothing_of_channels_take_colour():
    class Task:
        pass

    assert image_channels_of(Task()) == (3, 3)
    assert image_channels_of(Edges()) == (3, 3)
    assert image_channels_of(Maps()) == (3, 3)


# Colorization


def test_lab_agrees_with_scikit_image():
    """To 0.05 in L, a and b, whose ranges are 100 and about 200."""
    color = pytest.importorskip("skimage.color")
    image = grid()
    lab = color.rgb2lab(image)
    task = Colorization()
    lightness = task.encode_source(image).numpy()
    chroma = task.encode_target(image).numpy()
    assert np.abs((lightness[0] + 1) * 50 - lab[..., 0]).max() < 0.05
    assert np.abs(chroma.transpose(1, 2, 0) * 110 - lab[..., 1:]).max() < 0.05
    # So no colour that sRGB has is clipped.
    assert np.abs(lab[..., 1:]).max() < 110


def test_colorization_round_trip():
    image = grid()
    task = Colorization()
    shown = task.decode_target(task.encode_target(image), task.encode_source(image))
    assert np.abs(shown * 255 - image).max() < 0.5


def test_colorization_keeps_16_bits():
    """To a 4000th of the range, where 8 bits have a 255th; Lab itself is computed in float32."""
    image = np.random.default_rng(0).integers(0, 65536, (50, 40, 3), dtype=np.uint16)
    task = Colorization()
    shown = task.decode_target(task.encode_target(image), task.encode_source(image))
    assert np.abs(shown - image / 65535).max() < 1 / 4000
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    eight = task.encode_source(levels)
    for dtype in (np.uint16, np.float32):
        assert (task.encode_source(to_depth(levels, dtype)) - eight).abs().max() < 1e-6


def test_colorization_keeps_the_lightness_of_the_source():
    """Whatever the network paints, as long as sRGB has that colour at that lightness."""
    color = pytest.importorskip("skimage.color")
    # Between 50 and 60 sRGB has every colour of a chroma below 25.
    grey = np.linspace(118, 145, 28).round().astype(np.uint8).reshape(4, 7)
    source = Colorization().encode_source(np.repeat(grey[..., None], 3, axis=2))
    angle = torch.linspace(0, 6.2, 28).view(4, 7)
    painted = torch.stack([angle.cos(), angle.sin()]) * 25 / 110
    shown = Colorization().decode_target(painted, source)
    lab = color.rgb2lab(shown)
    lightness = (source[0].numpy() + 1) * 50
    assert np.abs(lab[..., 0] - lightness).max() < 0.05
    # And the colours are those painted, not greys.
    assert np.abs(lab[..., 1:] - painted.numpy().transpose(1, 2, 0) * 110).max() < 1


def test_colorization_shows_its_source_in_grey():
    image = grid()
    task = Colorization()
    shown = to_display(task.decode_source(task.encode_source(image))).astype(int)
    assert np.ptp(shown, axis=-1).max() <= 1
    assert np.ptp(shown) == 255


# Edges


@pytest.mark.parametrize("threshold", [1, 100, 255])
@pytest.mark.parametrize("invert", [False, True])
def test_edges_threshold_and_invert(threshold, invert):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    drawing = np.repeat(levels[..., None], 3, axis=2)
    found = Edges(threshold=threshold, invert=invert).encode_source(drawing)
    paper = (255 - levels.astype(int) if invert else levels) >= threshold
    assert (found.numpy() == np.where(paper, 1, -1)[None]).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("invert", [False, True])
def test_edges_thresholds_are_levels_of_8_bits_at_any_depth(dtype, invert):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    for threshold in range(1, 256):
        task = Edges(threshold=threshold, invert=invert)
        expected = task.encode_source(levels)
        assert torch.equal(task.encode_source(to_depth(levels, dtype)), expected), threshold


def test_edges_without_a_threshold_keep_the_greys():
    image = noise()
    grey = to_tensor(to_grey(image))
    assert torch.equal(Edges().encode_source(image), grey)
    assert (Edges(invert=True).encode_source(image) + grey).abs().max() < 1e-6


@pytest.mark.parametrize("threshold", [-1, 256])
def test_edges_refuse_a_level_that_is_none(threshold):
    with pytest.raises(ValueError, match="from 0 to 255"):
        Edges(threshold=threshold)


# Labels

PALETTE = [[0, 0, 0], [0, 0, 170], [0, 85, 255], [170, 255, 85], [255, 85, 0], [170, 0, 0]]


def label_map():
    """Flat patches of the palette's colours."""
    index = np.random.default_rng(1).integers(0, len(PALETTE), (6, 9))
    return np.array(PALETTE, np.uint8)[index].repeat(8, axis=0).repeat(8, axis=1)


def smeared(image):
    saved = io.BytesIO()
    Image.fromarray(image).save(saved, "JPEG", quality=60)
    return np.array(Image.open(saved))


def test_labels_repair_a_map_that_was_saved_as_jpeg():
    """In areas as small as JPEG's own blocks; tests/test_labels.py measures larger ones."""
    clean = label_map()
    found = to_display(to_image(Labels(palette=PALETTE).encode_source(smeared(clean))))
    assert (found == clean).all(axis=-1).mean() > 0.97
    assert (smeared(clean) == clean).all(axis=-1).mean() < 0.5


def test_labels_without_a_palette_keep_their_colours():
    image = noise()
    assert (to_display(to_image(Labels().encode_source(image))) == image).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_label_maps_of_any_depth_are_the_same_maps(dtype):
    clean = label_map()
    deep = to_depth(clean, dtype)
    for task in (Labels(palette=PALETTE), Labels(palette=PALETTE, encoding="onehot")):
        assert torch.equal(task.encode_source(deep), task.encode_source(clean))
        assert task.misfit(deep, deep) is None
    photo = PhotoToLabels(palette=PALETTE)
    assert torch.equal(photo.encode_target(deep), photo.encode_target(clean))
    assert photo.misfit(to_depth(noise(48, 72), dtype), deep) is None
    assert "no label map" in photo.misfit(deep, to_depth(noise(48, 72), dtype))


def test_only_label_maps_are_resized_to_the_nearest_pixel():
    assert (Labels().source_interpolation, Labels().target_interpolation) == ("nearest", "smooth")


@pytest.mark.parametrize(
    ("palette", "message"),
    [
        ([[0, 0]], r"not \[0, 0\]"),
        ([[0, 0, 0], [0, 0, 256]], r"not \[0, 0, 256\]"),
        ([[0, 0, 0], [-1, 0, 0]], r"not \[-1, 0, 0\]"),
        ([[1, 2, 3]], "two to 256 colours, not 1"),
    ],
)
def test_labels_refuse_a_palette_that_is_none(palette, message):
    with pytest.raises(ValueError, match=message):
        Labels(palette=palette)


def test_targets_of_edges_and_labels_are_the_photograph():
    image = cv2.GaussianBlur(noise(), (5, 5), 0)
    for task in (Edges(), Labels(palette=PALETTE)):
        shown = task.decode_target(task.encode_target(image), task.encode_source(image))
        assert (to_depth(shown, np.uint8) == image).all()
