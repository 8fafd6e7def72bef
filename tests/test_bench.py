"""What `img2img bench` and `benchmarks/floor.py` count, time and advise."""

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
from torch import nn

from img2img.bench import hardware, measuring, steps, timing
from img2img.bench.advice import advise
from img2img.bench.floor import StepWork, count_work
from img2img.bench.hardware import Hardware, measure_hardware
from img2img.bench.measuring import Findings
from img2img.bench.steps import LEFT_OUT, NOT_RECORDED, StepTime, StepTimer, implausible
from img2img.bench.timing import Loading, time_in_turn, time_loading, time_steps
from img2img.cli import main
from img2img.data.loading import PairDataset
from img2img.engine.stepping import EAGER_STEPS
from img2img.losses import L1
from img2img.methods import Pix2Pix, WeightedLoss
from img2img.recipe import DataSettings, TrainSettings
from img2img.tasks import Paired

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CPU = torch.device("cpu")


# What a step computes and moves


def trained_by_l1(generator):
    losses = [WeightedLoss("l1", 1.0, L1())]
    return Pix2Pix(lambda *_: generator, None, losses, 1, 1, False)


@pytest.mark.parametrize("pairs", [1, 3])
def test_operations_by_hand(pairs):
    # 8x8 outputs, 3x3 kernels: 64 * 9 multiplications and as many additions for each pair of
    # channels. First layer 1 -> 2: forward, and the weights' gradient, but none for the image.
    # Second 2 -> 1: forward, and both gradients.
    one = 2 * 64 * 9
    by_hand = 2 * (one * 2) + 3 * (one * 2)
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1))
    images = torch.rand(2, pairs, 1, 8, 8)
    work = count_work(trained_by_l1(network), images[0], images[1])
    assert work.flops == by_hand
    parameters = (1 * 2 * 9 + 2) + (2 * 1 * 9 + 1)
    assert work.parameters == parameters
    # Read: weight, gradient, two moments; written: weight, two moments; four bytes each.
    assert work.update_bytes == 28 * parameters


def test_a_strided_layer_and_its_way_back():
    # 8x8 -> 4x4 -> 8x8 with 4x4 kernels: both layers touch 16 places 16 times for each channel.
    network = nn.Sequential(
        nn.Conv2d(1, 3, 4, 2, 1, bias=False), nn.ConvTranspose2d(3, 1, 4, 2, 1, bias=False)
    )
    work = count_work(trained_by_l1(network), torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8))
    one = 2 * 16 * 16 * 3
    assert work.flops == 2 * one + 3 * one


def test_what_is_kept_for_the_way_back():
    # The first layer keeps its input, the second its own, and L1 the difference; weights are there
    # anyway.
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1))
    work = count_work(trained_by_l1(network), torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8))
    image = 4 * 64
    assert work.saved_bytes == image + 2 * image + image


def test_the_floor_of_the_facades_on_an_h100():
    work = StepWork(flops=87 * 10**9, update_bytes=1_600_000_000, parameters=1, saved_bytes=0)
    fast = Hardware("an H100", 3e12, {"float32": 5e13, "bfloat16": 7.9e14})
    assert work.floor(fast, "bfloat16", 1) == pytest.approx(0.000110 + 0.000533, rel=0.01)
    # The weights are updated once, however large the batch.
    assert work.floor(fast, "bfloat16", 16) == pytest.approx(16 * 0.000110 + 0.000533, rel=0.01)


@pytest.mark.parametrize(("allowed", "expected"), [(True, 4.0), (False, 8.0)])
def test_float32_is_what_cudnn_makes_of_it(monkeypatch, allowed, expected):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
    work = StepWork(flops=8, update_bytes=0, parameters=0, saved_bytes=0)
    device = Hardware("", 1.0, {"float32": 1.0, "tf32": 2.0})
    assert work.floor(device, "float32", 1) == expected
    assert work.floor(device, "bfloat16", 1) == 8.0


# The machine's rates


def test_rates_are_work_over_time(monkeypatch):
    monkeypatch.setattr(hardware, "COPY_BYTES", {"cpu": 4000})
    monkeypatch.setattr(hardware, "MATRIX_SIDE", {"cpu": 10})
    monkeypatch.setattr(hardware, "_timed", lambda work, device: 0.5)
    found = measure_hardware(CPU, 0.01)
    assert found.bandwidth == 2 * 4000 / 0.5
    # The convolution: an image of 32x32 outputs, 512 of them from 256 channels of 4x4 each.
    convolution = 32 * 32 * 512 * (2 * 256 * 4 * 4) / 0.5
    assert found.flops == {"float32": convolution, "bfloat16": convolution}
    monkeypatch.setattr(hardware, "MATRIX_SIDE", {"cpu": 3000})
    monkeypatch.setattr(hardware, "_best", lambda *_: next(taken))
    monkeypatch.setattr(torch, "randn", torch.empty)
    taken = iter([0.5, 5000.0, 5000.0, 0.5, 1.0])
    found = measure_hardware(CPU, 0.01)
    assert found.flops == {"float32": 2 * 3000**3 / 0.5, "bfloat16": convolution}
    assert "core" in found.name


def test_the_best_round_counts(monkeypatch):
    taken = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(hardware, "_timed", lambda work, device: next(taken))
    calls = []
    assert hardware._best(lambda: calls.append(1), CPU, 0.0) == 1.0
    assert calls == [1]  # warmed up


# Timing


def test_the_first_step_does_not_count():
    calls = []

    def step():
        calls.append(1)
        time.sleep(0.2 if len(calls) == 1 else 0.002)

    taken = time_steps(step, CPU, 0.0)
    assert len(calls) == 3
    assert len(taken) == 2
    assert max(taken) < 0.2
    assert min(taken) >= 0.002


def test_steps_fill_the_time():
    assert len(time_steps(lambda: time.sleep(0.01), CPU, 0.3)) > 5


def test_contenders_take_turns():
    calls = []
    first, second = (lambda: calls.append(1)), (lambda: calls.append(2))
    taken = time_in_turn([first, second], CPU, 0.0)
    # Each warms up, and then they alternate, so that a disturbance meets both.
    assert calls == [1, 2, 1, 2, 1, 2]
    assert [len(rounds) for rounds in taken] == [2, 2]


def timer(monkeypatch, durations):
    """A timer of made-up steps; `durations` gives the rounds of each group that is timed."""
    asked = []

    def run(self, size, precisions, seconds):
        asked.append((size, tuple(precisions)))
        return durations(size, precisions, len(asked))

    work = StepWork(flops=10**9, update_bytes=0, parameters=1, saved_bytes=1)
    monkeypatch.setattr(StepTimer, "_count", lambda self: work)
    monkeypatch.setattr(StepTimer, "_run", run)
    monkeypatch.setattr(StepTimer, "_tidy", lambda self: None)
    rates = Hardware("", 1e9, {"float32": 1e9, "bfloat16": 1e9})
    return StepTimer(None, None, CPU, rates, None, lambda text: None), asked


def test_precisions_of_one_batch_are_timed_together(monkeypatch):
    made, asked = timer(monkeypatch, lambda size, names, _: [[3.0, 1.0, 2.0, 9.0]] * len(names))
    made.time([1], ["bfloat16", "float32"], time.perf_counter() + 100, 1.0)
    assert asked == [(1, ("bfloat16", "float32"))]
    # The quickest counts; three quarters of the rounds are quicker than `slow`.
    for row in made.found():
        assert row.seconds == 1.0
        assert 3.0 < row.slow < 9.0


def test_an_implausible_row_is_timed_again(monkeypatch):
    # As on a busy machine: one pair took 3 seconds, and two of them 0.1.
    def durations(size, names, number):
        return [[3.0, 3.2] if number == 1 else [0.06, 0.07] if size == 1 else [0.1, 0.11]]

    made, asked = timer(monkeypatch, durations)
    made.time([1, 2], ["float32"], time.perf_counter() + 100, 1.0)
    assert asked == [(1, ("float32",)), (2, ("float32",)), (1, ("float32",))]
    assert {row.batch_size: row.seconds for row in made.found()} == {1: 0.06, 2: 0.1}
    # Without time it stays, and is known as what it is.
    made, asked = timer(monkeypatch, durations)
    made.time([1, 2], ["float32"], time.perf_counter(), 100.0)
    assert len(asked) == 2
    assert [row.batch_size for row in implausible(made.found())] == [1]


def test_what_is_left_out_is_estimated_by_the_least_disturbed(monkeypatch):
    found = {1: [5.0, 4.0], 2: [1.0, 1.2]}
    made, _ = timer(monkeypatch, lambda size, *_: [found[size]])
    made.counted_s = 7.0
    assert made.expected((2, "float32")) == 3 * 14.0
    made.time([1, 2], ["float32"], time.perf_counter(), 1e3)
    # One second for two pairs; three steps of them are what a row takes at least.
    assert made.expected((8, "float32")) == pytest.approx(3 * 4.0)
    assert made.left_out_s() is None
    made.time([8], ["float32"], time.perf_counter(), 1.0)
    assert made.left_out_s() == pytest.approx(3 * 4.0)
    assert [row.note for row in made.found()] == ["", "", LEFT_OUT]


def test_precisions_that_do_not_fit_together_are_timed_alone(monkeypatch):
    def durations(size, names, _):
        if len(names) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [[1.0, 1.0]]

    made, asked = timer(monkeypatch, durations)
    made.time([4], ["bfloat16", "float32"], time.perf_counter() + 100, 1.0)
    assert asked[1:] == [(4, ("bfloat16",)), (4, ("float32",))]
    assert [row.seconds for row in made.found()] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("at_once", "never", "groups", "noted"),
    [
        (2, (), [2], []),
        (1, (), [1, 1], []),
        (2, ("float32",), [1, 1], ["float32"]),
        (2, ("bfloat16", "float32"), [2], ["bfloat16", "float32"]),
    ],
    ids=["both", "one at once", "one never", "none"],
)
def test_recordings_that_do_not_fit_together_are_timed_alone(
    monkeypatch, at_once, never, groups, noted
):
    """A recorded step is told to take 1 second here, and another 3.

    In fact networks take 5 to build and a step takes 1: of 100 seconds the rest is for rounds.
    """
    timed, held, asked, replayed, clock = [], [], [], [], [0.0]

    class Recorded:
        def __init__(self, method, device, *, capture, compile):
            self.precision, self.captured = method.precision, False
            clock[0] += 5

        def __call__(self, source, target, number):
            clock[0] += 1
            replayed.append(self.captured)
            if number == EAGER_STEPS and len(held) < at_once and self.precision not in never:
                held.append(self)
                self.captured = True

        def close(self):
            if self.captured:
                held.remove(self)
                self.captured = False

    def in_turn(several, device, seconds):
        timed.append(len(several))
        asked.append(seconds)
        done = clock[0] + seconds
        rounds = []
        for step in several:
            for _ in range(EAGER_STEPS + 1):
                step()
            rounds.append([1.0 if replayed[-1] else 3.0])
        clock[0] = done
        return rounds

    def build(recipe, registry, device, precision):
        return None, SimpleNamespace(networks={}, precision=precision)

    monkeypatch.setattr(steps, "Stepper", Recorded)
    monkeypatch.setattr(steps, "time_in_turn", in_turn)
    monkeypatch.setattr(steps, "build_networks", build)
    monkeypatch.setattr(StepTimer, "_count", lambda self: None)
    monkeypatch.setattr(StepTimer, "_lacks_memory", lambda *_: "")
    pairs = SimpleNamespace(batch=lambda *_: (None, None))
    gpu, none = torch.device("cuda"), Hardware("", 1.0, {})
    made = StepTimer(recipe(), None, gpu, none, pairs, lambda text: None)
    monkeypatch.setattr(steps, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    made.time([4], ["bfloat16", "float32"], 100.0, 1.0)
    assert timed == groups and not held
    assert asked == ([100 - 6] if groups == [2] else [(100 - 16) / 2, (100 - 16) / 2 - 5])
    rows = {row.precision: row for row in made.found()}
    assert [name for name, row in rows.items() if row.note == NOT_RECORDED] == noted
    assert {n: row.seconds for n, row in rows.items()} == {
        name: 3.0 if name in noted else 1.0 for name in rows
    }


def test_a_recipe_that_asks_for_no_recording_is_told_of_none(monkeypatch):
    unasked = SimpleNamespace(train=TrainSettings(steps=1, capture=False))
    monkeypatch.setattr(StepTimer, "_count", lambda self: None)
    monkeypatch.setattr(StepTimer, "_lacks_memory", lambda *_: "")
    monkeypatch.setattr(StepTimer, "_in_turn", lambda *_: ([[1.0]], [False]))
    for device in (torch.device("cuda"), CPU):
        for chosen in (unasked, recipe()):
            made = StepTimer(chosen, None, device, None, None, lambda text: None)
            made.time([1], ["float32"], time.perf_counter() + 100, 1.0)
            asked = chosen is not unasked and device != CPU
            assert [row.note for row in made.found()] == [NOT_RECORDED if asked else ""]


class SlowAtFirst:
    """Each pair takes ten milliseconds once, and one from then on."""

    def __init__(self, count):
        self.count, self.known = count, set()

    def __len__(self):
        return self.count

    def name(self, index):
        return str(index)

    def pair(self, index):
        time.sleep(0.001 if index in self.known else 0.01)
        self.known.add(index)
        return np.zeros((2, 4, 4, 3), np.uint8)


def slow_pairs(count):
    return PairDataset(SlowAtFirst(count), Paired(), lambda s, t, _: (s, t), swap=False, seed=0)


def test_loading_tells_the_first_epoch_from_the_others():
    found = time_loading(slow_pairs(30), CPU, batch_size=2, workers=0, seconds=1.0)
    assert found.workers == 0
    assert 15 < found.first <= 100
    assert found.later is not None
    # Much more on a machine that has time.
    assert found.later > 1.2 * found.first
    assert found.later <= 1000


def test_loading_that_ends_in_the_first_epoch():
    found = time_loading(slow_pairs(1000), CPU, batch_size=1, workers=0, seconds=0.2)
    assert found.later is None
    assert 15 < found.first <= 100


@pytest.mark.parametrize(
    ("message_s", "seconds", "is_certain"), [(1.0, 6.0, True), (1.0, 1.0, True), (8.0, 1.0, False)]
)
def test_workers_are_timed_at_their_pace(monkeypatch, message_s, seconds, is_certain):
    """Two of them, whose messages of 1, 2, 4, 8, 16, 16, ... pairs arrive at one time."""
    clock = 0.0

    def arriving(dataset, **_):
        nonlocal clock
        size = 1
        while True:
            clock += message_s * size / 16
            for _ in range(2 * size):
                yield SimpleNamespace(pairs=1)
            size = min(2 * size, 16)

    monkeypatch.setattr(timing, "batches", arriving)
    monkeypatch.setattr(timing, "on_device", lambda loader, device: loader)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock))
    found = time_loading(range(400), CPU, batch_size=1, workers=2, seconds=seconds)
    if is_certain:
        assert found.first == pytest.approx(32 / message_s)
        assert found.spread == pytest.approx(1)
    else:
        # Long before workers are at their pace, which nobody waits for.
        assert clock < 5 * message_s
        assert found.spread >= 3


# Advice


def recipe(batch=1, **data):
    return SimpleNamespace(
        train=TrainSettings(steps=1, batch_size=batch), data=DataSettings(**data)
    )


def findings(steps, loading, *, workers=0, cores=8, pairs=400, drawn=None, load=None):
    return Findings(
        hardware=Hardware("", 1.0, {"float32": 1.0}),
        work=None,
        steps=tuple(steps),
        loading=tuple(loading),
        workers=workers,
        cores=cores,
        pairs=pairs,
        pair_bytes=2**20,
        drawn=drawn,
        load=load,
    )


def assignments(advice):
    return [setting.assignment for setting in advice.settings]


def test_the_step_holds_a_run_back():
    advice = advise(
        findings([StepTime("float32", 1, 0.5, 0.1)], [Loading(0, 50.0, 100.0)]),
        recipe(),
        "float32",
        on_cpu=True,
    )
    # Loaded in the same process, one after the other; most epochs are later ones.
    assert (advice.held_by, advice.data_s) == ("step", 0.01)
    assert advice.run_s == pytest.approx(0.51)
    assert advice.settings == ()


def test_the_data_holds_a_run_back():
    steps = [StepTime("bfloat16", 4, 0.004, None)]
    ways = [Loading(0, 100.0, None), Loading(2, 200.0, None), Loading(7, 2000.0, None)]
    found = findings(steps, ways, workers=2)
    advice = advise(found, recipe(4), "bfloat16", on_cpu=False)
    assert advice.held_by == "data"
    assert advice.run_s == pytest.approx(4 / 200)
    assert assignments(advice) == ["data.workers=7"]


def test_workers_take_their_share_of_a_cpu():
    # Two cores: what one process saves the step by loading beside it, it takes from its cores.
    steps = [StepTime("float32", 1, 1.0, None)]
    ways = [Loading(0, 1.0, None), Loading(2, 100.0, None)]
    found = findings(steps, ways, workers=2, cores=2)
    assert advise(found, recipe(), "float32", on_cpu=True).run_s == pytest.approx(1.5)
    assert advise(found, recipe(), "float32", on_cpu=False).run_s == pytest.approx(1.0)


@pytest.mark.parametrize(("quick", "expected"), [(0.2, ["train.precision=bfloat16"]), (0.49, [])])
def test_another_precision(quick, expected):
    steps = [StepTime("float32", 1, 0.5, None), StepTime("bfloat16", 1, quick, None)]
    found = findings(steps, [Loading(0, 1e4, None)])
    assert assignments(advise(found, recipe(), "float32", on_cpu=True)) == expected


@pytest.mark.parametrize(
    ("own_slow", "slow", "expected"),
    [
        (0.6, 0.4, ["train.precision=bfloat16"]),
        (0.6, 0.52, []),  # overlaps with the recipe's quickest round
        (0.9, 0.4, []),  # the recipe's own scatters
    ],
)
def test_scattered_times_are_no_reason(own_slow, slow, expected):
    steps = [
        StepTime("float32", 1, 0.5, None, "", own_slow),
        StepTime("bfloat16", 1, 0.36, None, "", slow),
    ]
    found = findings(steps, [Loading(0, 1e4, None)])
    advice = advise(found, recipe(), "float32", on_cpu=True)
    assert assignments(advice) == expected
    assert any("rounds of the same step differ" in r for r in advice.remarks) == (own_slow == 0.9)


def test_impossible_times_are_no_reason():
    steps = [
        StepTime("bfloat16", 1, 3.122, None, "", 3.3),
        StepTime("bfloat16", 2, 0.129, None, "", 0.13),
        StepTime("float32", 1, 0.17, None, "", 0.18),
    ]
    found = findings(steps, [Loading(0, 1e4, None)])
    advice = advise(found, recipe(), "bfloat16", on_cpu=True)
    assert advice.settings == ()
    [remark] = advice.remarks
    assert "steps of batch 1 took longer than those of a larger one, in bfloat16" in remark
    assert "measure again when it is idle" in remark


@pytest.mark.parametrize(("slow", "expected"), [(0.011, 2), (0.6, 0)])
def test_beside_a_step_that_scatters_loading_is_no_reason(slow, expected):
    steps = [StepTime("float32", 1, 0.01, None, "", slow)]
    ways = [Loading(0, 100.0, None), Loading(2, 1000.0, None)]
    advice = advise(findings(steps, ways), recipe(keep_mb=0), "float32", on_cpu=False)
    assert len(advice.settings) == expected


def test_workers_whose_rate_scatters_are_no_reason():
    steps = [StepTime("float32", 1, 0.001, None)]
    ways = [Loading(0, 100.0, None, 1.0), Loading(2, 180.0, None, 2.0)]
    advice = advise(findings(steps, ways), recipe(), "float32", on_cpu=False)
    assert advice.settings == ()


@pytest.mark.parametrize(("load", "busy"), [(4.1, True), (0.4, False), (None, False)])
def test_a_busy_machine_is_told(monkeypatch, load, busy):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    found = findings([StepTime("float32", 1, 0.5, None)], [Loading(0, 1e4, None)], load=load)
    remarks = advise(found, recipe(), "float32", on_cpu=True).remarks
    said = (
        "other programs use the processor (load 4.1 on 2 cores): measure again when it is idle, or "
        "run with OMP_NUM_THREADS=1 where it never is"
    )
    assert remarks == ((said,) if busy else ())


def test_a_larger_batch_is_no_suggestion_but_a_remark():
    steps = [StepTime("float32", 1, 0.5, None), StepTime("float32", 16, 2.0, None)]
    advice = advise(findings(steps, [Loading(0, 1e4, None)]), recipe(), "float32", on_cpu=True)
    assert advice.settings == ()
    [remark] = advice.remarks
    assert "4.0 times" in remark
    assert "train.batch_size=16" in remark
    assert "another training" in remark


@pytest.mark.parametrize(("kept", "expected"), [(0, ["data.keep_mb=400"]), (None, []), (500, [])])
def test_memory_for_pairs(kept, expected):
    found = findings([StepTime("float32", 1, 0.01, None)], [Loading(0, 100.0, None)])
    chosen = recipe() if kept is None else recipe(keep_mb=kept)
    assert assignments(advise(found, chosen, "float32", on_cpu=True)) == expected


def test_a_batch_that_does_not_fit():
    steps = [
        StepTime("float32", 4, 1.0, None),
        StepTime("float32", 64, None, None, "out of memory"),
    ]
    advice = advise(findings(steps, [Loading(0, 1.0, None)]), recipe(64), "float32", on_cpu=False)
    assert advice.held_by is None
    assert "largest that did is 4" in advice.remarks[0]


# The command


def run(capsys, *arguments):
    argv, sys.argv = sys.argv, ["img2img", "bench", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as left:
            main()
    finally:
        sys.argv = argv
    shown = capsys.readouterr()
    return left.value.code, shown.out, shown.err


@pytest.fixture
def tiny(tmp_path, pairs_folder, tiny_tables, monkeypatch):
    """A working directory that holds pairs and nothing else; the recipe lies beside it."""
    monkeypatch.chdir(pairs_folder.parent)
    monkeypatch.setattr(hardware, "COPY_BYTES", {"cpu": 2**16})
    monkeypatch.setattr(hardware, "MATRIX_SIDE", {"cpu": 32})
    # As often as it must, and not for as long as there is time.
    monkeypatch.setattr(measuring, "HARDWARE_SHARE", 0.0)
    monkeypatch.setattr(measuring, "LOADING_SHARE", 0.0)
    path = tmp_path / "tiny.toml"
    path.write_text(f"{tiny_tables}steps = 4\nbatch_size = 2\n", encoding="utf-8")
    return path


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_bench(tiny, tmp_path, capsys, monkeypatch):
    # Time enough for every row, however busy the machine, and none spent on waiting for it.
    monkeypatch.setattr(
        steps, "time_in_turn", lambda several, device, _: time_in_turn(several, device, 0)
    )
    before = files(tmp_path)
    code, out, err = run(
        capsys, tiny, "--json", "--device=cpu", "--seconds=60", "--batch-size=1,3", "--quiet"
    )
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert files(tmp_path) == before
    measured = {(step["precision"], step["batch_size"]): step for step in told["steps"]}
    # The recipe's batch is measured, too.
    assert {size for name, size in measured if name == "float32"} == {1, 2, 3}
    assert told["seconds_for_all"] is None
    for step in told["steps"]:
        assert step["note"] is None
        assert step["slow_step_s"] >= step["step_s"]
        assert step["images_per_s"] == pytest.approx(step["batch_size"] / step["step_s"])
        assert step["floor_s"] > 0
    assert next(way["workers"] for way in told["loading"]) == 0
    assert all(way["first_epoch_pairs_per_s"] > 0 for way in told["loading"])
    assert told["drawn_pairs_because"] is None
    assert told["work"]["update_bytes"] == 28 * told["work"]["parameters"]
    assert told["run"]["held_by"] in ("step", "data")
    assert told["run"]["batch_size"] == 2
    assert told["run"]["run_s"] >= told["run"]["step_s"]
    assert set(told) == {
        *("recipe", "device", "hardware", "work", "steps", "loading"),
        *("drawn_pairs_because", "run", "suggestions", "remarks", "load", "seconds_for_all"),
    }


def test_without_data_pairs_are_drawn(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there is no folder of that name
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(
        capsys,
        *(tiny, "--device=cpu", "--seconds=1", "--batch-size=1", "--precision=float32"),
        *("--set", "data.root=nowhere"),
    )
    assert code == 0
    assert "drawn pairs" in out
    assert "no folder 'nowhere'" in " ".join(out.split())
    assert "bfloat16 " not in out.partition("A training step")[2]
    assert max(map(len, out.splitlines())) <= 80


def test_what_does_not_fit_is_a_row(tiny, capsys, monkeypatch):
    def refuse(self, size, precisions, seconds):
        if size == 7:
            raise RuntimeError("DefaultCPUAllocator: not enough memory")
        return [[0.001]]

    monkeypatch.setattr(StepTimer, "_run", refuse)
    rest = "--device=cpu", "--seconds=1", "--precision=float32", "--json"
    code, out, _ = run(capsys, tiny, *rest, "--batch-size=7,1")
    assert code == 0
    notes = {step["batch_size"]: step["note"] for step in json.loads(out)["steps"]}
    assert notes == {1: None, 2: None, 7: "out of memory"}


def test_memory_that_is_not_there_is_not_asked_for(tiny, capsys, monkeypatch):
    monkeypatch.setattr(steps, "available_memory", lambda: 2**24)
    rest = "--device=cpu", "--seconds=1", "--precision=float32", "--json"
    code, out, _ = run(capsys, tiny, *rest, "--batch-size=100000")
    told = json.loads(out)
    assert code == 0
    assert told["steps"][-1]["batch_size"] == 100000
    assert "GiB of memory" in told["steps"][-1]["note"]


def test_time_that_is_not_there(tiny, capsys, monkeypatch):
    monkeypatch.setattr(StepTimer, "_run", lambda self, size, names, s: [[size]] * len(names))
    rest = tiny, "--device=cpu", "--seconds=1", "--precision=float32", "--batch-size=8,9"
    _, out, _ = run(capsys, *rest, "--json")
    told = json.loads(out)
    rows = {(step["precision"], step["batch_size"]): step for step in told["steps"]}
    assert rows["float32", 2]["step_s"] == 2  # the recipe's own, whatever the time
    assert rows["float32", 8]["step_s"] is None
    assert "too long" in rows["float32", 8]["note"]
    # Three steps of 8 and of 9 seconds are what the float32 rows take alone.
    assert told["seconds_for_all"] > 3 * (8 + 9)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 99.0, 99.0))
    _, out, _ = run(capsys, *rest)
    # First of all, and once: no figure below counts.
    assert out.count("other programs use the processor") == 1
    assert out.index("other programs use the processor") < out.index("A training step")
    assert out.count("left out") == 1
    assert "too long" not in out
    assert "2 of 3 left out: about" in out


def test_a_pipe_hears_of_the_device_first(tiny, capsys, monkeypatch):
    monkeypatch.setattr(StepTimer, "_run", lambda self, size, names, s: [[0.1]] * len(names))
    rest = tiny, "--device=cpu", "--seconds=1", "--batch-size=2"
    _, out, err = run(capsys, *rest)
    assert "GB/s read and written" in err
    assert "measuring beyond --seconds" in err
    assert "GB/s read and written" in out
    for option in ("--json", "--quiet"):
        assert run(capsys, *rest, option)[2] == ""


def test_torchrun_is_refused(tiny, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, out, err = run(capsys, tiny, "--device=cpu")
    assert (code, out) == (2, "")
    assert "without torchrun" in err


def test_sigterm_leaves_nothing_behind(tiny, tmp_path, capsys, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    seen = []

    def stop(self, size, precisions, seconds):
        seen.extend(scratch.iterdir())
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(StepTimer, "_run", stop)
    before = signal.getsignal(signal.SIGTERM)
    # Without the handler the signal must end the test, and not the tests.
    signal.signal(signal.SIGTERM, lambda *_: pytest.fail("not handled"))
    try:
        rest = "--device=cpu", "--seconds=1", "--set", "data.root=nowhere"
        code, _, _ = run(capsys, tiny, *rest)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert code == 130
    assert [path for path in seen if path.name.startswith("img2img-")]
    # torch makes a folder for what it compiles when it is imported, and keeps it.
    assert not list(scratch.glob("img2img-*"))


def test_a_method_that_fails_is_an_error(tiny, capsys, monkeypatch):
    monkeypatch.setattr(Pix2Pix, "step", lambda self, source, target: 1 / 0)
    code, _, err = run(capsys, tiny, "--device=cpu", "--seconds=1", "--batch-size=1")
    assert code == 1
    assert "division by zero" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "generator.widht=3"], "did you mean 'width'?"),
        (["--batch-size", "1,x"], "whole numbers from 1"),
        (["--batch-size", "0"], "whole numbers from 1"),
        (["--precision", "float16"], "--precision cannot be 'float16'"),
        (["--seconds", "0"], "--seconds must be at least 1"),
        (["--device", "tpu"], "--device 'tpu'"),
    ],
)
def test_wrong_requests(tiny, capsys, arguments, said):
    code, out, err = run(capsys, tiny, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


# The script


@pytest.fixture
def floor(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(hardware, "COPY_BYTES", {"cpu": 2**16})
    monkeypatch.setattr(hardware, "MATRIX_SIDE", {"cpu": 32})
    spec = importlib.util.spec_from_file_location("floor_script", BENCHMARKS / "floor.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_and_its_record(floor, tiny, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- floor-cpu begin -->\nold\n<!-- floor-cpu end -->\nafter\n")
    floor.main([str(tiny), "--device=cpu", "--seconds=0.1", "--batch", "1", f"--record={page}"])
    told = json.loads(capsys.readouterr().out)
    assert told["step"]["update_bytes"] == 28 * told["step"]["parameters"]
    assert {row["precision"] for row in told["floor"]} == {"float32", "bfloat16"}
    full, half = (told["beyond"][name] for name in ("float32", "bfloat16"))
    assert full["cast_bytes"] == 0 < half["cast_bytes"]
    assert 50 < full["operations"] < half["operations"]
    text = page.read_text()
    assert text.startswith("before\n<!-- floor-cpu begin -->\n")
    assert text.endswith("<!-- floor-cpu end -->\nafter\n")
    assert "old" not in text
    assert "| precision | batch | floor, ms | images/s |" in text
    assert torch.__version__ in text
    assert told["hardware"]["name"] in text


def test_a_page_without_markers_stays(floor, tiny, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- floor-cuda begin -->\n<!-- floor-cuda end -->\n")
    with pytest.raises(SystemExit, match="has no lines"):
        floor.main([str(tiny), "--device=cpu", "--seconds=0.1", f"--record={page}"])
    assert page.read_text() == "<!-- floor-cuda begin -->\n<!-- floor-cuda end -->\n"


def test_operations_and_casts_are_counted(floor):
    """Views and reserved memory are none; a cast reads four bytes a number and writes two."""
    with floor.Started() as started:
        numbers = torch.ones(10, 3)
        numbers.t().reshape(-1)[:4].add_(1)
        torch.empty(5)
        numbers.to(torch.bfloat16)
    # Filled with ones, copied by reshape, added to, and cast.
    assert started.operations == 4
    assert started.cast_bytes == 30 * (4 + 2)
