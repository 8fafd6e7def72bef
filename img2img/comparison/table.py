"""The table of a comparison: a row a variant, a column a score, with 95% intervals."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from img2img.comparison.intervals import Interval, interval, told_apart
from img2img.names import printable

CEILING = "real images"
# Scores whose values are tens and more.
TWO_DIGITS = ("psnr", "fid")
TITLES = {
    "l1": "L1",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "lpips": "LPIPS",
    "fid": "FID",
    "kid": "KID",
    "lab_histogram_l": "Lab hist. L",
    "lab_histogram_a": "Lab hist. a",
    "lab_histogram_b": "Lab hist. b",
    "pixel_accuracy": "pixel acc.",
    "class_accuracy": "class acc.",
    "class_iou": "class IoU",
}


@dataclass(frozen=True)
class Cell:
    """A variant's score.

    Attributes:
        interval: over the seeds.
        best: of all variants that can be compared.
        apart: whether it is told to be worse than the best; None for the best, and where the two
            have fewer than two seeds in common.
    """

    interval: Interval
    best: bool = False
    apart: bool | None = None


@dataclass(frozen=True)
class Table:
    """What the variants scored.

    Attributes:
        scores: by name, whether higher is better.
        rows: of each variant: its cells by score.
        ceiling: what the judge makes of the real targets.
        seeds: how many runs each variant should have.
        scored: how many of them have scores, by variant.
    """

    scores: dict[str, bool]
    rows: dict[str, dict[str, Cell]]
    ceiling: dict[str, float]
    seeds: int
    scored: dict[str, int]

    def label(self, name: str) -> str:
        """A variant's name, and of how many seeds its row is where some are missing."""
        found = self.scored[name]
        if found == self.seeds:
            return printable(name)
        return f"{printable(name)} ({found} of {self.seeds} seeds)"


def make_table(
    runs: Mapping[str, Mapping[int, Mapping[str, float]]],
    higher: Mapping[str, bool],
    ceiling: Mapping[str, float],
    seeds: int,
) -> Table:
    """Put the scores of all runs together.

    The best is marked where it can be tested against another variant: where both have two seeds in
    common, or more.

    Args:
        runs: by variant and seed, the scores.
        higher: whether more of a score is better.
        ceiling: see `Table`.
        seeds: how many runs each variant should have.
    """
    rows: dict[str, dict[str, Cell]] = {name: {} for name in runs}
    scores = {
        score: up
        for score, up in higher.items()
        if any(score in found for seeds in runs.values() for found in seeds.values())
    }
    for score, up in scores.items():
        values = {
            name: {seed: found[score] for seed, found in of.items() if score in found}
            for name, of in runs.items()
        }
        means = {name: interval(list(of.values())) for name, of in values.items() if of}
        several = [name for name, mean in means.items() if mean.count > 1]
        best = (max if up else min)(several, key=lambda name: means[name].mean, default=None)
        apart = {
            name: _worse(values[name], values[best], up)
            for name in means
            if best is not None and name != best
        }
        tested = any(found is not None for found in apart.values())
        for name, mean in means.items():
            rows[name][score] = Cell(mean, tested and name == best, apart.get(name))
    scored = {name: len(of) for name, of in runs.items()}
    return Table(scores, rows, dict(ceiling), seeds, scored)


def _worse(found: Mapping[int, float], best: Mapping[int, float], up: bool) -> bool | None:
    """Whether values are clearly worse than the best ones, over the seeds that both have."""
    common = sorted(found.keys() & best.keys())
    first, second = [found[seed] for seed in common], [best[seed] for seed in common]
    apart = told_apart(first, second)
    # The best of all seeds may be behind over those that the two share.
    return apart and (sum(first) < sum(second)) == up


def title(score: str, higher: bool | None = None) -> str:
    """What people call a score, with an arrow to where it is better."""
    name = TITLES.get(score, score.replace("_", " "))
    return name if higher is None else f"{name} {'↑' if higher else '↓'}"


def legend(table: Table) -> str:
    """What the marks in a table mean."""
    counts = {cell.interval.count for cells in table.rows.values() for cell in cells.values()}
    if max(counts, default=0) < 2:
        return (
            "One seed: no intervals, and nothing says whether a difference would last, so no best "
            "is marked."
        )
    over = f"{max(counts)} seeds" if len(counts) == 1 else "the seeds of each row"
    said = f"± half of the 95% confidence interval over {over} (Student's t)."
    if any(cell.best for cells in table.rows.values() for cell in cells.values()):
        said += (
            " * best. ~ not told apart from the best: the interval of the difference, paired by "
            "seed, holds 0."
        )
        if len(counts) > 1:
            said += " Rows that share fewer than two seeds with the best are not compared with it."
    return said


def to_markdown(table: Table, left_out: Sequence[str] = ()) -> str:
    """The table as Markdown, the best in bold.

    Args:
        table: of all runs.
        left_out: what it lacks and why, a sentence each.
    """
    lines = [
        ["", *(title(score, up) for score, up in table.scores.items())],
        ["---", *("---:" for _ in table.scores)],
    ]
    for name, cells in table.rows.items():
        row = []
        for score in table.scores:
            cell = cells.get(score)
            shown = "" if cell is None else text(score, cell, table.scored[name]).strip()
            best = cell is not None and cell.best
            row.append(f"**{shown.removesuffix(' *')}**" if best else shown)
        lines.append([table.label(name).replace("|", "\\|"), *row])
    if table.ceiling:
        lines.append(
            [CEILING, *(number(score, table.ceiling.get(score)) for score in table.scores)]
        )
    said = legend(table).replace("* best", "Bold: best").replace("~", "\\~")
    whole = "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{said}\n"
    if left_out:
        whole += "\nLeft out:\n\n" + "".join(f"- {printable(why)}\n" for why in left_out)
    return whole


def to_csv(table: Table) -> str:
    """The table as CSV: a line a variant; mean and half of the interval of each score."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = [name for score in table.scores for name in (score, f"{score}_interval")]
    writer.writerow(["variant", "seeds", "of_seeds", *columns])
    for name, cells in table.rows.items():
        row: list[str | float | int | None] = []
        for score in table.scores:
            cell = cells.get(score)
            row += [cell.interval.mean, cell.interval.half] if cell is not None else [None, None]
        writer.writerow([name, table.scored[name], table.seeds, *row])
    if table.ceiling:
        row = [x for score in table.scores for x in (table.ceiling.get(score), None)]
        writer.writerow([CEILING, "", "", *row])
    return out.getvalue()


def text(score: str, cell: Cell, seeds: int) -> str:
    """Mean, half of the interval and mark of a score.

    Args:
        score: its name.
        cell: of a variant.
        seeds: how many the variant's row has; one with fewer says so.
    """
    half = cell.interval.half
    shown = number(score, cell.interval.mean)
    if half is not None:
        shown += f" ±{number(score, half)}"
    if cell.interval.count != seeds:
        shown += f" (of {cell.interval.count})"
    return shown + (" *" if cell.best else " ~" if cell.apart is False else "  ")


def number(score: str, value: float | None) -> str:
    """A value of a score with as many digits as people read; nothing for None."""
    return "" if value is None else f"{value:.{2 if score in TWO_DIGITS else 4}f}"


def rows_as_json(table: Table, names: Sequence[str]) -> dict[str, dict[str, dict[str, object]]]:
    """The cells as plain values, by variant and score."""
    return {
        name: {
            score: {
                "mean": cell.interval.mean,
                "interval": cell.interval.half,
                "seeds": cell.interval.count,
                "best": cell.best,
                "told_apart_from_best": cell.apart,
            }
            for score, cell in table.rows.get(name, {}).items()
        }
        for name in names
    }
