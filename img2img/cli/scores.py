"""How the scores of a model are shown: a table, JSON, a CSV of each image."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from img2img.cli.values import plain
from img2img.errors import DataError, Img2ImgError, RequestError
from img2img.files import whole_file
from img2img.names import printable
from img2img.report.curves import BASELINES

if TYPE_CHECKING:
    from img2img.evaluation.evaluating import Evaluation
    from img2img.held_out import Data

# Behind the name of a score in JSON: what the judge makes of the real targets.
CEILING = "_ceiling"
# Behind the name of a score: which answer without a model it is of.
ANSWERS = {
    "_source": "handing back the source",
    "_mean_target": "the mean training target",
    "_most_frequent": "the most frequent class",
}


@contextmanager
def bar(console: Console, total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal; gives what to call after each pair."""
    columns = ("pairs", MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    shown = console.is_terminal and not console.quiet
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        yield partial(progress.advance, progress.add_task("", total=total))


def tell(
    console: Console,
    result: Evaluation,
    failed: Mapping[str, str],
    total: int,
    unasked: Collection[str] = (),
) -> None:
    """Say on stderr which pairs were left out, and which metrics could not be computed.

    Args:
        console: for notes.
        result: of all pairs.
        failed: why, by the metric's name.
        total: how many pairs there were.
        unasked: of these metrics a note says that they do not suit, and no more.

    Raises:
        DataError: no pair could be used.
    """
    for name, why in result.skipped:
        print(f"left out {printable(name)}: {printable(why)}", file=sys.stderr)
    if not result.images:
        first = f"; {result.skipped[0][0]}: {result.skipped[0][1]}" if result.skipped else ""
        raise DataError(f"none of the {total} pairs can be used{first}")
    reasons: dict[str, list[str]] = {}
    for name, why in failed.items():
        if name not in unasked:
            reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        print(f"no {', '.join(names)}: {printable(why)}", file=sys.stderr)
    if unsuited := [name for name in failed if name in unasked]:
        what = "do" if len(unsuited) > 1 else "does"
        console.print(
            f"note: {' and '.join(unsuited)} {what} not suit these pairs; "
            f"--metric {unsuited[0]} says why",
            style="dim",
        )


def announce(console: Console, found: Data) -> None:
    """Notes on the pairs that are scored or shown, such as which way round they are taken."""
    if found.guessed:
        side, other = ("first", "BtoA") if found.direction == "AtoB" else ("second", "AtoB")
        console.print(
            f"note: the {side} images are taken for the sources, because {found.guessed}; "
            f"--direction {other} says otherwise"
        )
    for note in found.notes:
        console.print(f"note: {note}")


def raise_any(result: Evaluation, lost: Sequence[str], total: int, alone: int = 0) -> None:
    """An Img2ImgError for pairs that were left out, and for metrics asked for and not had.

    Args:
        result: of all pairs.
        lost: metrics that were asked for, and could not be computed.
        total: how many pairs there were.
        alone: images that were left out because they have no partner.
    """
    reasons = []
    if result.skipped:
        count = len(result.skipped)
        reasons.append(f"{count} of {total} pairs {'was' if count == 1 else 'were'} left out")
    if alone:
        reasons.append(f"{alone} {'image has' if alone == 1 else 'images have'} no partner")
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


def print_table(
    result: Evaluation,
    title: str,
    total: int,
    how: str = "",
    of_source: Mapping[str, float] | None = None,
) -> None:
    """The scores, which way is better, and, where a judge is, what it makes of real targets.

    Args:
        result: of all pairs.
        title: whose scores these are.
        total: how many pairs there are, also such as nobody asked to score.
        how: at which size and in which direction, in words.
        of_source: what handing back the source scores.
    """
    console = Console(highlight=False, soft_wrap=True, markup=False)
    used = len(result.images)
    of = f"{used}" if used == total else f"{used} of {total}"
    console.print(f"{printable(title)}: {of} {'pair' if total == 1 else 'pairs'}")
    if how:
        console.print(how)
    trivial = {name: v for name, v in (of_source or {}).items() if name in result.scores}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("score")
    table.add_column("value", justify="right")
    table.add_column("better")
    if result.ceiling:
        table.add_column("real photos", justify="right")
    if trivial:
        table.add_column(ANSWERS["_source"], justify="right")
    up, down = (plain(text, console.encoding) for text in ("\u2191 higher", "\u2193 lower"))
    for name, value in result.scores.items():
        cells = [printable(name), shown(value), up if result.higher_is_better[name] else down]
        if result.ceiling:
            cells.append(shown(result.ceiling[name]) if name in result.ceiling else "")
        cells += [shown(trivial[name]) if name in trivial else ""] if trivial else []
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
    own = [name for name in scores if name not in BASELINES]
    ends = [end for end in ANSWERS if any(_baseline(f"{name}{end}", scores) for name in own)]
    for title in ("", "this model", *(ANSWERS[end] for end in ends)):
        table.add_column(title, justify="right" if title else "left")
    for name in own:
        others = (f"{name}{end}" for end in ends)
        row = [shown(scores[other]) if _baseline(other, scores) else "" for other in others]
        table.add_row(printable(name), shown(scores[name]), *row)
    console.print(table)
    if frequent := scores.get("accuracy_most_frequent"):
        return scores.get("accuracy", 0) > frequent
    trivial = [scores[f"l1{end}"] for end in ends if f"l1{end}" in scores]
    return scores["l1"] < min(trivial) if trivial and "l1" in scores else None


def _baseline(name: str, scores: Mapping[str, float]) -> bool:
    return name in BASELINES and name in scores


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
