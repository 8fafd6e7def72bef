"""Training on images that are not 8-bit RGB: what sources read, what runs make of it."""

import json
import sys

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

import img2img
from img2img.assemble.datasets import judge_of
from img2img.cli import main
from img2img.data import Damaged, Derived, HuggingFace, SideBySide, TwoFolders
from img2img.data.augmentation import Augmentation, ColorChange
from img2img.data.images import resize_image
from img2img.data.loading import PairDataset
from img2img.data.survey import survey
from img2img.errors import DataError, ImageError, RecipeError
from img2img.evaluation.evaluating import as_tensor
from img2img.evaluation.scores import baselines
from img2img.metrics import L1, PSNR, SSIM
from img2img.picture import fit_channels, lay_on_white, to_depth
from img2img.tasks import Edges, Paired

RECIPE = """
name = "deep"
[task]
name = "paired"
source_channels = {first}
target_channels = {second}
[data]
source = "{source}"
root = "{root}"
load_size = 36
crop_size = 32
[generator]
width = 4
[discriminator]
name = "patchgan16"
width = 4
[[losses]]
name = "adversarial"
[[losses]]
name = "l1"
weight = 100
[train]
steps = 2
batch_size = 2
log_every = 2
sample_every = 2
sample_count = 2
"""


def shapes(channels, seed=0, size=40):
    """Floats in [0, 1] that are smooth, with something in each of them."""
    random = np.random.default_rng(seed)
    planes = []
    for _ in range(channels):
        plane = np.full((size, size), random.uniform(0.1, 0.4), np.float32)
        x, y, radius = (int(v) for v in random.integers(12, 28, 3))
        cv2.circle(plane, (x, y), radius // 2, float(random.uniform(0.6, 0.9)), -1)
        planes.append(cv2.GaussianBlur(plane, (0, 0), 1.0))
    return np.dstack(planes)


def write(path, image):
    """(H, W, C) by libraries that are not ours, in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image[..., 0] if image.shape[2] == 1 else image
    if path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(image))
    else:
        tifffile.imwrite(path, image, photometric="minisblack", planarconfig="contig")
    return path


def write_folders(root, first, second, dtype, suffix, count=5):
    for split, start in (("train", 0), ("val", 100)):
        for i in range(count):
            for folder, channels in (("A", first), ("B", second)):
                image = to_depth(shapes(channels, start + 2 * i + (folder == "B")), dtype)
                write(root / split / folder / f"{i}{suffix}", image)


# Sources


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_two_folders_give_what_is_there(tmp_path, dtype):
    write_folders(tmp_path, 5, 2, dtype, ".npy", count=2)
    first, second = TwoFolders(tmp_path, "train", (5, 2)).pair(1)
    assert first.dtype == second.dtype == dtype
    assert (first == to_depth(shapes(5, 2), dtype)).all()
    assert (second == to_depth(shapes(2, 3), dtype)).all()
    with pytest.raises(ImageError, match="has 5 channels, and the model takes 3"):
        TwoFolders(tmp_path, "train").pair(0)


def test_halves_of_a_file_may_differ_in_their_channels(tmp_path):
    image = np.concatenate([shapes(4, 0), shapes(4, 1)], axis=1)
    deep = to_depth(image, np.uint16)
    write(tmp_path / "1.png", deep)
    left, right = deep[:, :40], deep[:, 40:]
    cases = {
        (4, 4): (left, right),
        (3, 1): (on_white(left), fit_channels(on_white(right), 1)),
        (1, 4): (fit_channels(on_white(left), 1), right),
    }
    for channels, expected in cases.items():
        pair = SideBySide(tmp_path, "train", channels).pair(0)
        assert all((a == b).all() for a, b in zip(pair, expected, strict=True))


def on_white(rgba):
    return lay_on_white(rgba[..., :3], rgba[..., 3])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_derived_pairs_keep_the_photographs_depth(tmp_path, dtype):
    photo = to_depth(shapes(3), dtype)
    write(tmp_path / "1.png", photo)
    for derive in ("copy", "grey", "edges"):
        first, second = Derived(tmp_path, "train", derive=derive).pair(0)
        assert (second == photo).all()
        assert first.shape == photo.shape
        assert first.dtype == (np.uint8 if derive == "edges" else dtype)
    grey = Derived(tmp_path, "train", derive="grey").pair(0)[0]
    assert np.abs(grey.astype(float) - fit_channels(photo, 1)).max() <= 1
    edges = Derived(tmp_path, "train", derive="edges").pair(0)[0]
    eight = tmp_path / "eight"
    write(eight / "1.png", to_depth(photo, np.uint8))
    assert (edges == Derived(eight, "train", derive="edges").pair(0)[0]).all()


def test_a_first_look_at_deep_images(tmp_path):
    """The same as at their 8 bits; and what it cannot guess about, it says."""
    for name, dtype in (("eight", np.uint8), ("sixteen", np.uint16)):
        write_folders(tmp_path / name, 1, 3, dtype, ".png")
    assert survey(tmp_path / "sixteen") == survey(tmp_path / "eight")
    write_folders(tmp_path / "bands", 5, 3, np.uint8, ".npy")
    with pytest.raises(DataError, match=r"0\.npy: has 5 channels, and the model takes 3"):
        survey(tmp_path / "bands")


def test_columns_of_images_keep_depth_and_alpha(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / ".cache")
    grey, sprite = to_depth(shapes(1), np.uint16), to_depth(shapes(4), np.uint16)
    columns = {"a": [], "b": []}
    for _ in range(3):
        columns["a"].append({"bytes": imagecodecs.png_encode(grey[..., 0]), "path": None})
        columns["b"].append({"bytes": imagecodecs.png_encode(sprite), "path": None})
    features = datasets.Features({name: datasets.Image() for name in columns})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "all.parquet")
    first, second = HuggingFace(tmp_path / "all.parquet", "train", (1, 4)).pair(0)
    assert (first == grey).all()
    assert (second == sprite).all()
    with pytest.raises(ImageError, match=r"column 'b': has 3 channels and alpha, .* takes 5"):
        HuggingFace(tmp_path / "all.parquet", "train", (3, 5)).pair(0)


# Augmentation


@pytest.mark.parametrize("how", ["smooth", "nearest"])
@pytest.mark.parametrize("load_size", [None, 24, 64])
@pytest.mark.parametrize("channels", [(1, 3), (5, 2), (4, 4), (9, 1)])
def test_all_channels_move_alike(load_size, channels, how):
    """A copy in every channel stays one, and it is the one that three channels get."""
    plane = shapes(1)
    augment = Augmentation(load_size, 20, mirror=True, rotate=True, source_interpolation=how)
    for seed in range(6):
        expected = augment(plane.repeat(3, axis=2), plane.repeat(3, axis=2), seed)
        found = augment(*(plane.repeat(count, axis=2) for count in channels), seed)
        for one, other, count in zip(expected, found, channels, strict=True):
            assert other.shape == (20, 20, count)
            assert other.dtype == np.float32
            assert np.abs(other - one[..., :1]).max() < 1e-5


def test_depths_may_differ_within_a_pair():
    source, target = to_depth(shapes(3), np.uint8), shapes(5)
    found = Augmentation(36, 20, mirror=True)(source, target, 3)
    assert (found[0].dtype, found[1].dtype) == (np.uint8, np.float32)
    alone = Augmentation(36, 20, mirror=True)(source, source, 3)
    assert (found[0] == alone[0]).all()


def test_resizing_stays_in_range():
    """Cubic goes beyond black and white at edges; colour changes do too."""
    steps = np.kron(np.random.default_rng(0).integers(0, 2, (10, 10, 5)), np.ones((4, 4, 1)))
    steps = steps.astype(np.float32)
    for image in Augmentation(64, 50)(steps, steps, 0):
        assert (image.min(), image.max()) == (0, 1)
    color = ColorChange(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2)
    for seed in range(5):
        changed = Augmentation(64, 50, color=color)(steps[..., :3], steps[..., :3], seed)[0]
        assert 0 <= changed.min() < changed.max() <= 1
    resized = resize_image(steps, (77, 55))
    assert resized.shape == (55, 77, 5)
    assert (resized.min(), resized.max()) == (0, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("size", [(9, 7), (30, 60)])
@pytest.mark.parametrize("how", ["smooth", "nearest"])
def test_images_of_any_channels_are_resized(dtype, size, how):
    """Channel by channel, as OpenCV resizes grey ones."""
    image = to_depth(shapes(6, size=20), dtype)
    for count in (1, 2, 3, 4, 5, 6):
        found = resize_image(image[..., :count], size, how)
        assert found.dtype == dtype
        assert found.shape == (size[1], size[0], count)
        for channel in range(count):
            one = resize_image(np.ascontiguousarray(image[..., channel : channel + 1]), size, how)
            error = np.abs(found[..., channel].astype(np.float64) - one[..., 0])
            assert error.max() <= (1e-6 if dtype == np.float32 else 1)


# Datasets


class Pairs:
    """One pair, given."""

    def __init__(self, first, second):
        self.images = first, second

    def __len__(self):
        return 1

    def name(self, index):
        return "the pair"

    def pair(self, index):
        return self.images


def untouched(source, target, seed):
    return source, target


def test_deeper_images_reach_the_network_as_they_are():
    source, target = to_depth(shapes(5), np.uint16), shapes(2, 1)
    task = Paired(source_channels=5, target_channels=2)
    data = PairDataset(Pairs(source, target), task, untouched, swap=False, seed=0)
    found = data.tensors(0)
    expected = source.transpose(2, 0, 1) / 32767.5 - 1
    assert np.abs(found[0].numpy() - expected).max() < 1e-6
    assert np.abs(found[1].numpy() - (target.transpose(2, 0, 1) * 2 - 1)).max() < 1e-6


def test_sources_may_give_colour_for_grey_and_the_other_way_round():
    """One that knows nothing of channels does."""
    photo = to_depth(shapes(3), np.uint8)
    task = Paired(source_channels=1, target_channels=3)
    data = PairDataset(Pairs(photo, photo[..., :1]), task, untouched, swap=False, seed=0)
    source, target = data.tensors(0)
    assert (source == task.encode_source(fit_channels(photo, 1))).all()
    assert (target == target[:1]).all()
    swapped = PairDataset(Pairs(photo[..., :1], photo), task, untouched, swap=True, seed=0)
    assert (swapped.tensors(0)[0] == source).all()


@pytest.mark.parametrize("damage", ["noise", "blur", "shrink", "hole"])
@pytest.mark.parametrize(("first", "second"), [(1, 1), (3, 1), (1, 3)])
def test_damage_is_done_in_colour_whatever_the_task_takes(tmp_path, damage, first, second):
    photo = to_depth(shapes(3), np.uint8)
    write(tmp_path / "1.png", photo)
    source = Damaged(tmp_path, "train", damage=damage)
    augment = Augmentation(None, 32, center=True, derive=source.degrade)
    task = Paired(source_channels=first, target_channels=second)
    found, target = PairDataset(source, task, augment, swap=False, seed=0).tensors(0)
    everything = PairDataset(source, Paired(), augment, swap=False, seed=0).tensors(0)
    for tensor, colour, count in zip((found, target), everything, (first, second), strict=True):
        image = to_depth(Paired().decode_source(colour), np.uint8)
        assert tensor.shape == (count, 32, 32)
        assert (tensor == Paired(source_channels=count).encode_source(image)).all()


def test_what_is_made_from_grey_keeps_its_channel():
    grey = to_depth(shapes(1), np.uint8)
    augment = Augmentation(None, 32, derive=lambda image, seed: cv2.blur(image, (3, 3)))
    source, target = augment(grey, grey, 0)
    assert source.shape == target.shape == (32, 32, 1)


def test_a_pair_that_does_not_fit_is_skipped_and_judged():
    task = Paired(source_channels=5, target_channels=2)
    data = PairDataset(Pairs(shapes(5), shapes(4)), task, untouched, swap=False, seed=0)
    with pytest.raises(ImageError, match="the pair: has 4 channels, and the model takes 2"):
        data.tensors(0)
    judge = judge_of(task, "AtoB")
    assert judge(shapes(5), shapes(4)) == "the target has 4 channels, and the model takes 2"
    assert judge(shapes(3), shapes(2)) == "the source has 3 channels, and the model takes 5"
    assert judge(shapes(5), shapes(2)) is None
    assert judge_of(task, "BtoA")(shapes(2), shapes(5)) is None
    assert judge_of(Edges(), "AtoB")(shapes(1), shapes(3)) is None


# Scores


def score_images(output, target):
    a, b = (as_tensor(image)[None] for image in (output, target))
    return {
        name: float(value)
        for metric in (L1(), PSNR(), SSIM())
        for name, value in metric.update(a, b).items()
    }


def test_scores_of_grey_are_those_of_the_same_in_colour():
    a, b = (to_depth(shapes(1, seed), np.uint8) for seed in (0, 1))
    assert score_images(a, b) == score_images(fit_channels(a, 3), fit_channels(b, 3))
    deep = score_images(to_depth(a, np.uint16), to_depth(b, np.float32))
    assert deep == score_images(a, b)


def test_scores_count_every_channel():
    a = to_depth(shapes(5), np.uint8)
    b = a.copy()
    b[..., 4] = 255 - b[..., 4]
    expected = np.abs(a[..., 4].astype(int) - b[..., 4]).mean() / 255 / 5
    assert score_images(a, b)["l1"] == pytest.approx(expected, rel=1e-5)


def test_handing_back_the_source_is_no_answer_for_other_channels():
    def scores(first, second):
        task = Paired(source_channels=first, target_channels=second)
        pairs = Pairs(shapes(first), shapes(second, 1))
        data = PairDataset(pairs, task, untouched, swap=False, seed=0)
        return baselines(data, data, task)

    assert set(scores(5, 2)) == {"l1_mean_target"}
    assert set(scores(1, 3)) == set(scores(4, 4)) == {"l1_source", "l1_mean_target"}


# Runs


def trained(tmp_path, first, second, source="two_folders", **overrides):
    recipe = tmp_path / "deep.toml"
    root = (tmp_path / "data").as_posix()
    recipe.write_text(RECIPE.format(first=first, second=second, source=source, root=root))
    return img2img.train(recipe, out=tmp_path / "run", device="cpu", overrides=overrides)


def sheet(tmp_path):
    """Each column of the last sample sheet: source, output and target of all rows."""
    path = sorted((tmp_path / "run" / "samples").glob("*.png"))[-1]
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    third = image.shape[1] // 3
    return [image[40:, i * third : (i + 1) * third] for i in range(3)]


@pytest.mark.parametrize(
    ("first", "second", "dtype", "suffix", "direction"),
    [
        (5, 2, np.float32, ".npy", "AtoB"),
        (5, 2, np.float32, ".npy", "BtoA"),
        (1, 1, np.uint16, ".png", "AtoB"),
        (4, 4, np.uint8, ".png", "AtoB"),
        (3, 6, np.uint16, ".tiff", "BtoA"),
    ],
    ids=["npy of 5 to 2", "the other way", "16-bit grey", "RGBA sprites", "RGB to 6 bands"],
)
def test_a_run_on_other_images(tmp_path, first, second, dtype, suffix, direction):
    folders = (first, second) if direction == "AtoB" else (second, first)
    write_folders(tmp_path / "data", *folders, dtype, suffix)
    trained(tmp_path, first, second, **{"data.direction": direction})
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    scores = next(line["validation"] for line in lines if "validation" in line)
    assert 0 < scores["l1"] < 1
    columns = sheet(tmp_path)
    for column in (columns[0], columns[2]):
        # Something is seen: neither black nor white nor noise.
        assert 40 < column.mean() < 252
        assert column.std() > 10
    if (first, second) != (3, 6):
        for column, channels in zip((columns[0], columns[2]), (first, second), strict=True):
            grey = np.ptp(column, axis=2).mean()
            assert (grey < 1) == (channels <= 2)


def test_deep_pairs_look_like_the_same_pairs_of_8_bits(tmp_path):
    sheets = []
    for name, dtype in (("eight", np.uint8), ("sixteen", np.uint16)):
        write_folders(tmp_path / name / "data", 3, 3, dtype, ".png")
        trained(tmp_path / name, 3, 3)
        sheets.append(sheet(tmp_path / name))
    for column in (0, 2):
        assert np.abs(sheets[0][column] - sheets[1][column]).max() <= 2


def test_what_is_trained_comes_out_at_the_depth_that_goes_in(tmp_path):
    write_folders(tmp_path / "data", 4, 4, np.uint16, ".png")
    trained(tmp_path, 4, 4)
    model = img2img.load(tmp_path / "run", device="cpu")
    for dtype in (np.uint8, np.uint16, np.float32):
        made = model(to_depth(shapes(4), dtype))
        assert (made.dtype, made.shape) == (dtype, (40, 40, 4))
        assert made.std() > 0


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a command as typed; gives its exit code and all that it said."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["img2img", *map(str, arguments)])
        try:
            code = main()
        except SystemExit as ended:
            code = ended.code
        return code or 0, "".join(capsys.readouterr())

    return run


def test_channels_that_the_data_lacks_are_named(tmp_path, call):
    write_folders(tmp_path / "data", 3, 2, np.uint8, ".png")
    words = "has 3 channels, and the model takes 5"
    with pytest.raises(DataError, match=f"none of the 5 training pairs .*A/0.png: {words}"):
        trained(tmp_path, 5, 2)
    assert not (tmp_path / "run").exists()
    recipe = tmp_path / "deep.toml"
    code, said = call("check", recipe)
    assert code == 2
    assert f"10 files: {words}" in said
    code, said = call("check", recipe, "--set", "task.source_channels=3")
    assert code == 0
    assert "3 to 2 channels" in said
    # A source that gives colour, whatever the task wants.
    code, said = call("check", recipe, "--set", 'data={source="synthetic"}')
    assert code == 2
    assert f"the source {words}" in said


def test_colours_of_other_channels_cannot_change(tmp_path):
    write_folders(tmp_path / "data", 4, 3, np.uint8, ".png", count=2)
    with pytest.raises(RecipeError, match=r"source_color.*not the 4 channels"):
        trained(tmp_path, 4, 3, **{"data.source_color.brightness": 0.2})
    write_folders(tmp_path / "data", 1, 3, np.uint8, ".png", count=2)
    trained(tmp_path, 1, 3, **{"data.source_color.brightness": 0.2})
