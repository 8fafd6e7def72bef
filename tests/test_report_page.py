"""The report: complete from whatever files there are, harmless, bounded in size, and drawn."""

import base64
import io
import itertools
import json
import math
import random
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from run_files import HOSTILE, add_sheets, fill, training_line

from img2img.report.page import write_report
from img2img.report.pictures import MAX_SHEETS, MAX_SHEETS_BYTES
from img2img.report.sheet import write_sheet

PAGE_WITHOUT_SAMPLES = 200_000  # bytes: the template and four thinned curves


def read(report: Path) -> dict[str, Any]:
    """What the page will draw, taken out of it as a browser would."""
    text = report.read_text(encoding="utf-8")
    block = re.search(r'<script type="application/json" id="run">(.*?)</script>', text, re.DOTALL)
    assert block
    data = json.loads(block[1], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert isinstance(data, dict)
    return data


def opened(picture: dict[str, Any]) -> Image.Image:
    data = base64.b64decode(picture["src"].removeprefix("data:image/webp;base64,"))
    return Image.open(io.BytesIO(data)).convert("RGB")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    fill(tmp_path)
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
    monkeypatch.setattr("img2img.report.pictures.MAX_SHEETS_BYTES", 20_000)
    (tmp_path / "samples").mkdir()
    noise = Image.frombytes("RGB", (300, 400), random.Random(0).randbytes(300 * 400 * 3))
    noise.save(tmp_path / "samples/step-00000001.png")

    (sheet,) = read(write_report(tmp_path))["samples"]

    data = base64.b64decode(sheet["sheet"]["src"].removeprefix("data:image/webp;base64,"))
    assert len(data) <= 20_000 < MAX_SHEETS_BYTES
    assert opened(sheet["sheet"]).size == (sheet["sheet"]["width"], sheet["sheet"]["height"])


def smooth(height: int, width: int, phase: float) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / width * 3 + phase + c) + np.cos(y / height * 2 + c) for c in range(3)]
    return np.stack([wave * 60 + 128 for wave in waves], -1).astype(np.uint8)


def rows_at(step: int) -> list[list[NDArray[np.uint8]]]:
    """A small photo, a map of classes, and a source half as large as its target."""
    grid = np.zeros((24, 40, 3), np.uint8)
    grid[::3], grid[:, ::5] = (0, 130, 70), (255, 40, 0)
    moved = np.roll(grid, step, 1)
    return [
        [smooth(32, 32, 0), smooth(32, 32, step), smooth(32, 32, 2)],
        [smooth(24, 40, 1), moved, grid],
        [smooth(20, 30, 1), smooth(40, 60, step), smooth(40, 60, 3)],
    ]


def write_sheets(run_dir: Path, steps: Iterable[int]) -> None:
    (run_dir / "samples").mkdir(exist_ok=True)
    for step in steps:
        write_sheet(run_dir / "samples" / f"step-{step:08d}.png", rows_at(step))


def difference(one: Image.Image, other: NDArray[np.uint8]) -> float:
    return float(np.abs(np.asarray(one).astype(float) - other).mean())


def test_a_sheet_says_where_its_images_are(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    write_sheet(path, rows_at(5))

    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
        told = json.loads(sheet.info["img2img cells"])
    assert told["columns"] == ["source", "output", "target"]
    assert told["scale"] == 3  # of 60 pixels, up to 192
    for row, boxes in zip(rows_at(5), told["rows"], strict=True):
        for image, (left, top, right, bottom) in zip(row, boxes, strict=True):
            large = np.kron(image, np.ones((3, 3, 1), np.uint8))
            assert np.array_equal(pixels[top:bottom, left:right], large)
    for above, below in itertools.pairwise(told["rows"]):
        assert max(bottom for *_, bottom in above) < min(top for _, top, *_ in below)


def test_images_of_sheets_are_taken_apart_and_kept_once(tmp_path: Path) -> None:
    write_sheets(tmp_path, (0, 1, 2, 3))

    data = read(write_report(tmp_path))

    assert [sample["step"] for sample in data["samples"]] == [0, 1, 2, 3]
    assert len(data["pairs"]) == 3
    for (source, _, target), pair in zip(rows_at(0), data["pairs"], strict=True):
        for image, kept in ((source, pair["source"]), (target, pair["target"])):
            assert (kept["height"], kept["width"]) == image.shape[:2]
            assert difference(opened(kept), image) < 3
    for step, sample in enumerate(data["samples"]):
        assert set(sample) == {"step", "outputs"}
        for row, output in zip(rows_at(step), sample["outputs"], strict=True):
            assert difference(opened(output), row[1]) < 3
        # Few colours are kept to the last pixel.
        assert difference(opened(sample["outputs"][1]), rows_at(step)[1][1]) == 0


def test_sheets_of_other_samples_are_shown_whole(tmp_path: Path) -> None:
    write_sheets(tmp_path, (10, 20, 30))
    samples = tmp_path / "samples"
    others = [[image[::-1] for image in row] for row in rows_at(0)]
    write_sheet(samples / "step-00000001.png", others)
    write_sheet(samples / "step-00000002.png", rows_at(2)[:2])
    add_sheets(tmp_path, range(3, 4))

    data = read(write_report(tmp_path))

    kinds = {sample["step"]: set(sample) - {"step"} for sample in data["samples"]}
    whole, apart = {"sheet"}, {"outputs"}
    assert kinds == {1: whole, 2: whole, 3: whole, 10: apart, 20: apart, 30: apart}
    with Image.open(samples / "step-00000002.png") as sheet:
        shown = next(sample for sample in data["samples"] if sample["step"] == 2)["sheet"]
        assert difference(opened(shown), np.asarray(sheet.convert("RGB"))) < 5


GOOD = {"columns": ["source", "output", "target"], "scale": 1, "rows": [[[0, 0, 9, 9]] * 3]}


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[" * 100_000,
        "[]",
        "{}",
        json.dumps(GOOD | {"rows": []}),
        json.dumps(GOOD | {"rows": [[[0, 0, 9, 9]] * 2]}),
        json.dumps(GOOD | {"rows": [[[0, 0, 9, 999]] * 3]}),
        json.dumps(GOOD | {"rows": [[[0, 0, 61, 9]] * 3]}),
        json.dumps(GOOD | {"rows": [[[-1, 0, 9, 9]] * 3]}),
        json.dumps(GOOD | {"rows": [[[5, 0, 5, 9]] * 3]}),
        json.dumps(GOOD | {"rows": [[[0, 0, 9]] * 3]}),
        json.dumps(GOOD | {"rows": [[[0, 0, 9, 9]] * 3] * 65}),
        json.dumps(GOOD | {"rows": 7}),
        json.dumps(GOOD | {"scale": 0}),
        json.dumps(GOOD | {"scale": 2}),
        json.dumps(GOOD | {"scale": 1e999}),
        json.dumps(GOOD | {"columns": ["a", "b", "c"]}),
    ],
    ids=lambda text: text[-40:],
)
def test_a_sheet_whose_text_is_not_about_it_is_shown_whole(tmp_path: Path, text: str) -> None:
    (tmp_path / "samples").mkdir()
    told = PngInfo()
    told.add_text("img2img cells", text)
    Image.new("RGB", (60, 44)).save(tmp_path / "samples/step-00000001.png", pnginfo=told)

    data = read(write_report(tmp_path))

    assert [set(sample) for sample in data["samples"]] == [{"step", "sheet"}]
    assert data["pairs"] == data["remarks"] == []


def test_taken_apart_pictures_keep_within_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("img2img.report.pictures.MAX_SHEETS_BYTES", 30_000)
    noise = np.random.default_rng(0)
    (tmp_path / "samples").mkdir()
    pair = noise.integers(0, 256, (2, 120, 120, 3), dtype=np.uint8)
    for step in range(1, 5):
        output = noise.integers(0, 256, (120, 120, 3), dtype=np.uint8)
        write_sheet(tmp_path / f"samples/step-{step:08}.png", [[pair[0], output, pair[1]]])

    data = read(write_report(tmp_path))

    pictures = [*data["pairs"][0].values(), *(s["outputs"][0] for s in data["samples"])]
    assert len(pictures) == 6
    sizes = [len(picture["src"]) * 3 / 4 for picture in pictures]
    assert sum(sizes) < 30_300
    assert all(picture["width"] < 120 for picture in pictures)


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
        patch.setattr("img2img.report.pictures.Image.open", counted)
        data = read(write_report(tmp_path))
    assert len(opened) == len(data["samples"]) == MAX_SHEETS
    assert (data["samples"][0]["step"], data["samples"][-1]["step"]) == (1, 10_000)
    assert data["samples_found"] == 10_000
    assert (tmp_path / "report.html").stat().st_size < PAGE_WITHOUT_SAMPLES + MAX_SHEETS * 2000


def test_what_is_nested_too_deeply_is_remarked(run_dir: Path) -> None:
    """For the readers, or only for what goes through what they read."""
    for depth in (1500, 100_000):
        opening, closing = "[" * depth, "]" * depth
        (run_dir / "recipe.toml").write_text(f"a = {opening}{closing}", encoding="utf-8")
        inner = '{"a":' * depth + "1" + "}" * depth
        (run_dir / "environment.json").write_text(f'{{"a": {inner}}}', encoding="utf-8")
        with (run_dir / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
            metrics.write(f'{{"step": 1, "validation": {{"l1": {opening}{closing}}}}}\n')
            told = f'{{"kind": {inner}, "message": {inner}}}'
            metrics.write(f'{{"step": 1, "warning": {told}}}\n')

        data = read(write_report(run_dir))

        remarks = " ".join(data["remarks"])
        for file in ("recipe.toml", "environment.json"):
            assert f"{file} could not be read" in remarks, depth
        assert data["environment"] == data["recipe"] == []
        assert data["progress"]["images"] == 2000


def validated(run_dir: Path, scores: dict[str, float], **more: Any) -> dict[str, Any]:
    line = {"step": 5, "validation": scores, **more}
    (run_dir / "metrics.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    return {curve["name"]: curve["baseline"] for curve in read(write_report(run_dir))["validation"]}


def test_what_is_no_score_of_the_model_is_known(tmp_path: Path) -> None:
    """By what the metrics told of, and in older runs, which do not say, by its name."""
    found = {"ssim": 0.5, "l1_source": 0.3, "l1_mean_target": 0.2, "accuracy_most_frequent": 0.1}
    expected = {name: name != "ssim" for name in found}
    assert validated(tmp_path, found) == expected
    assert validated(tmp_path, found, higher_is_better={"ssim": True}) == expected
    own = {"ssim": 0.5, "ssim_source": 0.4, "l1_source": 0.3}
    assert not any(validated(tmp_path, own, higher_is_better=dict.fromkeys(own, True)).values())
    assert validated(tmp_path, own)["ssim_source"] is False


def test_a_curve_of_gaps_has_as_many_points_as_is_said(tmp_path: Path) -> None:
    lines = [training_line(step, a=math.nan if step % 3 else step % 7) for step in range(1, 30_001)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    curve = read(write_report(tmp_path))["losses"][0]
    assert 1_700 < len(curve["steps"]) <= 1_802
