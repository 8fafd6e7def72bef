"""The commands as somebody types them: what they print, write and answer."""

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import img2img
from img2img.bundle import load_bundle, save_bundle
from img2img.cli import app, main
from img2img.component import KINDS
from img2img.data.reading import read_image
from img2img.document import Document
from img2img.recipe_files import shipped_recipes
from img2img.recipe_parser import parse_recipe

RECIPE = """# A run that takes a second.
name = "tiny"
[data]
root = "pairs"
load_size = 34
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
steps = 4
batch_size = 2
log_every = 2
sample_every = 2
checkpoint_every = 2
"""

TINY = '''
import img2img
from torch import nn

class Tiny(nn.Module):
    """One hidden layer. Shape: (B, in_channels, H, W) -> (B, out_channels, H, W)."""
    def __init__(self, in_channels: int, out_channels: int, *, width: int = 32):
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.last = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, source):
        return self.last(self.first(source).relu()).tanh()

@img2img.hookimpl
def register(registry):
    registry.generator("tiny", Tiny)
'''


# pyproject.toml makes errors of them; to users they are shown.
SHOW_WARNINGS = pytest.mark.filterwarnings("default::RuntimeWarning")


def picture(width, height, seed=0):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BILINEAR)


def save(path, width=64, height=32, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(width, height, seed).save(path)
    return path


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def snapshot(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


class Answer:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a recipe and data."""
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            save(Path("pairs", split, f"{number}.png"), seed=number + len(split))
    Path("tiny.toml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def call(capfd, monkeypatch):
    """Run the program in this process, as its entry point would."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["img2img", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        assert (left.value.code or 0) == code, err
        if "--debug" not in arguments:
            assert "Traceback" not in out + err
        return Answer(code, out, err)

    return call


@pytest.fixture
def refused(call):
    """A call that is answered with one readable message and leaves the folder as it was."""

    def refused(*arguments, code=2):
        before = snapshot(".")
        names = tree(".")
        answer = call(*arguments, code=code)
        assert answer.out == ""
        assert tree(".") == names
        assert snapshot(".") == before
        return answer.err

    return refused


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a run, to be copied and not changed."""
    root = tmp_path_factory.mktemp("finished")
    for split in ("train", "val"):
        for number in range(2):
            save(root / "pairs" / split / f"{number}.png", seed=number)
    (root / "tiny.toml").write_text(RECIPE)
    overrides = {"data.root": str(root / "pairs"), "generator.dropout": 0.0}
    return img2img.train(root / "tiny.toml", out=root / "run", overrides=overrides).path


@pytest.fixture
def trained(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return Path("run")


# The program itself


COMMANDS = [command.name for command in app.registered_commands]


def test_commands():
    assert {"run", "infer", "check", "list", "show", "new"} <= set(COMMANDS)


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help(call, monkeypatch, command, columns):
    monkeypatch.setenv("COLUMNS", columns)
    arguments = [command] if command else []
    answer = call(*arguments, "--help")
    assert answer.err == ""
    assert f"img2img {command or '[OPTIONS]'}" in answer.out
    assert max(map(len, answer.out.splitlines())) <= int(columns)
    if command is None:
        assert all(f" {name} " in answer.out for name in COMMANDS)
    # Nothing is cut off where the terminal is narrow.
    assert "…" not in answer.out
    assert call(*arguments, "-h").out == answer.out


def test_version(call):
    import importlib.metadata

    assert call("--version").out.strip() == importlib.metadata.version("img2img")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lst"], "Did you mean 'list'?"),
        (["run"], "Missing argument"),
        (["run", "quickstart", "--stpes", "3"], "No such option"),
        (["infer", "a", "b", "c", "--batch-size", "0"], "--batch-size"),
        (["infer", "a", "b", "c", "--seed", "x"], "--seed"),
        (["new", "x"], "--data"),
    ],
)
def test_wrong_usage(refused, folder, arguments, said):
    assert said in refused(*arguments)


def test_debug_shows_where_and_keeps_the_exit_code(call, folder):
    quiet = call("check", "none.toml", code=2).err
    assert quiet.startswith("error: there is no recipe file 'none.toml'")
    for arguments in (["check", "none.toml", "--debug"], ["--debug", "check", "none.toml"]):
        loud = call(*arguments, code=2).err
        assert "Traceback" in loud
        assert "there is no recipe file" in loud


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ZeroDivisionError("oh no"), 1, "error: unexpected ZeroDivisionError: oh no"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device\n"),
        (PermissionError(13, "Permission denied", "x"), 1, "error: x: Permission denied\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_nobody_foresaw(call, monkeypatch, error, code, said):
    def fail():
        raise error

    monkeypatch.setattr("img2img.recipe_files.shipped_recipes", fail)
    assert said in call("list", code=code).err


def test_only_our_own_warnings_are_shown(call, monkeypatch):
    """Wherever the program is installed, also in a folder that is called img2img."""
    import warnings

    def warn():
        # A library below a folder that happens to be called img2img is not ours.
        other = Path("/elsewhere", "img2img", "lib", "module.py")
        for place in (img2img.__file__, str(other)):
            warnings.warn_explicit(f"from {place}", UserWarning, place, 1)
        return {}

    monkeypatch.setattr("img2img.recipe_files.shipped_recipes", warn)
    assert call("list", "recipes").err == f"warning: from {img2img.__file__}\n"
    assert "lib/module.py" in call("list", "recipes", "--debug").err


def test_warnings_and_faults_leave_the_terminal_as_it_is(call, monkeypatch):
    import warnings

    def warn():
        text = "\x1b[31mred\n\u202esecond \udcff"
        warnings.warn_explicit(text, UserWarning, img2img.__file__, 1)
        if faults:
            raise faults[-1]
        return {}

    monkeypatch.setattr("img2img.recipe_files.shipped_recipes", warn)
    faults = []
    told = "warning: \\x1b[31mred\n\\u202esecond \\xff\n"
    assert call("list", "recipes").err == told
    for fault in (OSError(2, "away", "\x1b[31m"), RuntimeError("\x1b[31m")):
        faults.append(fault)
        assert r"\x1b[31m" in call("list", "recipes", code=1).err[len(told) :]


# list and show


def test_list(call, registry):
    answer = call("list")
    for component in registry.components():
        assert any(
            line.split()[:2] == [component.kind, component.name] for line in answer.out.splitlines()
        )
    for name in shipped_recipes():
        assert f"recipe         {name} " in answer.out
    assert answer.err == ""


@pytest.mark.parametrize("kind", [*KINDS, "recipe"])
def test_list_one_kind(call, registry, kind):
    plural = "losses" if kind == "loss" else f"{kind}s"
    answer = call("list", kind)
    assert call("list", plural).out == answer.out
    rows = json.loads(call("list", plural, "--json").out)
    # Whoever runs these tests may have plugins installed.
    rows = [row for row in rows if row["plugin"] == "img2img"]
    names = registry.names(kind) if kind != "recipe" else list(shipped_recipes())
    assert [row["name"] for row in rows] == names
    for row in rows:
        assert set(row) == {"kind", "name", "summary", "plugin"}
        assert row["kind"] == kind
        assert row["summary"].endswith(".")
        assert row["name"] in answer.out


def test_list_fits_a_narrow_terminal(call, monkeypatch, tmp_path):
    deep = tmp_path / ("a_folder_with_a_long_name/" * 4)
    deep.mkdir(parents=True)
    (deep / "tiny.py").write_text(TINY)
    monkeypatch.setenv("COLUMNS", "80")
    answer = call("list", "generators", "--plugin", deep / "tiny.py")
    assert max(map(len, answer.out.splitlines())) <= 80
    assert "One hidden layer." in answer.out
    assert "encoder_decoder" in answer.out
    assert "…" not in answer.out


def test_list_unknown_kind(refused, folder):
    said = refused("list", "genrators")
    assert said.startswith("error: KIND cannot be 'genrator' (did you mean 'generator'?)")
    assert "recipe" in said


def test_show(call):
    answer = call("show", "generator", "unet")
    assert "generator unet from img2img" in answer.out
    assert "U-Net: an encoder-decoder" in answer.out
    assert "class UNet(nn.Module):" in answer.out
    rows = {line.split()[0]: line.split() for line in answer.out.splitlines() if line.strip()}
    assert rows["width"][:3] == ["width", "int", "64"]
    assert "'batch'" in answer.out
    assert call("show", "generators", "unet").out == answer.out


def test_show_gives_the_source_whole(call, monkeypatch, registry):
    """In a file or a pipe no line is cut or filled up to the width of a terminal."""
    import inspect

    monkeypatch.setenv("COLUMNS", "40")
    answer = call("show", "loss", "adversarial")
    assert answer.out.endswith(inspect.getsource(registry.get("loss", "adversarial").factory))


def test_show_json(call, registry):
    for component in registry.components():
        shown = json.loads(call("show", component.kind, component.name, "--json").out)
        assert shown["settings"] == [
            {
                "name": s.name,
                "type": s.type_name,
                "required": s.required,
                "default": list(s.default) if isinstance(s.default, tuple) else s.default,
                "help": s.help,
            }
            for s in component.settings
        ]
        assert shown["docstring"].startswith(shown["summary"][:20])
        assert shown["source"].rpartition(":")[0].endswith(".py")


def test_show_a_plugin_without_docstring(call, folder):
    Path("bare.py").write_text(
        "import img2img\nfrom torch import nn\nclass Bare(nn.Module): ...\n"
        "@img2img.hookimpl\ndef register(registry):\n    registry.loss('bare', Bare)\n"
    )
    answer = call("show", "loss", "bare", "--plugin", "bare.py")
    assert "loss bare from bare.py" in answer.out
    assert "It has no settings." in answer.out
    assert "Base class for all neural network modules" not in answer.out


def test_show_what_is_not_there(refused, folder):
    assert "did you mean 'unet'?" in refused("show", "generator", "unett")
    assert "did you mean 'facades'?" in refused("show", "recipe", "facade")


def test_show_a_recipe(call):
    text = shipped_recipes()["facades"].read_text()
    assert json.loads(call("show", "recipe", "facades", "--json").out)["text"] == text
    # Piped into a file it is a recipe again.
    assert call("show", "recipes", "facades").out == text


# check


def test_check(call, folder):
    answer = call("check", "tiny.toml")
    assert answer.err == ""
    assert answer.out.splitlines()[0] == "tiny.toml: the recipe is valid"
    assert "train: 4 pairs, 32x32 pixels each" in answer.out
    assert "val: 2 pairs" in answer.out
    # 6 x 4 x 16 + 4, then 4 x 8 x 16 and a norm of 2 x 8, then 8 x 16 + 1.
    assert "discriminator: 1,045 parameters" in answer.out
    report = json.loads(call("check", "tiny.toml", "--json").out)
    assert report["valid"] is True
    assert report["parameters"]["discriminator"] == 1045
    assert report["data"]["train"] == {"pairs": 4, "sizes": {"32x32": 4}}
    assert report["problems"] == []
    quiet = call("check", "tiny.toml", "--quiet")
    assert (quiet.out, quiet.err) == ("", "")


def test_check_a_wrong_recipe(call, refused, folder):
    wrong = ["--set", "generator.widht=3", "--set", "train.steps=0"]
    said = refused("check", "tiny.toml", *wrong).splitlines()
    assert said[0].startswith("--set generator.widht=3: generator.widht is not a setting of 'unet'")
    assert said[1] == "--set train.steps=0: train.steps should be at least 1, not 0"
    assert said[2:] == ["error: 2 mistakes in the recipe"]
    report = json.loads(call("check", "tiny.toml", *wrong, "--json", code=2).out)
    assert report["valid"] is False
    assert report["mistakes"] == said[:2]


def test_each_mistake_begins_its_line_with_the_place(refused, folder):
    Path("tiny.toml").write_text(RECIPE.replace("width = 4", "widht = 4", 1))
    said = refused("run", "tiny.toml")
    assert said.startswith("tiny.toml:8: generator.widht is not a setting of 'unet' (did you mean")
    assert said.endswith("\nerror: 1 mistake in the recipe\n")


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("nowhere", "there is no folder 'nowhere'"),
        ("empty", "no images below 'empty'"),
        ("tiny.toml", "there is no folder 'tiny.toml'"),
        ("only_val", "has val/ but no train/"),
    ],
)
def test_data_that_is_not_there(refused, folder, command, root, said):
    Path("empty").mkdir()
    save(Path("only_val/val/0.png"))
    assert said in refused(command, "tiny.toml", "--set", f"data.root={root}")


def test_check_names_every_bad_pair(call, folder):
    truncate(save(Path("pairs/train/cut.jpg"), seed=9))
    Path("pairs/train/notes.png").write_text("no image")
    save(Path("pairs/train/odd.png"), width=63)
    answer = call("check", "tiny.toml", code=2)
    assert "train: 7 pairs, 32x32 pixels each" in answer.out
    assert "pairs/train/cut.jpg: cannot be read" in answer.out
    assert "pairs/train/notes.png: not an image" in answer.out
    assert "pairs/train/odd.png: 63 pixels wide" in answer.out
    assert answer.err == "error: 3 of 9 pairs cannot be used; remove or mend them\n"
    problems = json.loads(call("check", "tiny.toml", "--json", code=2).out)["problems"]
    assert [Path(problem["file"]).name for problem in problems] == [
        "cut.jpg",
        "notes.png",
        "odd.png",
    ]


def test_check_two_folders_of_different_sizes(call, folder):
    for side, size in (("A", 32), ("B", 32)):
        for number in range(11):
            save(Path("two/train", side, f"{number}.png"), size, size, seed=number)
    save(Path("two/train/B/3.png"), 40, 32)
    arguments = ["check", "tiny.toml", "--set", "data.source=two_folders", "--set", "data.root=two"]
    answer = call(*arguments, code=2)
    assert "32x32 pixels, but its partner two/train/B/3.png has 40x32" in answer.out
    assert "1 of 11 pairs cannot be used" in answer.err
    Path("two/train/B/3.png").unlink()
    answer = call(*arguments, code=2)
    assert "no partner of the same name for two/train/A/3.png" in answer.err
    # The others are looked through all the same.
    assert "train: 9 pairs" in answer.out


def test_check_counts_beyond_a_screenful(call, folder):
    for number in range(30):
        Path(f"pairs/train/bad{number}.png").write_text("no image")
    answer = call("check", "tiny.toml", code=2)
    # The reason once, and then the files.
    assert answer.out.count("30 files: not an image that can be read") == 1
    assert answer.out.count("pairs/train/bad") == 20
    assert "and 10 more; --json lists all" in answer.out


# new


@pytest.fixture
def layouts(folder):
    for number in range(11):
        for side in ("A", "B"):
            save(Path("two/train", side, f"{number}.png"), 40, 32, seed=number)
            save(Path("named", ("maps", "photos")[side == "B"], f"{number}.png"), 40, 32)
        save(Path("photos", f"{number}.jpg"), 40, 48, seed=number)
    return folder


@pytest.mark.parametrize(
    ("root", "source", "pairs"),
    [
        ("pairs", "side_by_side", 4),
        # Of eleven, one is held out.
        ("two", "two_folders", 10),
        ("named", "two_folders", 10),
        ("photos", "derived", 10),
    ],
)
def test_new(call, registry, layouts, root, source, pairs):
    answer = call("new", "mine", "--data", root)
    text = Path("mine.toml").read_text()
    assert text.startswith("# mine: ")
    assert max(map(len, text.splitlines())) <= 100
    recipe = parse_recipe(Document(text, "mine.toml"), registry)
    assert (recipe.name, recipe.data.source, recipe.data.root) == ("mine", source, root)
    assert recipe.data.crop_size == 32
    if root == "named":
        assert recipe.source.settings == {"first": "maps", "second": "photos"}
    assert f"wrote mine.toml: {pairs} pairs to train on, {source}" in answer.out
    assert "img2img check mine.toml" in answer.out
    small = ["--set", "generator.width=4", "--set", "discriminator.width=4"]
    # In two folders they are the same images here, which `check` points out.
    code = 1 if source == "two_folders" else 0
    assert "mine.toml: the recipe is valid" in call("check", "mine.toml", *small, code=code).out


def test_new_keeps_what_is_there(call, refused, layouts):
    assert "tiny.toml is already there; use --overwrite" in refused("new", "tiny", "--data", "two")
    call("new", "tiny", "--data", "two", "--overwrite", "--quiet")
    assert 'source = "two_folders"' in Path("tiny.toml").read_text()


@pytest.mark.parametrize(
    ("name", "root", "said"),
    [
        ("mine", "nowhere", "there is no folder 'nowhere'"),
        ("mine", "empty", "no images below 'empty'"),
        ("mine", "broken", "none of the first images below 'broken' can be read"),
        ("nowhere/mine", "pairs", "cannot write nowhere/mine.toml"),
        ("tiny.toml/mine", "pairs", "cannot write tiny.toml/mine.toml"),
        (".mine", "pairs", "'.mine' cannot be the name of a run"),
        ("a\nb", "pairs", "'a\\nb' cannot be the name of a run"),
        ("mine", "pairs\udcff", "cannot be written into a recipe"),
    ],
)
def test_new_refuses(refused, folder, name, root, said):
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/0.png").write_text("no image")
    assert said in refused("new", name, "--data", root)


def test_new_with_a_folder_whose_name_is_no_comment(call, registry, folder):
    for side in ('a\n[evil]\nx = "', "b"):
        for number in range(2):
            save(Path("odd", side, f"{number}.png"), 32, 32)
    call("new", "mine", "--data", "odd")
    recipe = parse_recipe(Document(Path("mine.toml").read_text(), "mine.toml"), registry)
    assert recipe.source.settings["first"] == 'a\n[evil]\nx = "'


# run


def test_run_leaves_a_run_directory(call, folder, registry):
    answer = call("run", "tiny.toml")
    assert answer.out == ""
    assert "finished: runs/tiny" in answer.err
    assert "img2img infer runs/tiny INPUT OUTPUT" in answer.err
    run = Path("runs/tiny")
    found = tree(run)
    for name in ("recipe.toml", "environment.json", "metrics.jsonl", "model.safetensors"):
        assert name in found
    assert "report.html" in found
    assert {"samples/step-00000002.png", "samples/step-00000004.png"} <= set(found)
    assert {"checkpoints/step-00000002", "checkpoints/step-00000004"} <= set(found)
    assert any(name.startswith("tensorboard/events") for name in found)
    assert not [name for name in found if Path(name).name.startswith(".")]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "losses" in line]
    assert [line["step"] for line in logged] == [2, 4]
    keys = {"step", "epoch", "images", "elapsed_s", "images_per_s", "losses"}
    assert keys <= logged[0].keys()
    assert logged[-1]["images"] == 8
    assert {"d_real", "d_fake", "adversarial", "l1"} == logged[0]["losses"].keys()
    validation = [line for line in lines if "validation" in line][-1]
    assert {"l1", "psnr", "ssim"} <= validation["validation"].keys()
    assert {"img2img", "torch", "device", "plugins", "git_commit"} <= json.loads(
        (run / "environment.json").read_text()
    ).keys()
    recipe = parse_recipe(Document.read(run / "recipe.toml"), registry)
    assert (recipe.train.steps, recipe.generator.settings["width"]) == (4, 4)
    assert "<html" in (run / "report.html").read_text()


def test_run_again(call, refused, folder, trained):
    recipe = trained / "recipe.toml"
    said = refused("run", recipe, "--out", "run")
    assert "run already holds a run" in said
    assert "--resume" in said
    assert "--fresh" in said
    assert "exclude each other" in refused("run", recipe, "--out", "run", "--resume", "--fresh")

    before = (trained / "model.safetensors").read_bytes(), (trained / "metrics.jsonl").read_text()
    call("run", recipe, "--out", "run", "--resume")
    after = (trained / "model.safetensors").read_bytes(), (trained / "metrics.jsonl").read_text()
    assert after == before

    (trained / "notes.txt").write_text("mine")
    shutil.copy(recipe, "copy.toml")
    call("run", "copy.toml", "--out", "run", "--fresh", "--set", "train.steps=2", "--quiet")
    assert (trained / "notes.txt").read_text() == "mine"
    steps = [json.loads(line)["step"] for line in (trained / "metrics.jsonl").open()]
    assert set(steps) == {2}
    assert sorted(p.name for p in (trained / "checkpoints").iterdir()) == ["step-00000002"]


def test_resume_starts_where_nothing_is(call, folder):
    answer = call("run", "tiny.toml", "--resume", "--quiet", "--set", "train.steps=1")
    assert (answer.out, answer.err) == ("", "")
    assert Path("runs/tiny/model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tiny.toml", "--out", "tiny.toml"], "is there and is not a run directory"),
        (["tiny.toml", "--out", "tiny.toml/run"], "cannot write to tiny.toml/run"),
        (["tiny.toml", "--out", "pairs"], "is there and is not a run directory"),
        (["tiny.toml", "--out", "pairs", "--fresh"], "is there and is not a run directory"),
        (["tiny.toml", "--device", "tpu"], "'tpu' is not a device"),
        (["tiny.toml", "--precision", "float16"], "--precision cannot be 'float16'"),
        (["tiny.toml", "--set", "generator.depth=9"], "generator: "),
        (["tiny.toml", "--set", "generator.width=-4"], "generator: "),
        (["tiny.toml", "--set", "discriminator.name=patchgan286"], "discriminator: "),
        (["tiny.toml", "--set", "train.steps"], "expected key=value"),
        (["tiny.toml", "--plugin", "none.py"], "plugin none.py cannot be loaded"),
        (["facade"], "did you mean 'facades'?"),
        (["pairs"], "pairs is a folder"),
        (["pairs/train/0.png"], "not a text file in UTF-8"),
    ],
)
def test_run_refuses(refused, folder, arguments, said):
    assert said in refused("run", *arguments)


@SHOW_WARNINGS
def test_run_names_pairs_it_cannot_use(call, folder):
    Path("pairs/train/9.png").write_text("no image")
    answer = call("run", "tiny.toml")
    assert answer.err.count("skipped pairs/train/9.png: not an image that can be read") == 1


def test_set_reaches_the_run(call, folder):
    call(
        "run", "tiny.toml", "--out", "other", "--quiet", "--set", "train.steps=1",
        "--set", "name=hello world", "--set", "losses.l1.weight=7", "--set", "data.mirror=false",
    )  # fmt: skip
    written = Document.read(Path("other/recipe.toml")).data
    assert written["name"] == "hello world"
    assert written["losses"][1]["weight"] == 7
    assert written["data"]["mirror"] is False
    assert not Path("runs").exists()


def test_a_plugin_from_training_to_use(call, refused, folder):
    Path("tiny.py").write_text(TINY)
    given = ["--plugin", "tiny.py"]
    chosen = ["--set", "generator.name=tiny", "--set", "train.steps=1"]
    assert "'tiny' is not a generator" in refused("run", "tiny.toml", *chosen)
    answer = call("run", "tiny.toml", "--out", "run", *chosen, *given)
    # What it prints to go on with works as it stands.
    assert "img2img infer run INPUT OUTPUT --plugin tiny.py" in answer.err
    assert json.loads(Path("run/environment.json").read_text())["plugins"]["tiny.py"]
    said = refused("infer", "run", "pairs/val/0.png", "out.png")
    assert "needs the generator 'tiny'" in said
    assert "tiny.py" in said
    assert "--plugin" in said
    call("infer", "run", "pairs/val/0.png", "out.png", *given)
    assert Image.open("out.png").size == (64, 32)
    # The written recipe repeats the run.
    call("run", "run/recipe.toml", "--out", "again", "--quiet", *given)
    first, second = (Path(run, "model.safetensors").read_bytes() for run in ("run", "again"))
    assert first == second


@SHOW_WARNINGS
def test_a_watching_plugin_that_fails(call, folder):
    Path("watch.py").write_text(
        "import img2img\n@img2img.hookimpl\ndef on_metrics(metrics):\n    raise ValueError('no')\n"
    )
    answer = call("run", "tiny.toml", "--plugin", "watch.py")
    assert answer.err.count("watch.py' failed in on_metrics") == 1
    assert "ValueError: no" in answer.err
    assert "finished" in answer.err


# infer


@pytest.fixture
def inputs(folder):
    """Five images in two folders, and what is none."""
    for name in ("a.png", "b.jpg", "deep/c.png", "deep/d.webp", "deep/er/e.bmp"):
        save(Path("in", name), 40, 24, seed=len(name))
    Path("in/notes.txt").write_text("no image, and does not say so")
    return Path("in")


def test_infer_mentions_the_halves_of_double_images(call, folder, trained):
    save(Path("double.png"), 64, 32)
    assert "--split left or right" in call("infer", trained, "double.png", "out").err
    halved = call("infer", trained, "double.png", "half", "--split", "left").err
    assert "note:" not in halved


def test_infer_into_a_file_of_no_image_format(refused, folder, trained):
    save(Path("a.png"), 32, 32)
    assert "cannot be written as .xyz" in refused("infer", trained, "a.png", "b.xyz")


def test_infer_a_folder(call, inputs, trained):
    answer = call("infer", trained, inputs, "out")
    assert "5 translated: out" in answer.err
    assert answer.out == ""
    images = ["a.png", "b.jpg", "deep/c.png", "deep/d.webp", "deep/er/e.png"]
    assert [name for name in tree("out") if Path("out", name).is_file()] == images
    for name in images:
        assert Image.open(Path("out", name)).size == (40, 24)
    assert Image.open("out/b.jpg").format == "JPEG"


def test_infer_a_file(call, refused, inputs, trained):
    call("infer", trained, "in/a.png", "one.png", "--quiet")
    assert Image.open("one.png").size == (40, 24)
    call("infer", trained, "in/a.png", "folder")
    assert tree("folder") == ["a.png"]
    call("infer", trained, "in/a.png", "one.jpg")
    assert Image.open("one.jpg").format == "JPEG"
    assert "one.png is already there; use --overwrite" in refused(
        "infer", trained, "in/a.png", "one.png"
    )
    call("infer", trained, "in/b.jpg", "one.png", "--overwrite")


def test_infer_from_a_bundle_that_was_moved(call, inputs, trained):
    shutil.copy(trained / "model.safetensors", "elsewhere.safetensors")
    call("infer", trained, "in/a.png", "one.png")
    shutil.rmtree(trained)
    call("infer", "elsewhere.safetensors", "in/a.png", "two.png")
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()


def test_infer_halves(call, folder, trained):
    halves = {}
    source = read_image(Path("pairs/val/0.png"))
    for split, half in (("left", source[:, :32]), ("right", source[:, 32:])):
        call("infer", trained, "pairs/val", split, "--split", split)
        Image.fromarray(half).save(f"{split}.png")
        call("infer", trained, f"{split}.png", f"{split}_alone.png")
        halves[split] = read_image(Path(split, "0.png"))
        assert halves[split].shape == (32, 32, 3)
        assert np.array_equal(halves[split], read_image(Path(f"{split}_alone.png")))
    assert not np.array_equal(halves["left"], halves["right"])


def test_infer_formats(call, inputs, trained):
    formats = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tiff": "TIFF"}
    for suffix, name in formats.items():
        call("infer", trained, "in/deep", suffix, "--format", suffix)
        written = [path for path in Path(suffix).rglob("*") if path.is_file()]
        assert [path.suffix for path in written] == [f".{suffix}"] * 3
        assert {Image.open(path).format for path in written} == {name}
    call("infer", trained, "in/deep", "npy", "--format", "npy")
    assert np.array_equal(np.load("npy/c.npy"), read_image(Path("png/c.png")))


def test_infer_batches_give_the_same(call, inputs, trained):
    save(inputs / "f.png", 24, 40)
    call("infer", trained, inputs, "one", "--format", "png")
    call("infer", trained, inputs, "three", "--format", "png", "--batch-size", "3")
    assert tree("one") == tree("three")
    for path in Path("one").rglob("*.png"):
        other = read_image(Path("three", *path.parts[1:]))
        assert np.abs(read_image(path).astype(int) - other).max() <= 1


def test_infer_keeps_what_is_there(call, inputs, trained):
    save(Path("out/a.png"), 8, 8)
    answer = call("infer", trained, inputs, "out")
    assert "4 translated, 1 already there (--overwrite replaces them): out" in answer.err
    assert Image.open("out/a.png").size == (8, 8)
    answer = call("infer", trained, inputs, "out", "--overwrite")
    assert "5 translated: out" in answer.err
    assert Image.open("out/a.png").size == (40, 24)


def test_infer_goes_on_after_unreadable_inputs(call, inputs, trained):
    truncate(inputs / "b.jpg")
    (inputs / "deep/no.png").write_text("no image")
    answer = call("infer", trained, inputs, "out", "--batch-size", "4", code=1)
    assert "skipped in/b.jpg: cannot be read" in answer.err
    assert "skipped in/deep/no.png: not an image that can be read" in answer.err
    assert "4 translated, 2 skipped: out" in answer.err
    written = {path.name for path in Path("out").rglob("*") if path.is_file()}
    assert written == {"a.png", "c.png", "d.webp", "e.png"}
    # What was wrong is said also where nothing else is.
    quiet = call("infer", trained, inputs, "quiet", "--quiet", code=1)
    assert len(quiet.err.splitlines()) == 2


def test_infer_one_unreadable_input(call, inputs, trained):
    truncate(inputs / "b.jpg")
    assert "skipped in/b.jpg" in call("infer", trained, "in/b.jpg", "one.png", code=1).err
    assert not Path("one.png").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tiny.toml", "in", "out"], "tiny.toml is not a model: expected a .safetensors bundle"),
        (["nowhere", "in", "out"], "there is no model file nowhere"),
        (["pairs", "in", "out"], "pairs holds no model.safetensors"),
        (["run", "nowhere", "out"], "there is no file or folder nowhere"),
        (["run", "empty", "out"], "no images below empty"),
        (["run", "in", "in"], "input and output are the same folder"),
        (["run", "in", "tiny.toml"], "tiny.toml is a file"),
        (["run", "in", "tiny.toml/out"], "cannot write tiny.toml/out"),
        (["run", "in/a.png", "in"], "in/a.png is already there; use --overwrite"),
        (["run", "in/a.png", "in", "--overwrite"], "would replace the input in/a.png"),
        (["run", "in/a.png", "a.jpg", "--format", "png"], "disagree"),
        (["run", "in", "out", "--format", "gif"], "--format cannot be 'gif'; possible: png, jpg"),
        (["run", "in", "out", "--mean"], "--mean is made of several samples: add --samples"),
        (["run", "in", "out", "--spread", "--format", "npy"], "--spread is made of several"),
        (["run", "in", "out", "--samples", "1"], "Invalid value for '--samples'"),
        (["run", "in", "out", "--report", "r.png"], "r.png: that is the name of an image"),
        (["run", "in", "out", "--split", "top"], "--split cannot be 'top'; possible: left, right"),
        (["run", "in", "out", "--device", "tpu"], "'tpu' is not a device"),
        (["run", "in", "out", "--precision", "half"], "--precision cannot be 'half'"),
        (["run", "in", "out", "--plugin", "none.py"], "plugin none.py cannot be loaded"),
    ],
)
def test_infer_refuses(refused, inputs, trained, arguments, said):
    Path("empty").mkdir()
    assert said in refused("infer", *arguments)


def test_infer_samples(call, inputs, trained):
    weights, info = load_bundle(trained / "model.safetensors")
    info.generator["settings"]["dropout"] = 0.5
    save_bundle(trained / "model.safetensors", weights, info)
    options = ("--format", "png", "--seed", "3")
    call("infer", trained, "in/deep", "plain", *options)
    call("infer", trained, "in/deep", "out", "--samples", "2", "--mean", "--spread", *options)
    kinds = ("1", "2", "mean", "spread")
    assert [path.name for path in sorted(Path("out").glob("*.png"))] == [
        f"{stem}-{kind}.png" for stem in "cd" for kind in kinds
    ]
    one, two, mean, spread = (read_image(Path("out", f"c-{kind}.png")) for kind in kinds)
    assert np.array_equal(one, read_image(Path("plain/c.png")))
    assert not np.array_equal(one, two)
    assert np.abs(mean - (one.astype(float) + two) / 2).max() <= 1
    assert one.shape == spread.shape == (24, 40, 3)
    call("infer", trained, "in/deep/c.png", "other", "--format", "png", "--seed", "4")
    assert not np.array_equal(one, read_image(Path("other/c.png")))


def test_infer_samples_of_a_model_without_noise(refused, inputs, trained):
    said = refused("infer", trained, inputs, "out", "--samples", "3")
    assert "all samples would be equal" in said


def test_infer_json(call, inputs, trained):
    (inputs / "no.png").write_text("no image")
    answer = call("infer", trained, inputs, "out", "--json", "--quiet", code=1)
    (line,) = answer.out.splitlines()
    told = json.loads(line)
    assert (told["written"], told["kept"], told["skipped"]) == (5, 0, 1)
    assert 0 < told["network_seconds"] <= told["seconds"] < 60
    assert answer.err.splitlines() == ["skipped in/no.png: not an image that can be read"]


def test_infer_report(call, refused, inputs, trained):
    call("infer", trained, inputs, "out", "--report", "out/report.jsonl")
    call("infer", trained, inputs, "out", "--report", "out/report.jsonl")
    lines = [json.loads(line) for line in Path("out/report.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["written"] * 5 + ["kept"] * 5
    names = [line["input"] for line in lines]
    assert sorted(names[:5]) == sorted(names[5:])
    assert {(line["width"], line["height"], line["depth"]) for line in lines[:5]} == {
        (40, 24, "uint8")
    }
    said = refused("infer", trained, inputs, "new", "--report", "tiny.toml")
    assert "tiny.toml is there and is no report" in said


def test_infer_hands_its_options_on(call, inputs, trained, monkeypatch):
    from img2img import rebuild
    from img2img.inference import folder as folder_module

    given = {}
    for module, name in ((rebuild, "load_translator"), (folder_module, "translate_files")):
        real = getattr(module, name)

        def spy(*args, real=real, **options):
            given.update(options)
            return real(*args, **options)

        monkeypatch.setattr(module, name, spy)
    call("infer", trained, inputs, "plain", "--device", "cpu")
    assert given["tile"] is given["batch_size"] is given["half"] is given["report"] is None
    assert (given["seed"], given["precision"], given["overwrite"]) == (0, "auto", False)
    options = "--device cpu --tile 64 --seed 7 --precision float32 --batch-size 3 --split right"
    call("infer", trained, inputs, "out", *options.split(), "--overwrite")
    expected = {"tile": 64, "seed": 7, "precision": "float32", "batch_size": 3, "half": "right"}
    assert given.items() >= (expected | {"overwrite": True}).items()
    assert str(given["device"]) == "cpu"
    assert given["threads"] >= 1


def test_infer_limits_pixels(call, inputs, trained, monkeypatch):
    # The limit is the whole process's, so the test gives it back.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    save(inputs / "small.png", 8, 8)
    said = call("infer", trained, inputs, "out", "--max-pixels", "900", code=1).err
    assert "skipped in/a.png: 40 x 24 pixels are more than the limit of 900" in said
    assert "1 translated, 5 skipped: out" in said
    call("infer", trained, inputs, "out", "--max-pixels", "960")


def test_infer_names_in_messages(call, inputs, trained):
    Path("in/\x1b[31mred\nskipped nothing.png").write_text("no image")
    said = call("infer", trained, inputs, "out", code=1).err
    assert r"skipped in/\x1b[31mred\nskipped nothing.png: not an image" in said
    assert "\x1b" not in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_infer_interrupted(call, folder, trained, monkeypatch, number):
    from img2img.inference import folder as folder_module

    # More than all threads together write in the time that a signal may take to be heard.
    count = 100
    for index in range(count):
        save(Path("in", f"{index}.png"), 32, 32, seed=index)
    real = folder_module.write_picture
    before = signal.getsignal(number)
    once = threading.Lock()

    def write(path, *rest):
        real(path, *rest)
        if len(tree("out")) >= 2:
            # Several threads write, and a second signal is meant to end the process at once.
            if once.acquire(blocking=False):
                os.kill(os.getpid(), number)
            time.sleep(0.1)

    monkeypatch.setattr(folder_module, "write_picture", write)
    said = call("infer", trained, "in", "out", "--batch-size", "1", code=130).err
    there = snapshot("out")
    assert 0 < len(there) < count
    assert f"interrupted after {len(there)} translated; the same command goes on there" in said
    monkeypatch.setattr(folder_module, "write_picture", real)
    said = call("infer", trained, "in", "out").err
    assert f"{count - len(there)} translated, {len(there)} already there" in said
    assert snapshot("out").items() >= there.items()
    assert len(snapshot("out")) == count
    assert signal.getsignal(number) == before


def test_infer_a_damaged_bundle(refused, inputs, trained):
    truncate(trained / "model.safetensors")
    assert "run/model.safetensors is not a model" in refused("infer", "run", "in", "out")


def test_keys_of_a_strangers_recipe_do_not_reach_the_terminal_raw(call, tmp_path):
    recipe = tmp_path / "strange.toml"
    recipe.write_text('"\\u001b[31mname" = 1\n', encoding="utf-8")
    done = call("check", recipe, code=2)
    assert "\x1b" not in done.err
    assert "\\x1b[31mname" in done.err
