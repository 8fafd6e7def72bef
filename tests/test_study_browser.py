"""Scripted participants in a real browser."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, needs_chromium
from PIL import Image

from img2img.cli import app
from img2img.study.sealing import unseal

pytestmark = needs_chromium


# For how long each image was visible, by when its place changed its class.
WATCH = """
var watched = [];
for (const place of document.querySelectorAll(".place"))
  new MutationObserver(() => {
    const shown = getComputedStyle(place.querySelector("canvas")).visibility === "visible";
    if (shown) place.since = performance.now();
    else if (place.since) { watched.push(performance.now() - place.since); place.since = 0; }
  }).observe(place, {attributeFilter: ["class"]});
0
"""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    folder = tmp_path / "browser"
    folder.mkdir()
    opened = Browser(folder)
    yield opened
    opened.close()


def outputs_and_data(root: Path, count: int) -> tuple[Path, Path]:
    """Real images are red, generated ones blue, so that a screenshot shows which is which."""
    for split in ("train", "val"):
        (root / "data" / split).mkdir(parents=True)
        for number in range(count):
            both = np.full((32, 64, 3), 128, np.uint8)
            both[:, 32:] = (250, 5 * number, 0)
            Image.fromarray(both).save(root / "data" / split / f"{number}.png")
    (root / "outputs").mkdir()
    for number in range(count):
        fake = np.full((32, 32, 3), (0, 5 * number, 250), np.uint8)
        Image.fromarray(fake).save(root / "outputs" / f"{number}.png")
    return root / "outputs", root / "data"


def make_page(tmp_path: Path, *options: str, count: int = 8) -> Path:
    outputs, data = outputs_and_data(tmp_path, count)
    page = tmp_path / "study.html"
    arguments = ["study", str(outputs), str(data), "--out", str(page), "--direction", "AtoB"]
    assert run_command(*arguments, "--quiet", *options) == 0
    return page


def run_command(*arguments: str) -> int:
    code = app(list(arguments), standalone_mode=False)
    return int(code or 0)


def fake_sides(page: Path) -> list[int]:
    """Where the generated image is in each trial, practice first."""
    found = re.search(r'id="study">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    study = json.loads(found[1])
    practice = unseal(study["practice_key"], study["id"], "practice")
    return practice + unseal(study["key"], study["id"], "trials")


def colours(picture: Image.Image) -> set[str]:
    """Which of red (real) and blue (generated) fill a part of a screenshot."""
    pixels = np.asarray(picture).reshape(-1, 3).astype(int)
    red = (pixels[:, 0] > 200) & (pixels[:, 2] < 60)
    blue = (pixels[:, 2] > 200) & (pixels[:, 0] < 60)
    return {name for name, those in (("red", red), ("blue", blue)) if those.mean() > 0.01}


def saved(browser: Browser) -> Path:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = list(browser.downloads.glob("*.json"))
        if found:
            return found[0]
        time.sleep(0.05)
    raise AssertionError("nothing was saved")


def score_of(file: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    run_command("study", "score", str(file), "--json")
    score: dict[str, Any] = json.loads(capsys.readouterr().out)
    return score


def test_by_keyboard_for_one_second_each(
    tmp_path: Path, browser: Browser, capsys: pytest.CaptureFixture[str]
) -> None:
    page = make_page(tmp_path, "--trials", "2", "--practice", "1")
    sides = fake_sides(page)
    fooled_in = {2}  # of the trials 1 and 2 that count

    browser.open(page)
    browser.run(WATCH)
    browser.press("Enter")  # no button has the focus yet: nothing begins
    assert browser.run("document.documentElement.dataset.state") == "start"
    browser.run("document.getElementById('begin').focus()")
    browser.press("Enter")
    for number, side in enumerate(sides):
        if number == 0:  # a picture costs frames, so those that count are left alone
            browser.wait_for("first")
            assert colours(browser.picture()) == {("red", "blue")[side == 0]}
            browser.press("f")  # an answer before the images are gone counts for nothing
            browser.wait_for("second")
            assert colours(browser.picture()) == {("red", "blue")[side == 1]}
        browser.wait_for("answer")
        if number == 0:
            assert colours(browser.picture()) == set()
        answer = 1 - side if number in fooled_in else side
        browser.press(("f", "j")[answer] if number % 2 else ("ArrowLeft", "ArrowRight")[answer])
        if number == 0:
            browser.wait_for("feedback")
            shown = browser.run("document.getElementById('prompt').textContent")
            assert shown.startswith(f"Right: the {('first', 'second')[side]} one")
            browser.press(" ")
        else:
            # No feedback, which would wait for a key.
            browser.wait_for("pause", "fixation", "first", "done")
    browser.wait_for("done")
    browser.press("Tab")
    browser.press("Enter")
    file = saved(browser)

    answers = json.loads(file.read_text())
    assert answers == json.loads(browser.run("document.getElementById('text').value"))
    assert [answer["trial"] for answer in answers["answers"]] == [0, 1, 2]
    assert {answer["by"] for answer in answers["answers"]} == {"key"}
    assert "Chrome" in answers["browser"]
    assert re.fullmatch(r"[0-9a-f]{16}", answers["participant"])
    # Never too short by a frame. A busy machine loses some, but not in more than every second.
    frame = answers["frame_ms"]
    assert 4 < frame < 50
    counted = [answer["shown_ms"] for answer in answers["answers"][1:]]
    times = [shown_ms for both in counted for shown_ms in both]
    assert min(times) >= 1000 - frame - 0.2
    assert statistics.median_low(abs(ms - 1000) for ms in times) <= frame + 0.2
    # By another clock: when the page's styles changed.
    watched = browser.run("watched")[2:]
    assert len(watched) == len(times)
    differences = [abs(one - other) for one, other in zip(watched, times, strict=True)]
    assert statistics.median_low(differences) <= frame
    assert all(answer["response_ms"] < 20_000 for answer in answers["answers"])
    score = score_of(file, capsys)
    assert (score["fooled"], score["trials"]) == (1, 2)
    off = [both for both in counted if max(abs(ms - 1000) for ms in both) > 40]
    assert score["participants"][0]["mistimed"] == len(off)
    assert browser.console == []
    assert {request.split(":")[0] for request in browser.requests} <= {"file", "data"}


def test_by_touch_on_a_phone_and_an_early_stop(
    tmp_path: Path, browser: Browser, capsys: pytest.CaptureFixture[str]
) -> None:
    page = make_page(tmp_path, "--trials", "4", "--practice", "1", "--seconds", "0.05")
    sides = fake_sides(page)
    browser.be_a_phone()
    browser.open(page)
    assert browser.run("document.documentElement.scrollWidth") == 390
    browser.run("document.getElementById('who').value = 'Zoë </script> 7'")
    browser.tap("#begin")
    for number, side in enumerate(sides[:4]):
        browser.wait_for("answer")
        boxes = browser.run(
            "[...document.querySelectorAll('.place')].map(p => {const b ="
            " p.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]})"
        )
        assert all(box[0] >= 0 and box[2] <= 390 and box[3] <= 844 for box in boxes)
        fooled = number in (1, 3)
        answer = 1 - side if fooled or number == 0 else side
        browser.tap(f".place:nth-child({answer + 1})")
        if number == 0:
            browser.wait_for("feedback")
            shown = browser.run("document.getElementById('prompt').textContent")
            assert shown.startswith(f"Wrong: the {('first', 'second')[side]} one")
            browser.picture()
            browser.tap("#next")
        browser.wait_for("pause", "fixation", "first", "second")
    browser.wait_for("answer")
    browser.tap("#stop")  # asked again, and nothing is lost
    assert browser.run("document.getElementById('stop').hidden")
    browser.tap("#stay")
    assert browser.run("document.getElementById('sure').hidden")
    assert browser.run("document.documentElement.dataset.state") == "answer"
    browser.tap("#stop")
    assert browser.run("document.documentElement.scrollWidth") == 390
    browser.tap("#leave")
    browser.wait_for("done")
    browser.tap("#copy")
    told = ""
    for _ in range(100):
        told = browser.run("document.getElementById('saved').textContent")
        if not told.startswith("Send"):
            break
        time.sleep(0.02)
    # Whether a page may copy is the browser's to say; then its text is there to be copied by hand.
    assert told.startswith("Copied") or "selected: copy it by hand" in told
    browser.tap("#save")
    file = saved(browser)

    answers = json.loads(file.read_text())
    assert answers["participant"] == "Zoë </script> 7"
    assert answers["complete"] is False
    assert {answer["by"] for answer in answers["answers"]} == {"touch"}
    score = score_of(file, capsys)
    assert (score["fooled"], score["trials"], score["planned"]) == (2, 3, 4)
    assert browser.console == []


def test_the_page_refuses_the_network(tmp_path: Path, browser: Browser) -> None:
    browser.open(make_page(tmp_path, "--trials", "2", "--practice", "0"))
    for request in (
        "fetch('http://192.0.2.1/').catch(() => 0)",
        "new Image().src = 'http://192.0.2.1/'",
    ):
        browser.console.clear()
        browser.run(f"{request}; 0")
        browser.run("new Promise(done => setTimeout(done, 200))")
        assert "Content Security Policy" in "".join(browser.console)
