"""The report in a real browser: drawn, zoomed, switched, stepped through, wiped and printed."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, needs_chromium
from run_files import fill, training_line, validation_line

from img2img.report.page import write_report
from img2img.report.sheet import write_sheet

pytestmark = needs_chromium

GREEN, BLUE = (0, 200, 0), (0, 0, 250)
# Of outputs, by step.
REDS = {0: (250, 90, 90), 1000: (200, 40, 40), 2000: (250, 0, 0)}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


def write_samples(run_dir: Path) -> None:
    """Two rows of plain colours: sources are green, targets blue, outputs red."""
    for path in (run_dir / "samples").iterdir():
        path.unlink()
    for step, red in REDS.items():
        row = [np.full((48, 64, 3), colour, np.uint8) for colour in (GREEN, red, BLUE)]
        write_sheet(run_dir / "samples" / f"step-{step:08d}.png", [row, row])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("run")
    fill(run_dir)
    write_samples(run_dir)
    return write_report(run_dir)


def show(browser: Browser, report: Path, *, phone: bool = False) -> None:
    """Open a page, and forget what the one before did."""
    browser.be_a_phone() if phone else browser.be_a_desk()
    browser.send("Page.navigate", url="about:blank")
    browser.console.clear()
    browser.requests.clear()
    browser.open(report, "ready")


def was_harmless(browser: Browser) -> bool:
    schemes = {request.split(":")[0] for request in browser.requests}
    return browser.console == [] and schemes <= {"file", "data"}


def text_of(browser: Browser, selector: str = "body") -> str:
    return str(browser.run(f"document.querySelector({json.dumps(selector)}).innerText"))


def count_of(browser: Browser, selector: str) -> int:
    return int(browser.run(f"document.querySelectorAll({json.dumps(selector)}).length"))


def axes(browser: Browser, axis: str = "x", charts: str = ".plot") -> list[dict[str, float]]:
    """Of each chart, what stands where on an axis: the number by its place in the window."""
    found = browser.run(
        f"[...document.querySelectorAll('{charts}')].map(plot =>"
        f" [...plot.querySelectorAll('text.{axis}')].map(t =>"
        " [t.textContent, +t.getAttribute('x'), t.getBoundingClientRect().top]))"
    )
    return [{text: x if axis == "x" else y for text, x, y in labels} for labels in found]


def as_steps(labels: dict[str, float]) -> list[float]:
    return [float(text.replace(",", "").replace("k", "e3")) for text in labels]


def shown_span(browser: Browser) -> tuple[float, float]:
    """First and last step of the first chart, as it tells those who cannot see its axis."""
    ends = "(p => [p.ariaValueMin, p.ariaValueMax])(document.querySelector('.plot'))"
    first, last = browser.run(ends)
    return float(first), float(last)


def keeps(browser: Browser, selector: str, key: str) -> bool:
    """Whether an element keeps a key from the page, which would scroll."""
    return not browser.run(
        f"document.querySelector({json.dumps(selector)}).dispatchEvent("
        f"new KeyboardEvent('keydown', {{key: {json.dumps(key)}, cancelable: true}}))"
    )


def near(span: tuple[float, float], expected: tuple[float, float]) -> bool:
    return all(math.isclose(a, b, abs_tol=15) for a, b in zip(span, expected, strict=True))


def test_it_is_drawn_offline_and_without_errors(browser: Browser, report: Path) -> None:
    show(browser, report)

    assert was_harmless(browser)
    assert browser.run("document.documentElement.dataset.pwned ?? ''") == ""
    assert count_of(browser, "img:not(.pair img):not(.sheet)") == 0
    assert count_of(browser, ".losses path.raw") == count_of(browser, ".losses path.smooth") == 3
    assert count_of(browser, ".validation path.scores") == 3
    assert "NaN" not in browser.run("document.querySelector('main').innerHTML")
    assert "mean training target 0.2000" in text_of(browser, ".validation")
    assert "The model is better than both." in text_of(browser, "header")
    assert "Best: 0.0900 at step 2,000." in text_of(browser, ".validation")
    assert count_of(browser, ".validation circle.best") == 3
    assert "</script><script>" in text_of(browser, "h1")
    for request in ("new Image().src = url", "fetch(url).catch(() => 0)"):
        browser.console.clear()
        browser.run(f"{{const url = 'http://192.0.2.1/'; {request}}}; 0")
        browser.run("new Promise(done => setTimeout(done, 100))")
        assert "Content Security Policy" in "".join(browser.console)


def test_a_drag_zooms_all_charts_and_a_double_click_ends_it(browser: Browser, report: Path) -> None:
    show(browser, report)
    steps, values = axes(browser), [list(labels) for labels in axes(browser, "y")]
    assert near(shown_span(browser), (0, 2000))
    width = browser.box(".losses .plot")[2]
    edges = [
        float(browser.run(f"document.querySelector('.losses .plot .grid').getAttribute('{end}')"))
        for end in ("x1", "x2")
    ]

    def share(step: float) -> float:
        return (edges[0] + (edges[1] - edges[0]) * step / 2000) / width

    browser.drag(".losses .plot", share(500), share(1000))
    browser.drawn()
    assert near(shown_span(browser), (500, 1000))
    zoomed = axes(browser)
    assert len({tuple(as_steps(labels)) for labels in zoomed}) == 1  # all charts follow
    assert all(500 <= step <= 1000 for step in as_steps(zoomed[0]))
    assert [list(labels) for labels in axes(browser, "y")] != values  # fit to what is left
    inside = [900 / step for step in range(500, 1001, 50)]
    shown = [float(text) for text in axes(browser, "y", ".losses .plot")[1]]
    assert min(inside) - 0.2 < min(shown) <= max(shown) < max(inside) + 0.2

    browser.click(".plot", 2)
    browser.drawn()
    assert axes(browser) == steps
    assert [list(labels) for labels in axes(browser, "y")] == values
    assert was_harmless(browser)


def test_wheel_keys_and_buttons_zoom_too(browser: Browser, report: Path) -> None:
    show(browser, report)
    whole = shown_span(browser)

    def wheel(delta: int, modifiers: int) -> None:
        left, top, width, height = browser.box(".plot")
        place = {"x": left + width / 2, "y": top + height / 2}
        browser.send(
            "Input.dispatchMouseEvent",
            **{"type": "mouseWheel", "deltaX": 0, "deltaY": delta, "modifiers": modifiers, **place},
        )
        browser.drawn()

    wheel(-100, 0)  # alone it scrolls the page
    assert near(shown_span(browser), whole)
    wheel(-100, 2)
    first, last = shown_span(browser)
    assert first > 100
    assert last < 1900
    browser.click(".zoom button:last-child")
    browser.drawn()
    assert near(shown_span(browser), whole)

    browser.run("document.querySelector('.losses .plot').focus()")
    browser.press("Home")
    assert "step 50: " in text_of(browser, ".losses .readout")
    browser.press("ArrowRight")
    assert "step 100: " in text_of(browser, ".losses .readout")
    told = browser.run("document.querySelector('.losses .plot').ariaValueText")
    assert told.startswith("step 100: ")
    browser.press("+")
    browser.press("+")
    browser.drawn()
    assert near(shown_span(browser), (75, 575))
    browser.press("End")  # reading beyond what is shown moves it
    browser.drawn()
    assert near(shown_span(browser), (1500, 2000))
    assert "(3 of 3)" in text_of(browser, ".samples")  # those keys were the chart's alone
    assert keeps(browser, ".losses .plot", "End")
    assert not keeps(browser, ".losses .plot", "Tab")
    browser.press("Escape")
    browser.drawn()
    assert near(shown_span(browser), whole)
    assert was_harmless(browser)


def test_two_fingers_zoom(browser: Browser, report: Path) -> None:
    show(browser, report, phone=True)
    left, top, width, height = browser.box(".plot")
    y = top + height / 2

    def touch(kind: str, *shares: float) -> None:
        points = [{"x": left + width * share, "y": y, "id": i} for i, share in enumerate(shares)]
        browser.send("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    before = shown_span(browser)
    touch("touchStart", 0.4)
    touch("touchStart", 0.4, 0.6)
    for spread in (0.05, 0.1, 0.15):
        touch("touchMove", 0.4 - spread, 0.6 + spread)
    touch("touchEnd")
    browser.drawn()
    first, last = shown_span(browser)
    assert last - first < 0.5 * (before[1] - before[0])
    assert 400 < first < last < 1600
    browser.drag(".plot", 0.3, 0.7, touch=True)  # one finger reads
    browser.drawn()
    assert near(shown_span(browser), (first, last))
    assert was_harmless(browser)


def test_curves_are_switched_and_laid_together(browser: Browser, report: Path) -> None:
    show(browser, report)

    def option(text: str) -> None:
        browser.run(
            "[...document.querySelectorAll('.losses .options label')]"
            f".find(label => label.textContent === {json.dumps(text)}).control.click()"
        )

    def drawn() -> tuple[int, int, int]:
        parts = (".losses .plot", ".losses path.raw", ".losses path.smooth")
        return tuple(count_of(browser, part) for part in parts)  # type: ignore[return-value]

    assert drawn() == (3, 3, 3)
    browser.click(".losses .key:nth-child(2)")
    assert drawn() == (2, 2, 2)
    assert browser.run("document.querySelectorAll('.losses .key')[1].ariaPressed") == "false"
    assert "\nl1" not in text_of(browser, ".losses .charts")
    browser.run("document.querySelector('.losses .plot').focus()")  # which leaves the page
    option("In one chart")
    assert drawn() == (1, 2, 2)
    option("As logged")
    assert drawn() == (1, 0, 2)
    option("Smoothed")  # the last of the two brings the other back
    assert drawn() == (1, 2, 0)
    option("Log scale")
    browser.click(".losses .key:nth-child(2)")
    assert drawn() == (1, 3, 0)
    # On it, equal factors are equally far apart: l1 is from 0.45 to 18, the others are about 1.
    places = {float(text): y for text, y in axes(browser, "y", ".losses .plot")[0].items()}
    assert math.isclose(places[0.5] - places[1], places[5] - places[10], abs_tol=1)
    assert math.isclose(places[1] - places[2], places[5] - places[10], abs_tol=1)
    for number in (1, 2, 3):
        browser.click(f".losses .key:nth-child({number})")
    assert "All curves are switched off." in text_of(browser, ".losses")
    assert was_harmless(browser)


def colour_at(browser: Browser, selector: str, x: float, y: float = 0.3) -> str:
    """Which of the colours of the samples is seen at a place in an element."""
    left, top, width, height = browser.box(selector)
    browser.drawn()
    picture = browser.picture()
    scale = picture.width / browser.run("innerWidth")
    seen = picture.getpixel((int((left + width * x) * scale), int((top + height * y) * scale)))
    named = {"green": GREEN, "blue": BLUE} | {f"red {step}": red for step, red in REDS.items()}
    close = [name for name, c in named.items() if max(abs(np.subtract(seen, c))) < 12]
    return close[0] if close else str(seen)


def test_the_slider_steps_through_the_same_samples(browser: Browser, report: Path) -> None:
    show(browser, report)
    row = ".pair:nth-child(2)"

    def columns() -> list[str]:
        return [
            colour_at(browser, f"{row} .{kind}", 0.5) for kind in ("source", "output", "target")
        ]

    assert columns() == ["green", "red 2000", "blue"]
    browser.run("document.querySelector('.steps input').focus()")
    browser.press("Home")
    assert columns() == ["green", "red 0", "blue"]
    assert "Step 0 (1 of 3)" in text_of(browser, ".samples")
    browser.run("document.activeElement.blur()")
    browser.press("ArrowRight")
    assert columns() == ["green", "red 1000", "blue"]
    browser.click(".steps button:nth-child(2)")
    assert columns() == ["green", "red 2000", "blue"]
    assert was_harmless(browser)


@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
def test_a_divider_wipes_between_output_and_target(
    browser: Browser, report: Path, phone: bool
) -> None:
    show(browser, report, phone=phone)
    # The second, so that it is seen that all follow.
    divider = ".pair:nth-child(2) .divider"

    def wiped(*places: float) -> list[str]:
        return [colour_at(browser, divider, place) for place in places]

    browser.run("document.querySelector('input[value=output]').click()")
    assert wiped(0.05, 0.45, 0.55, 0.95) == ["red 2000", "red 2000", "blue", "blue"]
    browser.drag(".divider", 0.5, 0.2, touch=phone)
    assert wiped(0.05, 0.16, 0.24, 0.95) == ["red 2000", "red 2000", "blue", "blue"]
    browser.run("document.querySelector('.divider').focus()")
    for _ in range(5):
        browser.press("PageUp")
    browser.press("ArrowRight")
    assert wiped(0.05, 0.68, 0.76, 0.95) == ["red 2000", "red 2000", "blue", "blue"]
    assert browser.run("document.querySelector('.divider').ariaValueText") == (
        "72% output, 28% target"
    )
    assert "(3 of 3)" in text_of(browser, ".samples")  # the arrow was the divider's alone
    assert keeps(browser, ".divider", "ArrowLeft")
    assert not keeps(browser, ".divider", "Tab")
    browser.run("document.querySelector('input[value=source]').click()")
    assert wiped(0.68, 0.76) == ["green", "red 2000"]
    browser.click(".steps button")
    assert wiped(0.68, 0.76) == ["green", "red 1000"]
    assert was_harmless(browser)


def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, tmp_path: Path) -> None:
    fill(tmp_path)
    write_samples(tmp_path)
    names = ("l1", "fid", "lab_histogram_a", "a_score_of_somebody_with_a_long_name_" * 3)
    with (tmp_path / "metrics.jsonl").open("a") as metrics:
        for step in (1_000_000, 2_000_000):
            scores = dict.fromkeys(names, step / 7e6)
            metrics.write(json.dumps({"step": step, "validation": scores}) + "\n")
    show(browser, write_report(tmp_path), phone=True)

    for view in ("side", "output", "source"):
        browser.run(f"document.querySelector('input[value={view}]').click()")
        assert browser.run("document.documentElement.scrollWidth") == 390
    assert "Lab histogram, a" in text_of(browser, ".validation table")
    assert "higher is better" in text_of(browser, ".validation table")
    assert was_harmless(browser)


def test_on_paper_all_is_there_and_no_control(browser: Browser, report: Path) -> None:
    show(browser, report)
    browser.run("document.querySelector('input[value=output]').click()")
    browser.click(".steps button")
    browser.run(
        "window.addEventListener('beforeprint', () => { window.printed ="
        " document.querySelector('.steps output').textContent; })"
    )
    data = base64.b64decode(browser.send("Page.printToPDF")["data"])

    assert browser.run("window.printed") == "Step 2,000 (3 of 3)"
    assert "(2 of 3)" in text_of(browser, ".samples")  # and the screen is as it was
    assert len(re.findall(rb"/Type /Page\b", data)) >= 2
    browser.send("Emulation.setEmulatedMedia", media="print")
    visible = browser.run(
        "[...document.querySelectorAll('button, input, .divider, .options, .hint')]"
        ".filter(e => e.getClientRects().length).length"
    )
    columns = browser.run(
        "[...document.querySelectorAll('.pair:first-child img')]"
        ".map(image => image.getBoundingClientRect().x)"
    )
    browser.send("Emulation.setEmulatedMedia", media="")
    assert visible == 0
    assert columns == sorted(set(columns))  # side by side, none over another
    if shutil.which("pdftotext"):
        words = subprocess.run(
            ["pdftotext", "-", "-"], input=data, capture_output=True, check=True
        ).stdout.decode()
        for heading in ("Losses", "Validation", "Samples", "Settings", "Environment"):
            assert f"{heading}\n" in words
        assert "crop_size" in words
        assert "Whole run" not in words


def draw(browser: Browser, run_dir: Path, *lines: str) -> None:
    (run_dir / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    show(browser, write_report(run_dir))
    assert was_harmless(browser)


def validations(*l1s: float, **more: float) -> list[str]:
    """Lines of a run that is scored every 10 steps."""
    return [
        json.dumps({"step": 10 * i, "validation": {"l1": l1, **more}}) + "\n"
        for i, l1 in enumerate(l1s, 1)
    ]


@pytest.mark.parametrize(
    ("l1s", "mean", "told"),
    [
        ((0.179, 0.176, 0.166, 0.174, 0.1742), 0.1735, "mean training target 0.1735"),
        ((0.178, 0.176, 0.178, 0.177, 0.179), 0.1735, "mean training target 0.1735"),
        ((0.178, 0.176, 0.178, 0.177, 0.179), 0.35, "mean training target 0.3500 ↑"),
    ],
    ids=["crossing", "below", "far"],
)
def test_a_far_baseline_is_a_note_and_no_label_covers_the_curve(
    browser: Browser, tmp_path: Path, l1s: tuple[float, ...], mean: float, told: str
) -> None:
    draw(browser, tmp_path, *validations(*l1s, l1_source=0.403, l1_mean_target=mean))

    points, labels, box = browser.run(
        "(plot => [[...plot.querySelectorAll('circle')].map(c => [+c.getAttribute('cx'),"
        " +c.getAttribute('cy'), +c.getAttribute('r')]),"
        " [...plot.querySelectorAll('text.label')].map(t =>"
        " (b => [t.textContent, b.x, b.y, b.x + b.width, b.y + b.height])(t.getBBox())),"
        " plot.querySelector('svg').viewBox.baseVal.height])"
        "(document.querySelector('.validation .plot'))"
    )
    assert {text for text, *_ in labels} == {told, "source handed back 0.4030 ↑"}
    assert max(y for _, y, _ in points) - min(y for _, y, _ in points) > 0.3 * box
    for _, left, top, right, bottom in labels:
        assert not [
            1 for x, y, r in points if left - r < x < right + r and top - r < y < bottom + r
        ]
    assert len(points) == 6  # five scores, and the ring about the best


@pytest.mark.parametrize(
    ("mean", "text", "drawn"),
    [(0.1848, "mean training target 0.1848", 2), (0.1, "mean training target 0.1000 ↓", 1)],
)
def test_near_baselines_are_drawn_and_no_labels_meet(
    browser: Browser, tmp_path: Path, mean: float, text: str, drawn: int
) -> None:
    draw(browser, tmp_path, *validations(0.17, 0.18, l1_source=0.185, l1_mean_target=mean))

    assert count_of(browser, ".validation line.base") == drawn
    labels = browser.run(
        "[...document.querySelectorAll('.validation .plot text:not(.y)')].map(t =>"
        " (b => [t.textContent, b.x, b.y, b.x + b.width, b.y + b.height])(t.getBBox()))"
    )
    assert [told for told, *_ in labels][-2:] == ["source handed back 0.1850", text]
    for n, (_, left, top, right, bottom) in enumerate(labels):
        for _, x1, y1, x2, y2 in labels[:n]:
            # Boxes hold more above and below the letters than there is to see.
            assert x2 < left or right < x1 or y2 - 4 < top or bottom - 4 < y1


def test_losses_say_their_weight_and_which_side_they_are_of(
    browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text(
        'losses = [{ name = "l1", weight = 100.0 }]\n[discriminator]\nconditional = true\n'
    )
    line = training_line(5, d_real=0.3, d_fake=0.2, l1=33.0, own=1.0)
    draw(browser, tmp_path, line, *validations(0.166))

    titles = browser.run(
        "[...document.querySelectorAll('.losses figcaption > :first-child')].map(t => t.innerText)"
    )
    assert titles == [
        "d_real discriminator on real pairs",
        "d_fake discriminator on made pairs",
        "l1 weight 100",
        "own",
    ]
    assert "The loss l1 is of values in [\N{MINUS SIGN}1, 1]" in text_of(browser, ".losses")


def test_the_header_names_the_best_model_that_is_kept(browser: Browser, tmp_path: Path) -> None:
    lines = validations(0.3, 0.1, 0.2)
    draw(browser, tmp_path, *lines)
    assert "best.safetensors" not in text_of(browser)

    (tmp_path / "best.safetensors").touch()
    draw(browser, tmp_path, *lines)
    best = "best.safetensors holds the model of step 20, the best by validation L1 (0.1000)."
    assert best in text_of(browser, "header")


def test_samples_come_first_and_settings_last(browser: Browser, report: Path) -> None:
    show(browser, report)

    titles = browser.run("[...document.querySelectorAll('h2')].map(h => h.textContent)")
    assert titles == ["Samples", "Validation", "Losses", "Settings", "Environment"]


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="no pdftotext to read a page with")
def test_on_paper_no_heading_stands_alone_and_no_table_is_cut(
    browser: Browser, tmp_path: Path
) -> None:
    fill(tmp_path)
    write_samples(tmp_path)
    (tmp_path / "environment.json").write_text(json.dumps({f"entry_{i}": i for i in range(14)}))
    firsts = {"Validation": "step 2,000:", "Losses": "step 2,000:", "Settings": "seed"}
    # What follows moves down, until a page has ended after each heading.
    for lines in range(0, 45, 5):
        name = "a name of seven words or some more " * lines
        (tmp_path / "recipe.toml").write_text(f'name = "{name}"\n[train]\nseed = 2000\n')
        show(browser, write_report(tmp_path))
        data = base64.b64decode(browser.send("Page.printToPDF")["data"])
        told = subprocess.run(
            ["pdftotext", "-layout", "-", "-"], input=data, capture_output=True, check=True
        )
        for page in told.stdout.decode().split("\f"):
            for heading, first in firsts.items():
                _, found, rest = page.partition(f"{heading}\n")
                assert not found or first in rest
            assert page.count("entry_") in (0, 14)


def headings(browser: Browser) -> Any:
    return browser.run("[...document.querySelectorAll('th[scope=col]')].map(t => t.textContent)")


def test_a_run_that_has_barely_begun(browser: Browser, tmp_path: Path) -> None:
    draw(browser, tmp_path, training_line(1, l1=math.nan, adversarial=0.7), validation_line(1, 0.4))

    text = text_of(browser)
    assert "1 logged value is not a finite number, first at step 1." in text
    assert "The model is no better than either." in text
    assert "No samples were written yet." in text
    assert "NaN" not in browser.run("document.querySelector('main').innerHTML")
    assert headings(browser) == ["Score", "Model", "Source handed back", "Mean training target"]


def test_classes_are_judged_by_their_accuracy(browser: Browser, tmp_path: Path) -> None:
    scores = {"accuracy": 0.54, "accuracy_most_frequent": 0.39}
    draw(browser, tmp_path, json.dumps({"step": 5, "validation": scores}) + "\n")

    text = text_of(browser)
    assert text.count("Validation accuracy") == 1
    assert "most frequent class scores 0.3900. The model is better than that." in text
    assert headings(browser) == ["Score", "Model", "Most frequent class"]


def test_the_baseline_that_is_not_beaten_is_named(browser: Browser, tmp_path: Path) -> None:
    draw(browser, tmp_path, validation_line(1, 0.25))

    answer = "handing back the source, but not than always answering with the mean training target"
    assert f"The model is better than {answer}." in text_of(browser)


def test_of_many_scores_the_best_step_follows_their_direction(
    browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text('[train]\nbest_by = "fid"\n')
    (tmp_path / "best.safetensors").touch()
    lines = [
        json.dumps(
            {
                "step": step,
                "validation": dict.fromkeys(("l1", "psnr", "kid", "x", "y", "fid"), v),
                "higher_is_better": {"y": True},
            }
        )
        for step, v in ((10, 0.3), (20, 0.1), (30, 0.2))
    ]
    draw(browser, tmp_path, "\n".join(lines))

    rows = browser.run(
        "[...document.querySelectorAll('.scores tr')].slice(1)"
        ".map(row => [...row.cells].map(cell => cell.textContent))"
    )
    assert [row[2] for row in rows] == [
        "0.1000 at step 20",
        "0.3000 at step 10",
        "0.1000 at step 20",
        "\N{EN DASH}",
        "0.3000 at step 10",
        "0.1000 at step 20",
    ]
    chief = re.findall(r"Validation (\w+)", text_of(browser, "header"))
    assert chief == ["L1", "PSNR", "KID", "FID"]
    assert "Best: 0.1000 at step 20, kept as best.safetensors." in text_of(browser, ".validation")
