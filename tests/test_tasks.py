"""Tasks against references of their own: scikit-image, numpy formulas, brute force."""

import io
import itertools

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from img2img.tasks import Colorization, Edges, Labels, Maps, Paired
from img2img.tasks.base import to_grey, to_image, to_tensor


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
    assert (to_image(to_tensor(image)) == image).all()
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = to_image(to_tensor(levels))
    assert found.shape == (16, 16, 3)
    assert (found == levels[..., None]).all()


def test_to_image_clips_and_rounds():
    values = torch.tensor([-7.0, -1.0, -1 + 0.49 / 127.5, -1 + 0.51 / 127.5, 1.0, 7.0])
    found = to_image(values.view(1, 1, -1))[0, :, 0]
    assert found.tolist() == [0, 0, 0, 1, 255, 255]


def test_to_image_may_be_written_to():
    """A grey image's channels must not be one memory seen three times."""
    image = to_image(torch.zeros(1, 2, 2))
    image[..., 0] = 7
    assert not (image[..., 1] == 7).any()


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
    assert (task.decode_target(task.encode_target(image), task.encode_source(image)) == image).all()


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
    assert np.abs(shown.astype(int) - image).max() <= 1


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
    # Half a level of rounding in green, the channel that weighs most, is 0.2.
    assert np.abs(lab[..., 0] - lightness).max() < 0.3
    # And the colours are those painted, not greys.
    assert np.abs(lab[..., 1:] - painted.numpy().transpose(1, 2, 0) * 110).max() < 1


def test_colorization_shows_its_source_in_grey():
    image = grid()
    task = Colorization()
    shown = task.decode_source(task.encode_source(image)).astype(int)
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
    found = to_image(Labels(palette=PALETTE).encode_source(smeared(clean)))
    assert (found == clean).all(axis=-1).mean() > 0.97
    assert (smeared(clean) == clean).all(axis=-1).mean() < 0.5


def test_labels_without_a_palette_keep_their_colours():
    image = noise()
    assert (to_image(Labels().encode_source(image)) == image).all()


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
        assert (shown == image).all()
