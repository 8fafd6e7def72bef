"""What a comparison makes of its scores: intervals, table and figure."""

import csv
import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from img2img.cli.comparing import print_table
from img2img.comparison.figure import draw_figure, fitting, wrap
from img2img.comparison.intervals import interval, t_quantile, told_apart
from img2img.comparison.table import make_table, to_csv, to_markdown


# From printed tables of Student's t, two-sided 95%.
@pytest.mark.parametrize(
    ("freedom", "value"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (120, 1.980)],
)
def test_quantiles_are_those_of_printed_tables(freedom, value):
    assert t_quantile(freedom) == pytest.approx(value, abs=6e-4)


def test_quantiles_are_those_of_scipy():
    special = pytest.importorskip("scipy.special")
    for freedom in (*range(1, 20), 101, 1000):
        for level in (0.5, 0.9, 0.99):
            wanted = special.stdtrit(freedom, (1 + level) / 2)
            assert t_quantile(freedom, level) == pytest.approx(wanted, rel=1e-9)


def test_an_interval_by_hand():
    found = interval([1.0, 2.0, 3.0])
    # A deviation of 1, and 4.302653 / sqrt(3).
    assert (found.mean, found.count) == (2.0, 3)
    assert found.half == pytest.approx(2.484138, abs=1e-6)
    assert interval([5.0]).half is None
    with pytest.raises(ValueError, match="no values"):
        interval([])


def test_an_interval_holds_the_mean_as_often_as_it_says():
    random = np.random.default_rng(0)
    samples = random.normal(3.0, 2.0, (4000, 3))
    held = [abs(i.mean - 3.0) <= i.half for i in map(interval, samples.tolist())]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)


def test_pairs_tell_apart_what_means_do_not():
    first = [1.0, 5.0, 9.0]
    assert told_apart(first, [value + 0.1 for value in first]) is True
    assert told_apart(first, [1.5, 4.0, 9.2]) is False
    assert told_apart([1.0], [2.0]) is None


RUNS = {
    "l1": {0: {"l1": 0.10, "psnr": 12.0}, 1: {"l1": 0.12, "psnr": 12.5}},
    "cgan": {0: {"l1": 0.20, "psnr": 11.0}, 1: {"l1": 0.22, "psnr": 13.7}},
    "l1+cgan": {0: {"l1": 0.101, "psnr": 11.0}, 1: {"l1": 0.119, "psnr": 11.5}},
}


def test_the_best_and_what_is_not_told_apart_from_it():
    table = make_table(RUNS, {"l1": False, "psnr": True, "never": True}, {}, 2)
    assert table.scores == {"l1": False, "psnr": True}
    of = {name: cells["l1"] for name, cells in table.rows.items()}
    # Means 0.11 and 0.11: the first of equals.
    assert [of[name].best for name in RUNS] == [True, False, False]
    assert [of[name].apart for name in RUNS] == [None, True, False]
    psnr = {name: cells["psnr"] for name, cells in table.rows.items()}
    assert [psnr[name].best for name in RUNS] == [False, True, False]


def test_a_run_that_failed_is_left_out_of_its_pairs():
    runs = {
        "a": {0: {"l1": 0.3}, 1: {"l1": 0.31}, 2: {"l1": 0.32}},
        "b": {1: {"l1": 0.1}},
        "c": {},
        "d": {0: {"l1": 0.5}, 2: {"l1": 0.52}},
    }
    table = make_table(runs, {"l1": False}, {}, 3)
    cells = {name: cells.get("l1") for name, cells in table.rows.items()}
    # One seed says too little to be best, however good it looks; nor can it be told from the best.
    assert {name for name, cell in cells.items() if cell and cell.best} == {"a"}
    assert (cells["b"].apart, cells["b"].interval.half, cells["c"]) == (None, None, None)
    assert cells["d"].apart is True
    wanted = {
        name: f"{name} ({count} of 3 seeds)" for name, count in (("b", 1), ("c", 0), ("d", 2))
    }
    wanted["a"] = "a"
    markdown = to_markdown(table, ["b, seed 0 failed: it | is\nlost"])
    assert [line.split(" | ")[0] for line in markdown.splitlines()[2:6]] == [
        f"| {wanted[name]}" for name in "abcd"
    ]
    assert "over the seeds of each row" in markdown
    assert markdown.endswith("Left out:\n\n- b, seed 0 failed: it | is\\nlost\n")
    assert all(label in printed(table, 120) for label in wanted.values())
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [(row["seeds"], row["of_seeds"]) for row in rows] == [(n, "3") for n in "3102"]


def test_nothing_is_best_where_nothing_can_be_tested():
    once = make_table({"a": {0: {"l1": 0.1}}, "b": {0: {"l1": 0.2}}}, {"l1": False}, {}, 1)
    assert not any(cells["l1"].best for cells in once.rows.values())
    assert "One seed: no intervals" in printed(once)
    # Two seeds of one, and another of the other: no two pairs.
    apart = {"a": {0: {"l1": 0.1}, 1: {"l1": 0.1}}, "b": {2: {"l1": 0.2}}}
    table = make_table(apart, {"l1": False}, {}, 3)
    assert not any(cells["l1"].best for cells in table.rows.values())
    assert "best" not in to_markdown(table)
    # The best of all seeds is behind over those that both have: not clearly worse than it.
    shared = {
        "a": {0: {"l1": 0.1}, 1: {"l1": 0.3}, 2: {"l1": 0.3}},
        "b": {1: {"l1": 0.25}, 2: {"l1": 0.25}},
    }
    table = make_table(shared, {"l1": False}, {}, 3)
    assert [table.rows[name]["l1"].apart for name in "ab"] == [None, False]


def test_a_metric_that_one_run_lacks_says_of_how_many_seeds_it_is():
    runs = {"a": {0: {"l1": 0.1, "fid": 5.0}, 1: {"l1": 0.1}}}
    table = make_table(runs, {"l1": False, "fid": False}, {}, 2)
    assert "| a | 0.1000 ±0.0000 | 5.00 (of 1) |" in to_markdown(table)


def test_a_terminal_that_lacks_signs():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    table = make_table(RUNS | {"ü": {0: {"l1": 1.0}}}, {"l1": False, "psnr": True}, {}, 2)
    print_table(table, Console(file=stream, width=80, highlight=False))
    stream.flush()
    said = raw.getvalue().decode()
    assert "0.1100 +/-0.1271 *" in said
    assert "? (1 of 2 seeds)" in said
    assert "PSNR ^" in said


def printed(table, width=80):
    text = io.StringIO()
    print_table(table, Console(file=text, width=width, highlight=False))
    return text.getvalue()


def test_the_table_on_a_terminal():
    names = ["l1", "psnr", "ssim", "lab_histogram_l", "lab_histogram_a", "pixel_accuracy"]
    runs = {
        name: {seed: dict.fromkeys(names, 0.5 + 0.01 * seed) for seed in range(3)}
        for name in ("encoder_decoder, l1+cgan", "unet, l1")
    }
    higher = {name: name != "l1" for name in names}
    shown = printed(make_table(runs, higher, {"pixel_accuracy": 0.81}, 3))
    assert all(len(line) <= 80 for line in shown.splitlines())
    # In pieces, each with all variants, and nothing cut.
    assert shown.count("encoder_decoder, l1+cgan") >= 2
    assert "…" not in shown
    for title in ("L1 ↓", "PSNR ↑", "SSIM ↑", "Lab hist. L ↑", "pixel acc. ↑"):
        assert title in shown
    assert "0.5100 ±0.0248 *" in shown
    (ceiling,) = [line for line in shown.splitlines() if line.startswith("real images")]
    assert "0.8100" in ceiling
    assert "3 seeds" in shown


def test_markdown_and_csv():
    table = make_table(RUNS, {"l1": False, "psnr": True}, {"l1": 0.01}, 2)
    lines = to_markdown(table).splitlines()
    assert lines[0] == "|  | L1 ↓ | PSNR ↑ |"
    assert lines[2].startswith("| l1 | **0.1100 ±0.1271** | 12.25 ±3.18 ~ |")
    assert lines[5] == "| real images | 0.0100 |  |"
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [row["variant"] for row in rows] == [*RUNS, "real images"]
    assert float(rows[0]["l1"]) == pytest.approx(0.11)
    assert float(rows[0]["l1_interval"]) == pytest.approx(12.7062 * 0.01, rel=1e-4)
    assert rows[0]["seeds"] == "2"


def test_a_title_is_broken_where_it_does_not_fit():
    assert wrap("unet, l1", 8, len) == ["unet, l1"]
    assert wrap("encoder_decoder, l1+cgan", 16, len) == ["encoder_decoder", "l1+cgan"]
    assert wrap("encoder_decoder, l1+cgan", 9, len) == ["encoder_", "decoder", "l1+cgan"]
    assert wrap("abcdefgh", 3, len) == ["abc", "def", "gh"]


def test_the_figure(tmp_path):
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    rows = [[np.full((40, 200, 3), colour, np.uint8) for colour in colours] for _ in range(2)]
    draw_figure(tmp_path / "f.png", rows, ["source", "encoder_decoder, l1+cgan, more", "target"])
    drawn = np.asarray(Image.open(tmp_path / "f.png"))
    assert drawn.shape[1] == 3 * 200 + 4 * 4
    for column, colour in enumerate(colours):
        here = (drawn == colour).all(2)
        assert here.sum() == 2 * 40 * 200
        assert np.flatnonzero(here.any(0))[0] == 4 + column * 204
    # Ink above its own column alone, nothing of it in the images or in the gaps between columns.
    top = np.flatnonzero((drawn == colours[0]).all(2).any(1))[0]
    ink = (drawn[:top] < 128).all(2)
    assert ink[:, 208:408].any()
    for gap in (0, 204, 408, 612):
        assert not ink[:, gap : gap + 4].any()


def test_a_figure_is_not_larger_than_it_may_be():
    row = [np.zeros((512, 512, 3), np.uint8)] * 4
    tall = fitting([row] * 30)
    assert sum(images[0].shape[0] for images in tall) <= 6000
    assert tall[0][0].shape == (200, 200, 3)
    wide = fitting([[np.zeros((100, 400, 3), np.uint8)] * 30])
    assert wide[0][0].shape == (50, 200, 3)
    small = fitting([[np.zeros((16, 32, 3), np.uint8)] * 3])
    assert small[0][0].shape == (96, 192, 3)
    # Enlarged by no more than what fits.
    assert fitting([[np.zeros((32, 32, 3), np.uint8)] * 3] * 90)[0][0].shape == (64, 64, 3)
