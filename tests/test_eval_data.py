"""`img2img eval` and where its pairs come from: folders of any layout, which way round, what is
not here."""

from __future__ import annotations

import json
import shutil
import tarfile
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from img2img.bundle import BundleInfo, save_bundle
from img2img.cli import main

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
LABELS = {"palette": COLOURS.tolist()}
PLUGIN = '''
from torch import nn
import img2img

class Pointwise(nn.Module):
    """A linear map of each pixel."""
    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)
    def forward(self, x):
        return self.conv(x)

class Half:
    """One half."""
    of = "images"
    scores = {"half": True}
    least = 4
    def __init__(self):
        raise img2img.errors.MetricError("built, although there are too few pairs")
    def update(self, output, target): ...
    def compute(self): ...

class Constant:
    """Always one half."""
    of = "images"
    scores = {"constant": True}
    def update(self, output, target):
        return {}
    def compute(self):
        return {"constant": 0.5}

@img2img.hookimpl
def register(registry):
    registry.generator("pointwise", Pointwise)
    registry.metric("half", Half)
    registry.metric("constant", Constant)
'''


def write_model(path, task="labels", settings=None, scale=1.0, channels=3):
    """A bundle that hands back its source, of so many channels."""
    settings = LABELS if settings is None else settings
    generator = {"name": "pointwise", "settings": {}, "in_channels": channels, "out_channels": 3}
    generator |= {"activation": "tanh", "origin": "plugin.py"}
    if task == "photo2labels":
        generator["activation"] = "softmax"
    info = BundleInfo(
        path.stem,
        {"name": task, "settings": settings, "origin": "img2img"},
        generator,
        {"statistics": "image", "dropout": False, "scale": [scale, scale]},
        {"step": 1},
    )
    tensors = {
        "conv.weight": torch.eye(3, channels)[..., None, None].contiguous(),
        "conv.bias": torch.zeros(3),
    }
    save_bundle(path, tensors, info)


def scene(seed, size=16):
    """A label map of blocks and a photograph of it, noisy and dull."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, 3, (size // 4, size // 4)).repeat(4, 0).repeat(4, 1)
    photo = COLOURS[classes] // 4 + random.integers(40, 190, (size, size, 3))
    return COLOURS[classes], photo.astype(np.uint8)


def put(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def put_beside(folder, numbers, *, swap=False, size=16):
    for number in numbers:
        pair = scene(number, size)[:: -1 if swap else 1]
        put(folder / f"{number:02}.png", np.concatenate(pair, axis=1))


def put_two(folders, numbers):
    for side, folder in enumerate(folders):
        for number in numbers:
            put(folder / f"{number}.png", scene(number)[side])


def l1_of(numbers):
    pairs = [scene(number) for number in numbers]
    return np.mean([np.abs(a.astype(float) - b).mean() / 255 for a, b in pairs])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a plugin and a model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugin.py").write_text(PLUGIN)
    write_model(tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def call(monkeypatch, capsys):
    """`img2img eval` with these arguments: exit code, stdout, stderr in one line."""

    def called(*arguments, plugin="plugin.py", command="eval"):
        extra = ["--plugin", plugin] if plugin else []
        words = ["img2img", command, *map(str, arguments), *extra, "--device=cpu"]
        monkeypatch.setattr("sys.argv", words)
        capsys.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            with pytest.raises(SystemExit) as left:
                main()
        said = capsys.readouterr()
        return left.value.code, said.out, said.err

    return called


@pytest.fixture
def score(call):
    """L1 over a folder, what was said, and the exit code."""

    def scored(folder, *options, model="model.safetensors"):
        code, out, err = call(model, folder, "--metric=l1", "--json", *options)
        return (json.loads(out)["l1"] if out else None), err, code

    return scored


# Which pairs of a folder


@pytest.mark.parametrize(
    ("layout", "scored", "of_training"),
    [
        ({"": range(12)}, range(12), False),
        ({"val": range(3)}, range(3), False),
        ({"test": range(3)}, range(3), False),
        ({"val": range(2), "test": range(2, 5)}, range(2), False),
        ({"train": range(12), "val": range(12, 15)}, range(12, 15), False),
        ({"train": range(12), "test": range(12, 15)}, range(12, 15), False),
        ({"train": range(12)}, range(12), True),
        ({"trains": range(12)}, range(12), False),
    ],
)
def test_a_folder_of_files_side_by_side(place, score, layout, scored, of_training):
    for name, numbers in layout.items():
        put_beside(place / "data" / name, numbers)
    found, err, code = score("data")
    assert code == 0, err
    assert found == pytest.approx(l1_of(scored), rel=1e-5)
    assert ("may" in err or "trained on" in err) == of_training
    assert ("neither val/ nor test/" in err) == of_training


@pytest.mark.parametrize(
    ("layout", "scored", "of_training"),
    [
        ({"{}": range(12)}, range(12), False),
        ({"val/{}": range(3)}, range(3), False),
        ({"{}/test": range(3)}, range(3), False),
        ({"val{}": range(3)}, range(3), False),
        ({"train/{}": range(12), "val/{}": range(12, 15)}, range(12, 15), False),
        ({"{}/train": range(12)}, range(12), True),
        ({"train{}": range(12)}, range(12), True),
    ],
)
def test_two_folders(place, score, layout, scored, of_training):
    for form, numbers in layout.items():
        put_two([place / "data" / form.format(name) for name in "AB"], numbers)
    found, err, code = score("data")
    assert code == 0, err
    assert found == pytest.approx(l1_of(scored), rel=1e-5)
    assert ("neither val/ nor test/" in err) == of_training


def test_two_folders_of_any_names_with_val_alone(place, score):
    put_two([place / "data/val/labels", place / "data/val/photos"], range(3))
    assert score("data")[0] == pytest.approx(l1_of(range(3)), rel=1e-5)


@pytest.mark.parametrize(
    ("names", "scored", "of_training"),
    [
        ({"a.tar": range(12)}, range(12), False),
        ({"val-0.tar": range(3)}, range(3), False),
        ({"train-0.tar": range(12)}, range(12), True),
        ({"train-0.tar": range(12), "test-0.tar": range(12, 15)}, range(12, 15), False),
    ],
)
def test_shards(place, score, names, scored, of_training):
    for name, numbers in names.items():
        put_two([place / "files/source", place / "files/target"], numbers)
        (place / "data").mkdir(exist_ok=True)
        with tarfile.open(place / "data" / name, "w") as archive:
            for number in numbers:
                for side in ("source", "target"):
                    archive.add(place / f"files/{side}/{number}.png", f"{number:02}.{side}.png")
    found, err, code = score("data", "--direction=AtoB")
    assert code == 0, err
    assert found == pytest.approx(l1_of(scored), rel=1e-5)
    assert ("neither val/ nor test/" in err) == of_training


def test_a_study_takes_the_same_pairs(place, call):
    put_beside(place / "data/val", range(4))
    arguments = ("model.safetensors", "data", "--trials=1", "--practice=1")
    code, _, err = call(*arguments, command="study")
    assert code == 0, err
    shutil.move(place / "data/val", place / "data/train")
    code, _, err = call(*arguments, "--overwrite", command="study")
    assert code == 0 and "neither val/ nor test/" in err


@pytest.mark.parametrize("form", ["{}", "val/{}", "{}/val"])
def test_files_without_a_partner_are_named_and_counted_and_the_pairs_scored(place, score, form):
    folders = [place / "data" / form.format(name) for name in "AB"]
    put_two(folders, range(4))
    (folders[1] / "2.png").unlink()
    (folders[0] / "3.png").unlink()
    found, err, code = score("data")
    assert code == 1
    assert found == pytest.approx(l1_of(range(2)), rel=1e-5)
    for name, number in (("A", 2), ("B", 3)):
        assert f"left out {form.format(name)}/{number}.png: its partner is missing" in err
    assert "2 images have no partner" in err


def test_one_file_alone_among_folders_of_other_names(place, score):
    folders = [place / "data/labels", place / "data/photos"]
    put_two(folders, range(4))
    (folders[1] / "2.png").unlink()
    _, err, code = score("data")
    assert code == 1 and "1 image has no partner" in err


def test_no_file_with_a_partner(place, score):
    put_two([place / "data/A"], range(3))
    put_two([place / "data/B"], range(3, 6))
    _, err, code = score("data")
    assert code == 2
    assert "no partner of the same name for" in err


# Which way round


@pytest.mark.parametrize("swap", [False, True])
def test_what_the_task_can_use_tells_the_direction(place, score, swap):
    """Of a guess it is the answer; of what somebody says, or the run, it is a note."""
    put_beside(place / "data", range(4), swap=swap)
    right, wrong = ("BtoA", "AtoB") if swap else ("AtoB", "BtoA")
    found, err, _ = score("data")
    assert found == pytest.approx(l1_of(range(4)), rel=1e-5)
    assert f"--direction {wrong} says otherwise" in err
    assert "direction" not in score("data", f"--direction={right}")[1]
    _, err, code = score("data", f"--direction={wrong}")
    assert code == 0
    assert f"the other way round it is --direction {right}" in err


def test_targets_with_fewer_colours_where_the_task_has_them(place, call):
    write_model(place / "segmenter.safetensors", "photo2labels")
    put_beside(place / "data", range(4), swap=True)
    _, out, err = call("segmenter.safetensors", "data", "--metric=accuracy")
    assert "AtoB, a guess" in out
    assert "first images are taken for the sources" in err and "the other way round" not in err
    # Colours that are no palette's: then their number tells.
    write_model(place / "edges.safetensors", "edges", {}, channels=1)
    for number in range(10):
        random = np.random.default_rng(number)
        paper = np.full((16, 16, 3), 255, np.uint8)
        paper[::4] = 0
        photo = random.integers(0, 256, (16, 16, 3), np.uint8)
        put(place / "drawn" / f"{number}.png", np.concatenate([paper, photo], axis=1))
    arguments = ("edges.safetensors", "drawn", "--metric=l1")
    _, _, err = call(*arguments, "--direction=BtoA")
    assert "fewer colours" in err and "--direction AtoB" in err
    assert "fewer colours" not in call(*arguments, "--direction=AtoB")[2]


def test_a_judge_names_the_option(place, call):
    write_model(place / "judge.safetensors", "photo2labels")
    write_model(place / "plain.safetensors", "paired", {})
    for swap, wrong, right in ((False, "BtoA", "AtoB"), (True, "AtoB", "BtoA")):
        put_beside(place / f"data-{swap}", range(4), swap=swap)
        code, _, err = call(
            *("plain.safetensors", f"data-{swap}", "--judge=judge.safetensors"),
            f"--direction={wrong}",
        )
        assert code == 2 and f"--direction {right}" in err


# Runs


@pytest.fixture
def run(place):
    """A run's directory with its model, its recipe and what it wrote down of plugins."""
    folder = place / "run"
    folder.mkdir()
    write_model(folder / "model.safetensors", "paired", {})
    put_beside(place / "pairs", range(12))
    recipe = 'name = "run"\n[data]\nroot = "pairs"\ncrop_size = 16\njitter = false\n'
    recipe += '[generator]\nname = "pointwise"\n[[losses]]\nname = "l1"\n[train]\nsteps = 1\n'
    (folder / "recipe.toml").write_text(recipe)
    (folder / "environment.json").write_text('{"plugins": {"plugin.py": "local file"}}')
    return folder


def test_data_that_is_not_here(place, run, call):
    (place / "pairs").rename(place / "moved")
    code, _, err = call("run", "--metric=l1")
    assert code == 2
    assert "the run was trained on pairs, which is not here" in err
    assert "img2img eval run FOLDER" in err
    code, _, err = call("run", "moved", "--metric=l1")
    assert code == 0, err
    # Of a recipe that is named it is its own mistake.
    shutil.copy(run / "recipe.toml", place / "other.toml")
    code, _, err = call("run", "other.toml", "--metric=l1")
    assert code == 2 and "data.root: there is no folder 'pairs'" in err


def test_all_pairs_of_the_runs_own_folder_are_not_those_held_out(place, run, call):
    code, out, err = call("run", "--metric=l1")
    assert code == 0 and "1 pair\n" in out, err
    assert "trained on" not in err
    code, out, err = call("run", "pairs", "--metric=l1")
    assert code == 0 and "12 pairs" in out
    assert "leave the folder out for those that were held out" in err


def test_another_direction_than_the_runs(place, run, call):
    _, _, err = call("run", "--metric=l1", "--direction=BtoA")
    assert "--direction BtoA, and the run was trained with AtoB" in err
    assert "run was trained with AtoB" in call("run", "pairs", "--direction=BtoA")[2]
    assert "trained with" not in call("run", "--metric=l1", "--direction=AtoB")[2]


def test_label_maps_in_known_colours_where_the_task_names_none(place, score):
    """Although photographs have no more colours than they."""
    write_model(place / "model.safetensors", settings={"palette": "", "encoding": "rgb"})
    from img2img.tasks.palettes import find_palette

    for number in range(3):
        random = np.random.default_rng(number)
        labels = find_palette("facades")[random.integers(0, 12, (8, 8)).repeat(4, 0).repeat(4, 1)]
        photo = np.full((32, 32, 3), 128, np.uint8)
        photo[:16] = random.integers(90, 110, 3)
        put(place / "data" / f"{number}.png", np.concatenate([photo, labels], axis=1))
    _, err, _ = score("data", "--direction=AtoB")
    assert "3 of 3 pairs looked at the target is a label map, not the source" in err
    assert "it is --direction BtoA" in err
    assert "looked at" not in score("data", "--direction=BtoA")[1]
    assert "second images are taken for the sources" in score("data")[1]


def test_a_recipe_that_needs_a_plugin(place, run, call):
    """Its model may not."""
    info = (run / "recipe.toml").read_text().replace('"pointwise"', '"unet"')
    (run / "recipe.toml").write_text(f'{info}[[metrics]]\nname = "constant"\n')
    without = [line for line in PLUGIN.splitlines() if "registry.metric" not in line]
    (place / "network.py").write_text("\n".join(without))
    code, _, err = call("run", "pairs", "--metric=l1", plugin="network.py")
    assert code == 2
    assert "'constant' is not a metric" in err
    assert (
        "the run's recipe needs a plugin that is not loaded (it was trained with plugin.py)" in err
    )
    assert "--plugin FILE.py, or install it" in err
    (run / "environment.json").write_text("[]")
    code, _, err = call("run", plugin="network.py")
    assert code == 2 and "needs a plugin that is not loaded: give" in err
    assert call("run", "--metric=constant")[0] == 0
    (run / "recipe.toml").write_text(info.replace("steps", "stepps"))
    code, _, err = call("run")
    assert code == 2 and "plugin" not in err, "another mistake is no plugin's matter"


# The table


def test_the_table_says_how_many_at_which_size_and_what_the_source_scores(place, call):
    put_beside(place / "data", range(5))
    arguments = ("model.safetensors", "data", "--metric=l1", "--metric=psnr")
    _, out, _ = call(*arguments, "--limit=3")
    assert ": 3 of 5 pairs\n" in out
    assert "at 16 x 16 pixels; AtoB, a guess\n" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert "handing back the source" in out
    expected = np.mean([l1_of([number]) for number in (0, 1, 3)])
    assert float(rows["l1"][-1]) == pytest.approx(expected, abs=1e-4)
    assert len(rows["psnr"]) == 4
    _, out, _ = call(*arguments, "--direction=AtoB", "--limit=1")
    assert ": 1 of 5 pairs\n" in out and "guess" not in out
    assert "handing back" not in call("model.safetensors", "data", "--metric=psnr")[1]
    put_beside(place / "data", range(5, 7), size=32)
    write_model(place / "half.safetensors", scale=0.5)
    _, out, _ = call("half.safetensors", "data", "--metric=l1")
    assert "at 2 sizes, 8 x 8 to 16 x 16 pixels" in out


# Metrics that cannot be had


def offline(*arguments, **options):
    raise OSError("there is no network")


def test_what_all_cannot_have_is_one_line_a_reason(place, call, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(place / "none"))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    put_beside(place / "data", range(5))
    arguments = ("model.safetensors", "data", "--direction=AtoB")
    options = ("--metric-set=fid.least=2", "--json")
    code, _, err = call(*arguments, "--metric=all", *options)
    assert code == 0
    lines = [line for line in err.splitlines() if line.startswith("no ")]
    assert any(line.startswith("no fid, kid: the weights of") for line in lines)
    assert any(line.startswith("no lpips: the weights of") for line in lines)
    assert "http" not in err and "TORCH_HOME" not in err and str(place / "none") not in err
    assert max(map(len, lines)) < 160
    code, _, err = call(*arguments, "--metric=l1", "--metric=kid")
    assert code == 1 and "http" in err and str(place / "none") in err


def test_too_few_pairs_are_told_before_weights_are_wanted(place, call, monkeypatch):
    monkeypatch.setattr("img2img.metrics.inception.load_inception", offline)
    put_beside(place / "data", range(5))
    arguments = ("model.safetensors", "data", "--direction=AtoB", "--limit=3")
    code, _, err = call(*arguments, "--metric=fid", "--metric=half", "--metric=l1")
    assert code == 1
    assert "no fid: there are 3 pairs, and fid needs 2049 or more; try kid" in err
    assert "no half: there are 3 pairs, and half needs 4 or more" in err
    code, _, err = call(*arguments, "--metric=fid", "--metric-set=fid.features=64")
    assert code == 1 and "fid needs 65 or more" in err
    _, _, err = call(*arguments[:-1], "--metric=half")
    assert "built, although" in err


def test_a_judge_that_is_not_there(place, call):
    put_beside(place / "data", range(3))
    code, _, err = call("model.safetensors", "data", "--judge=nothere")
    assert code == 2
    assert "there is no judge 'nothere'" in err and "facades-segmenter" in err
