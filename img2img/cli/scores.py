"""How the scores of a model are shown: a table, JSON, a CSV of each image."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from img2img.errors import DataError, Img2ImgError, RequestError
from img2img.files import whole_file
from img2img.names import printable

if TYPE_CHECKING:
    from img2img.evaluation.evaluating import Evaluation

# Behind the name of a score in JSON: what the judge makes of the real targets.
CEILING = "_ceiling"
# Behind the name of a score of the last validation: whose it is instead of the model's.
BASELINES = {
    "_source": "handing back the source",
    "_mean_target": "the mean training target",
    "_most_frequent": "the most frequent class",
}
# Scores that trivial answers get, whether validation computes them for the model or not.
TRIVIAL = ("l1", "accuracy")


@contextmanager
def bar(console: Console, total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal; gives what to call after each pair."""
    columns = ("pairs", MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    shown = console.is_terminal and not console.quiet
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        yield partial(progress.advance, progress.add_task("", total=total))


def tell(result: Evaluation, failed: Mapping[str, str], total: int) -> None:
    """Say on stderr which pairs were left out, and which metrics could not be computed.

    Raises:
        DataError: no pair could be used.
    """
    for name, why in result.skipped:
        print(f"left out {printable(name)}: {printable(why)}", file=sys.stderr)
    if not result.images:
        first = f"; {result.skipped[0][0]}: {result.skipped[0][1]}" if result.skipped else ""
        raise DataError(f"none of the {total} pairs can be used{first}")
    for name, why in failed.items():
        print(f"no {name}: {printable(why)}", file=sys.stderr)


def raise_any(result: Evaluation, lost: Sequence[str], total: int) -> None:
    """An Img2ImgError for pairs that were left out, and for metrics asked for and not had."""
    reasons = []
    if result.skipped:
        count = len(result.skipped)
        reasons.append(f"{count} of {total} pairs {'was' if count == 1 else 'were'} left out")
    if lost:
        reasons.append(f"{', '.join(lost)} could not be computed")
    if reasons:
        raise Img2ImgError(f"{'; '.join(reasons)}; the reasons are above")


def as_json(result: Evaluation) -> dict[str, float | None]:
    """A number for each score; null for those that could not be computed."""
    scores: dict[str, float | None] = {
        name: result.scores.get(name) for name in result.higher_is_better
    }
    return scores | {f"{name}{CEILING}": value for name, value in result.ceiling.items()}


def print_table(result: Evaluation, title: str, total: int) -> None:
    """The scores, which way is better, and, where a judge is, what it makes of real targets."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    used = len(result.images)
    of = f"{used} pairs" if used == total else f"{used} of {total} pairs"
    console.print(f"{printable(title)}: {of}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("score")
    table.add_column("value", justify="right")
    table.add_column("better")
    if result.ceiling:
        table.add_column("real photos", justify="right")
    up, down = _arrows(console)
    for name, value in result.scores.items():
        cells = [printable(name), shown(value), up if result.higher_is_better[name] else down]
        if result.ceiling:
            cells.append(shown(result.ceiling[name]) if name in result.ceiling else "")
        table.add_row(*cells)
    console.print(table)
    if result.ceiling:
        console.print("real photos: what the judge makes of the targets themselves, the ceiling")


def print_validation(console: Console, scores: Mapping[str, float]) -> bool | None:
    """A run's last scores beside those of answers that need no model.

    Returns:
        Whether the model is better than all of these; None where none of its scores has any.
    """
    table = Table(title="On held-out pairs", title_justify="left", box=None, pad_edge=False)
    own = [name for name in scores if not any(_baseline(name, end, scores) for end in BASELINES)]
    ends = [end for end in BASELINES if any(f"{name}{end}" in scores for name in own)]
    for title in ("", "this model", *(BASELINES[end] for end in ends)):
        table.add_column(title, justify="right" if title else "left")
    for name in own:
        others = (scores.get(f"{name}{end}") for end in ends)
        row = ["" if value is None else shown(value) for value in others]
        table.add_row(printable(name), shown(scores[name]), *row)
    console.print(table)
    if frequent := scores.get("accuracy_most_frequent"):
        return scores.get("accuracy", 0) > frequent
    trivial = [scores[f"l1{end}"] for end in ends if f"l1{end}" in scores]
    return scores["l1"] < min(trivial) if trivial and "l1" in scores else None


def _baseline(name: str, end: str, scores: Mapping[str, float]) -> bool:
    """Whether a score is that of a trivial answer; it is none of the model's in any case."""
    return name.endswith(end) and (name[: -len(end)] in scores or name[: -len(end)] in TRIVIAL)


def shown(value: float) -> str:
    """A score with four digits behind the point, or fewer where there are many before it."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def write_csv(path: Path, result: Evaluation) -> None:
    """A line an image: its name and its scores; metrics that single images lack have no column.

    Raises:
        RequestError: it cannot be written.
    """
    names = list(dict.fromkeys(name for image in result.images for name in image.scores))
    # A name may hold a line break, which the reader of the file should see as one.
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["name", *names])
    for image in result.images:
        values = (image.scores.get(name, math.nan) for name in names)
        lines.writerow([image.name, *("" if math.isnan(v) else repr(v) for v in values)])
    try:
        with whole_file(path) as partial_file:
            content = text.getvalue().encode("utf-8", "surrogateescape")
            partial_file.write_bytes(content)
    except OSError as error:
        raise RequestError(f"{path} cannot be written ({error.strerror or error})") from error


def _arrows(console: Console) -> tuple[str, str]:
    try:
        "\u2191\u2193".encode(console.encoding)
    except UnicodeEncodeError:
        return "higher", "lower"
    return "\u2191 higher", "\u2193 lower"
