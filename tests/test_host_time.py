"""`benchmarks/host_time.py`: it runs, adds up, and writes what it found."""

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest

from img2img.engine.finite import FiniteGuard
from img2img.engine.state import LossWindow
from img2img.methods import Pix2Pix

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = ["--size", "32", "--steps", "12", "--device", "cpu"]


@pytest.fixture
def host_time(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("host_time", BENCHMARKS / "host_time.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "host_time", module)
    spec.loader.exec_module(module)
    return module


def test_host_time(host_time, capsys, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- host-cpu begin -->\nold\n<!-- host-cpu end -->\nafter\n")
    parts = Pix2Pix.step, FiniteGuard.note, FiniteGuard.check, LossWindow.add
    host_time.main([*SMALL, "--batch", "2", "--workers", "0", "1", "--record", str(page)])
    told = json.loads(capsys.readouterr().out)
    assert [row["workers"] for row in told["microseconds"]] == [0, 1]
    for row in told["microseconds"]:
        assert all(row[part] > 0 for part in ("batch", "losses", "rest", "whole", "whole_mean"))
    assert told["real_step_us"] is None
    assert told["settings"] == {"size": 32, "width": 64, "batch": 2, "steps": 12}
    text = page.read_text()
    assert "old" not in text and "| 1 workers |" in text and "batch 2 at 32 pixels" in text
    # What was put in their places is gone.
    assert parts == (Pix2Pix.step, FiniteGuard.note, FiniteGuard.check, LossWindow.add)


def test_each_part_is_timed_for_itself(host_time):
    clock = host_time.Clock()
    feed = clock.received(lambda: iter_slowly())
    note = clock.timed("losses", lambda: time.sleep(0.02))
    clock.on_step(0)
    for number in feed():
        note()
        note()
        time.sleep(0.03)
        clock.on_step(number)
    first, second = clock.steps[1:]
    for step in (first, second):
        assert step["batch"] >= 0.01
        assert step["losses"] >= 0.04
        assert step["rest"] >= 0.03
        assert step["batch"] + step["losses"] + step["rest"] == pytest.approx(step["whole"])


def iter_slowly():
    for number in range(2):
        time.sleep(0.01)
        yield number


@pytest.mark.parametrize(
    ("given", "said"),
    [(["--steps", "3"], "--steps must be at least 4"), (["--workers", "-1"], "--workers must be")],
)
def test_refuses(host_time, capsys, given, said):
    with pytest.raises(SystemExit):
        host_time.main([*SMALL, *given])
    assert said in capsys.readouterr().err


def test_the_page_comes_first(host_time, tmp_path, monkeypatch):
    monkeypatch.setattr(host_time, "benchmark", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit, match="no lines <!-- host-cpu begin -->"):
        (tmp_path / "page.md").write_text("nothing")
        host_time.main([*SMALL, "--record", str(tmp_path / "page.md")])
