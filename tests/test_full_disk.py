"""A disk that is full, or fails: one message, and the last good checkpoint goes on."""

import errno
import json
import os
import re
import shutil
import subprocess
import threading
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch

import img2img
from img2img.engine import room as room_module
from img2img.engine.checkpoint import find_checkpoints, flaw
from img2img.engine.directory import RunDirectory
from img2img.errors import Img2ImgError, RequestError
from img2img.files import in_words, naming, whole_file

RECIPE = """
name = "tiny"
[data]
source = "synthetic"
count = 6
size = 32
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
steps = 6
batch_size = 2
log_every = 1
sample_every = 3
sample_count = 2
checkpoint_every = 2
validate_every = 6
keep_checkpoints = 1
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "tiny.toml").write_text(RECIPE)
    run(folder / "tiny.toml", folder / "run")
    return folder / "run"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of eight megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def run(recipe, out, **options):
    return img2img.train(recipe, out=out, device="cpu", **options)


def weights(out):
    return safetensors.torch.load_file(out / "model.safetensors")


def assert_went_on(recipe, out, undisturbed):
    """As if nothing had happened: weights bit for bit, each step once, no halves."""
    run(recipe, out, resume=True)
    ours, theirs = weights(out), weights(undisturbed)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "losses" in line] == [1, 2, 3, 4, 5, 6]
    sheets = sorted(path.name for path in (out / "samples").iterdir())
    assert sheets == sorted(path.name for path in (undisturbed / "samples").iterdir())
    assert not list(out.rglob(".partial-*"))


def room(undisturbed):
    return sum(path.stat().st_size for path in undisturbed.rglob("*") if path.is_file())


def test_a_small_disk_that_is_full_at_any_time(recipe, small_disk, undisturbed):
    """Filled to many levels, so that one after the other meets the end."""
    needed, named = room(undisturbed), set()
    out, ballast = small_disk / "run", small_disk / "ballast"
    free = shutil.disk_usage(small_disk).free
    assert needed * 1.5 < free
    for share in (0.0, 0.02, 0.2, 0.5, 0.8):
        ballast.write_bytes(bytes(free - int(needed * share)))
        told = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                run(recipe, out)
            except Img2ImgError as error:
                told = error
        if told is not None:
            assert told.exit_code == 1, told
            pattern = "No space left on device: .* free on its disk. .*ake .* --resume"
            assert re.search(pattern, str(told)), told
            place = str(told).partition("cannot write ")[2].partition(": No space")[0]
            assert place.startswith(str(out)), told
            named.add(Path(place).name)
        assert all(flaw(path) is None for path in find_checkpoints(RunDirectory(out)))
        assert not (out / ".lock").exists()
        ballast.unlink()
        assert_went_on(recipe, out, undisturbed)
        shutil.rmtree(out)
    assert len(named) >= 3, named


PLACES = [
    "recipe.toml",
    "environment.json",
    "metrics.jsonl",
    "step-00000003.png",
    "networks.safetensors",
    "state.json",
    "manifest.json",
    "model.safetensors",
    "report.html",
]


@pytest.mark.parametrize(
    ("name", "number"),
    [*((name, errno.ENOSPC) for name in PLACES), ("metrics.jsonl", errno.EIO)],
)
def test_each_file_can_be_the_one(recipe, tmp_path, undisturbed, monkeypatch, name, number):
    """The second time it is written, where it is written more than once."""
    out, seen = tmp_path / "run", []
    opened = Path.open
    once = name in ("recipe.toml", "environment.json", "step-00000003.png")

    def fail():
        seen.append(name)
        if len(seen) == (1 if once else 2):
            raise OSError(number, os.strerror(number))

    def replace(self, target, real=Path.replace):
        if Path(target).name == name:
            fail()
        return real(self, target)

    def open_(self, mode="r", *args, **options):
        if self.name == name == "metrics.jsonl" and "a" in mode:
            fail()
        return opened(self, mode, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        patched.setattr(Path, "open", open_)
        with pytest.raises(Img2ImgError) as caught:
            run(recipe, out)
    assert caught.value.exit_code == 1
    told = str(caught.value)
    assert os.strerror(number) in told
    assert name in told
    assert ".partial" not in told
    assert "--resume" in told
    assert ("free on its disk" in told) == (number == errno.ENOSPC)
    assert all(flaw(path) is None for path in find_checkpoints(RunDirectory(out)))
    # What is at the start and inside a checkpoint differs in nothing from its neighbours.
    if number == errno.ENOSPC and name not in ("environment.json", "state.json"):
        assert_went_on(recipe, out, undisturbed)


def test_a_tensorboard_that_fails_ends_nothing(recipe, tmp_path, undisturbed, monkeypatch, capsys):
    """It is named once, with its file, and nothing is said from another thread."""
    from img2img.report import tensorboard

    written = []

    def record(data, real=tensorboard._record):
        written.append(data)
        if len(written) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(data)

    monkeypatch.setattr(tensorboard, "_record", record)
    monkeypatch.setattr(threading, "excepthook", lambda args: pytest.fail("from a thread"))
    before = threading.active_count()
    with pytest.warns(
        RuntimeWarning, match=r"'tensorboard' failed .*No space.*events\.out"
    ) as told:
        run(recipe, tmp_path / "run")
    assert sum("tensorboard" in str(warning.message) for warning in told) == 1
    assert len(written) == 6
    assert threading.active_count() == before
    assert "Traceback" not in capsys.readouterr().err
    ours, theirs = weights(tmp_path / "run"), weights(undisturbed)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_tensorboard_on_a_full_disk(small_disk):
    """A real one: the file that takes no more is closed."""
    from img2img.report.tensorboard import EventFile

    file = EventFile(small_disk / "tensorboard")
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    with pytest.raises(OSError, match=r"No space left.*events\.out") as caught:
        for step in range(10_000):
            file.add(step=step, summary={"value": [{"tag": "a", "simple_value": 1.0}]})
    assert caught.value.errno == errno.ENOSPC
    assert not [p for p in Path("/proc/self/fd").iterdir() if str(small_disk) in str(_target(p))]


def test_a_run_that_fails_leaves_no_file_open(recipe, tmp_path, monkeypatch):
    """Nor would a logger that is used again write into what the failed run had."""
    from img2img.plugins import load_plugins
    from img2img.training import train_recipe

    def fail(step):
        if step == 2:
            raise KeyError("somebody's")

    plugins = load_plugins(entry_points=False)
    with pytest.raises(KeyError):
        train_recipe(str(recipe), plugins, out=tmp_path / "a", device="cpu", on_step=fail)
    (before,) = (tmp_path / "a/tensorboard").iterdir()
    opened = [str(_target(path)) for path in Path("/proc/self/fd").iterdir()]
    assert not any("tfevents" in name for name in opened)
    assert not plugins.manager.has_plugin("tensorboard")
    size = before.stat().st_size
    train_recipe(str(recipe), plugins, out=tmp_path / "b", device="cpu")
    assert before.stat().st_size == size
    assert len(list((tmp_path / "b/tensorboard").iterdir())) == 1


def test_a_logger_that_starts_again_writes_into_the_new_run(tmp_path):
    from img2img.report.tensorboard import TensorBoardLogger

    logger = TensorBoardLogger()
    for name in ("a", "b"):
        logger.on_run_start(tmp_path / name, 0)
        logger.on_metrics({"step": 1, "losses": {"l1": 1.0}})
    sizes = [[p.stat().st_size for p in (tmp_path / n / "tensorboard").iterdir()] for n in "ab"]
    assert sizes[0] == sizes[1]
    logger.on_run_end()


def _target(path):
    try:
        return path.readlink()
    except OSError:
        return None


def test_a_directory_that_goes_away(recipe, tmp_path):
    from img2img.plugins import load_plugins
    from img2img.training import train_recipe

    def remove(step):
        if step == 3:
            (tmp_path / "run").rename(tmp_path / "elsewhere")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Img2ImgError, match=r"run is gone: was it moved or removed\?") as caught:
            train_recipe(
                str(recipe),
                load_plugins(entry_points=False),
                out=tmp_path / "run",
                device="cpu",
                on_step=remove,
            )
    assert caught.value.exit_code == 1


def test_a_file_where_the_run_directory_would_be(recipe, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(RequestError, match="not a run directory"):
        run(recipe, tmp_path / "run")
    with pytest.raises(RequestError, match=r"cannot write to .*Not a directory.*--out"):
        run(recipe, tmp_path / "run/inner")


def test_errors_of_others_are_not_dressed_up(recipe, tmp_path):
    """An OSError of a plugin's or of the data's is no write of ours."""
    from img2img.plugins import load_plugins
    from img2img.training import train_recipe

    def fail(step):
        raise PermissionError(errno.EACCES, "no", "/somewhere/else")

    with pytest.raises(PermissionError):
        train_recipe(
            str(recipe),
            load_plugins(entry_points=False),
            out=tmp_path / "run",
            device="cpu",
            on_step=fail,
        )


def test_names_in_errors(tmp_path):
    with pytest.raises(OSError, match="No space") as caught, naming(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "a")
    with pytest.raises(FileNotFoundError) as caught, naming(tmp_path / "a"):
        (tmp_path / "b").read_bytes()
    assert caught.value.filename == str(tmp_path / "b")
    with pytest.raises(FileNotFoundError) as caught, whole_file(tmp_path / "no/c.png"):
        pass
    assert caught.value.filename == str(tmp_path / "no/c.png")


def test_free_space_in_words(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, "full")
    for free, said in ((0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (1 << 40, "1.0 T")):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr(shutil, "disk_usage", lambda path, usage=usage: usage)
        assert in_words(full, tmp_path / "not/there").startswith(f"full: {said}")
    assert in_words(OSError(errno.EIO, "broken"), tmp_path) == "broken"


def test_a_disk_that_will_not_do_is_told_at_the_start(recipe, tmp_path, monkeypatch):
    """And how much it takes: what such a run really keeps, within a tenth."""
    settings = {"generator.width": 24, "discriminator.width": 24, "train.steps": 4}
    settings |= {"train.keep_checkpoints": 2, "train.ema_decay": 0.9}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(recipe, tmp_path / "run", overrides=settings)
    one, two = (
        sum(file.stat().st_size for file in folder.iterdir())
        for folder in (tmp_path / "run" / "checkpoints").iterdir()
    )
    model = (tmp_path / "run" / "model.safetensors").stat().st_size
    real = one + two + two + 3 * model  # one of each beside the others while it is written
    told = []
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(room_module, "size_in_words", lambda count: told.append(count) or "")
    monkeypatch.setattr(room_module.shutil, "disk_usage", lambda path: usage._replace(free=1))
    with pytest.warns(UserWarning, match=r"want about .* lower train\.keep_checkpoints \(2\)"):
        run(recipe, tmp_path / "other", overrides=settings)
    assert told[0] == 1
    assert told[1] == pytest.approx(real, rel=0.1)
