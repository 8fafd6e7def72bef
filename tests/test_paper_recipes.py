"""Every experiment of the paper is a recipe that names its choices, and each of them runs."""

import numpy as np
import pytest
from PIL import Image

import img2img
from img2img.recipe_files import find_recipe, shipped_recipes
from img2img.recipe_parser import load_recipe

# Written down from the paper's appendix and tables as the project keeps them: epochs, batch size,
# direction, mirroring, jitter.
EXPERIMENTS = {
    "facades": (200, 1, "BtoA", True, True),
    "cityscapes_labels2photo": (200, 1, "BtoA", True, True),
    "cityscapes_photo2labels": (200, 1, "AtoB", True, True),
    "maps_map2aerial": (200, 1, "BtoA", True, True),
    "maps_aerial2map": (200, 1, "AtoB", True, True),
    "edges2shoes": (15, 4, "AtoB", False, False),
    "edges2handbags": (15, 4, "AtoB", False, False),
    "colorization": (6, 4, "AtoB", True, False),
    "day2night": (17, 4, "BtoA", True, True),
    "thermal2color": (10, 4, "AtoB", True, True),
    "inpainting": (25, 4, "AtoB", True, False),
}
TABLES = {
    "table1/l1": ("unet", None, None, {"l1"}, 1),
    "table1/gan": ("unet", "patchgan70", False, {"adversarial"}, 1),
    "table1/cgan": ("unet", "patchgan70", True, {"adversarial"}, 1),
    "table1/l1+gan": ("unet", "patchgan70", False, {"adversarial", "l1"}, 1),
    "table1/l1+cgan": ("unet", "patchgan70", True, {"adversarial", "l1"}, 1),
    "table2/encoder_decoder-l1": ("encoder_decoder", None, None, {"l1"}, 10),
    "table2/encoder_decoder-l1+cgan": (
        "encoder_decoder",
        "patchgan70",
        True,
        {"adversarial", "l1"},
        10,
    ),
    "table2/unet-l1": ("unet", None, None, {"l1"}, 10),
    "table2/unet-l1+cgan": ("unet", "patchgan70", True, {"adversarial", "l1"}, 10),
    "table3/1x1": ("unet", "pixelgan", True, {"adversarial", "l1"}, 1),
    "table3/16x16": ("unet", "patchgan16", True, {"adversarial", "l1"}, 1),
    "table3/70x70": ("unet", "patchgan70", True, {"adversarial", "l1"}, 1),
    "table3/286x286": ("unet", "patchgan286", True, {"adversarial", "l1"}, 1),
}
OTHERS = {
    "quickstart",
    "photo2labels",
    "facades-segmenter",
    "denoise",
    "deblur",
    "superresolution",
    "compare/losses",
    "compare/generators",
    "compare/receptive_fields",
}
ERRATUM = "Differs from the paper: no norm in the innermost layer"


def comment(name):
    lines = shipped_recipes()[name].read_text(encoding="utf-8").splitlines()
    start = [
        line.lstrip("# ") for line in lines[: next(i for i, x in enumerate(lines) if x[:1] != "#")]
    ]
    return " ".join(start)


def test_nothing_is_missing():
    assert shipped_recipes().keys() == {*EXPERIMENTS, *TABLES, *OTHERS}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_has_the_papers_numbers(name, registry):
    recipe = load_recipe(find_recipe(name), registry)
    epochs, batch, direction, mirror, jitter = EXPERIMENTS[name]
    assert (recipe.train.epochs, recipe.train.batch_size) == (epochs, batch)
    assert recipe.data.direction == direction
    assert recipe.data.mirror is mirror
    assert (recipe.data.load_size, recipe.data.crop_size) == (286 if jitter else 256, 256)
    assert recipe.data.test_size == (512 if name.startswith("maps") else 256)
    losses = [(loss.name, loss.weight) for loss in recipe.losses]
    assert losses == [("adversarial", 1.0), ("l1", 100.0)]
    assert recipe.discriminator.name == "patchgan70"
    method = recipe.method.settings
    assert (method["learning_rate"], method["beta1"], method["beta2"]) == (2e-4, 0.5, 0.999)


@pytest.mark.parametrize("name", TABLES)
def test_a_row_of_a_table(name, registry):
    recipe = load_recipe(find_recipe(name), registry)
    generator, discriminator, conditional, losses, batch = TABLES[name]
    assert recipe.generator.name == generator
    assert {loss.name for loss in recipe.losses} == losses
    assert recipe.train.batch_size == batch
    assert (recipe.discriminator and recipe.discriminator.name) == discriminator
    if discriminator:
        assert recipe.conditional is conditional
    # But for that they are one experiment.
    base = load_recipe(find_recipe("cityscapes_labels2photo"), registry)
    assert recipe.data == base.data
    assert recipe.task == base.task
    assert recipe.train.epochs == base.train.epochs


@pytest.mark.parametrize("name", [*EXPERIMENTS, *TABLES])
def test_it_says_what_it_needs_and_what_differs(name, registry):
    recipe = load_recipe(find_recipe(name), registry)
    assert recipe.preset == "paper"
    assert recipe.generator.settings["width"] == 64
    assert recipe.generator.settings["innermost_norm"] is False
    about = comment(name)
    assert ERRATUM in about
    assert "Needs " in about


# Each of them runs, small


@pytest.fixture(scope="session")
def any_data(tmp_path_factory):
    """A root that every source of a shipped recipe can read; label maps on the right and in B."""
    from img2img.tasks.palettes import PALETTES

    root = tmp_path_factory.mktemp("data")
    colours = np.array(list(PALETTES["facades"].values()), np.uint8)
    random = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1)):
        for number in range(count):
            blocks = random.integers(0, len(colours), (4, 4)).repeat(32, 0).repeat(32, 1)
            photo = random.integers(0, 256, (128, 128, 3), dtype=np.uint8)
            for folder, image in (("side", np.concatenate([photo, colours[blocks]], 1)),):
                path = root / folder / split / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
            for folder in ("thermal", "visible"):
                path = root / "two" / split / folder / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(photo).save(path)
            path = root / "photos" / split / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo).save(path)
    return root


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_recipe_runs(name, registry, any_data, tmp_path):
    recipe = load_recipe(find_recipe(name), registry)
    small = {
        "train.steps": 1,
        "train.batch_size": 1,
        "train.log_every": 1,
        "data.crop_size": 128,
        "data.test_size": 128,
        "generator.width": 4,
    }
    if recipe.discriminator is not None:
        small["discriminator.width"] = 4
    if "pretrained" in recipe.generator.settings:
        small |= {"generator.pretrained": False, "generator.backbone": "resnet10t"}
    source = recipe.source.name
    if source == "synthetic":
        small |= {"data.count": 10, "data.size": 128}
    else:
        folder = {"side_by_side": "side", "two_folders": "two"}.get(source, "photos")
        small["data.root"] = str(any_data / folder)
    done = img2img.train(name, out=tmp_path / "run", device="cpu", overrides=small)
    score = "accuracy" if recipe.task.name == "photo2labels" else "l1"
    assert 0 <= done.validation[score] <= 1
    assert (done.path / "model.safetensors").is_file()
