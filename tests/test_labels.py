"""Label maps: palettes, classes out of smeared colours, what does not fit, and indexed outputs."""

import io
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import img2img
from img2img.cli import main
from img2img.data.checking import look_through
from img2img.data.memory import to_indexed
from img2img.data.reading import read_image
from img2img.data.side_by_side import SideBySide
from img2img.data.survey import survey
from img2img.data.writing import write_picture
from img2img.errors import DataError, RequestError
from img2img.evaluation.scores import baselines, validate
from img2img.inference import Policy, Translator
from img2img.inference.folder import translate_files
from img2img.inference.naming import Naming
from img2img.inference.planning import Plan
from img2img.metrics import L1, Accuracy
from img2img.picture import Picture, to_depth, to_display
from img2img.tasks import Labels, PhotoToLabels
from img2img.tasks.classes import fits_palette, main_colours, matching_palette, to_classes
from img2img.tasks.palettes import PALETTES, find_palette

FACADES = find_palette("facades")
REAL = Path(__file__).parents[2] / "shared" / "data" / "facades"


def front(seed=0, size=256):
    """Class indices (size, size) as of a house: rows of windows on a wall, ledges, a door."""
    rng = np.random.default_rng(seed)
    classes = np.zeros((size, size), np.uint8)
    unit = size // 16
    classes[2 * unit : 15 * unit, unit : 15 * unit] = 1
    for top in range(3 * unit, 13 * unit, 3 * unit):
        classes[top - unit // 4 : top, unit : 15 * unit] = 9
        for left in range(2 * unit, 14 * unit, 3 * unit):
            left += int(rng.integers(0, unit))
            classes[top + unit // 2 : top + 2 * unit, left : left + unit] = 2
            above, below = rng.choice([4, 5, 6, 7, 8, 10], 2)
            classes[top + unit // 4 : top + unit // 2, left : left + unit] = above
            classes[top + 2 * unit : top + 2 * unit + unit // 3, left : left + unit] = below
    classes[13 * unit : 15 * unit, 4 * unit : 6 * unit] = 3
    classes[13 * unit : 15 * unit, 8 * unit : 14 * unit] = 11
    return classes


def photo(seed=0, size=256):
    """Something with soft shades and grain, as a photograph has."""
    rng = np.random.default_rng(seed)
    soft = cv2.resize(rng.uniform(20, 235, (6, 6, 3)), (size, size), interpolation=cv2.INTER_CUBIC)
    return (soft + rng.normal(0, 4, soft.shape)).clip(0, 255).astype(np.uint8)


def as_jpeg(image, quality=75):
    saved = io.BytesIO()
    Image.fromarray(image).save(saved, "JPEG", quality=quality)
    return np.array(Image.open(saved))


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a command as typed; gives its exit code, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["img2img", *map(str, arguments)])
        capsys.readouterr()
        try:
            code = main()
        except SystemExit as ended:
            code = ended.code
        return code or 0, *capsys.readouterr()

    return run


def brute_force(image, palette):
    """Classes of the nearest colours and their distances, in float64."""
    every = np.linalg.norm(image[:, :, None].astype(float) - palette.astype(float), axis=-1)
    return every.argmin(-1), every.min(-1)


# Palettes


def test_shipped_palettes():
    names = "background, facade, window, door, cornice, sill, balcony, blind, deco, molding, pillar"
    assert list(PALETTES["facades"]) == [*names.split(", "), "shop"]
    assert len(PALETTES["cityscapes"]) == 29
    for name in PALETTES:
        colours = find_palette(name)
        assert colours.dtype == np.uint8
        assert len(np.unique(colours, axis=0)) == len(colours) == len(PALETTES[name])


def test_facades_are_every_fifth_row_of_jet():
    """MATLAB's jet(64): each channel is a trapezium, 16 rows up, 16 at the top, 16 down."""
    rows = np.arange(6, 62, 5)
    channels = [
        np.clip(np.minimum(rows - start, start + 48 - rows) / 16, 0, 1) for start in (24, 8, -8)
    ]
    expected = np.floor(np.stack(channels, axis=1) * 255 + 0.5)
    assert (find_palette("facades") == expected).all()


@pytest.mark.parametrize("task", [Labels, PhotoToLabels])
@pytest.mark.parametrize(
    ("palette", "message"),
    [
        ("facade", r"no palette 'facade' \(did you mean 'facades'\?\); possible: facades, citys"),
        ("x", "no palette 'x'; possible"),
        ([[0, 0]], r"not \[0, 0\]"),
        ([[0, 0, 0], [0, 0, 256]], r"not \[0, 0, 256\]"),
        ([[1, 2, 3]], "two to 256 colours, not 1"),
        ([[i, 0, j] for i in range(20) for j in range(20)], "two to 256 colours, not 400"),
        ([[0, 0, 0], [9, 9, 9], [0, 0, 0]], r"\[0, 0, 0\] to the classes 0 and 2"),
    ],
)
def test_palettes_that_are_none_are_refused(task, palette, message):
    with pytest.raises(ValueError, match=message):
        task(palette=palette)


def test_one_hot_needs_a_palette():
    with pytest.raises(ValueError, match="needs a palette, such as palette = 'facades'"):
        Labels(encoding="onehot")


# From colours to classes


@pytest.mark.parametrize("name", PALETTES)
def test_every_colour_is_its_own_class(name):
    colours = find_palette(name)
    assert (to_classes(colours[:, None], colours)[:, 0] == np.arange(len(colours))).all()
    # So are greys one level apart, as in a map that holds its indices.
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    assert (to_classes(greys[:, None], greys)[:, 0] == np.arange(256)).all()


@pytest.mark.parametrize("name", PALETTES)
def test_sure_pixels_have_the_nearest_colour_exactly(name):
    colours = find_palette(name)
    # More than one chunk of pixels, and a size that no chunk divides.
    index = np.random.default_rng(0).integers(0, len(colours), (33, 65))
    image = as_jpeg(colours[index].repeat(5, axis=0).repeat(5, axis=1))
    expected, distance = brute_force(image, colours)
    found = to_classes(image, colours)
    sure = distance <= 30
    assert 0.02 < sure.mean() < 0.98
    assert (found[sure] == expected[sure]).all()


def test_of_equally_near_colours_the_first_counts():
    palette = find_palette([[0, 0, 0], [20, 0, 0], [10, 10, 0]])
    image = np.array([[[10, 0, 0]]], np.uint8)
    assert to_classes(image, palette)[0, 0] == 0
    assert to_classes(image, palette[::-1].copy())[0, 0] == 0


def test_a_border_between_two_classes_is_no_third():
    """Between red and blue lies a purple that is near neither; a palette may well have one."""
    palette = find_palette([[0, 0, 255], [255, 0, 0], [140, 40, 140]])
    image = np.zeros((9, 12, 3), np.uint8)
    image[:, :6], image[:, 6:] = (0, 0, 255), (255, 0, 0)
    image[:, 5], image[:, 6] = (90, 0, 165), (165, 0, 90)
    found = to_classes(image, palette)
    assert (found[:, :6] == 0).all()
    assert (found[:, 6:] == 1).all()
    # An area of that colour is its class, as is a mixture where nothing around is sure.
    image[:, 3:9] = (140, 40, 140)
    assert (to_classes(image, palette)[:, 3:9] == 2).all()
    alone = np.full((5, 5, 3), (120, 80, 120), np.uint8)
    assert (to_classes(alone, palette) == 2).all()


@pytest.mark.parametrize(
    ("quality", "at_least", "nearest_at_most"),
    [(95, 0.998, 0.96), (75, 0.997, 0.96), (50, 0.99, 0.96)],
)
def test_classes_survive_jpeg(quality, at_least, nearest_at_most):
    """Of the truth before JPEG; the nearest colour alone loses one in twenty."""
    right, nearest = [], []
    for seed in range(4):
        truth = front(seed)
        smeared = as_jpeg(FACADES[truth], quality)
        right.append((to_classes(smeared, FACADES) == truth).mean())
        nearest.append((brute_force(smeared, FACADES)[0] == truth).mean())
    assert np.mean(right) > at_least
    assert np.mean(nearest) < nearest_at_most


# The tasks


def test_one_hot_sources():
    task = Labels(palette="facades", encoding="onehot")
    classes = front(size=64)
    source = task.encode_source(FACADES[classes])
    assert source.shape == (task.source_channels, 64, 64) == (12, 64, 64)
    assert source.dtype == torch.float32
    assert (source.argmax(0).numpy() == classes).all()
    assert set(source.unique().tolist()) == {0, 1}
    assert (source.sum(0) == 1).all()
    assert (task.decode_source(source) == FACADES[classes]).all()
    picture = photo(size=64)
    shown = task.decode_target(task.encode_target(picture), source)
    assert (to_depth(shown, np.uint8) == picture).all()


def test_rgb_sources_take_the_palettes_colours():
    task = Labels(palette="facades")
    image = FACADES[front()]
    source = task.encode_source(as_jpeg(image))
    assert source.shape == (3, 256, 256)
    shown = to_display(task.decode_source(source))
    allowed = {tuple(colour) for colour in FACADES.tolist()}
    assert {tuple(colour) for colour in shown.reshape(-1, 3).tolist()} <= allowed
    assert (shown == image).all(axis=-1).mean() > 0.98
    assert (task.source_interpolation, task.target_interpolation) == ("nearest", "smooth")


def test_targets_of_labels_are_images():
    """An attribute of the name `palette` would give their generator a softmax."""
    assert not hasattr(Labels(palette="facades", encoding="onehot"), "palette")


def test_photo_to_labels():
    task = PhotoToLabels(palette=[[0, 0, 0], [200, 0, 0], [0, 0, 200]])
    assert (task.source_channels, task.target_channels) == (3, 3)
    assert (task.source_interpolation, task.target_interpolation) == ("smooth", "nearest")
    image = np.array([[[9, 9, 9], [180, 20, 0]], [[10, 0, 190], [0, 0, 0]]], np.uint8)
    target = task.encode_target(image)
    assert target.argmax(0).tolist() == [[0, 1], [2, 0]]
    probabilities = torch.tensor([0.3, 0.45, 0.25]).view(3, 1, 1).expand(3, 2, 2)
    shown = task.decode_target(probabilities.bfloat16(), task.encode_source(image))
    assert (shown == (200, 0, 0)).all()


def test_its_default_is_facades():
    assert (PhotoToLabels().palette == FACADES).all()


# What does not fit


@pytest.mark.parametrize("quality", [100, 75, 40])
def test_smeared_label_maps_fit(quality):
    for seed in range(3):
        smeared = as_jpeg(FACADES[front(seed)], quality)
        assert fits_palette(smeared, FACADES)
        assert matching_palette(smeared) == "facades"
        half = cv2.resize(smeared, (100, 100), interpolation=cv2.INTER_AREA)
        assert fits_palette(half, FACADES)


def test_maps_of_many_small_areas_fit():
    """Without two equal neighbours, all pixels count."""
    index = np.random.default_rng(0).integers(0, 12, (40, 40))
    assert fits_palette(FACADES[index], FACADES)
    assert not fits_palette(FACADES[index] // 2, FACADES)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image[..., ::-1],
        lambda image: (image * 0.85).astype(np.uint8),
        lambda image: cv2.GaussianBlur(image, (0, 0), 10),
        lambda image: np.repeat(image.mean(-1, keepdims=True), 3, axis=-1).astype(np.uint8),
        lambda image: photo(),
        lambda image: np.full_like(image, 255),
    ],
    ids=["swapped", "darker", "blurred", "grey", "photo", "white"],
)
def test_other_images_do_not_fit(change):
    image = change(FACADES[front()])
    assert not fits_palette(image, FACADES)
    for task, pair in (
        (Labels(palette="facades"), (image, photo(1))),
        (PhotoToLabels(), (photo(1), image)),
    ):
        said = task.misfit(*pair)
        assert "its main colours are [" in said
        assert "change task.palette" in said
        assert "\n" not in said


def test_misfits_name_colours_that_are_there():
    image = np.full((64, 64, 3), (10, 200, 30), np.uint8)
    image[:, 40:] = (250, 240, 230)
    assert main_colours(image) == [[10, 200, 30], [250, 240, 230]]
    assert np.abs(np.subtract(main_colours(as_jpeg(image)), main_colours(image))).max() <= 2
    assert "[10, 200, 30], [250, 240, 230];" in PhotoToLabels().misfit(photo(), image)


def test_images_that_changed_places_are_named():
    drawn, taken = as_jpeg(FACADES[front()]), photo()
    assert Labels(palette="facades").misfit(drawn, taken) is None
    assert PhotoToLabels().misfit(taken, drawn) is None
    said = Labels(palette="facades").misfit(taken, drawn)
    assert said == "the source is no label map in the colours of task.palette, the target is"
    said = PhotoToLabels().misfit(drawn, taken)
    assert said == "the target is no label map in the colours of task.palette, the source is"


def test_another_shipped_palette_is_named():
    said = PhotoToLabels(palette="cityscapes").misfit(photo(), FACADES[front()])
    assert said.endswith("set task.palette to 'facades'")


def test_without_a_palette_anything_is_a_label_map():
    assert Labels().misfit(photo(), photo(1)) is None


# In a run


def pairs_below(root, train=6, val=2, odd=(), size=64):
    """Side by side, photo left, labels right; at the places in `odd` both are photographs."""
    for split, count in (("train", train), ("val", val)):
        (root / split).mkdir(parents=True)
        for number in range(count):
            labels = FACADES[front(number, size)]
            if split == "train" and number in odd:
                labels = photo(100 + number, size)
            pair = np.concatenate([photo(number, size), labels], axis=1)
            Image.fromarray(pair).save(root / split / f"{number:02}.png")
    return root


def recipe_for(folder, root, **tables):
    """A recipe of a few small steps, written into a folder."""
    plain = {
        "task": {"name": "photo2labels"},
        "data": {"root": str(root), "crop_size": 32, "load_size": 34},
        "generator": {"width": 4},
        "train": {"steps": 2, "sample_every": 2, "log_every": 1},
    }
    text = 'name = "tiny"\n'
    for table, keys in plain.items():
        text += f"[{table}]\n"
        for key, value in (keys | tables.get(table, {})).items():
            text += f"{key} = {json.dumps(value)}\n"
    path = folder / "tiny.toml"
    path.write_text(text + '[[losses]]\nname = "l1"\n')
    return path


def test_a_run_from_photo_to_indexed_files(tmp_path, call):
    recipe = recipe_for(tmp_path, pairs_below(tmp_path / "pairs"))
    run = img2img.train(recipe, out=tmp_path / "run", device="cpu")
    scores = run.validation
    assert 0 <= scores["accuracy"] <= 1
    assert scores.keys() == {"accuracy", "accuracy_most_frequent"}
    # Facade is the commonest class. Halving to the nearest pixel takes every second one.
    shares = [(front(number, 64)[1::2, 1::2] == 1).mean() for number in range(2)]
    assert scores["accuracy_most_frequent"] == pytest.approx(np.mean(shares))
    assert list((tmp_path / "run" / "samples").iterdir())
    Image.fromarray(photo(size=48)).save(tmp_path / "a.jpg")
    arguments = ["infer", tmp_path / "run", tmp_path / "a.jpg", tmp_path / "out", "--device", "cpu"]
    assert call(*arguments)[0] == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
    with Image.open(tmp_path / "out" / "a.png") as found:
        assert found.mode == "P"
        assert found.size == (48, 48)
        assert np.asarray(found).max() < 12
        assert (np.array(found.getpalette()).reshape(-1, 3)[:12] == FACADES).all()
    code, _, said = call(*arguments, "--format", "jpg")
    assert code == 2
    assert "--format jpg cannot hold them exactly: use --format png" in said
    # What counts is what is there under the name that the result really gets.
    code, _, said = call(*arguments)
    assert code == 2
    assert "a.png is already there" in said
    (tmp_path / "out" / "a.png").rename(tmp_path / "out" / "a.jpg")
    assert call(*arguments)[0] == 0


def test_one_hot_labels_to_photo_run(tmp_path):
    recipe = recipe_for(
        tmp_path,
        pairs_below(tmp_path / "pairs"),
        task={"name": "labels", "palette": "facades", "encoding": "onehot"},
        data={"root": str(tmp_path / "pairs"), "crop_size": 32, "direction": "BtoA"},
    )
    run = img2img.train(recipe, out=tmp_path / "run", device="cpu")
    assert "accuracy" not in run.validation
    model = run.load(device="cpu")
    assert model.task.source_channels == 12
    shown = model(FACADES[front(size=48)])
    assert shown.shape == (48, 48, 3)
    # Photographs come out, not classes.
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 12


@pytest.mark.parametrize("odd", [range(6), range(4)])
def test_a_run_refuses_data_without_labels(tmp_path, odd):
    recipe = recipe_for(tmp_path, pairs_below(tmp_path / "pairs", odd=odd))
    with pytest.raises(DataError, match=rf"{len(odd)} of 6 .*do not suit .*photo2labels.*00\.png"):
        img2img.train(recipe, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("derive", ["edges", "copy"])
def test_photographs_alone_have_no_labels(tmp_path, derive):
    root = tmp_path / "photos"
    root.mkdir()
    for number in range(4):
        Image.fromarray(photo(number)).save(root / f"{number}.png")
    data = {"source": "derived", "derive": derive, "root": str(root)}
    recipe = recipe_for(tmp_path, root, data=data)
    with pytest.raises(DataError, match="if it is no label map, the data or the task"):
        img2img.train(recipe, out=tmp_path / "run", device="cpu")


def test_a_run_refuses_the_wrong_direction(tmp_path):
    data = {"direction": "BtoA"}
    recipe = recipe_for(tmp_path, pairs_below(tmp_path / "pairs"), data=data)
    with pytest.raises(DataError, match=r"data\.direction is the wrong way round"):
        img2img.train(recipe, out=tmp_path / "run", device="cpu")


def test_a_run_warns_of_a_few_odd_pairs(tmp_path):
    recipe = recipe_for(tmp_path, pairs_below(tmp_path / "pairs", odd=[3]))
    said = r"1 of 6 .*03\.png: .*`img2img check --json` lists all"
    with pytest.warns(RuntimeWarning, match=said):
        img2img.train(recipe, out=tmp_path / "run", device="cpu")


def test_check_lists_what_the_task_cannot_use(tmp_path, call):
    recipe = recipe_for(tmp_path, pairs_below(tmp_path / "pairs", odd=[1, 4]))
    code, shown, said = call("check", recipe)
    assert code == 2
    assert "01.png: the target is no label map" in shown
    assert "04.png: the target is no label map" in shown
    assert shown.count("png: the target") == 2
    assert said == "error: 2 of 8 pairs cannot be used; remove or mend them\n"
    code, shown, said = call("check", recipe, "--set", "data.direction=BtoA", "--json")
    assert code == 2
    reasons = [problem["reason"] for problem in json.loads(shown)["problems"]]
    assert len(reasons) == 8
    assert sum("wrong way round" in reason for reason in reasons) == 6
    assert "the reasons say what to do" in said


def test_look_through_judges_each_pair(tmp_path):
    source = SideBySide(pairs_below(tmp_path, odd=[2]), "train")
    findings = look_through(source, judge=PhotoToLabels().misfit)
    assert findings.problems == []
    assert list(findings.seen.misfits) == [2]
    assert not findings.seen.misfits[2].exchanged
    assert sum(findings.sizes.values()) == 5


def test_new_writes_the_palette(tmp_path, monkeypatch, call):
    pairs_below(tmp_path / "pairs")
    monkeypatch.chdir(tmp_path)
    assert call("new", "fronts", "--data", "pairs")[0] == 0
    text = Path("fronts.toml").read_text()
    assert '\nname = "labels"\n' in text
    assert '\npalette = "facades"\n' in text
    assert '\ndirection = "BtoA"\n' in text
    code, _, said = call("check", "fronts.toml")
    # Both to validate on are among those to train on.
    assert (code, said[:20]) == (1, "error: 2 things look")


def test_new_gives_drawings_on_black_no_palette(tmp_path):
    """Cityscapes has a black too."""
    for number in range(3):
        drawing = np.zeros((64, 64, 3), np.uint8)
        cv2.circle(drawing, (32, 32), 10 + number, (255, 255, 255), 1)
        pair = np.concatenate([drawing, photo(number, 64)], axis=1)
        Image.fromarray(pair).save(tmp_path / f"{number}.png")
    assert survey(tmp_path).palette is None


# Outputs


class Brightness(nn.Module):
    """Probabilities by grey: dark is class 0, light class 2, between them 1."""

    def forward(self, source):
        grey = source.mean(1, keepdim=True)
        return torch.cat([-grey - 0.3, torch.zeros_like(grey), grey - 0.3], 1).mul(5).softmax(1)


def class_translator(scale=(1.0, 1.0)):
    task = PhotoToLabels(palette=[[10, 20, 30], [255, 0, 0], [0, 0, 250]])
    return Translator(Brightness(), task, Policy(scale=scale))


def test_translator_gives_classes():
    model = class_translator()
    ramp = np.linspace(0, 255, 60).astype(np.uint8)
    image = np.repeat(ramp[None, :, None], 8, axis=0).repeat(3, axis=2)
    colours = model(image)
    assert colours.shape == (8, 60, 3)
    picture = model(Image.fromarray(image))
    assert picture.mode == "P"
    assert picture.size == (60, 8)
    index = np.asarray(picture)
    assert (model.task.palette[index] == colours).all()
    assert (np.diff(index.astype(int)) >= 0).all()
    assert set(index.ravel()) == {0, 1, 2}
    assert (np.asarray(picture.convert("RGB")) == colours).all()
    tensor = model(model.task.encode_source(image))
    assert tensor.shape == (3, 8, 60)
    assert torch.allclose(tensor.sum(0), torch.ones(8, 60))
    assert (tensor.argmax(0).numpy() == index).all()


def test_probabilities_are_resized_smoothly():
    """A slanting border seen at an eighth of the size comes back slanting, not in steps of 8."""
    y, x = np.mgrid[:128, :128]
    image = np.where((x + 0.5 * y > 100)[..., None], 255, 0).astype(np.uint8).repeat(3, axis=2)
    shown = class_translator(scale=(0.125, 0.125))(image)
    light = (shown == (0, 0, 250)).all(-1)
    edges = [int(row.argmax()) for row in light[16:112]]
    steps = -np.diff(edges)
    assert steps.min() >= 0
    assert steps.max() <= 4
    assert abs(np.mean(edges) - np.mean(100 - 0.5 * np.arange(16, 112))) < 8


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_indexed_files_hold_classes_and_palette(tmp_path, suffix):
    classes = front(size=32)
    path = tmp_path / f"a{suffix}"
    write_picture(path, Picture(FACADES[classes]), FACADES)
    with Image.open(path) as found:
        assert found.mode == "P"
        assert (np.asarray(found) == classes).all()
    # And they can be read as label maps again.
    assert (read_image(path) == FACADES[classes]).all()


def test_indices_are_those_of_any_palette():
    palette = np.random.default_rng(0).permutation(256)[:, None].repeat(3, 1).astype(np.uint8)
    index = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (np.asarray(to_indexed(palette[index], palette)) == index).all()
    for other in ((1, 2, 3), (255, 255, 254), (0, 0, 1)):
        with pytest.raises(ValueError, match="colours that the palette lacks"):
            to_indexed(np.full((2, 2, 3), other, np.uint8), palette)


def test_folders_of_classes_become_png(tmp_path):
    for name in ("a.jpg", "b.png", "deep/c.webp", "d.tif"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(size=16)).save(path)
    plan = Plan(tmp_path / "in", tmp_path / "out", Naming(indexed=True))
    assert translate_files(class_translator(), plan).written == 4
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in written)
    assert names == ["a.png", "b.png", "d.tif", "deep/c.png"]
    for path in written:
        with Image.open(path) as found:
            assert found.mode == "P"
    kept = Plan(tmp_path / "in", tmp_path / "out", Naming()).jobs()
    assert sorted(job.files[0].suffix for job in kept) == [".jpg", ".png", ".tif", ".webp"]


def test_formats_without_a_palette_are_refused_for_classes(tmp_path):
    Image.fromarray(photo(size=16)).save(tmp_path / "a.jpg")
    for output, suffix, said in (
        (tmp_path, ".jpg", "--format jpg cannot hold them exactly"),
        (tmp_path, ".webp", "--format webp cannot hold them exactly"),
        (tmp_path / "b.jpg", None, r"classes, and \.jpg cannot hold them exactly"),
    ):
        with pytest.raises(RequestError, match=said):
            Plan(tmp_path / "a.jpg", output, Naming(suffix, indexed=True))
    (job,) = Plan(tmp_path / "a.jpg", tmp_path / "b.tif", Naming(indexed=True)).jobs()
    assert job.files == (tmp_path / "b.tif",)


# Scores


class OneScene:
    """A dataset of given pairs of tensors."""

    def __init__(self, *pairs):
        self._tensors = pairs
        self.pairs = self

    def __len__(self):
        return len(self._tensors)

    def name(self, index):
        return str(index)

    def tensors(self, index, epoch=0):
        return self._tensors[index]


def test_accuracy_is_the_share_of_right_pixels():
    model = class_translator()
    grey = torch.linspace(-1, 1, 32).view(1, 1, 32).expand(3, 16, 32)
    answer = model.translate(grey[None])[0].argmax(0)
    truth = answer.clone()
    truth[:4] = (truth[:4] + 1) % 3
    target = nn.functional.one_hot(truth, 3).permute(2, 0, 1).float()
    found = validate(model, OneScene((grey, target)), {"accuracy": Accuracy(), "l1": L1()})
    # Distances between the palette's colours would say nothing.
    assert found.scores == {"accuracy": pytest.approx(0.75)}
    assert "are classes" in found.failed["l1"]


def test_most_frequent_class_is_that_of_the_training_pairs():
    def scene(*shares):
        index = torch.repeat_interleave(torch.arange(3), torch.tensor(shares)).view(4, 4)
        return torch.zeros(3, 4, 4), nn.functional.one_hot(index, 3).permute(2, 0, 1).float()

    train = OneScene(scene(2, 10, 4), scene(4, 6, 6))
    validation = OneScene(scene(8, 4, 4), scene(8, 6, 2))
    scores = baselines(train, validation, class_translator().task)
    assert scores == {"accuracy_most_frequent": pytest.approx((4 + 6) / 32)}


# The authors' files


@pytest.mark.skipif(not REAL.is_dir(), reason=f"wants the authors' facades in {REAL}")
def test_the_authors_facades():
    files = sorted((REAL / "val").glob("*.jpg"))
    assert len(files) == 50
    total = np.zeros(12)
    for file in files:
        pair = read_image(file)
        taken, drawn = pair[:, :256], pair[:, 256:]
        assert matching_palette(drawn) == "facades"
        assert matching_palette(taken) is None
        assert PhotoToLabels().misfit(taken, drawn) is None
        assert Labels(palette="facades").misfit(taken, drawn).endswith("the target is")
        classes = to_classes(drawn, FACADES)
        total += np.bincount(classes.ravel(), minlength=12)
        # Flat pixels are at most a rounding of JPEG away from the palette.
        slope = cv2.dilate(drawn.copy(), np.ones((5, 5))) - cv2.erode(drawn.copy(), np.ones((5, 5)))
        flat = slope.max(-1) <= 3
        off = np.abs(drawn.astype(int) - FACADES[classes])[flat]
        assert np.percentile(off, 99) <= 3, file
    share = dict(zip(PALETTES["facades"], total / total.sum(), strict=True))
    assert min(share.values()) > 0.002
    assert share["facade"] == max(share.values())
    assert share["window"] > share["balcony"] > share["door"]
