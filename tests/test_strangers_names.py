"""Names of strangers' files, as commands print them: whatever is in one stays in its line."""

import os
import pickle
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from img2img.cli import main
from img2img.data.make_shards import main as make_shards
from img2img.data.synthetic import draw_landscape
from img2img.errors import ModelFileError

# As on a command line, where they are printed.
pytestmark = pytest.mark.filterwarnings("always::RuntimeWarning")

EVIL = "evil\n\x1b[31mname\u202e"


def save(path, number, *, photo_first=False, how=None):
    images = draw_landscape(np.random.default_rng(number), 32)
    images = images[::-1] if photo_first else images
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(images, axis=1)).convert(how or "RGB").save(path)


@pytest.fixture
def call(monkeypatch, capfd, tmp_path, tiny_tables):
    """Run a command; its output, of which no line is a stranger's."""
    if os.name == "nt":
        pytest.skip("no such names there")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "tiny.toml").write_text(tiny_tables + "steps = 14\n")
    for split, numbers in (("train", range(12)), ("val", range(12, 15))):
        for number in numbers:
            save(Path("pairs", split, f"{EVIL}{number:02}.png"), number)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["img2img", *map(str, arguments)])
        with pytest.raises(SystemExit):
            main()
        return plain(*capfd.readouterr())

    return run


def plain(*texts):
    text = "".join(texts)
    for raw in ("evil\n", "\x1b[31m", "\u202e"):
        assert raw not in text
    return text


def test_an_error_of_several_lines_is_the_same_in_another_process():
    error = ModelFileError(f"{EVIL} is bad:", ["  one\n", "  two"])
    assert str(error) == "evil\\n\\x1b[31mname\\u202e is bad:\n  one\\n\n  two"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (ModelFileError, str(error))


def test_training_and_checking(call):
    train = Path("pairs", "train")
    (train / f"{EVIL}bad.png").write_text("no image")
    save(train / f"{EVIL}again.png", 3)
    save(train / f"{EVIL}grey.png", 20, how="L")
    save(Path("pairs", "val", f"{EVIL}leak.png"), 4)
    text = call("check", "tiny.toml", "--sheet", "sheet.png")
    assert text.count(r"evil\n\x1b[31mname\u202ebad.png: not an image") == 1
    assert r"evil\n\x1b[31mname\u202eleak.png: the same pair as pairs/train/evil\n" in text
    assert r"(such as pairs/train/evil\n" in text
    assert r"skipped pairs/train/evil\n\x1b[31mname\u202ebad.png" in call("run", "tiny.toml")
    call("new", "other", "--data", "pairs")
    for number in range(4):
        (train / f"{EVIL}{number:02}.png").write_text("no image")
    assert "too many" in call("run", "tiny.toml", "--out", "other")
    for path in train.iterdir():
        path.write_text("no image")
    assert r"evil\n" in call("run", "tiny.toml", "--out", "third")
    assert r"evil\n" in call("new", "third", "--data", "pairs")


def test_a_few_pairs_that_do_not_suit_the_task(call):
    labels = np.zeros((32, 32, 3), np.uint8)
    labels[8:24, 8:24] = (200, 0, 0)
    for number, path in enumerate(sorted(Path("pairs", "train").iterdir())):
        pair = [labels, draw_landscape(np.random.default_rng(number), 32)[1]]
        Image.fromarray(np.concatenate(pair[:: -1 if number == 1 else 1], axis=1)).save(path)
    palette = "task.palette=[[0, 0, 0], [200, 0, 0]]"
    settings = ["task.name=labels", palette, "train.steps=1"]
    text = call("run", "tiny.toml", *(part for each in settings for part in ("--set", each)))
    assert "1 of 12 training pairs looked at do not suit" in text
    assert r"evil\n\x1b[31mname\u202e01.png: the source is no label map" in text
    assert "the target is: the two images of this pair are in each other's place" in text
    assert "`img2img check --json` lists all" in text


def test_two_folders_and_tar_files(call, capfd):
    for split in ("train", "val"):
        for path in list(Path("pairs", split).iterdir()):
            whole = np.array(Image.open(path))
            for side, image in (("A", whole[:, :32]), ("B", whole[:, 32:])):
                Path("two", split, side).mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(Path("two", split, side, path.name))
    first = Path("two", "train", "A", f"{EVIL}00.png")
    two = ["--set", "data.source=two_folders", "--set", "data.root=two"]
    first.unlink()
    for command in (["check", "tiny.toml", *two], ["run", "tiny.toml", *two]):
        assert r"no partner of the same name for two/train/B/evil\n" in call(*command)
    call("new", "third", "--data", "two")
    Image.new("RGB", (20, 20)).save(first)
    assert r"evil\n" in call("check", "tiny.toml", *two)
    with pytest.raises(SystemExit):
        make_shards(["nowhere" + EVIL, "out"])
    plain(*capfd.readouterr())
    Path("shards").mkdir()
    for split in ("train", "val"):
        with tarfile.open(Path("shards", f"{split}-{EVIL}.tar"), "w") as tar:
            for path in sorted(Path("pairs", split).iterdir()):
                tar.add(path, path.name)
            bad = tarfile.TarInfo(f"{EVIL}bad.png")
            tar.addfile(bad)
    shard = Path("shards", f"train-{EVIL}.tar")
    shard.write_bytes(shard.read_bytes().rstrip(b"\0"))
    settings = ["source=shards", "root=shards", "first=", "second="]
    tars = [part for setting in settings for part in ("--set", f"data.{setting}")]
    assert r"train-evil\n" in call("check", "tiny.toml", *tars)


def test_translating_and_other_files(call):
    call("run", "tiny.toml", "--set", "train.steps=1")
    Path("in").mkdir()
    Image.new("RGB", (32, 32)).save(Path("in", f"{EVIL}.png"))
    Path("in", f"{EVIL}bad.png").write_text("no image")
    os.mkfifo(Path("in", f"{EVIL}pipe.png"))
    assert r"evil\n\x1b[31mname\u202ebad.png" in call("infer", "runs/tiny", "in", "out")
    call("infer", "runs/tiny", f"in/{EVIL}bad.png", "out.png")
    Path(f"{EVIL}.pth").write_bytes(b"nothing")
    for command in ("show", "export"):
        call(command, f"{EVIL}.pth")
    assert r"evil\n" in call("import", f"{EVIL}.pth", "--out", "m.safetensors")
    with tarfile.open("facades.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(f"facades/{EVIL}.jpg"))
        tar.addfile(tarfile.TarInfo(f"../{EVIL}.jpg"))
    call("data", "fetch", "facades", "--url", "facades.tar.gz")
    Path("there", EVIL).mkdir(parents=True)
    there = ["--url", "facades.tar.gz", "--out", "there", "--force"]
    assert r"more than a data set (evil\n" in call("data", "fetch", "facades", *there)
