"""Photographs damaged for repair, and crops from images as they are."""

import numpy as np
import pytest
import torch
from PIL import Image

import img2img
from img2img.data import Damaged
from img2img.data.augmentation import Augmentation
from img2img.document import Document
from img2img.errors import RecipeError
from img2img.recipe_parser import parse_recipe


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for split, count in (("train", 4), ("val", 2)):
        (root / split).mkdir(parents=True)
        for number in range(count):
            random = np.random.default_rng(number + 10 * (split == "val"))
            small = random.integers(0, 256, (12, 20, 3), dtype=np.uint8)
            picture = Image.fromarray(small).resize((160, 96), Image.Resampling.BICUBIC)
            picture.save(root / split / f"{number}.png")
    return root


def grey(level=128, size=64):
    return np.full((size, size, 3), level, np.uint8)


@pytest.mark.parametrize("sigma", [5.0, 25.0])
def test_noise_has_the_strength_that_was_asked(photos, sigma):
    source = Damaged(photos, "train", damage="noise", noise=(sigma, sigma))
    noise = source.degrade(grey(), 3).astype(float) - 128
    assert noise.std() == pytest.approx(sigma, rel=0.05)
    assert abs(noise.mean()) < sigma / 10
    # Channels have their own.
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.1


def test_noise_strength_is_drawn_from_its_range(photos):
    source = Damaged(photos, "train", noise=(10.0, 30.0))
    found = [source.degrade(grey(), seed).astype(float).std() for seed in range(60)]
    assert 9 < min(found) < 14
    assert 26 < max(found) < 31


def test_blur_is_as_wide_as_was_asked(photos):
    source = Damaged(photos, "train", damage="blur", blur=(1.5, 1.5))
    # A blurred edge rises as the blur's own bell does.
    bar = np.zeros((65, 65, 3), np.uint8)
    bar[:, 32:] = 255
    step = np.diff(source.degrade(bar, 0)[32, :, 0].astype(float))
    at = np.arange(len(step))
    mean = (step * at).sum() / step.sum()
    assert np.sqrt((step * (at - mean) ** 2).sum() / step.sum()) == pytest.approx(1.5, rel=0.1)


def test_shrink_leaves_what_a_smaller_image_holds(photos):
    source = Damaged(photos, "train", damage="shrink", shrink=4)
    fine = np.zeros((64, 64, 3), np.uint8)
    fine[::2] = 255
    assert np.ptp(source.degrade(fine, 0).astype(int)) <= 1, "stripes of one pixel are gone"
    coarse = np.zeros((64, 64, 3), np.uint8)
    coarse[:, 32:] = 255
    damaged = source.degrade(coarse, 0).astype(int)
    assert damaged.shape == coarse.shape
    assert damaged[:, :24].max() < 10
    assert damaged[:, 40:].min() > 245


def test_a_hole_is_in_the_middle_and_nowhere_else(photos):
    photo = np.random.default_rng(0).integers(0, 100, (40, 80, 3), dtype=np.uint8)
    holed = Damaged(photos, "train", damage="hole", hole=0.5).degrade(photo, 0)
    assert (holed[10:30, 20:60] == 128).all()
    holed[10:30, 20:60] = photo[10:30, 20:60]
    assert (holed == photo).all()


@pytest.mark.parametrize("damage", ["noise", "blur", "shrink", "hole"])
def test_damage_depends_on_image_and_seed_alone(photos, damage):
    source = Damaged(photos, "train", damage=damage)
    photo, again = source.pair(0)
    assert (photo == again).all()
    kept = photo.copy()
    first = source.degrade(photo, 7)
    assert first.dtype == np.uint8
    assert (photo == kept).all(), "the photograph was changed"
    assert (Damaged(photos, "train", damage=damage).degrade(photo, 7) == first).all()
    assert (first != photo).any()
    if damage in ("noise", "blur"):
        assert (source.degrade(photo, 8) != first).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"damage": "scratch"}, "is not one of noise, blur"),
        ({"noise": (5.0,)}, "noise holds the least and the most"),
        ({"noise": (50.0, 5.0)}, "noise holds"),
        ({"blur": (0.0, 2.0)}, "blur holds"),
        ({"shrink": 1}, "shrink must be at least 2"),
        ({"hole": 1.0}, "hole must be between 0 and 1"),
    ],
)
def test_settings_that_cannot_be(photos, settings, message):
    with pytest.raises(ValueError, match=message):
        Damaged(photos, "train", **settings)


# Crops from images as they are


def test_crops_as_they_are_come_from_the_image():
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    crop, other = Augmentation(None, 16)(image, image, 5)
    assert (crop == other).all()
    found = [
        (top, left)
        for top in range(50 - 15)
        for left in range(70 - 15)
        if (image[top : top + 16, left : left + 16] == crop).all()
    ]
    assert len(found) == 1
    places = {tuple(Augmentation(None, 16)(image, image, seed)[0][0, 0]) for seed in range(20)}
    assert len(places) > 10


def test_validation_takes_the_middle():
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    for seed in range(5):
        crop, _ = Augmentation(None, 20, center=True)(image, image, seed)
        assert (crop == image[15:35, 25:45]).all()


def test_images_smaller_than_a_crop_are_reflected():
    image = np.random.default_rng(0).integers(0, 256, (10, 40, 3), dtype=np.uint8)
    crop, other = Augmentation(None, 16, center=True)(image, image, 0)
    assert crop.shape == other.shape == (16, 16, 3)
    assert (crop[3:13] == image[:, 12:28]).all()
    assert (crop[2] == image[1, 12:28]).all()


def test_damage_is_done_to_the_crop_and_colours_change_after_it():
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    seen = []

    def derive(target, seed):
        seen.append((target.copy(), seed))
        return 255 - target

    source, target = Augmentation(32, 16, mirror=True, derive=derive)(photo, photo, 11)
    assert len(seen) == 1
    assert seen[0][1] == 11
    assert (seen[0][0] == target).all()
    assert (source == 255 - target).all()


RECIPE = """
name = "denoise"
[data]
source = "damaged"
root = "{root}"
crop_size = 32
resize = false
[generator]
width = 4
[[losses]]
name = "l1"
[train]
steps = 3
log_every = 1
sample_every = 3
"""


@pytest.fixture
def recipe(tmp_path, photos):
    path = tmp_path / "denoise.toml"
    path.write_text(RECIPE.format(root=photos))
    return path


def test_a_run_on_damaged_photos(tmp_path, recipe, photos):
    done = img2img.train(recipe, out=tmp_path / "run", device="cpu")
    assert 0 < done.validation["l1_source"] < 0.3
    translator = img2img.load(tmp_path / "run", device="cpu")
    # Trained on pixels as they are, so nothing is resized for the network.
    assert list(translator.scale) == [1.0, 1.0]
    image = np.asarray(Image.open(photos / "val" / "0.png"))
    assert translator(image).shape == image.shape


def test_each_epoch_has_new_noise_and_validation_the_same(registry, recipe):
    from img2img.assemble import build_datasets
    from img2img.recipe_parser import load_recipe
    from img2img.tasks import Paired

    data = build_datasets(load_recipe(recipe, registry), registry, Paired())
    (first, photo), (second, _) = data.train.tensors(0, 0), data.train.tensors(0, 1)
    assert not torch.equal(first, second)
    assert not torch.equal(first, photo)
    for a, b in zip(data.validation.tensors(1), data.validation.tensors(1), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("load_size = 40", ":5: data.load_size has no meaning with data.resize = false"),
        ('direction = "BtoA"', None),
    ],
)
def test_what_does_not_go_together(registry, tmp_path, photos, line, message):
    text = RECIPE.format(root=photos).replace('source = "damaged"', f'source = "damaged"\n{line}')
    if message:
        with pytest.raises(RecipeError) as caught:
            parse_recipe(Document(text, "denoise.toml"), registry)
        assert message in str(caught.value)
        return
    path = tmp_path / "denoise.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"toml:5: data.direction: the source is made from"):
        img2img.train(path, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
