"""What a run has imported when its first step begins: nothing that it needs only later."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TELLING = """
import json, sys
import img2img
from img2img.engine.stepping import Stepper

step = Stepper.__call__

def telling(self, source, target, number, **options):
    if number == 1:
        print(json.dumps(sorted({name for name in sys.modules if sys.modules[name]})))
    return step(self, source, target, number, **options)

Stepper.__call__ = telling

@img2img.hookimpl
def on_run_end():
    pass
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_tables):
    """The folder of a run in a process of its own, and the modules when its first step began."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("startup")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        (folder / "pairs" / split).mkdir(parents=True)
        for number in range(count):
            # Halves of one colour each, as label maps have.
            halves = rng.integers(0, 256, (1, 2, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
            Image.fromarray(halves).save(folder / "pairs" / split / f"{number}.png")
    recipe = f'{tiny_tables}steps = 2\nlog_every = 1\nsample_every = 2\n[task]\nname = "labels"\n'
    (folder / "tiny.toml").write_text(recipe, encoding="utf-8")
    (folder / "telling.py").write_text(TELLING, encoding="utf-8")
    options = ["--device", "cpu", "--plugin", "telling.py", "--out", "out", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "img2img", "run", "tiny.toml", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "leaked" not in done.stderr
    return folder / "out", set(json.loads(done.stdout.splitlines()[0]))


def test_modules_are_told(run):
    _, modules = run
    assert {"torch", "albumentations", "img2img.engine.loop"} <= modules


@pytest.mark.parametrize(
    "late",
    [
        # Each takes a tenth of a second or more.
        *("timm", "torchvision", "torchmetrics", "huggingface_hub", "datasets"),
        *("onnx", "onnxruntime", "skimage", "matplotlib", "tensorflow"),
        "torch._inductor.codecache",
    ],
)
def test_nothing_is_imported_before_it_is_needed(run, late):
    _, modules = run
    assert late not in modules


def test_the_first_step_does_not_wait_for_tensorboard(run):
    _, modules = run
    assert not {"tensorboard", "torch.utils.tensorboard"} & modules


def test_tensorboard_has_everything_though_it_begins_late(run):
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, _ = run
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("losses/l1")] == [1, 2]
    sheets = events.Images("samples")
    assert [event.step for event in sheets] == [0, 2]
    for sheet in sheets:
        file = out / "samples" / f"step-{sheet.step:08d}.png"
        assert sheet.encoded_image_string == file.read_bytes()
        with Image.open(file) as shown:
            assert (sheet.width, sheet.height) == shown.size


def test_a_logger_outside_a_run_makes_no_file(tmp_path):
    from img2img.report.tensorboard import TensorBoardLogger

    logger = TensorBoardLogger()
    logger.on_metrics({"step": 1, "losses": {"l1": 1.0}})
    logger.on_run_start(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []
    logger.on_metrics({"step": 1, "losses": {"l1": 1.0}})
    logger.on_run_end()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    # It ended, and what is told after that is of no run.
    logger.on_metrics({"step": 2, "losses": {"l1": 1.0}})
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_the_script_measures_runs(tmp_path, monkeypatch, run):
    """`benchmarks/startup.py` on the run's own recipe: its keys, and that the parts add up."""
    import importlib.util
    from argparse import Namespace

    import torch

    benchmarks = Path(__file__).parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(str(benchmarks))
    spec = importlib.util.spec_from_file_location("startup", benchmarks / "startup.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    out, _ = run
    answers = iter([1.0, 0.25, 3.0, 2.0, 0.5, 4.0])
    began = iter([100.0, 200.0])

    def python(arguments):
        if arguments[:2] == ["-c", "import torch"]:
            return ""
        if arguments[0] == "-c":
            return json.dumps(next(answers))
        at = next(times)
        return json.dumps({"began": at + next(answers), "done": at + 10.0, "modules": ["a"]})

    times = iter([100.0, 200.0])
    monkeypatch.setattr(script, "python", python)
    monkeypatch.setattr(script, "wall", lambda arguments: next(answers))
    monkeypatch.setattr(script.time, "time", lambda: next(began))
    options = Namespace(recipe="x", set_=[], data=out.parent / "pairs", rounds=1)
    told = script.benchmark(options, torch.device("cpu"), tmp_path)
    # The first round warms up.
    assert told["import_torch"]["all_s"] == [2.0]
    assert told["networks"]["best_s"] == 0.5
    assert told["run"]["best_s"] == 4.0
    assert told["first_step"]["best_s"] == 6.0
    assert (told["own_s"], told["ratio"]) == (3.5, 1.75)


def test_nothing_is_collected_until_the_first_step(tmp_path, monkeypatch):
    """And then again, in a run as after it."""
    import gc

    from typer.testing import CliRunner

    from img2img import training
    from img2img.cli import app

    seen = []

    def train_recipe(recipe, plugins, *, on_step, **options):
        seen.append(gc.isenabled())
        on_step(1)
        seen.append(gc.isenabled())
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_recipe", train_recipe)
    CliRunner().invoke(app, ["run", "quickstart", "--out", str(tmp_path), "--quiet"])
    assert seen == [False, True]
    assert gc.get_freeze_count() == 0
    seen.clear()
    monkeypatch.setattr(training, "train_recipe", lambda *args, **options: 1 / 0)
    CliRunner().invoke(app, ["run", "quickstart", "--out", str(tmp_path), "--quiet"])
    assert gc.isenabled()
