"""`img2img eval` from outside: what it prints and writes, and what it says of bad input."""

from __future__ import annotations

import csv
import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import img2img
from img2img.bundle import BundleInfo, read_info, save_bundle
from img2img.cli import main
from img2img.cli.values import plain
from img2img.errors import RequestError
from img2img.evaluation.overrides import check_overrides

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
PALETTE = COLOURS.tolist()

PLUGIN = '''
import torch
from torch import nn
import img2img
from img2img.errors import MetricError

class Pointwise(nn.Module):
    """A linear map of each pixel."""
    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)
    def forward(self, x):
        return self.conv(x)

class Many:
    """Wants many images."""
    of = "images"
    scores = {"many": True}
    def __init__(self, *, least: int = 10):
        # Not `least`, of which a run would be told before it begins.
        self.wanted, self.count = least, 0
    def update(self, output, target):
        self.count += len(output)
        return {}
    def compute(self):
        if self.count < self.wanted:
            raise MetricError(f"many needs {self.wanted} images, and there are {self.count}")
        return dict.fromkeys(self.scores, float(self.count))

class Several(Many):
    """The same by another name."""
    scores = {"several": True}

class Unhad:
    """Cannot be had."""
    of = "images"
    scores = {"unhad": True}
    def __init__(self):
        raise MetricError("its weights are on the moon; fetch them")
    def update(self, output, target): ...
    def compute(self): ...

@img2img.hookimpl
def register(registry):
    registry.generator("pointwise", Pointwise)
    registry.metric("many", Many)
    registry.metric("several", Several)
    registry.metric("unhad", Unhad)
'''


def write_bundle(path, task="paired", settings=None, weight=None, scale=1.0, channels=(3, 3)):
    settings = settings or {}
    source, target = channels
    weight = torch.eye(target, source) if weight is None else torch.tensor(weight).float()
    generator = {"name": "pointwise", "settings": {}, "in_channels": source}
    generator |= {"out_channels": target, "activation": "tanh", "origin": "plugin.py"}
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
        "conv.weight": weight[..., None, None].contiguous(),
        "conv.bias": torch.zeros(target),
    }
    save_bundle(path, tensors, info)
    return path


def scene(seed, size=16):
    """A label map of blocks, and a photograph whose strongest colour is the class."""
    classes = np.random.default_rng(seed).integers(0, 3, (size // 4, size // 4))
    labels = COLOURS[classes.repeat(4, 0).repeat(4, 1)]
    return labels, (labels // 2 + 60).astype(np.uint8)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a plugin, five pairs of label map and photograph, a model and a judge."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugin.py").write_text(PLUGIN)
    write_scenes(tmp_path / "data")
    write_bundle(tmp_path / "model.safetensors", "labels")
    write_bundle(tmp_path / "judge.safetensors", "photo2labels", {"palette": PALETTE})
    return tmp_path


def write_scenes(root, count=5):
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for number in range(count):
            pair = np.concatenate(scene(number), axis=1)
            Image.fromarray(pair).save(root / split / f"{number}.png")


@pytest.fixture
def call(monkeypatch, capsys):
    """`img2img eval` with these arguments: exit code, stdout, stderr."""

    def called(*arguments, plugin="plugin.py", command="eval"):
        extra = ["--plugin", plugin] if plugin else []
        words = ["img2img", command, *map(str, arguments), *extra]
        if command != "infer":
            words.append("--device=cpu")
        monkeypatch.setattr("sys.argv", words)
        capsys.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("always", RuntimeWarning)
            with pytest.raises(SystemExit) as left:
                main()
        said = capsys.readouterr()
        return left.value.code, said.out, said.err

    return called


def by_hand(count=5):
    pairs = [scene(number) for number in range(count)]
    return [np.abs(a.astype(float) - b).mean() / 255 for a, b in pairs]


# What comes out


def test_json_is_one_object_with_a_number_for_each_score(place, call):
    code, out, _ = call("model.safetensors", "data", "--direction=AtoB", "--json")
    found = json.loads(out)
    assert code == 0
    assert {"l1", "psnr", "ssim", "lab_histogram_l"} <= found.keys()
    assert found["l1"] == pytest.approx(np.mean(by_hand()), rel=1e-5)
    assert found.pop("ms_ssim") is None, "null: 16 pixels are too few"
    assert all(isinstance(value, float) for value in found.values())


def test_the_table_has_arrows_and_the_number_of_pairs(place, call):
    code, out, err = call("model.safetensors", "data", "--direction=AtoB", "--limit=3")
    assert code == 0
    assert "3 of 5 pairs" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert float(rows["l1"][1]) == pytest.approx(
        np.mean([by_hand()[i] for i in (0, 1, 3)]), abs=1e-4
    )
    assert rows["l1"][2:4] == ["↓", "lower"]
    assert rows["psnr"][2:] == ["↑", "higher"]
    assert err == "note: ms-ssim does not suit these pairs; --metric ms-ssim says why\n"
    asked = call("model.safetensors", "data", "--direction=AtoB", "--metric=ms-ssim")
    assert (asked[0], asked[2].count("no ms-ssim: ms-ssim needs images of 176")) == (1, 1)
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = call("model.safetensors", "data", "--direction=AtoB", "--quiet", "--metric=l1")
    assert (code, out) == (0, "")


def test_the_judge_scores_outputs_and_the_real_photographs_beside(place, call):
    """A model that shows blue as green; the judge is never wrong of the real ones."""
    mixed = [[1, 0, 0], [0, 1, 1], [0.3, 0, 0]]
    write_bundle(place / "model.safetensors", "labels", weight=mixed)
    arguments = ("model.safetensors", "data", "--direction=AtoB", "--judge=judge.safetensors")
    code, out, _ = call(*arguments, "--json")
    found = json.loads(out)
    blue = np.mean([(scene(number)[0] == COLOURS[2]).all(axis=2).mean() for number in range(5)])
    assert code == 0
    assert found["pixel_accuracy"] == pytest.approx(1 - blue)
    assert found["pixel_accuracy_ceiling"] == found["class_iou_ceiling"] == 1
    assert "l1" in found and "accuracy" not in found
    code, out, _ = call(*arguments, "--metric=fcn-score")
    assert "real photos" in out and "l1" not in out
    assert next(x for x in out.splitlines() if x.startswith("class_iou")).split()[-1] == "1.0000"


def test_a_csv_has_a_line_an_image_and_no_column_for_what_single_images_lack(place, call):
    arguments = ("model.safetensors", "data", "--direction=AtoB", "--metric=l1", "--metric=many")
    code, out, _ = call(*arguments, "--metric-set=many.least=3", "--csv=s.csv", "--json")
    assert (code, json.loads(out)["many"]) == (0, 5)
    with (place / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [set(row) for row in rows] == [{"name", "l1"}] * 5
    assert [float(row["l1"]) for row in rows] == pytest.approx(by_hand(), rel=1e-5)
    assert rows[0]["name"] == "val/0.png"


def test_a_sheet_by_the_score_that_is_asked_for(place, call):
    for name in ("l1", "psnr"):
        code, _, _ = call(
            *("model.safetensors", "data", "--direction=AtoB", f"--by={name}"),
            *("--metric=l1", "--metric=psnr", f"--sheet={name}.png"),
        )
        assert code == 0
    sizes = [Image.open(place / f"{name}.png").size for name in ("l1", "psnr")]
    assert sizes[0] == sizes[1]
    assert sizes[0][0] > 3 * 16
    code, _, err = call(
        *("model.safetensors", "data", "--direction=AtoB", "--metric=l1", "--sheet=x.png"),
        "--by=l2",
    )
    assert code == 2
    assert "--by cannot be 'l2'; possible: l1" in err


def test_files_that_are_there_stay_unless_it_says_so(place, call):
    arguments = ["model.safetensors", "data", "--direction=AtoB", "--metric=l1"]
    for option in ("--csv=a.csv", "--sheet=a.png"):
        assert call(*arguments, option)[0] == 0
        (place / "model.safetensors").rename(place / "away")
        code, _, err = call(*arguments, option)
        (place / "away").rename(place / "model.safetensors")
        assert code == 2 and "already there" in err, "before the model is opened"
        assert call(*arguments, option, "--overwrite")[0] == 0
    assert "ends in .csv" in call(*arguments, "--csv=a.txt")[2]
    assert "there is no folder 'no'" in call(*arguments, "--sheet=no/a.png")[2]


# Which metrics


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--metric=l11"], "'l11' is not a metric (did you mean 'l1'?); possible: "),
        (["--metric=l1", "--metric-set=fidd.weights=x"], "'fidd' is not a metric"),
        (["--metric=l1", "--metric-set=many.least=3"], "many is not computed; add --metric many"),
        (["--metric=many", "--metric-set=many.leest=3"], "many.leest"),
        (["--metric=many", "--metric-set=many.leest=3"], "did you mean 'least'"),
        (["--metric=many", "--metric-set=many.least=x"], "many.least should be an integer"),
        (["--metric=many", "--metric-set=least=3"], "expected NAME.KEY=VALUE"),
        (["--metric=fcn-score"], "fcn-score compares classes, and the model's outputs are images"),
        (["--metric=fcn-score"], "--judge"),
        (["--judge=model.safetensors"], "--judge model.safetensors is no judge"),
        (["--judge=none.safetensors"], "there is no judge 'none.safetensors'"),
        (["--by=l1"], "add --sheet"),
        (["--direction=BtoB"], "--direction cannot be 'BtoB'"),
        (["--set=data.root=x"], "DATA is a folder"),
    ],
)
def test_a_wrong_request_says_what_would_be_right(place, call, options, said):
    code, out, err = call("model.safetensors", "data", *options)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_what_cannot_be_computed_is_told_and_the_others_finish(place, call):
    arguments = ("model.safetensors", "data", "--direction=AtoB", "--json")
    code, out, err = call(*arguments, "--metric=l1", "--metric=many", "--metric=unhad")
    assert code == 1, "because they were asked for by name"
    assert "no many: many needs 10 images, and there are 5" in err
    assert "no unhad: its weights are on the moon; fetch them" in err
    assert "unhad, many could not be computed" in err
    found = json.loads(out)
    assert found == {"l1": pytest.approx(np.mean(by_hand()), rel=1e-5), "many": None}
    code, _, err = call(*arguments, "--metric=unhad")
    assert code == 1 and "on the moon" in err


def test_all_tries_every_metric_that_suits(place, call, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(place / "none"))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse_download)
    monkeypatch.setattr("urllib.request.urlopen", refuse_download)
    code, out, err = call("model.safetensors", "data", "--direction=AtoB", "--metric=all", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["l1"] and found["many"] is None
    assert "no many" in err and "no lpips" in err and "no fid" in err
    assert "fcn" not in err and "accuracy" not in err


def refuse_download(*arguments, **options):
    raise OSError("there is no network")


# Bad input


def test_pairs_that_cannot_be_used_are_named_counted_and_left_out(place, call):
    for side, root in ((0, "A"), (1, "B")):
        for split in ("train", "val"):
            (place / "two" / split / root).mkdir(parents=True)
            for number in range(4):
                image = Image.fromarray(scene(number)[side])
                if split == "val" and number == 1 and root == "B":
                    image = image.resize((8, 8))
                image.save(place / "two" / split / root / f"{number}.png")
    damaged = place / "two" / "val" / "A" / "2.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    arguments = ("model.safetensors", "two", "--direction=AtoB", "--metric=l1", "--csv=s.csv")
    code, out, err = call(*arguments)
    assert code == 1
    assert "2 of 4 pairs" in out
    assert "left out val/A/1.png: 16x16 pixels, but its partner" in err
    assert "has 8x8" in err
    assert "left out val/A/2.png" in err
    assert "2 of 4 pairs were left out" in err
    assert len((place / "s.csv").read_text().splitlines()) == 3


def test_a_model_of_other_channels_than_the_data_is_told(place, call):
    settings = {"source_channels": 5, "target_channels": 3}
    write_bundle(place / "five.safetensors", "paired", settings, channels=(5, 3))
    code, out, err = call("five.safetensors", "data", "--direction=AtoB")
    assert (code, out) == (2, "")
    assert "none of the 5 pairs can be used" in err
    assert "3 channels" in err and "5" in err


def test_data_without_a_validation_split_is_told(place, call):
    shutil.rmtree(place / "data" / "val")
    (place / "data" / "val").mkdir()
    code, _, err = call("model.safetensors", "data", "--direction=AtoB")
    assert code == 2
    assert "no images below" in err and "val" in err


def test_there_must_be_data_and_a_model(place, call):
    code, _, err = call("model.safetensors")
    assert code == 2 and "say which to take" in err
    code, _, err = call("none.safetensors", "data")
    assert code == 2 and "there is no model 'none.safetensors'" in err
    code, _, err = call("model.safetensors", "nowhere")
    assert code == 2 and "nowhere" in err


def test_a_judge_of_other_classes_than_the_data(place, call):
    write_bundle(
        place / "other.safetensors", "photo2labels", {"palette": "facades"}, channels=(3, 12)
    )
    code, _, err = call(
        "model.safetensors", "data", "--direction=AtoB", "--judge=other.safetensors"
    )
    assert code == 2
    assert "--judge other.safetensors cannot judge these pairs" in err
    code, _, err = call(
        "model.safetensors", "data", "--direction=BtoA", "--judge=judge.safetensors"
    )
    assert code == 2
    assert "set the other direction" in err
    code, _, err = call(
        "judge.safetensors", "data", "--direction=BtoA", "--judge=judge.safetensors"
    )
    assert code == 2
    assert "need no judge" in err


# Sizes


def test_a_folder_is_seen_at_the_bundles_scale(place, call):
    """Halved, each 2 x 2 pixels become their mean: worked out in numpy."""
    write_bundle(place / "half.safetensors", scale=0.5)
    rng = np.random.default_rng(0)
    pairs = []
    for number, size in enumerate([(16, 16), (24, 32), (24, 32), (16, 16)]):
        pairs.append([rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(2)])
        for root, image in zip("AB", pairs[-1], strict=True):
            for split in ("train", "val"):
                folder = place / "mixed" / split / root
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(folder / f"{number}.png")
    found = []
    for batch_size in (1, 3):
        _, out, _ = call(
            *("half.safetensors", "mixed", "--direction=AtoB", "--metric=l1", "--metric=psnr"),
            *(f"--batch-size={batch_size}", "--json"),
        )
        found.append(json.loads(out))

    def halved(image):
        return image.reshape(len(image) // 2, 2, -1, 2, 3).mean(axis=(1, 3))

    l1 = np.mean([np.abs(halved(a) - halved(b)).mean() / 255 for a, b in pairs])
    assert found[0]["l1"] == pytest.approx(l1, abs=0.2 / 255)
    assert found[1] == pytest.approx(found[0], abs=1e-6)


# Runs

TRAIN = """
steps = 4
batch_size = 2
log_every = 2
sample_every = 100
checkpoint_every = 4
"""


def test_scores_are_those_of_the_runs_last_validation(tmp_path, pairs_folder, tiny_tables, call):
    """On its own recipe, on a copy of it, and of its best model; the files are of two sizes."""
    other = pairs_folder / "val" / "other.png"
    with Image.open(pairs_folder / "val" / "000.png") as pair:
        pair.resize((96, 40)).save(other)
    recipe = tmp_path / "tiny.toml"
    text = tiny_tables.replace('"pairs"', f'"{pairs_folder.as_posix()}"') + TRAIN
    metrics = '[[metrics]]\nname = "lab-histogram"\n[[metrics]]\nname = "ssim"\n'
    recipe.write_text(text.replace("[train]", f"{metrics}[train]"))
    overrides = {"data.load_size": 28, "data.crop_size": 24}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        img2img.train(
            recipe,
            out=tmp_path / "run",
            device="cpu",
            overrides={"train.best_by": "lab_histogram_a", **overrides},
        )
    lines = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    last = [line["validation"] for line in lines if "validation" in line][-1]
    last = {name: value for name, value in last.items() if not name.startswith("l1")}
    assert set(last) == {"ssim", *(f"lab_histogram_{c}" for c in "lab")}
    run = tmp_path / "run"
    for model, data in ((run, []), (run, [recipe]), (run / "best.safetensors", [])):
        code, out, _ = call(model, *data, "--json", "--batch-size=2", plugin=None)
        found = json.loads(out)
        assert code == 0
        assert found["psnr"], "the usual ones as well"
        assert {name: found[name] for name in last} == pytest.approx(last, abs=1e-6)
    sized = "--set=data.test_size=16"
    at_16 = json.loads(call(run, sized, "--json", plugin=None)[1])
    assert at_16["ssim"] != pytest.approx(last["ssim"], abs=1e-6)
    code, _, err = call(run, recipe, sized, plugin=None)
    assert code == 2
    assert "--set data.test_size=16 has no effect here: pairs are resized as the run's own" in err
    shutil.copy(run / "model.safetensors", tmp_path / "alone.safetensors")
    # By itself it goes by the scale of its training, which was of files of one size.
    other.unlink()
    found, alone = (
        json.loads(call(model, recipe, "--json", plugin=None)[1])
        for model in (run, tmp_path / "alone.safetensors")
    )
    assert alone == pytest.approx(found, abs=1e-6, nan_ok=True)


def test_every_place_shows_the_chosen_scores(tmp_path, pairs_folder, tiny_tables, call):
    """The terminal, metrics.jsonl, TensorBoard and the report's data; l1 nobody chose.

    One that cannot be had is said once, and training goes on.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = tmp_path / "tiny.toml"
    text = tiny_tables.replace('"pairs"', f'"{pairs_folder.as_posix()}"') + TRAIN
    metrics = '[[metrics]]\nname = "lab-histogram"\n[[metrics]]\nname = "many"\nleast = 1\n'
    metrics += '[[metrics]]\nname = "several"\n'
    recipe.write_text(text.replace("[train]", f"{metrics}[train]\nvalidate_every = 2"))
    (tmp_path / "plugin.py").write_text(PLUGIN)
    run = tmp_path / "run"
    code, out, err = call(recipe, "--out", run, plugin=tmp_path / "plugin.py", command="run")
    assert code == 0, err
    assert "handing back" not in out + err, "of l1, which nobody chose"
    names = {"many", *(f"lab_histogram_{c}" for c in "lab")}
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    found = [line["validation"] for line in lines if "validation" in line][-1]
    assert set(found) == names, "and no baselines of l1"
    rows = {line.split()[0]: line.split()[1] for line in (out + err).splitlines() if line.strip()}
    assert {name: rows[name] for name in names} == {name: f"{found[name]:.4f}" for name in names}
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    tags = events.Tags()["scalars"]
    assert {tag.rpartition("/")[2] for tag in tags if "validation" in tag} >= names
    page = (run / "report.html").read_text()
    assert all(name in page for name in names)
    said = "validation goes on without several: many needs 10 images, and there are 2"
    assert err.count(said) == 1
    assert [x["warning"]["kind"] for x in lines if "warning" in x] == ["no_score"]
    validations = [x["validation"] for x in lines if "validation" in x]
    assert len(validations) == 2
    assert all("many" in scores for scores in validations)


@pytest.mark.parametrize("by", ["lab_histogram_b", "many"])
def test_the_best_model_can_go_by_any_score(tmp_path, pairs_folder, tiny_tables, call, by):
    recipe = tmp_path / "tiny.toml"
    text = tiny_tables.replace('"pairs"', f'"{pairs_folder.as_posix()}"') + TRAIN
    chosen = ['name = "psnr"', 'name = "lab-histogram"', 'name = "many"\nleast = 1']
    metrics = "".join(f"[[metrics]]\n{one}\n" for one in chosen)
    recipe.write_text(text.replace("[train]", f"{metrics}[train]\nvalidate_every = 1"))
    (tmp_path / "plugin.py").write_text(PLUGIN)
    run = tmp_path / "run"
    code, _, err = call(
        *(recipe, "--out", run, f"--set=train.best_by={by}", "--set=method.learning_rate=0.02"),
        plugin=tmp_path / "plugin.py",
        command="run",
    )
    assert code == 0, err
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    found = {x["step"]: x["validation"][by] for x in lines if "validation" in x}
    assert len(found) == 4
    trained = read_info(run / "best.safetensors").trained
    assert trained["score"] == {"name": by, "value": max(found.values())}
    assert trained["step"] == max(found, key=lambda step: found[step])


@pytest.mark.parametrize(
    ("given", "of_run", "named", "why"),
    [
        ("data.test_size=9", True, True, "as the run's own recipe says"),
        ("data.crop_size=9", True, True, "as the run's own recipe says"),
        ("data.test_size=9", True, False, None),
        ("data.test_size=9", False, True, "factors that the bundle carries"),
        ("data.root=x", True, True, None),
        ("data.direction=BtoA", True, True, None),
        ("data.second=x", True, True, None),
        ("data.mirror=false", True, False, "about training"),
        ("train.steps=9", True, False, "about training"),
        ("train.seed=9", True, True, None),
        ("task.source_channels=1", True, True, None),
        ("generator.width=9", True, False, "trained already"),
        ("losses=[]", False, True, "trained already"),
        ("metrics=[]", True, True, "--metric names others"),
        ("metrics=[]", True, False, None),
        ("metrics=[]", False, True, None),
    ],
)
def test_a_setting_without_effect_is_refused(given, of_run, named, why):
    if why is None:
        check_overrides([given], of_run=of_run, named=named)
        return
    with pytest.raises(RequestError, match=f"--set .* has no effect here: .*{why}"):
        check_overrides(["data.root=x", given], of_run=of_run, named=named)


def test_signs_that_an_encoding_lacks_are_spelled():
    text = "\u2191 1.0 \u00b1 0.5 \u2193"
    assert plain(text, "utf-8") == text
    assert plain(text, "latin-1") == "^ 1.0 \u00b1 0.5 v"
    assert plain(text, "ascii") == plain(text, None) == "^ 1.0 +/- 0.5 v"
    assert plain("\u4e2d", "cp1252") == "?"
