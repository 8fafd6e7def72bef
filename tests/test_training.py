"""The engine: exact resume, what a run leaves behind, interrupts, precision."""

import json
import os
import shutil
import signal
import sys
import threading
import tomllib
import warnings
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

import img2img
from img2img import training
from img2img.bundle import load_bundle
from img2img.cli import main
from img2img.data import SideBySide
from img2img.data.batch import Batch, Skipped
from img2img.data.make_shards import make_shards
from img2img.engine.checkpoint import find_checkpoints
from img2img.engine.directory import RunDirectory
from img2img.engine.schedule import Schedule
from img2img.engine.stepping import Stepper
from img2img.engine.unreadable import Unreadable
from img2img.errors import (
    DataError,
    Img2ImgError,
    Interrupted,
    Note,
    RecipeError,
    RequestError,
    SaidElsewhere,
)
from img2img.methods import Pix2Pix
from img2img.plugins import load_plugins
from img2img.training import to_assignments, train_recipe

RECIPE = """
name = "tiny"
[task]
name = "edges"
[data]
source = "synthetic"
count = 10
size = 40
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
steps = 6
batch_size = 4
log_every = 2
sample_every = 3
checkpoint_every = 100
schedule = "linear"
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def files_recipe(tmp_path):
    """The same on side-by-side files below `data/`, one pair a step."""
    path = tmp_path / "tiny.toml"
    root = f'source = "side_by_side"\nroot = "{tmp_path / "data"}"'
    text = RECIPE.replace('source = "synthetic"\ncount = 10\nsize = 40', root)
    text = text.replace('name = "edges"', 'name = "paired"')
    text = text.replace("steps = 6\nbatch_size = 4", "steps = 8\nbatch_size = 1")
    path.write_text(text)
    return path


def run(recipe, out, resume=False, **overrides):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return img2img.train(
            recipe,
            out=out,
            resume=resume,
            device="cpu",
            overrides={key.replace("__", "."): value for key, value in overrides.items()},
        )


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def everything(directory):
    """All tensors of the newest checkpoint."""
    from safetensors.torch import load_file

    newest = find_checkpoints(RunDirectory(directory))[-1]
    tensors = {}
    for path in sorted(newest.glob("*.safetensors")):
        tensors |= {f"{path.stem}/{name}": value for name, value in load_file(path).items()}
    state = json.loads((newest / "state.json").read_text())
    return tensors, state


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stop", [3, 4])
def test_three_steps_and_three_more_are_six(tmp_path, recipe, precision, stop):
    """Bit for bit: weights, optimizers, random states, and every loss that was logged.

    Ten pairs in batches of four make the epoch end inside, with a smaller batch.
    """
    settings = {"train__precision": precision, "train__schedule": "constant"}
    run(recipe, tmp_path / "whole", **settings)
    run(recipe, tmp_path / "parts", train__steps=stop, **settings)
    run(recipe, tmp_path / "parts", resume=True, **settings)
    whole, whole_state = everything(tmp_path / "whole")
    parts, parts_state = everything(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
    for state in (whole_state, parts_state):
        state.pop("elapsed_s"), state.pop("window")
    assert whole_state == parts_state
    if stop == 4:  # a log line is due there anyway, so the two tell the same
        assert _losses(tmp_path / "whole") == _losses(tmp_path / "parts")
    before, _ = load_bundle(tmp_path / "whole" / "model.safetensors")
    after, _ = load_bundle(tmp_path / "parts" / "model.safetensors")
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def _losses(directory):
    return [(line["step"], line["losses"]) for line in lines(directory) if "losses" in line]


def test_interrupted_run_goes_on_to_the_same_end(tmp_path, recipe):
    """The linear schedule and a log window cut in two included: 5 of 6 steps, then the last."""
    run(recipe, tmp_path / "whole", train__log_every=4)
    _interrupt_after(recipe, tmp_path / "cut", 5, signal.SIGTERM, train__log_every=4)
    assert [line["step"] for line in lines(tmp_path / "cut")] == [4]
    run(recipe, tmp_path / "cut", resume=True, train__log_every=4)
    whole, cut = everything(tmp_path / "whole")[0], everything(tmp_path / "cut")[0]
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    assert _losses(tmp_path / "whole") == _losses(tmp_path / "cut")
    assert [line["step"] for line in lines(tmp_path / "cut")] == [4, 6, 6]


def _interrupt_after(recipe, out, step, number, **overrides):
    with (
        pytest.warns(Note, match="asked to stop: .* saved first; a second signal ends"),
        pytest.raises(Interrupted, match=f"step {step} of 6.*--resume"),
    ):
        train_recipe(
            str(recipe),
            load_plugins(entry_points=False),
            out=out,
            device="cpu",
            overrides=to_assignments({k.replace("__", "."): v for k, v in overrides.items()}),
            on_step=lambda done: os.kill(os.getpid(), number) if done == step else None,
        )


def test_ctrl_c_saves_and_says_so(tmp_path, recipe):
    before = signal.getsignal(signal.SIGINT)
    _interrupt_after(recipe, tmp_path / "run", 2, signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert [path.name for path in find_checkpoints(RunDirectory(tmp_path / "run"))] == [
        "step-00000002"
    ]
    assert (tmp_path / "run" / "report.html").is_file()
    assert img2img.load(tmp_path / "run", device="cpu")


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (0, "interrupted; nothing was saved yet, and the same command with --resume begins anew"),
        (5, "interrupted; step 4 is saved, and the same command with --resume goes on from there"),
    ],
)
def test_asked_twice_a_run_says_what_is_saved(tmp_path, recipe, monkeypatch, at, said):
    """The second signal raises, also where it is the only one: before the first step."""
    step = Pix2Pix.step

    def interrupted(method, source, target):
        if len(done) == at:
            raise KeyboardInterrupt
        return step(method, source, target)

    done = []
    monkeypatch.setattr(Pix2Pix, "step", interrupted)
    with pytest.raises(KeyboardInterrupt) as asked:
        train_recipe(
            str(recipe),
            load_plugins(entry_points=False),
            out=tmp_path / "run",
            device="cpu",
            overrides=["train.checkpoint_every=4"],
            on_step=done.append,
        )
    assert str(asked.value) == said


@pytest.mark.parametrize(
    ("at", "options", "said"),
    [
        ("assemble", [], "interrupted before training began; nothing was changed"),
        (
            "train",
            ["--fresh"],
            "interrupted; nothing was saved yet, and the same command with --resume instead of "
            "--fresh begins anew",
        ),
        (
            "stop",
            ["--fresh"],
            "stopped at step 1 of 6; everything is saved, and the same command with --resume "
            "instead of --fresh goes on",
        ),
    ],
)
def test_the_command_says_what_a_signal_has_left(
    tmp_path, recipe, monkeypatch, capsys, at, options, said
):
    """A run that was to be replaced is none to go on with."""
    run(recipe, tmp_path / "run", train__steps=2)
    before = everything(tmp_path / "run")

    def asked(*given, **named):
        raise KeyboardInterrupt

    if at == "stop":
        step = Pix2Pix.step
        ask = partial(os.kill, os.getpid(), signal.SIGINT)
        monkeypatch.setattr(Pix2Pix, "step", lambda *given: (ask(), step(*given))[1])
    else:
        monkeypatch.setattr(training, at, asked)
    given = ["run", str(recipe), "--out", str(tmp_path / "run"), "--device=cpu", "--quiet"]
    monkeypatch.setattr(sys, "argv", ["img2img", *given, *(options or ["--resume"])])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == said
    if at == "assemble":
        for mine, other in zip(before, everything(tmp_path / "run"), strict=True):
            assert mine.keys() == other.keys()


def test_training_outside_the_main_thread_works(tmp_path, recipe):
    """Signal handlers are the main thread's alone; notebooks and servers train elsewhere."""
    failures = []

    def work():
        try:
            run(recipe, tmp_path / "run", train__steps=1)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failures
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_loader_workers_change_nothing(tmp_path, recipe):
    run(recipe, tmp_path / "none", train__steps=3)
    run(recipe, tmp_path / "two", train__steps=3, data__workers=2)
    none, two = everything(tmp_path / "none")[0], everything(tmp_path / "two")[0]
    assert all(torch.equal(value, two[name]) for name, value in none.items())


def test_model_translates_files_as_validation_did(tmp_path, files_recipe):
    """Trained at 32 pixels on images of 36: the bundle knows, and a file scores as its pair did."""
    root = _folder(tmp_path, 4)
    finished = run(files_recipe, tmp_path / "run", train__steps=3)
    translator = finished.load(device="cpu")
    assert translator.scale == pytest.approx([32 / 36, 32 / 36])
    with Image.open(root / "val" / "0.png") as pair:
        left = np.asarray(pair)[:, :36]
    assert translator(left).shape == (36, 36, 3)


def test_samples_and_validation_leave_training_alone(tmp_path, recipe):
    run(recipe, tmp_path / "often", train__sample_every=1, train__validate_every=1)
    run(recipe, tmp_path / "seldom", train__sample_every=100)
    often, seldom = everything(tmp_path / "often")[0], everything(tmp_path / "seldom")[0]
    assert all(torch.equal(value, seldom[name]) for name, value in often.items())
    steps = [line["step"] for line in lines(tmp_path / "often") if "validation" in line]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_run_directory(tmp_path, recipe):
    finished = run(recipe, tmp_path / "run")
    out = tmp_path / "run"
    assert finished.path == out
    assert {path.name for path in out.iterdir()} == {
        "recipe.toml",
        "environment.json",
        "metrics.jsonl",
        "samples",
        "checkpoints",
        "model.safetensors",
        "best.safetensors",
        "report.html",
        "tensorboard",
    }
    logged = lines(out)
    assert [line["step"] for line in logged] == [2, 4, 6, 6]
    first = logged[0]
    assert {"step", "epoch", "images", "elapsed_s", "images_per_s", "losses"} == first.keys()
    assert first["losses"].keys() == {"adversarial", "l1", "d_real", "d_fake"}
    assert [line.get("epoch") for line in logged] == [0, 1, 1, None]
    assert [line.get("images") for line in logged] == [8, 14, 20, None]
    assert logged[-1]["validation"] == finished.validation
    assert finished.validation.keys() == {"l1", "psnr", "ssim", "l1_source", "l1_mean_target"}
    sheets = sorted(path.name for path in (out / "samples").iterdir())
    assert sheets == ["step-00000000.png", "step-00000003.png", "step-00000006.png"]
    about = json.loads((out / "environment.json").read_text())
    assert about["torch"] == torch.__version__
    assert about["parameters"]["generator"] > 0
    assert list((out / "tensorboard").iterdir())
    assert "<script" in (out / "report.html").read_text()


def test_a_run_without_a_checkpoint_says_that_it_begins_anew(tmp_path, recipe, monkeypatch):
    run(recipe, tmp_path / "whole", train__steps=2)
    out = tmp_path / "run"
    out.mkdir()
    shutil.copy(tmp_path / "whole/recipe.toml", out)
    with pytest.warns(Note, match="has no checkpoint yet: the run begins anew"):
        run(recipe, out, resume=True, train__steps=2)
    assert _losses(out) == _losses(tmp_path / "whole")


@pytest.mark.parametrize(("batch", "told"), [(12, True), (10, False)])
def test_a_step_of_more_pairs_than_there_are_takes_all_of_them_and_says_so(
    tmp_path, recipe, recwarn, batch, told
):
    run(recipe, tmp_path / "run", train__steps=2, train__batch_size=batch)
    said = "steps have 12 pairs by train.batch_size, and there are 10 to train on"
    assert any(said in str(warning.message) for warning in recwarn) == told
    assert [line.get("images") for line in lines(tmp_path / "run")] == [20, None]


def test_recipe_of_a_run_repeats_it(tmp_path, recipe):
    run(recipe, tmp_path / "first", train__steps=2)
    run(tmp_path / "first" / "recipe.toml", tmp_path / "second")
    first, second = everything(tmp_path / "first")[0], everything(tmp_path / "second")[0]
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_seed_decides(tmp_path, recipe):
    run(recipe, tmp_path / "a", train__steps=1)
    run(recipe, tmp_path / "b", train__steps=1, train__seed=1)
    a, b = everything(tmp_path / "a")[0], everything(tmp_path / "b")[0]
    assert not torch.equal(
        a["networks/generator.encoder.0.0.weight"], b["networks/generator.encoder.0.0.weight"]
    )


def test_only_so_many_checkpoints_remain(tmp_path, recipe):
    run(recipe, tmp_path / "run", train__checkpoint_every=1, train__keep_checkpoints=2)
    found = find_checkpoints(RunDirectory(tmp_path / "run"))
    assert [path.name for path in found] == ["step-00000005", "step-00000006"]


def test_changed_recipe_cannot_resume(tmp_path, recipe):
    run(recipe, tmp_path / "run", train__steps=2)
    with pytest.raises(RequestError, match=r"generator\.width: 4 -> 8") as caught:
        run(recipe, tmp_path / "run", resume=True, generator__width=8, train__log_every=3)
    told = str(caught.value)
    assert told.index("generator.width") < told.index("These may change") < told.index("log_every")
    assert "--fresh" in told


def test_resuming_a_finished_run_changes_nothing(tmp_path, recipe):
    run(recipe, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    finished = run(recipe, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
    assert finished.validation["l1"] > 0


def test_a_run_that_is_told_to_end_where_it_stands_is_scored(tmp_path, recipe):
    _interrupt_after(recipe, tmp_path / "run", 2, signal.SIGINT, train__validate_every=0)
    assert all("validation" not in line for line in lines(tmp_path / "run"))
    finished = run(recipe, tmp_path / "run", resume=True, train__steps=2)
    assert {"l1", "l1_mean_target"} <= finished.validation.keys()
    last = lines(tmp_path / "run")[-1]
    assert (last["step"], last["validation"]) == (2, finished.validation)
    assert last["higher_is_better"] == {"l1": False, "psnr": True, "ssim": True}


def test_damaged_checkpoint_says_what_to_do(tmp_path, recipe):
    run(recipe, tmp_path / "run", train__steps=2)
    newest = find_checkpoints(RunDirectory(tmp_path / "run"))[-1]
    (newest / "networks.safetensors").write_bytes(b"not tensors")
    with pytest.raises(Img2ImgError, match=r"(?s)no checkpoint .*step-00000002: .*--fresh"):
        run(recipe, tmp_path / "run", resume=True)


def test_metrics_cut_off_by_a_kill_are_mended(tmp_path, recipe):
    run(recipe, tmp_path / "run", train__steps=4)
    metrics = tmp_path / "run" / "metrics.jsonl"
    # Steps past the checkpoint, as if killed before the next, and half a line.
    metrics.write_text(metrics.read_text() + '{"step": 5, "losses": {}}\n{"step": 6, "lo')
    run(recipe, tmp_path / "run", resume=True)
    assert [line["step"] for line in lines(tmp_path / "run")] == [2, 4, 4, 6, 6]


def test_a_run_killed_while_starting_can_be_started_again(tmp_path, recipe):
    (tmp_path / "run" / "samples").mkdir(parents=True)
    (tmp_path / "run" / ".partial-recipe.toml").write_text("na")
    run(recipe, tmp_path / "run", resume=True, train__steps=1)
    assert (tmp_path / "run" / "model.safetensors").is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(RequestError, match="not a run directory"):
        run(recipe, tmp_path / "other", resume=True)


def test_unreadable_pair_is_skipped_and_named(tmp_path, files_recipe):
    root = _folder(tmp_path, 6)
    (root / "train" / "2.png").write_bytes(b"\x89PNG broken")
    with pytest.warns(RuntimeWarning, match=r"skipped .*2\.png"):
        run(files_recipe, tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_too_many_unreadable_pairs_end_the_run(tmp_path, files_recipe):
    root = _folder(tmp_path, 8)
    for i in range(5):
        (root / "train" / f"{i}.png").write_bytes(b"\x89PNG broken")
    with (
        pytest.warns(RuntimeWarning, match="skipped"),
        pytest.raises(DataError, match=r"cannot be read.*img2img check"),
    ):
        run(files_recipe, tmp_path / "run")


def test_data_that_moved_is_no_other_data(tmp_path, files_recipe):
    """Two broken pairs, seen before and after, are two of the three that may be."""
    root = _folder(tmp_path, 8)
    for i in range(2):
        (root / "train" / f"{i}.png").write_bytes(b"\x89PNG broken")
    with pytest.warns(RuntimeWarning, match="2 unreadable pairs were skipped"):
        run(files_recipe, tmp_path / "run", train__steps=8)
    moved = root.rename(tmp_path / "elsewhere")
    settings = {"train__steps": 16, "data__root": str(moved)}
    with pytest.warns(RuntimeWarning, match="2 unreadable pairs were skipped"):
        run(files_recipe, tmp_path / "run", resume=True, **settings)


def test_several_processes_count_unreadable_pairs_together():
    class Several:
        several, main = True, True

        def gather(self, value):
            return [value, {5, 6}]

    processes = Several()
    broken = Batch(torch.zeros(1), torch.zeros(1), tuple(Skipped(i, f"{i}", "bad") for i in (1, 5)))
    unreadable = Unreadable(10, processes, None)
    with pytest.warns(RuntimeWarning, match="skipped 1: bad"):
        unreadable.note(broken, 1)
    unreadable.check(reading=True)  # 1, 5 and 6
    unreadable.seen.add(2)
    unreadable.check(reading=False)
    with pytest.raises(DataError, match="4 pairs cannot be read"):
        unreadable.check(reading=True)
    processes.main = False
    with pytest.raises(SaidElsewhere):
        unreadable.check(reading=True)


def _folder(tmp_path: Path, count: int) -> Path:
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for split, number in (("train", count), ("val", 2)):
        (root / split).mkdir(parents=True)
        for i in range(number):
            pixels = rng.integers(0, 255, (36, 72, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / f"{i}.png")
    return root


def test_components_refusals_come_together(tmp_path, recipe):
    with pytest.raises(RecipeError) as caught:
        run(
            recipe,
            tmp_path / "run",
            generator__depth=7,
            task__threshold=300,
            method__beta1=1.5,
        )
    text = str(caught.value)
    assert "threshold is a grey level" in text
    assert not (tmp_path / "run").exists()
    with pytest.raises(RecipeError, match=r"generator: depth 7.*multiples of 128.*use 128"):
        run(recipe, tmp_path / "run", generator__depth=7)


FAULTY = '''
import img2img
from torch import nn

class Pair(nn.Module):
    """Gives two tensors."""
    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, out_channels, 1)
    def forward(self, images):
        return self.layer(images), images

class Broken(Pair):
    """Fails."""
    def forward(self, images):
        return self.layer(images).nonsense

class Map:
    """Gives a map."""
    def __call__(self, output, target):
        return (output - target).abs()

class Trips:
    """Fails in its second step."""
    def __init__(self, build_generator, source_channels, target_channels):
        self.generator = build_generator(source_channels, target_channels)
        self.networks, self.optimizers, self.count = {"generator": self.generator}, {}, 0
    def step(self, source, target):
        self.count += 1
        return {"x": source.mean()} if self.count == 1 else source.kaboom

class Says(Trips):
    """Returns numbers."""
    def step(self, source, target):
        return {"x": 1.0}

@img2img.hookimpl
def register(registry):
    registry.generator("pair", Pair)
    registry.generator("broken", Broken)
    registry.loss("map", Map)
    registry.method("trips", Trips)
    registry.method("says", Says)
'''


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"generator.name": "pair"}, r"generator: Pair gives tuple, and should give one tensor"),
        ({"generator.name": "broken"}, r"generator: Broken fails on .*AttributeError.*nonsense"),
        ({"losses.l1.name": "map"}, r"losses.1: map should give a scalar"),
        ({"method.name": "trips"}, r"Trips failed in step 2: AttributeError: .*kaboom.*--debug"),
        ({"method.name": "says"}, r"Says.step must return its losses as a dict of tensors"),
    ],
)
def test_faults_of_a_plugin_are_called_its_own(tmp_path, recipe, overrides, message):
    recipe.write_text(recipe.read_text().replace("width = 4\n", ""))
    (tmp_path / "faulty.py").write_text(FAULTY)
    if "method.name" in overrides:
        overrides = {**overrides, "discriminator": False}
    with pytest.raises(Img2ImgError, match=message):
        img2img.train(
            recipe,
            out=tmp_path / "run",
            device="cpu",
            plugins=[tmp_path / "faulty.py"],
            overrides=overrides,
        )


def test_discriminator_can_be_left_out_by_an_override(tmp_path, recipe):
    run(recipe, tmp_path / "run", discriminator=False, losses=[{"name": "l1"}], train__steps=2)
    assert lines(tmp_path / "run")[0]["losses"].keys() == {"l1"}
    assert "[discriminator]" not in (tmp_path / "run" / "recipe.toml").read_text()


def test_zoomed_crops_are_pointed_out(tmp_path, recipe):
    with pytest.warns(RuntimeWarning, match=r"crops of 32 out of 64.*data\.load_size"):
        run(recipe, tmp_path / "run", data__load_size=64, train__steps=1)


PICKY = '''
import img2img

class Picky:
    """Refuses everything."""
    def __call__(self, output, target):
        raise ValueError("needs 7 pixels")

class Lonely:
    """Trains without a discriminator."""
    def __init__(self, build_generator, source_channels, target_channels):
        self.generator = build_generator(source_channels, target_channels)
        self.networks, self.optimizers = {"generator": self.generator}, {}
    def step(self, source, target):
        return {}

@img2img.hookimpl
def register(registry):
    registry.loss("picky", Picky)
    registry.method("lonely", Lonely)
'''


def test_what_would_fail_in_the_first_step_is_found_before_it(tmp_path, recipe):
    plugin = tmp_path / "picky.py"
    plugin.write_text(PICKY)
    with pytest.raises(RecipeError) as caught:
        img2img.train(
            recipe,
            out=tmp_path / "run",
            device="cpu",
            plugins=[plugin],
            overrides={"losses.l1.name": "picky", "method.name": "lonely"},
        )
    assert "losses.1: picky: needs 7 pixels" in str(caught.value)
    assert "the method 'lonely' uses none" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_adversarial_without_discriminator_and_the_other_way(tmp_path, recipe):
    text = recipe.read_text()
    without = text.replace('[discriminator]\nname = "patchgan16"\nwidth = 4\n', "")
    recipe.write_text(without)
    with pytest.raises(RecipeError, match=r"'adversarial' needs a discriminator"):
        run(recipe, tmp_path / "run")
    recipe.write_text(text.replace('[[losses]]\nname = "adversarial"\n', ""))
    with pytest.raises(RecipeError, match="only trained by an adversarial loss"):
        run(recipe, tmp_path / "run")
    recipe.write_text(without.replace('[[losses]]\nname = "adversarial"\n', ""))
    run(recipe, tmp_path / "run", train__steps=2)
    assert lines(tmp_path / "run")[0]["losses"].keys() == {"l1"}


def test_training_learns_a_simple_mapping(tmp_path, files_recipe):
    """Inverting grey images: after some steps far nearer than either trivial answer."""
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for split, number in (("train", 12), ("val", 4)):
        (root / split).mkdir(parents=True)
        for i in range(number):
            coarse = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
            left = coarse.repeat(8, 0).repeat(8, 1)
            Image.fromarray(np.concatenate([left, 255 - left], axis=1)).save(
                root / split / f"{i}.png"
            )
    finished = run(
        files_recipe,
        tmp_path / "run",
        data__load_size=32,
        generator__width=16,
        generator__depth=2,
        generator__dropout=0.0,
        method__learning_rate=2e-3,
        train__steps=120,
        train__schedule="constant",
    )
    scores = finished.validation
    assert scores["l1"] < 0.4 * scores["l1_source"]
    assert scores["l1"] < 0.5 * scores["l1_mean_target"]


@pytest.mark.parametrize("mode", ["lsgan", "hinge", "wgan-gp"])
def test_other_objectives_train(tmp_path, recipe, mode):
    run(
        recipe,
        tmp_path / "run",
        losses__adversarial__mode=mode,
        discriminator__norm="instance",
        train__steps=2,
    )
    losses = lines(tmp_path / "run")[0]["losses"]
    assert ("d_penalty" in losses) == (mode == "wgan-gp")
    assert all(np.isfinite(value) for value in losses.values())


def test_not_finite_losses_stop_the_run(tmp_path, recipe):
    with pytest.raises(Img2ImgError, match=r"not finite at step 1;.*learning_rate"):
        run(recipe, tmp_path / "run", losses__l1__weight=1e39, train__precision="float32")
    assert not find_checkpoints(RunDirectory(tmp_path / "run"))


def test_bfloat16_computes_in_bfloat16_and_stays_near(tmp_path, recipe):
    from img2img.engine.precision import set_precision
    from img2img.generators import UNet

    torch.manual_seed(0)
    network = UNet(3, 3, image_size=32, width=8).eval()
    images = torch.randn(2, 3, 32, 32)
    seen = []
    network.encoder[1][1].register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    exact = network(images)
    rough = set_precision(network, "bfloat16")(images)
    assert seen == [torch.float32, torch.bfloat16]
    assert rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().max() < 0.05


def test_copies_of_a_bfloat16_network_run_themselves():
    import copy

    from img2img.engine.precision import set_precision

    network = set_precision(torch.nn.Conv2d(1, 1, 1), "bfloat16")
    twin = copy.deepcopy(network)
    with torch.no_grad():
        network.weight.zero_(), network.bias.zero_()
    assert twin(torch.ones(1, 1, 2, 2)).abs().sum() > 0


def test_linear_schedule():
    """The port's: 1 for the first half, then straight down; never quite 0 while steps are left."""
    factors = [Schedule("linear").factor(step, 10) for step in range(10)]
    assert factors == pytest.approx([1] * 6 + [0.8, 0.6, 0.4, 0.2])
    assert Schedule().factor(9, 10) == 1.0


def test_cosine_and_step_schedules():
    """Beside torch's own schedulers, which count in steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
    for step in range(12):
        assert Schedule("cosine", 0.0).factor(step, 12) == pytest.approx(cosine.get_last_lr()[0])
        optimizer.step()
        cosine.step()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    falls = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.3)
    schedule = Schedule("step", decay_every=0.1, decay_factor=0.3)
    for step in range(300):
        assert schedule.factor(step, 300) == pytest.approx(falls.get_last_lr()[0]), step
        optimizer.step()
        falls.step()


def test_cosine_falls_from_the_start_and_a_line_from_half(parse_train):
    assert parse_train("cosine").factor(1, 100) < 1
    assert parse_train("linear").factor(49, 100) == 1
    assert parse_train("cosine", decay_from=0.5).factor(49, 100) == 1


@pytest.fixture
def parse_train():
    from img2img.assemble import _schedule
    from img2img.recipe import TrainSettings

    return lambda name, **more: _schedule(TrainSettings(steps=100, schedule=name, **more))


class WatchedStepper(Stepper):
    """Notes which steps are alike, and in the end whether they were recorded."""

    asked: ClassVar[list[tuple[int, bool]]] = []
    captures: ClassVar[list[bool]] = []

    def __call__(self, source, target, number, *, alike=True):
        self.asked.append((len(source), alike))
        return super().__call__(source, target, number, alike=alike)

    def close(self):
        self.captures.append(self.captured)
        super().close()


@pytest.fixture
def stepper(monkeypatch):
    """The class of a run's stepper, which has seen nothing yet."""

    class Watched(WatchedStepper):
        asked: ClassVar = []
        captures: ClassVar = []

    monkeypatch.setattr("img2img.engine.loop.Stepper", Watched)
    return Watched


@pytest.mark.parametrize(("pairs", "batch", "whole"), [(5, 2, 2), (4, 2, 2), (3, 8, 3)])
def test_only_steps_of_whole_batches_are_alike(tmp_path, recipe, stepper, pairs, batch, whole):
    """What is recorded must be of the size that most steps have, wherever a run begins."""
    run(recipe, tmp_path / "run", data__count=pairs, train__batch_size=batch, train__steps=6)
    assert len(stepper.asked) == 6
    assert all(alike == (size == whole) for size, alike in stepper.asked)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_run_resumes_and_translates(tmp_path, recipe, stepper):
    """With noise, an average, and validations between replays; recorded or not, it is as good."""
    more = {
        "train.batch_size": 2,  # of 10 pairs, so that no batch is smaller
        "train.checkpoint_every": 5,
        "train.ema_decay": 0.5,
        "train.log_every": 1,
        "train.schedule": "constant",
        "generator.dropout": 0.5,
    }

    def trained(name, steps, capture=True, **options):
        overrides = {**more, "train.steps": steps, "train.capture": capture}
        img2img.train(recipe, out=tmp_path / name, device="cuda", overrides=overrides, **options)
        return [line["losses"]["l1"] for line in lines(tmp_path / name) if "losses" in line]

    trained("run", 12)
    cut = trained("run", 24, resume=True)
    whole = trained("whole", 24)
    eager = trained("eager", 24, capture=False)
    assert stepper.captures == [True, True, True, False]
    assert len(whole) == 24 and cut == pytest.approx(whole, rel=0.05)
    # The same noise, too: random numbers go on alike in steps that are recorded.
    assert whole == pytest.approx(eager, rel=0.05)
    translator = img2img.load(tmp_path / "run", device="cuda")
    output = translator(np.full((32, 32, 3), 255, np.uint8))
    assert output.shape == (32, 32, 3)


def test_a_finished_run_keeps_what_it_was_scored_on(tmp_path, files_recipe, pairs_folder):
    """Its scores are of the data that its recipe.toml names, also after another --resume."""
    other = tmp_path / "other"
    shutil.copytree(pairs_folder, other)
    given = {"data__root": str(pairs_folder), "train__steps": 2}
    run(files_recipe, tmp_path / "run", **given)
    before = (tmp_path / "run" / "recipe.toml").read_text()
    run(files_recipe, tmp_path / "run", resume=True, **{**given, "data__root": str(other)})
    assert (tmp_path / "run" / "recipe.toml").read_text() == before
    run(files_recipe, tmp_path / "run", resume=True, data__root=str(other), train__steps=3)
    assert str(other) in (tmp_path / "run" / "recipe.toml").read_text()


def test_a_finished_run_says_what_can_change_no_more(tmp_path, recipe):
    run(recipe, tmp_path / "run", train__steps=2)
    before = (tmp_path / "run" / "recipe.toml").read_text()
    with pytest.raises(RequestError, match="is finished, and was scored with another"):
        run(recipe, tmp_path / "run", resume=True, train__steps=2, inference__dropout=False)
    with pytest.raises(RequestError, match=r"has done 2 steps, and the recipe says 1: .* go back"):
        run(recipe, tmp_path / "run", resume=True, train__steps=1)
    run(recipe, tmp_path / "run", resume=True, train__steps=2, train__log_every=1)
    assert (tmp_path / "run" / "recipe.toml").read_text() == before
    run(recipe, tmp_path / "run", resume=True, train__steps=3, inference__dropout=False)
    info = load_bundle(tmp_path / "run" / "model.safetensors")[1]
    assert (info.trained["step"], info.inference["dropout"]) == (3, False)


def test_a_bundle_that_is_behind_its_checkpoint_is_written_anew(tmp_path, recipe):
    """As where a run is killed between the two, at its very end."""
    run(recipe, tmp_path / "run", train__steps=2)
    older = (tmp_path / "run" / "model.safetensors").read_bytes()
    run(recipe, tmp_path / "run", resume=True, train__steps=4)
    loaded, _ = load_bundle(tmp_path / "run" / "model.safetensors")
    # Copies, because what is loaded lies in the file that is written over here.
    newer = {name: tensor.clone() for name, tensor in loaded.items()}
    (tmp_path / "run" / "model.safetensors").write_bytes(older)
    run(recipe, tmp_path / "run", resume=True, train__steps=4)
    weights, info = load_bundle(tmp_path / "run" / "model.safetensors")
    assert info.trained["step"] == 4
    assert all(torch.equal(weights[name], newer[name]) for name in weights)


def test_tables_can_be_overridden_from_python(tmp_path, recipe):
    from img2img.training import to_assignments

    values = {
        "data.source_color": {"hue": 0.1},
        "generator": {"name": "unet", "width": 8, "dropout_layers": [1, 2]},
        "losses": [{"name": "l1", "weight": 100}, {"name": "ssim"}],
        "name": "a, ]} b",
        "train.steps": 3,
    }
    for (key, value), assignment in zip(values.items(), to_assignments(values), strict=True):
        given, _, text = assignment.partition("=")
        assert given == key
        assert tomllib.loads(f"v = {text}") == {"v": value}


def test_what_was_recorded_is_let_go_however_a_run_ends(tmp_path, recipe, monkeypatch):
    """NCCL waits without end for what still holds collectives."""
    closed = []
    monkeypatch.setattr(Stepper, "close", lambda self: closed.append(self))
    run(recipe, tmp_path / "ends", train__steps=1)
    assert len(closed) == 1

    def fail(self, *batch, **options):
        raise Img2ImgError("no")

    monkeypatch.setattr(Stepper, "__call__", fail)
    with pytest.raises(Img2ImgError, match="no"):
        run(recipe, tmp_path / "fails", train__steps=1)
    assert len(closed) == 2


def test_a_run_on_shards_goes_on_at_the_exact_sample(tmp_path, pairs_folder, tiny_tables):
    """Also with another number of loader processes, and where the stop is within an epoch."""
    sources = {split: SideBySide(pairs_folder, split) for split in ("train", "val")}
    make_shards(sources, tmp_path / "shards", 4000)
    recipe = tmp_path / "tiny.toml"
    data = f'source = "shards"\nroot = "{tmp_path / "shards"}"\nfirst = ""\nsecond = ""'
    recipe.write_text(f"{tiny_tables}steps = 7\nbatch_size = 2".replace('root = "pairs"', data))
    run(recipe, tmp_path / "whole")
    run(recipe, tmp_path / "cut", train__steps=4, data__workers=2)
    run(recipe, tmp_path / "cut", resume=True)
    whole, cut = (
        load_bundle(tmp_path / name / "model.safetensors")[0] for name in ("whole", "cut")
    )
    assert all(torch.equal(cut[name], weight) for name, weight in whole.items())
