"""A run that is killed anywhere goes on to the end it would have had; see benchmarks/torture.py."""

import importlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
STEPS = 12
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def tools():
    """The modules `run_compare`, `torture_recipe` and `torture_victim`."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        names = ("run_compare", "torture_recipe", "torture_victim")
        yield [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def lives(tools, tmp_path_factory):
    """Makes processes that run the recipe; each is forked from one that has imported everything."""
    work = tmp_path_factory.mktemp("torture")
    recipe, leaders = tools[1].make_recipe(work, STEPS), []
    server = subprocess.Popen(
        [sys.executable, str(BENCHMARKS / "torture_victim.py"), "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    def answer():
        """Its next line; it ends a life that hangs, but may hang itself."""
        if not select.select([server.stdout], [], [], tools[2].LIMIT_S + 30)[0]:
            server.kill()
            pytest.fail("the process that makes processes does not answer")
        return server.stdout.readline()

    assert answer() == "ready\n"

    def live(run, *more, **fate):
        """Exit code, what was hit, and what the process said."""
        told = tools[2].Fate(str(run), str(work / "hit.json"), **fate)
        (work / "hit.json").unlink(missing_ok=True)
        arguments = ["run", str(recipe), f"--out={run}", "--device=cpu", "--resume", *more]
        server.stdin.write(json.dumps([asdict(told), arguments, str(work / "said.txt")]) + "\n")
        server.stdin.flush()
        leader, code = json.loads(answer())
        said = (work / "said.txt").read_text()
        hit = json.loads((work / "hit.json").read_text()) if (work / "hit.json").exists() else {}
        assert hit or not fate, (fate, code, said)
        leaders.append(leader)
        # Loaders ask every five seconds whether it lives, and the next life need not wait for them.
        while leaders and not fate:
            assert tools[2].wait_for_group(leaders.pop(), 60), "a process of the run is left"
        return code, hit, said

    yield work, live
    server.stdin.close()
    server.wait(60)


@pytest.fixture(scope="module")
def whole(lives):
    work, live = lives
    assert live(work / "whole")[0] == 0
    return work / "whole"


def test_killed_at_named_places_it_ends_as_if_left_alone(lives, whole, tools):
    """One run, killed in each of these; the directory moves, and so do the loaders' number."""
    compare, work, live = tools[0], *lives
    run = work / "killed"
    places = [
        ("start-up", {"kind": "file", "within": "environment.json"}),
        ("step", {"kind": "optimizer", "since": 2}),
        ("checkpoint", {"kind": "half", "within": "checkpoints", "count": 2}),
        ("checkpoint", {"kind": "file", "within": "checkpoints", "count": 12}),
        ("bundle", {"kind": "half", "within": r"^[^/]+\.safetensors", "since": 7}),
        ("sample sheet", {"kind": "half", "within": "samples", "since": 8}),
        ("directory", {"kind": "half", "within": "metrics", "since": 8}),
        ("validation", {"kind": "look", "since": 11, "count": 3}),
        ("report", {"kind": "file", "within": "report", "since": STEPS}),
    ]
    hits = []
    for number, (_, fate) in enumerate(places):
        workers = "--set=data.workers=1" if number == 1 else "--set=data.workers=0"
        code, hit, said = live(run, workers, **fate, alone=number == 1)
        assert code == -signal.SIGKILL, (fate, said)
        assert compare.faults(run, running=True) == [], hit
        hits.append((hit["place"], hit["what"]))
        if number == 4:
            run = run.rename(work / "moved")
    assert [place for place, _ in hits] == [place for place, _ in places], hits
    code, _, said = live(run)
    assert code == 0, said
    assert compare.faults(run) == []
    assert compare.differences(run, whole) == []


@pytest.mark.parametrize(
    ("number", "fate", "most"),
    [
        (signal.SIGINT, {"kind": "file", "within": "recipe.toml"}, 0),
        (signal.SIGTERM, {"kind": "file", "within": "recipe.toml"}, 0),
        (signal.SIGINT, {"kind": "step", "since": 3, "count": 30}, 1),
        (signal.SIGTERM, {"kind": "file", "within": "report", "since": STEPS, "main": True}, 0),
    ],
)
def test_a_signal_ends_it_in_order(lives, whole, tools, number, fate, most):
    compare, work, live = tools[0], *lives
    run = work / "signalled"
    log = work / "steps.txt"
    log.unlink(missing_ok=True)
    code, hit, said = live(run, number=int(number), steps=str(log), **fate)
    assert code == 130
    assert "the same command" in said and "Traceback" not in said
    done = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    assert sum(float(at) > hit["at"] for _, at in done) <= most
    assert compare.faults(run) == []
    assert live(run)[0] == 0
    assert compare.differences(run, whole) == []
    shutil.rmtree(run)


def test_what_is_compared_can_differ(lives, whole, tools, tmp_path):
    """Each thing that is said to be the same is found when it is not."""
    compare = tools[0]
    run = tmp_path / "run"

    def unlike(change):
        shutil.copytree(whole, run)
        change(run)
        found = compare.differences(run, whole) + compare.faults(run)
        shutil.rmtree(run)
        return " ".join(found)

    def weights(folder, name, key):
        path = next(iter(folder.glob(name)))
        tensors = load_file(path)
        first = next(name for name in tensors if key in name)
        tensors[first].view(-1)[0] += 1
        save_file(tensors, path)

    last = f"checkpoints/step-{STEPS:08}"
    assert unlike(lambda folder: None) == ""
    for file, key in (("networks", "weight"), ("optimizers", "exp_avg"), ("loose", "average.")):
        found = unlike(lambda f, n=file, k=key: weights(f, f"{last}/{n}.safetensors", k))
        assert f"{file}.safetensors" in found
    assert "model" in unlike(lambda f: weights(f, "model.safetensors", ""))
    sheet = f"samples/step-{10:08}.png"
    assert sheet in unlike(lambda f: (f / sheet).unlink())
    assert sheet in unlike(lambda f: (f / sheet).write_bytes((f / sheet).read_bytes()[:-20]))

    def repeated(folder):
        text = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        (folder / "metrics.jsonl").write_text("".join([text[0], *text]))

    assert "metrics.jsonl" in unlike(repeated)
    assert "not JSON" in unlike(lambda f: (f / "metrics.jsonl").open("a").write('{"step": 1'))
    assert "left over" in unlike(lambda f: (f / ".partial-x.png").touch())
    events = unlike(lambda f: [path.unlink() for path in (f / "tensorboard").iterdir()])
    assert "TensorBoard: losses/l1" in events and "TensorBoard: samples" in events


def test_a_fresh_run_draws_all_its_noise_from_the_seed(whole, tools, lives):
    """A plugin may draw from `random` or numpy: killed before any checkpoint, they begin alike."""
    work, live = lives
    assert live(work / "second", "--set=train.steps=1")[0] == 0
    assert live(work / "third", "--set=train.steps=1")[0] == 0
    states = [
        json.loads((work / name / "checkpoints/step-00000001/state.json").read_text())
        for name in ("second", "third")
    ]
    for key in ("python_random", "numpy_random"):
        assert states[0][key] == states[1][key]


def test_a_signal_that_got_nowhere_is_remembered(monkeypatch):
    """Python can only print what is raised at the end of an import."""
    from img2img import signals
    from img2img.engine.interrupt import StopRequest

    monkeypatch.setattr(signals, "_asked", False)
    before = {number: signal.getsignal(number) for number in signals.NUMBERS}
    try:
        for number in signals.NUMBERS:
            signal.signal(number, signal.default_int_handler)
        signals.answer_signals()
        assert not StopRequest().requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        assert StopRequest().requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_ignored_signals_stay_ignored(monkeypatch):
    """`nohup` and a shell's background jobs, before training and in it."""
    from img2img import signals
    from img2img.engine.interrupt import StopRequest

    before = {number: signal.getsignal(number) for number in signals.NUMBERS}
    try:
        for number in signals.NUMBERS:
            signal.signal(number, signal.SIG_IGN)
        signals.answer_signals()
        with StopRequest() as stop:
            assert all(signal.getsignal(number) is signal.SIG_IGN for number in signals.NUMBERS)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            assert not stop.requested
        assert all(signal.getsignal(number) is signal.SIG_IGN for number in signals.NUMBERS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_work_is_done_changes_no_exit_code(number):
    """Python takes a while to end, and what was asked for is there already."""
    program = f"""
import atexit, os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(lambda: (os.kill(os.getpid(), {int(number)}), time.sleep(0.2)))
sys.argv = ["img2img", "--version"]
from img2img.__main__ import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
