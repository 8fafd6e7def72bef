"""The report: complete from whatever files there are, harmless, bounded in size, and drawn."""

import base64
import functools
import io
import itertools
import json
import math
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from img2img.report.page import MAX_SHEETS, MAX_SHEETS_BYTES, write_report

HOSTILE = "</script><script>document.documentElement.dataset.pwned = 1</script><!--<img src=x>"
PAGE_WITHOUT_SAMPLES = 200_000  # bytes: the template and four thinned curves

RECIPE = f"""
name = {json.dumps(HOSTILE)}
requires = []

[task]
name = "paired"

[data]
root = "data/shoes"
crop_size = 256
normalise = {{ mean = [0.5, 0.5], mode = "" }}

[[losses]]
name = "adversarial"
weight = 1.0

[[losses]]
name = "l1"
weight = 100.0
"""
ENVIRONMENT = {
    "img2img": "0.1.0",
    "plugins": {"img2img-tiny": "0.3"},
    "parameters": {"generator": 54413955},
    "nobody_knows": [1, None, HOSTILE],
}


def training_line(step: int, **losses: Any) -> str:
    record = {"step": step, "epoch": 0, "images": step, "elapsed_s": step / 4, "images_per_s": 4.0}
    return json.dumps({**record, "losses": losses}) + "\n"


def validation_line(step: int, l1: float) -> str:
    scores = {"l1": l1, "psnr": 17.1, "ssim": 0.7, "l1_source": 0.3, "l1_mean_target": 0.2}
    return json.dumps({"step": step, "validation": scores}) + "\n"


def add_sheets(run_dir: Path, steps: range, size: tuple[int, int] = (60, 44)) -> None:
    (run_dir / "samples").mkdir(exist_ok=True)
    for step in steps:
        sheet = Image.new("RGB", size, "white")
        ImageDraw.Draw(sheet).rectangle((5, 15, 15 + step % 30, 40), fill=(step % 256, 90, 160))
        sheet.save(run_dir / "samples" / f"step-{step:08d}.png")


def read(report: Path) -> dict[str, Any]:
    """What the page will draw, taken out of it as a browser would."""
    text = report.read_text(encoding="utf-8")
    block = re.search(r'<script type="application/json" id="run">(.*?)</script>', text, re.DOTALL)
    assert block
    data = json.loads(block[1], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert isinstance(data, dict)
    return data


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "environment.json").write_text(json.dumps(ENVIRONMENT), encoding="utf-8")
    noise = random.Random(0)
    lines = [
        training_line(step, adversarial=1 + noise.random(), l1=900 / step, **{HOSTILE: 1.0})
        for step in range(50, 2001, 50)
    ]
    lines += [validation_line(1000, 0.11), validation_line(2000, 0.09)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    add_sheets(tmp_path, range(500, 2001, 500))
    return tmp_path


def test_everything_in_the_run_directory_is_in_the_page(run_dir: Path) -> None:
    report = write_report(run_dir)

    assert report == run_dir / "report.html"
    data = read(report)
    assert data["name"] == HOSTILE
    assert data["remarks"] == []
    assert data["progress"] == {
        "step": 2000,
        "images": 2000,
        "elapsed_s": 500,
        "images_per_s": 4,
    }
    settings = {group["table"]: dict(group["rows"]) for group in data["recipe"]}
    assert settings[""]["requires"] == "[]"
    assert settings["data"]["crop_size"] == "256"
    assert settings["data"]["normalise.mean"] == "[0.5, 0.5]"
    assert settings["data"]["normalise.mode"] == '""'
    assert settings["losses"] == {"adversarial.weight": "1.0", "l1.weight": "100.0"}
    environment = dict(data["environment"])
    assert environment["parameters.generator"] == "54,413,955"
    assert environment["plugins.img2img-tiny"] == "0.3"
    assert "nobody_knows" in environment
    assert [curve["name"] for curve in data["losses"]] == ["adversarial", "l1", HOSTILE]
    assert data["losses"][1]["steps"] == list(range(50, 2001, 50))
    assert {c["name"]: c["values"][-1] for c in data["validation"]}["l1_mean_target"] == 0.2
    assert [sheet["step"] for sheet in data["samples"]] == [500, 1000, 1500, 2000]


def test_hostile_names_cannot_leave_the_data_block(run_dir: Path) -> None:
    text = write_report(run_dir).read_text(encoding="utf-8")

    assert text.count("<script") == 2  # the data and the program, as in the template
    assert "<img src=x" not in text
    assert "<!--<" not in text


def test_the_page_names_no_address_to_load_from(run_dir: Path) -> None:
    text = write_report(run_dir).read_text(encoding="utf-8")

    assert set(re.findall(r"\w+://[^\s\"'`)]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text


def test_an_empty_directory_gives_a_page_without_remarks(tmp_path: Path) -> None:
    data = read(write_report(tmp_path))

    assert data["name"] == tmp_path.name
    assert data["losses"] == data["validation"] == data["samples"] == data["remarks"] == []
    assert data["environment"] == []


def test_damaged_files_are_remarked_and_do_no_harm(run_dir: Path) -> None:
    (run_dir / "recipe.toml").write_text('name = "cut', encoding="utf-8")
    (run_dir / "environment.json").write_text('{"img2img": "0.1', encoding="utf-8")
    with (run_dir / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
        metrics.write('[]\n{"losses": {}}\n{"step": null}\n{"step": 2050, "losses": {"l1": 0.')
    whole = (run_dir / "samples/step-00002000.png").read_bytes()
    (run_dir / "samples/step-00002000.png").write_bytes(whole[: len(whole) // 2])
    (run_dir / "samples/step-final.png").write_bytes(b"")

    data = read(write_report(run_dir))

    assert data["name"] == run_dir.name
    assert data["progress"]["step"] == 2000
    assert [sheet["step"] for sheet in data["samples"]] == [500, 1000, 1500]
    remarks = " ".join(data["remarks"])
    for file in ("recipe.toml", "environment.json", "metrics.jsonl", "step-00002000.png"):
        assert file in remarks
    assert "could not be read: 4" in remarks


def test_what_the_run_pointed_out_comes_first(tmp_path: Path) -> None:
    def line(step: int, **record: Any) -> str:
        return json.dumps({"step": step, **record}) + "\n"

    skipped = [{"kind": "unreadable", "message": f"skipped {i}.png: broken"} for i in range(3)]
    (tmp_path / "metrics.jsonl").write_text(
        "".join(line(1, warning=warning) for warning in skipped)
        + line(1500, warning={"kind": "copied_source", "message": "outputs are their sources"})
        + line(2000, passed={"kind": "copied_source"})
        + line(2500, warning={"kind": "astray", "message": HOSTILE})
    )
    remarks = read(write_report(tmp_path))["remarks"]
    assert remarks == [
        "Step 1,500: outputs are their sources. This had passed at step 2,000.",
        f"Step 2,500: {HOSTILE}.",
        "Step 1: skipped 0.png: broken. (and 2 more like it)",
    ]
    (tmp_path / "metrics.jsonl").write_text(
        "".join(line(i, warning={"kind": str(i), "message": "x"}) for i in range(1000))
    )
    assert len(read(write_report(tmp_path))["remarks"]) == 20


def test_values_that_are_not_finite_become_gaps_and_are_counted(tmp_path: Path) -> None:
    values = [1.0, math.nan, math.inf, None, 2.0, "text", 10**400, 3.0, *[4.0] * 12]
    lines = [training_line(10 * (i + 1), l1=value) for i, value in enumerate(values)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")

    (curve,) = read(write_report(tmp_path))["losses"]

    assert curve["values"][:8] == [1.0, None, None, None, 2.0, None, None, 3.0]
    assert [value is None for value in curve["smoothed"]] == [v is None for v in curve["values"]]
    assert curve["broken"] == {"count": 5, "first": 20}


def test_a_run_that_never_logged_a_finite_loss(tmp_path: Path) -> None:
    lines = [training_line(step, l1=None) for step in range(20)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")

    (curve,) = read(write_report(tmp_path))["losses"]

    assert set(curve["values"]) == set(curve["smoothed"]) == {None}


def test_steps_repeated_after_resuming_count_once(tmp_path: Path) -> None:
    first = [training_line(step, l1=1.0) for step in (10, 20, 30, 40)]
    resumed = [training_line(step, l1=2.0) for step in (30, 40, 50)]
    (tmp_path / "metrics.jsonl").write_text("".join(first + resumed), encoding="utf-8")

    (curve,) = read(write_report(tmp_path))["losses"]

    assert curve["steps"] == [10, 20, 30, 40, 50]
    assert curve["values"] == [1.0, 1.0, 2.0, 2.0, 2.0]


def test_long_curves_are_thinned_and_keep_their_extremes(tmp_path: Path) -> None:
    noise = random.Random(0)
    lines = [
        training_line(
            step,
            **{name: noise.gauss(1, 0.2) for name in ("adversarial", "d_real", "d_fake")},
            l1=1e6 if step == 4321 else -1e6 if step == 7654 else noise.gauss(20, 1),
        )
        for step in range(1, 10_001)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")

    report = write_report(tmp_path)

    assert report.stat().st_size < PAGE_WITHOUT_SAMPLES
    curve = next(curve for curve in read(report)["losses"] if curve["name"] == "l1")
    spikes = {s: v for s, v in zip(curve["steps"], curve["values"], strict=True) if abs(v) > 1e5}
    assert spikes == {4321: 1e6, 7654: -1e6}
    assert (curve["steps"][0], curve["steps"][-1]) == (1, 10_000)
    smooth = dict(zip(curve["steps"], curve["smoothed"], strict=True))
    far_from_spikes = [value for step, value in smooth.items() if step < 3000 or step > 9000]
    assert all(abs(value - 20) < 1 for value in far_from_spikes)


def test_many_samples_are_thinned_evenly(tmp_path: Path) -> None:
    add_sheets(tmp_path, range(100, 50_001, 100))

    data = read(write_report(tmp_path))

    steps = [sheet["step"] for sheet in data["samples"]]
    assert len(steps) == MAX_SHEETS
    assert (steps[0], steps[-1]) == (100, 50_000)
    gaps = [later - earlier for earlier, later in itertools.pairwise(steps)]
    assert max(gaps) - min(gaps) <= 100
    assert data["samples_found"] == 500


def test_a_picture_that_does_not_compress_is_made_to_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("img2img.report.page.MAX_SHEETS_BYTES", 20_000)
    (tmp_path / "samples").mkdir()
    noise = Image.frombytes("RGB", (300, 400), random.Random(0).randbytes(300 * 400 * 3))
    noise.save(tmp_path / "samples/step-00000001.png")

    (sheet,) = read(write_report(tmp_path))["samples"]

    data = base64.b64decode(sheet["src"].removeprefix("data:image/webp;base64,"))
    assert len(data) <= 20_000 < MAX_SHEETS_BYTES
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (sheet["width"], sheet["height"])


def test_a_report_is_replaced_and_leaves_nothing_else_behind(run_dir: Path) -> None:
    before = {path.name for path in run_dir.iterdir()}
    first = write_report(run_dir).read_bytes()

    assert write_report(run_dir).read_bytes() == first
    assert {path.name for path in run_dir.iterdir()} == before | {"report.html"}


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path / "nowhere")


def test_no_torch_is_imported() -> None:
    program = "import sys, img2img.report.page; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def browse(page: Path, profile: Path, program: str = "") -> tuple[str, str]:
    """The page as headless Chromium leaves it, and its console: errors and refused requests."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on PATH to draw the page with")
    # In a block, so that the names of the program do not meet those of the page.
    page.write_text(f"{page.read_text('utf-8')}<script>{{{program}}}</script>", encoding="utf-8")
    command = [
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1000,1000"),
        *("--enable-logging=stderr", f"--user-data-dir={profile}"),
        *("--dump-dom", page.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return done.stdout, console


def test_a_browser_draws_it_offline_and_without_errors(
    run_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Also use it: go back twice, by button and by key, and point at the middle of the first chart.
    program = """
        document.querySelector("button").click();
        document.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
        const graph = document.querySelector("svg"), box = graph.getBoundingClientRect();
        graph.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width / 2}));
    """
    count = functools.partial(re.findall, flags=re.DOTALL)

    dom, console = browse(write_report(run_dir), tmp_path_factory.mktemp("profile"), program)

    assert 'data-state="ready"' in dom
    assert "data-pwned" not in dom.partition("<head")[0]
    assert console == ""  # a request would be refused, and the refusal would stand here
    assert len(count(r'<path class="raw" d="M[^"]{100,}"', dom)) == 3
    assert len(count(r'<path class="smooth" d="M[^"]{100,}"', dom)) == 3
    assert len(count(r'<path class="scores" d="M[^"]+L[^"]+"', dom)) == 3
    assert "NaN" not in "".join(count(r"<svg.*?</svg>", dom))
    assert "mean training target 0.2000</text>" in dom
    assert "The model is better than both." in dom
    assert len(count(r'<img class="sheet"[^>]+src="data:image/webp;base64,', dom)) == 1
    assert "Step 1,000 (2 of 4)" in dom
    assert len(count(r'<circle class="dot" r="4.5"', dom)) == 6
    assert re.search(r"step (9|10)\d\d|step 1,0\d\d: [\d.]+, smoothed", dom)


@pytest.mark.parametrize("request_", ["new Image().src = url", "fetch(url).catch(() => 0)"])
def test_a_browser_refuses_every_request_of_the_page(
    request_: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    program = f"const url = 'http://192.0.2.1/'; {request_};"

    _, console = browse(write_report(tmp_path), tmp_path_factory.mktemp("profile"), program)

    assert "Content Security Policy" in console


def test_a_browser_draws_a_run_that_has_barely_begun(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        training_line(1, l1=math.nan, adversarial=0.7) + validation_line(1, 0.4), encoding="utf-8"
    )

    dom, console = browse(write_report(tmp_path), tmp_path_factory.mktemp("profile"))

    assert 'data-state="ready"' in dom
    assert console == ""
    assert "1 logged value is not a finite number, first at step 1." in dom
    assert '<table class="scores"' in dom
    assert "The model is no better than either." in dom
    assert "NaN" not in dom.partition("<main")[2].partition("</main>")[0]
    assert "No samples were written yet." in dom


def test_a_browser_judges_classes_by_their_accuracy(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    line = {"step": 5, "validation": {"accuracy": 0.54, "accuracy_most_frequent": 0.39}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")

    dom, console = browse(write_report(tmp_path), tmp_path_factory.mktemp("profile"))

    assert console == ""
    assert dom.count("Validation accuracy") == 1
    assert "most frequent class scores 0.3900. The model is better than that." in dom
    assert re.findall(r'<th scope="col">([^<]+)', dom) == [
        "Score",
        "Step",
        "Model",
        "Most frequent class",
    ]


def test_a_browser_names_the_baseline_that_is_not_beaten(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    line = validation_line(1, 0.25)
    (tmp_path / "metrics.jsonl").write_text(line, encoding="utf-8")

    dom, _ = browse(write_report(tmp_path), tmp_path_factory.mktemp("profile"))

    answer = "handing back the source, but not than always answering with the mean training target"
    assert f"The model is better than {answer}." in dom


def test_of_ten_thousand_samples_few_are_read(tmp_path: Path) -> None:
    """It is written at every checkpoint, so it must not take longer the longer a run is."""
    add_sheets(tmp_path, range(1, 2))
    first = tmp_path / "samples/step-00000001.png"
    for step in range(2, 10_001):
        first.with_name(f"step-{step:08}.png").hardlink_to(first)
    opened = []
    actual = Image.open

    def counted(path: Any, *rest: Any) -> Any:
        opened.append(path)
        return actual(path, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("img2img.report.page.Image.open", counted)
        data = read(write_report(tmp_path))
    assert len(opened) == len(data["samples"]) == MAX_SHEETS
    assert (data["samples"][0]["step"], data["samples"][-1]["step"]) == (1, 10_000)
    assert data["samples_found"] == 10_000
    assert (tmp_path / "report.html").stat().st_size < PAGE_WITHOUT_SAMPLES + MAX_SHEETS * 2000
