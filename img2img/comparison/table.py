"""The table of a comparison: a row a variant, a column a score, with 95% intervals."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table as RichTable

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
        best: of all variants.
        apart: whether it is told apart from the best; None for the best, or where there are fewer
            than two seeds of both.
    """

    interval: Interval
    best: bool = False
    apart: bool | None = None


@dataclass(frozen=True)
class Table:
    """What the variants scored.

    Attributes:
        scores: by name, whether higher is better.
        rows: of each variant that has scores: its cells by score.
        ceiling: what the judge makes of the real targets.
        seeds: the most runs that a variant has.
    """

    scores: dict[str, bool]
    rows: dict[str, dict[str, Cell]]
    ceiling: dict[str, float] = field(default_factory=dict)
    seeds: int = 1


def make_table(
    runs: Mapping[str, Mapping[int, Mapping[str, float]]],
    higher: Mapping[str, bool],
    ceiling: Mapping[str, float],
) -> Table:
    """Put the scores of all runs together.

    Args:
        runs: by variant and seed, the scores.
        higher: whether more of a score is better.
        ceiling: see `Table`.
    """
    rows: dict[str, dict[str, Cell]] = {name: {} for name, seeds in runs.items() if seeds}
    scores = {
        score: up
        for score, up in higher.items()
        if any(score in found for seeds in runs.values() for found in seeds.values())
    }
    for score, up in scores.items():
        values = {
            name: {seed: found[score] for seed, found in seeds.items() if score in found}
            for name, seeds in runs.items()
        }
        means = {name: interval(list(of.values())) for name, of in values.items() if of}
        best = (max if up else min)(means, key=lambda name: means[name].mean)
        for name, found in means.items():
            common = sorted(values[name].keys() & values[best].keys())
            apart = None
            if name != best:
                pairs = [[values[which][seed] for seed in common] for which in (name, best)]
                apart = told_apart(*pairs)
            rows[name][score] = Cell(found, name == best, apart)
    most = max((len(seeds) for seeds in runs.values()), default=0)
    return Table(scores, rows, dict(ceiling), most)


def title(score: str, higher: bool | None = None) -> str:
    """What people call a score, with an arrow to where it is better."""
    name = TITLES.get(score, score.replace("_", " "))
    return name if higher is None else f"{name} {'↑' if higher else '↓'}"


def legend(table: Table) -> str:
    """What the marks in a table mean."""
    if table.seeds < 2:
        return "* best. One seed: no intervals, and nothing says whether a difference would last."
    return (
        f"± 95% confidence interval over {table.seeds} seeds (Student's t). * best. ~ not told "
        f"apart from the best: the interval of the difference, paired by seed, holds 0."
    )


def print_table(table: Table, console: Console) -> None:
    """Print it, in as many pieces as the width of the console asks for."""
    names = [printable(name) for name in table.rows]
    first = max(map(len, [*names, CEILING if table.ceiling else ""]), default=0)
    groups: list[list[str]] = []
    room = 0
    for score, up in table.scores.items():
        texts = [_text(score, cells[score]) for cells in table.rows.values() if score in cells]
        width = max(map(len, [*texts, title(score, up)])) + 2
        if not groups or width > room:
            groups.append([])
            room = console.width - first
        groups[-1].append(score)
        room -= width
    for group in groups:
        shown = RichTable(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 1))
        shown.add_column("", overflow="fold")
        for score in group:
            shown.add_column(title(score, table.scores[score]), justify="right", no_wrap=True)
        for name, cells in zip(names, table.rows.values(), strict=True):
            shown.add_row(name, *(_styled(score, cells.get(score)) for score in group))
        if any(score in table.ceiling for score in group):
            values = [_number(score, table.ceiling.get(score)) for score in group]
            shown.add_row(CEILING, *(value and f"{value}  " for value in values), style="dim")
        console.print(shown)
        console.print()
    console.print(legend(table))


def to_markdown(table: Table) -> str:
    """The table as Markdown, the best in bold."""
    lines = [
        ["", *(title(score, up) for score, up in table.scores.items())],
        ["---", *("---:" for _ in table.scores)],
    ]
    for name, cells in table.rows.items():
        row = []
        for score in table.scores:
            cell = cells.get(score)
            text = "" if cell is None else _text(score, cell).strip()
            row.append(f"**{text.removesuffix(' *')}**" if cell is not None and cell.best else text)
        lines.append([printable(name).replace("|", "\\|"), *row])
    if table.ceiling:
        lines.append(
            [CEILING, *(_number(score, table.ceiling.get(score)) for score in table.scores)]
        )
    said = legend(table).replace("* best", "Bold: best").replace("~", "\\~")
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{said}\n"


def to_csv(table: Table) -> str:
    """The table as CSV: a line a variant; mean and half of the interval of each score."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = [name for score in table.scores for name in (score, f"{score}_interval")]
    writer.writerow(["variant", "seeds", *columns])
    for name, cells in table.rows.items():
        row: list[str | float | int | None] = []
        for score in table.scores:
            cell = cells.get(score)
            row += [cell.interval.mean, cell.interval.half] if cell is not None else [None, None]
        count = max((cell.interval.count for cell in cells.values()), default=0)
        writer.writerow([name, count, *row])
    if table.ceiling:
        row = [x for score in table.scores for x in (table.ceiling.get(score), None)]
        writer.writerow([CEILING, "", *row])
    return out.getvalue()


def _text(score: str, cell: Cell) -> str:
    half = cell.interval.half
    text = _number(score, cell.interval.mean)
    if half is not None:
        text += f" ±{_number(score, half)}"
    return text + (" *" if cell.best else " ~" if cell.apart is False else "  ")


def _styled(score: str, cell: Cell | None) -> str:
    if cell is None:
        return ""
    text = _text(score, cell)
    return f"[bold]{text}[/bold]" if cell.best else text


def _number(score: str, value: float | None) -> str:
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
