"""`benchmarks/same_training.py` and `benchmarks/training_run.py`: they run, and can say no."""

import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from img2img.engine import records

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PAIRS, STILL = 5, 2
# The command line of the peer's train.py, which tells what it was given.
PEER = """
import argparse, json, os
from pathlib import Path
import wandb

parser = argparse.ArgumentParser()
for name in ("dataroot", "name", "model", "direction", "netG", "checkpoints_dir"):
    parser.add_argument(f"--{name}", required=True)
for name in ("ngf", "ndf", "load_size", "crop_size", "batch_size", "n_epochs", "n_epochs_decay"):
    parser.add_argument(f"--{name}", type=int, required=True)
parser.add_argument("--max_dataset_size", type=int)
parser.add_argument("--no_flip", action="store_true")
opt = parser.parse_args()
run = Path(opt.checkpoints_dir, opt.name)
run.mkdir()
(run / "loss_log.txt").touch()
told = {**vars(opt), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
Path(__file__).with_name("told.json").write_text(json.dumps(told))
for epoch in range(1, opt.n_epochs + opt.n_epochs_decay + 1 - LAZY):
    print(f"End of epoch {epoch} / {opt.n_epochs} \\t Time Taken: 0 sec")
"""
PAGE = "before\n<!-- {0} begin -->\nold\n<!-- {0} end -->\nafter\n"


def script(name, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def same_training(monkeypatch):
    return script("same_training", monkeypatch)


@pytest.fixture
def training_run(monkeypatch):
    from img2img.bench.hardware import Hardware

    module = script("training_run", monkeypatch)
    rates = {"float32": 2e12, "bfloat16": 4e12}
    monkeypatch.setattr(module, "measure_hardware", lambda *_: Hardware("made up", 1e12, rates))
    return module


@pytest.fixture
def data(tmp_path):
    """Pairs side by side, 32 pixels high, in a folder that needs quoting."""
    root = tmp_path / 'some "pairs"'
    generator = np.random.default_rng(0)
    for split, count in (("train", PAIRS), ("val", STILL)):
        (root / split).mkdir(parents=True)
        for number in range(count):
            cells = generator.integers(0, 256, (4, 8, 3), dtype=np.uint8)
            Image.fromarray(cells).resize((64, 32)).save(root / split / f"{number}.png")
    return root


@pytest.fixture
def page(tmp_path):
    """Writes a page that has markers of these names."""

    def write(*names):
        path = tmp_path / "page.md"
        path.write_text("".join(PAGE.format(name) for name in names))
        return path

    return write


def small(data, **settings):
    given = {"data": data, "device": "cpu", "size": 32, "width": 2, **settings}
    return [f"--{key}={value}" for key, value in given.items()]


# The same training


def test_same_training(same_training, capsys, data, page, tmp_path, monkeypatch):
    """Runs of three windows, of a step each."""
    monkeypatch.setattr(same_training, "WINDOWS", 3)
    names = ["same-cpu", "same-runs-cpu"]
    path, out = page(*names), tmp_path / "runs"
    arguments = [*small(data, steps=3, out=out, record=path), "--seeds", "3", "4"]
    same_training.main(arguments)
    told = json.loads(capsys.readouterr().out)
    steps = told["ten_steps"]
    assert list(steps["ways"]) == ["threads", "bfloat16"]
    assert steps["ways"]["threads"]["agrees"] is True
    bfloat16 = steps["ways"]["bfloat16"]
    assert bfloat16["agrees"] is None
    assert set(bfloat16["losses"]) == {"d_real", "d_fake", "adversarial", "l1"}
    assert all(len(values) == steps["steps"] == 13 for values in bfloat16["losses"].values())
    # Fewer digits are seen, in losses and in weights.
    assert 1e-6 < bfloat16["largest"] == max(bfloat16["largest_of"].values()) < 1
    assert all(0 < value < 1 for value in bfloat16["weights"].values())

    kept = {f"{kind}-seed{seed}" for kind in ("float32", "bfloat16") for seed in (3, 4)}
    assert {run.name for run in out.iterdir()} == kept
    rows = told["runs"]["rows"]
    assert [name for name in rows if "psnr" in name] == [
        f"validation psnr, step {n}" for n in range(1, 4)
    ]
    assert {"loss l1, steps 1 to 1", "loss d_fake, steps 3 to 3"} < set(rows)
    assert len(rows) == 3 * (3 + 4)
    last = []
    for name in ("float32-seed3", "float32-seed4"):
        lines = [json.loads(line) for line in (out / name / "metrics.jsonl").open()]
        last.append(next(line for line in lines if line["step"] == 3)["losses"]["l1"])
    assert rows["loss l1, steps 3 to 3"]["float32"] == last
    for name in kept:
        about = json.loads((out / name / "environment.json").read_text())
        assert about["precision"] == name.partition("-")[0]

    text = path.read_text()
    assert "old" not in text and text.count("before") == text.count("after\n") == 2
    assert "| threads |" in text and "| loss l1, steps 3 to 3 |" in text
    assert "agrees by its losses alone, at most 0.001 away" in text

    # What is there is not trained again.
    before = {run: (run / "model.safetensors").stat().st_mtime_ns for run in out.iterdir()}
    monkeypatch.setattr(same_training, "ten_steps", lambda *_: steps)
    same_training.main(arguments)
    assert json.loads(capsys.readouterr().out)["runs"] == told["runs"]
    assert before == {run: (run / "model.safetensors").stat().st_mtime_ns for run in out.iterdir()}


@pytest.fixture
def ten_steps(same_training, data):
    """Compares a step that a test made up, and says it was captured, with float32 eager."""
    from argparse import Namespace

    real = same_training.Stepper

    def compare(monkeypatch, step=real.__call__, captured=True, other_thread_count=(), again=0):
        class Captured(real):
            captured = property(lambda self: self.way and captured)

            def __init__(self, *arguments, capture=False, **settings):
                self.way = capture
                super().__init__(*arguments, **settings)

            def __call__(self, source, target, number):
                held.add(self)
                return (step if self.way else real.__call__)(self, source, target, number)

            def close(self):
                held.remove(self)
                super().close()

        cpu, held = torch.device("cpu"), set()
        monkeypatch.setattr(same_training, "Stepper", Captured)
        way = same_training.Way
        ways = [*(way("threads", cpu, threads=n) for n in other_thread_count)]
        ways += [way("eager again", cpu)] * again
        options = Namespace(data=data, size=32, width=2, batch=2)
        found = same_training.ten_steps(options, [*ways, way("captured", cpu, capture=True)])
        assert not held
        told = {"allowed_weights": found["allowed_weights"]}
        noise = {name: way["agrees"] for name, way in found["ways"].items() if name != "captured"}
        return found["ways"]["captured"] | told | {"noise": noise}

    compare.real = real.__call__
    return compare


def test_the_same_step_agrees(ten_steps, monkeypatch):
    told = ten_steps(monkeypatch)
    assert told["agrees"] is True
    assert told["largest"] == max(told["weights"].values()) == 0


def test_a_step_that_was_not_captured_does_not_agree(ten_steps, monkeypatch):
    assert ten_steps(monkeypatch, captured=False)["agrees"] is False


def test_a_step_that_trains_something_else_does_not_agree(ten_steps, monkeypatch):
    """A recording that froze its first batch: each step by itself is as good as any."""

    def frozen(self, source, target, number):
        if number == 4:
            self.first = source.clone(), target.clone()
        source, target = (source, target) if number < 4 else self.first
        return ten_steps.real(self, source, target, number)

    told = ten_steps(monkeypatch, frozen)
    assert told["agrees"] is False
    for differences in told["losses"].values():
        assert differences[:4] == [0] * 4 and min(differences[4:]) > 0
    assert min(told["weights"].values()) > 0


def test_a_step_that_trains_no_more_does_not_agree(ten_steps, monkeypatch):
    """As with a learning rate that a recording froze at nothing."""

    def still(self, source, target, number):
        for optimizer in self.method.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = 0.0 if number == 13 else group["lr"]
        return ten_steps.real(self, source, target, number)

    told = ten_steps(monkeypatch, still)
    # Only in the last step, whose losses were there before.
    assert told["largest"] == 0 and min(told["weights"].values()) > 1e-3
    assert told["agrees"] is False


def test_no_number_agrees_with_nothing(ten_steps, monkeypatch):
    def broken(self, source, target, number):
        losses = ten_steps.real(self, source, target, number)
        return {**losses, "l1": losses["l1"] * (float("nan") if number == 2 else 1)}

    told = ten_steps(monkeypatch, broken)
    assert told["agrees"] is False
    assert told["largest_of"]["l1"] == float("inf")


@pytest.mark.parametrize(
    ("noise", "agrees", "for_weights"),
    [
        ([1e-6], False, 2e-3),
        ([2e-5], True, 4e-2),
        ([0.0], True, 1e-3),
        ([1e-6, 8e-6], False, 1.6e-2),
        ([1e-6, 2e-5], True, 2e-2),  # ten times what threads allow
        ([0.0, 2e-5], True, 1e-2),
        ([2e-5, 0.0], True, 4e-2),
    ],
)
def test_as_close_as_another_thread_count(
    same_training, ten_steps, monkeypatch, data, noise, agrees, for_weights
):
    """1e-4 away is near where threads or a second trial give 2e-5, and far where they give 1e-6.

    Weights of these are a thousand times as far away.
    """
    left = list(noise)

    def away(self, source, target, number):
        losses = ten_steps.real(self, source, target, number)
        return {**losses, "l1": losses["l1"] * 1.0001}

    def distance(trial, reference):
        found = real(trial, reference)
        if trial.captured:
            return found
        chance = left.pop(0)
        return {**found, "largest": chance, "weights": {"generator": 1000 * chance}}

    real = same_training.distance
    monkeypatch.setattr(same_training, "distance", distance)
    told = ten_steps(monkeypatch, away, other_thread_count=[1], again=len(noise) - 1)
    assert told["largest"] == pytest.approx(1e-4, rel=0.01)
    assert told["agrees"] is agrees
    assert told["allowed_weights"] == pytest.approx(for_weights)


@pytest.mark.parametrize(("losses", "agrees"), [(9e-4, True), (1.1e-3, False)])
def test_what_measures_chance_is_judged_by_losses(
    same_training, ten_steps, monkeypatch, losses, agrees
):
    """A second trial with other weights; these let the captured step have no such ones."""
    left = [(0.0, 0.003), (losses, 0.5), (0.0, 0.07)]

    def distance(trial, reference):
        largest, weights = left.pop(0)
        return {"captured": trial.captured, "largest": largest, "weights": {"generator": weights}}

    monkeypatch.setattr(same_training, "distance", distance)
    told = ten_steps(monkeypatch, other_thread_count=[1], again=1)
    assert told["noise"] == {"threads": True, "eager again": agrees}
    assert told["allowed_weights"] == pytest.approx(0.06)
    assert told["agrees"] is False


def test_ways(same_training, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    ways = same_training.ways(cuda, compile=True)
    names = ["threads", "eager again", "captured", "compiled", "captured+compiled", "bfloat16"]
    assert [way.name for way in ways] == names
    assert (ways[0].device, ways[0].threads) == (cpu, 1)
    assert [(way.capture, way.compile) for way in ways[1:5]] == [
        (False, False),
        (True, False),
        (False, True),
        (True, True),
    ]
    assert [way.name for way in same_training.ways(cpu, compile=False)] == ["threads", "bfloat16"]


def test_exactly_leaves_torch_as_it_was(same_training):
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), cudnn.deterministic, cudnn.allow_tf32
    with same_training.exactly(before[0] + 1):
        within = torch.get_num_threads(), cudnn.deterministic, cudnn.allow_tf32
        assert within == (before[0] + 1, True, False)
    assert (torch.get_num_threads(), cudnn.deterministic, cudnn.allow_tf32) == before


def test_beside_a_spread(same_training):
    beside = same_training.beside
    row = beside([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    assert (row["mean"], row["within"], row["distance"]) == (3.0, True, 1.0)
    assert beside([1.0, 2.0, 3.0], [0.0, 0.5, 1.0])["within"] is False
    assert beside([1.0, 2.0, 3.0], [3.0, 3.0, 4.0])["within"] is False
    assert beside([1.0, 1.0], [1.0, 1.0])["distance"] is None


def test_windows_are_fifths(same_training):
    lines = [{"step": n, "losses": {"l1": float(n)}} for n in range(2, 21, 2)]
    found = dict(same_training.windows([*lines, {"step": 20, "validation": {}}], 20))
    assert next(iter(found)) == "loss l1, steps 1 to 4"
    assert list(found.values()) == [3.0, 7.0, 11.0, 15.0, 19.0]


def test_what_chance_leaves_outside(same_training):
    """Of two: both less the mean of two others are normal, and correlate by a third."""
    expected = 0.5 + np.arcsin(1 / 3) / np.pi
    assert same_training.outside_by_chance(2) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_is_stopped_ends(same_training, capsys, monkeypatch, data, page, tmp_path, number):
    """In its second run; the first is kept, and nothing is printed or recorded."""
    from img2img.engine import stepping

    step, calls = stepping.Stepper.__call__, []

    def stopping(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 7:
            os.kill(os.getpid(), number)
        return step(self, *arguments, **options)

    monkeypatch.setattr(same_training, "ten_steps", lambda *_: {})
    monkeypatch.setattr(stepping.Stepper, "__call__", stopping)
    path, out = page("same-cpu", "same-runs-cpu"), tmp_path / "runs"
    before = path.read_text()
    with pytest.raises(SystemExit) as left:
        same_training.main([*small(data, steps=5, out=out, record=path), "--seeds", "3", "4"])
    assert left.value.code == 130
    told = capsys.readouterr()
    assert told.out == "" and f"goes on with the runs in {out}" in told.err
    assert (len(calls), path.read_text()) == (7, before)


@pytest.mark.parametrize(
    ("name", "work", "lacking"),
    [
        ("same_training", "ten_steps", "same-runs-cpu"),
        ("training_run", "benchmark", "run-cpu"),
        ("startup", "benchmark", "startup-cpu"),
        ("train_step", "benchmark", "step-128-2-cpu"),
        ("floor", "measure_hardware", "floor-cpu"),
        ("data_scale", "benchmark", "data-cpu"),
        ("pauses", "benchmark", "pauses-cpu"),
    ],
)
def test_the_page_comes_first(monkeypatch, data, page, name, work, lacking):
    """A page that lacks its markers, or is missing, is said before anything is measured."""
    module = script(name, monkeypatch)
    monkeypatch.setattr(module, work, lambda *_, **__: pytest.fail("it measured"))
    given = {
        "same_training": small(data),
        "training_run": small(data, size=128),
        "startup": ["--device=cpu"],
        "train_step": ["--device=cpu", "--size=128", "--width=2"],
        "floor": ["--device=cpu", "--set=generator.width=2", "--set=discriminator.width=2"],
        "data_scale": [],
        "pauses": [f"--data={data}", "--device=cpu"],
    }[name]
    path = page("same-cpu", "step-cpu")
    before = path.read_text()
    with pytest.raises(SystemExit, match=f"has no lines <!-- {lacking} begin -->"):
        module.main([*given, f"--record={path}"])
    assert path.read_text() == before
    with pytest.raises(SystemExit, match="No such file"):
        module.main([*given, f"--record={path}.not"])


def test_what_steps_wait_for(monkeypatch, data, page, capsys):
    """Writing is made slow: it is done beside the steps, which do not wait for it."""
    pauses, path = script("pauses", monkeypatch), page("pauses-cpu")
    slow = 0.2

    def late(name):
        write = getattr(records, name)
        monkeypatch.setattr(records, name, lambda *given: (time.sleep(slow), write(*given))[1])

    for name in ("write_sheet", "write_checkpoint", "save_bundle"):
        late(name)
    # A device that works on for a second after each call, as a GPU does.
    worked = []
    monkeypatch.setattr(pauses, "wait_for", worked.append)
    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + len(worked))
    monkeypatch.setattr(pauses, "time", clock)
    pauses.main(small(data, rounds=3, record=path))
    kinds = json.loads(capsys.readouterr().out)["kinds"]
    for name in ("sheet", "scores", "checkpoint"):
        assert kinds[name]["beside_s"] > max(slow, kinds[name]["waited_s"])
        assert kinds[name]["waited_s"] > 0
    assert kinds["sheet"]["network_s"] > 1 > 0 == kinds["checkpoint"]["network_s"]
    assert kinds["log"]["waited_s"] > 0 and kinds["log"]["beside_s"] is None
    assert "| a sheet of samples |" in path.read_text()


def test_numbers_in_tables(monkeypatch):
    shown = script("record", monkeypatch).shown
    numbers = [1536.4, 123456.0, -2000.0, 99.96, 12.345, 0.0123456, 1.5e-5, float("inf")]
    texts = ["1536", "123456", "-2000", "100", "12.3", "0.0123", "1.5e-05", "inf"]
    assert [shown(number) for number in numbers] == texts


@pytest.mark.parametrize("ratio", [{}, {"ratio": 0.5, "ratio_spread": [0.4, 0.6]}])
def test_a_table_without_a_peer_has_no_column_of_it(monkeypatch, page, ratio):
    path = page("step-cpu")
    ours = {"batch": 4, "float32 eager": {"median_s": 1.6, "of_matrix_rate": 0.57, **ratio}}
    settings = {"size": 256, "width": 64, "rounds": 1, "steps": 1}
    result = {"batches": [ours], "threads": 1, "settings": settings}
    script("train_step", monkeypatch).keep(path, result, torch.device("cpu"))
    rows = [line for line in path.read_text().splitlines() if line[:1] == "|"]
    assert "| batch 4, float32 eager | 1600 | 2.5 | 57% |" in rows[2]
    assert [("peer" in rows[0]), *(row.count("|") for row in rows)] == [
        bool(ratio),
        *[6 if ratio else 5] * 3,
    ]


def test_an_eager_step_is_not_timed_as_a_captured_one(monkeypatch, capsys):
    """On a CPU nothing is recorded; here in this process, and not in a contender's own."""
    module = script("train_step", monkeypatch)
    given = ["--device=cpu", "--size=32", "--width=2", "--batch=1"]
    with pytest.raises(SystemExit, match="not recorded as a CUDA graph on cpu; --way eager"):
        module.main([*given, "--contender=float32 captured"])
    assert capsys.readouterr().out == ""


# A whole run


@pytest.fixture
def peer(tmp_path):
    """A checkout that trains nothing; `lazy` leaves epochs out."""

    def write(lazy=0):
        (tmp_path / "checkout").mkdir()
        (tmp_path / "checkout" / "train.py").write_text(PEER.replace("LAZY", str(lazy)))
        return tmp_path / "checkout"

    return write


def test_training_run(training_run, capsys, monkeypatch, data, page, peer, tmp_path):
    """Ours is a real process. At 128 pixels, which the peer has a U-Net for."""
    path, checkout = page("run-cpu"), peer()
    arguments = small(data, size=128, epochs=2, batch=2, peer=checkout, record=path)
    chosen = [
        "--set=train.log_every=1",
        "--set=train.precision=bfloat16",
        "--set=data.mirror=false",
    ]
    training_run.main([*arguments, *chosen])
    told = json.loads(capsys.readouterr().out)
    ours, peers = told["ours"], told["peer"]
    assert ours["steps"] == told["settings"]["steps"] == 6  # 5 pairs, 2 a step, 2 epochs
    assert told["precision"] == "bfloat16"
    assert list(ours["parts"]) == list(training_run.PARTS)
    assert sum(ours["parts"].values()) == pytest.approx(ours["wall_s"], abs=1e-3)
    assert ours["parts"]["steps_s"] == ours["step_s"] * 6
    # An interpreter and torch, and torchmetrics for the scores.
    assert all(ours["parts"][name] > 0.1 for name in ("start_up_s", "last_scores_s"))
    assert ours["busy"] is None and "CPU" in ours["busy_note"]
    assert peers["ratio"] == ours["wall_s"] / peers["wall_s"] > 1
    # In bfloat16, of 2 pairs a step, at the rates that were made up.
    assert 0 < told["floor_s"] < ours["parts"]["steps_s"]
    given = json.loads((checkout / "told.json").read_text())
    assert given.pop("checkpoints_dir") != str(tmp_path)
    assert given == {
        "dataroot": str(data),
        "name": "benchmark",
        "model": "pix2pix",
        "direction": "BtoA",
        "netG": "unet_128",
        "ngf": 2,
        "ndf": 2,
        "load_size": 143,
        "crop_size": 128,
        "batch_size": 2,
        "n_epochs": 2,
        "n_epochs_decay": 0,
        "max_dataset_size": None,
        "no_flip": True,
        "gpus": "",
    }
    text = path.read_text()
    assert "old" not in text and "| the peer's `train.py` |" in text
    assert "6 steps of batch 2, 128 pixels, width 2, bfloat16" in text


def test_parts_of_a_run(training_run, tmp_path):
    """Files and lines as a run leaves them; every part has another length."""
    (tmp_path / "samples").mkdir()
    lines = [
        {"step": 10, "elapsed_s": 8.0, "losses": {}},  # the first steps are slow
        {"step": 20, "elapsed_s": 10.0, "losses": {}},
        {"step": 20, "validation": {}},
        {"step": 30, "elapsed_s": 15.0, "losses": {}},  # a validation before them
        {"step": 40, "elapsed_s": 17.0, "losses": {}},
        {"step": 40, "validation": {}},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    times = {
        "environment.json": 103,
        "samples/step-00000000.png": 105,  # the first step came before it
        "samples/step-00000040.png": 122,
        "metrics.jsonl": 126,
        "report.html": 128,
    }
    for name, at in times.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (at, at))
    told = training_run.parts_of(tmp_path, 100.0, 128.5, 4)
    assert (told["wall_s"], told["steps"], told["step_s"]) == (28.5, 40, 0.2)
    assert (told["pairs_per_s"], told["log_lines"]) == (20, 4)
    assert told["parts"] == {
        "start_up_s": 3,
        "sheets_s": 2,
        "steps_s": 8,
        "between_s": 9,
        "last_scores_s": 4,
        "last_files_s": 2,
        "end_s": 0.5,
    }


def test_how_busy_a_gpu_is(training_run, capsys, monkeypatch, data):
    """Steps alone over the whole run; all that wants a GPU is made up."""
    run = {"wall_s": 4.0, "steps": 5, "step_s": 0.5, "parts": dict.fromkeys(training_run.PARTS, 0)}
    alone = {"step_alone_s": 0.6, "captured": True, "floor_step_s": 0.1}
    monkeypatch.setattr(training_run, "our_run", lambda *_: run)
    monkeypatch.setattr(training_run, "alone_and_floor", lambda *_: dict(alone))
    training_run.main(small(data, steps=5))
    told = json.loads(capsys.readouterr().out)
    assert told["ours"]["busy"] == pytest.approx(5 * 0.6 / 4)
    assert told["floor_s"] == pytest.approx(0.5)
    assert told["peer"] is None


@pytest.mark.parametrize("captured", [True, False])
def test_steps_that_were_not_recorded_are_told_on_the_page(training_run, page, captured):
    parts = dict.fromkeys(training_run.PARTS, 1.0)
    ours = {"wall_s": 9.0, "step_s": 0.1, "step_alone_s": 0.1, "log_lines": 3, "busy": 0.5}
    result = {
        "ours": {**ours, "parts": parts, "captured": captured},
        "peer": None,
        "floor_s": 1.0,
        "precision": "float32",
        "settings": {"steps": 1, "batch": 1, "size": 32, "width": 2},
    }
    path = page("run-cpu")
    training_run.keep(path, result, torch.device("cpu"))
    assert ("not recorded as a CUDA graph" in path.read_text()) is not captured


def test_a_step_that_is_timed_alone_is_let_go(training_run, monkeypatch, registry):
    """All that wants a GPU is made up."""
    from img2img.engine.precision import resolve_precision
    from img2img.recipe_files import find_recipe
    from img2img.recipe_parser import load_recipe

    let_go = []

    class Captured:
        captured = True

        def __init__(self, *_, **__):
            pass

        def close(self):
            let_go.append(self)

    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    build = training_run.build_networks
    monkeypatch.setattr(training_run, "build_networks", lambda r, g, _, p: build(r, g, cpu, p))
    monkeypatch.setattr(torch, "rand", lambda *shape, device: torch.zeros(shape))
    monkeypatch.setattr(
        training_run, "resolve_precision", lambda name, _: resolve_precision(name, cpu)
    )
    monkeypatch.setattr(training_run, "Stepper", Captured)
    monkeypatch.setattr(training_run, "time_steps", lambda *_: [1.0])
    set_ = ["data.crop_size=32", "generator.width=2", "discriminator.width=2"]
    recipe = load_recipe(find_recipe("facades"), registry, set_)
    told = training_run.alone_and_floor(recipe, registry, gpu, 0.1)
    assert told["captured"] is True and len(let_go) == 1


def test_a_run_that_is_shorter_than_asked_for(training_run, monkeypatch, data):
    monkeypatch.setattr(training_run, "our_run", lambda *_: {"steps": 4})
    with pytest.raises(SystemExit, match="made 4 steps, and not 5"):
        training_run.main(small(data, steps=5))


def test_a_peer_that_trains_less(training_run, monkeypatch, data, peer):
    monkeypatch.setattr(training_run, "our_run", lambda *_: {"steps": 10, "wall_s": 1.0})
    with pytest.raises(SystemExit, match="did not train 2 epochs; it ended with: End of epoch 1"):
        training_run.main(small(data, size=128, epochs=2, peer=peer(lazy=1)))


def test_a_peer_that_fails(training_run, monkeypatch, data, peer):
    monkeypatch.setattr(training_run, "our_run", lambda *_: {"steps": 10, "wall_s": 1.0})
    checkout = peer()
    (checkout / "train.py").write_text("raise SystemExit('no such option')")
    with pytest.raises(SystemExit, match="failed: no such option"):
        training_run.main(small(data, size=128, epochs=2, peer=checkout))


def test_a_peer_for_less_than_an_epoch(training_run, registry, data, peer):
    from img2img.recipe_files import find_recipe
    from img2img.recipe_parser import load_recipe

    set_ = [f"data.root={json.dumps(str(data))}", "train.batch_size=2"]
    recipe = load_recipe(find_recipe("facades"), registry, set_)
    checkout, cpu = peer(), torch.device("cpu")
    command = training_run.peer_command(checkout, recipe, cpu, 2, PAIRS)
    # 256 pixels as in the paper, two steps of two pairs.
    assert {"--max_dataset_size=4", "--n_epochs=1", "--netG=unet_256", "--ngf=64"} < set(command)
    assert "--load_size=286" in command and "--no_flip" not in command


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("same_training", "--steps=4", "--steps must be at least 5, not 4"),
        ("same_training", "--batch=0", "--batch must be at least 1, not 0"),
        ("same_training", "--seeds 1", "--seeds needs at least two, all of them different"),
        ("same_training", "--seeds 1 1", "--seeds needs at least two, all of them different"),
        ("same_training", "--device=nowhere", "'nowhere' is not a device"),
        ("same_training", "--data=nowhere", "nowhere"),
        ("training_run", "--epochs=0", "--epochs must be at least 1, not 0"),
        ("training_run", "--epochs=1 --steps=1", "not allowed with argument"),
        ("training_run", "--set train.stepz=1", "stepz"),
        ("training_run", "--data=nowhere", "nowhere"),
        ("training_run", "--peer=nowhere", "nowhere has no train.py"),
        ("training_run", "--peer=PEER --size=96", "--size must be a multiple of 128"),
        ("training_run", "--peer=PEER --steps=7", "take a multiple of 5 steps, or fewer"),
        ("training_run", "--peer=PEER --set=discriminator.name=pixelgan", "('unet', 'pixelgan')"),
    ],
)
def test_refuses(request, capsys, data, peer, name, arguments, message):
    checkout = str(peer())
    given = [checkout.join(part.split("PEER")) for part in arguments.split()]
    with pytest.raises(SystemExit) as left:
        request.getfixturevalue(name).main([*small(data, size=128), *given])
    assert left.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
