"""What `img2img check` found, as a table, as a list and as a contact sheet."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from img2img.data.checks.problem import KINDS, Problem
from img2img.data.reading import read_image
from img2img.errors import ImageError
from img2img.names import printable
from img2img.picture import to_display
from img2img.report.contact import Entry, write_contact

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import Console

    from img2img.data.source import PairSource

# More are counted, not printed: files in all, of each kind at least, and different reasons of one.
SHOWN, SHOWN_OF_A_KIND, REASONS = 20, 10, 30
# On a contact sheet.
DRAWN = 60


def print_problems(problems: Sequence[Problem], console: Console) -> None:
    """A table of how many there are of which kind, and then some of each with what helps."""
    from rich.table import Table

    if not problems:
        return
    table = Table(box=None, pad_edge=False)
    for column in ("", "problem", "split"):
        table.add_column(column)
    table.add_column("how many", justify="right")
    counts = Counter((p.severity, p.kind, p.split, p.whole) for p in problems)
    for (severity, kind, split, whole), count in counts.items():
        many = "as a whole" if whole else f"{count:,}"
        table.add_row(severity, KINDS[kind].title, split, many)
    console.print()
    console.print(table)
    by_kind: dict[str, list[Problem]] = {}
    for problem in problems:
        by_kind.setdefault(problem.kind, []).append(problem)
    each = max(SHOWN_OF_A_KIND, SHOWN // len(by_kind))
    for kind, found in by_kind.items():
        console.print(f"\n{KINDS[kind].title}: {KINDS[kind].helps}")
        _print_some(found, each, console)


def _print_some(problems: Sequence[Problem], most: int, console: Console) -> None:
    """Up to so many files, and more where that many reasons differ: of each reason one at least."""
    by_reason: dict[str, list[Problem]] = {}
    for problem in problems:
        by_reason.setdefault(_alike(problem), []).append(problem)
    shown = dict.fromkeys([*by_reason][:REASONS], 1)
    left = most - len(shown)
    for reason in shown:
        more = max(0, min(left, len(by_reason[reason]) - 1))
        shown[reason] += more
        left -= more
    for reason, count in shown.items():
        found = by_reason[reason]
        words = printable(found[0].reason)
        same = len(found) > 1 and len({problem.reason for problem in found}) == 1
        same = same and not found[0].whole
        if same:
            console.print(f"  {len(found):,} files: {words}")
        for problem in found[:count]:
            file = printable(problem.file)
            console.print(f"    {file}" if same else f"  {file}: {printable(problem.reason)}")
        if len(found) > count:
            indent, like = ("    ", "") if same else ("  ", " like this")
            console.print(f"{indent}and {len(found) - count:,} more{like}; --json lists all")
    rest = [problem for reason in [*by_reason][REASONS:] for problem in by_reason[reason]]
    if rest:
        console.print(f"  and {len(rest):,} more for other reasons; --json lists all")


def _alike(problem: Problem) -> str:
    """A reason without what differs from file to file: numbers, and the pair that it repeats."""
    if problem.twin is not None:
        return problem.twin[0]
    return re.sub(r"\d+(\.\d+)?", "0", problem.reason)


def as_json(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Each problem as `check --json` prints it."""
    return [
        {
            "file": problem.file,
            "reason": problem.reason,
            "kind": problem.kind,
            "split": problem.split,
            "severity": problem.severity,
        }
        for problem in problems
    ]


def write_sheet_of(
    path: Path, problems: Sequence[Problem], sources: Mapping[str, PairSource], *, swap: bool
) -> None:
    """Draw up to `DRAWN` of the problems, as many of each kind as can be.

    Notes about a whole split are not drawn: no pair of it is what they are about.

    Raises:
        OSError: it cannot be written there.
    """
    problems = [each for each in problems if not (each.whole and each.severity == "note")]
    by_kind: dict[str, list[Problem]] = {}
    for problem in problems:
        by_kind.setdefault(problem.kind, []).append(problem)
    # One of each kind in turn, until there are enough; then kind by kind again.
    turns = chain.from_iterable(zip_longest(*by_kind.values()))
    drawn = {id(problem) for problem in [each for each in turns if each is not None][:DRAWN]}
    chosen = [problem for problem in problems if id(problem) in drawn]
    more = f"; {len(problems) - len(chosen):,} more are not shown" * (len(problems) > len(chosen))
    entries = [_entry(problem, sources, swap) for problem in chosen]
    write_contact(path, entries, f"{len(problems):,} found{more}")


def _entry(problem: Problem, sources: Mapping[str, PairSource], swap: bool) -> Entry:
    images: tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None]
    titles = ("source", "target")
    name = problem.file
    if problem.index is None:
        image = None if problem.whole else _single(Path(problem.file))
        images, titles = (image, None), ("image", "partner")
    else:
        images = _pair(sources[problem.split], problem.index, swap)
        if problem.whole:
            name = f"such as {sources[problem.split].name(problem.index)}"
        if problem.twin is not None:
            split, index = problem.twin
            others = _pair(sources[split], index, swap)
            images, titles = (
                (_joined(images), _joined(others)),
                ("this pair", f"in {split}"),
            )
    title = f"{problem.split}: {KINDS[problem.kind].title}"
    return Entry(images, titles, title, problem.severity, name, problem.reason)


def _single(path: Path) -> NDArray[np.uint8] | None:
    try:
        return read_image(path)
    except ImageError:
        return None


def _pair(
    source: PairSource, index: int, swap: bool
) -> tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None]:
    try:
        first, second = (to_display(image) for image in source.pair(index))
    except ImageError:
        return None, None
    return (second, first) if swap else (first, second)


def _joined(
    images: tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None],
) -> NDArray[np.uint8] | None:
    first, second = images
    return None if first is None or second is None else np.concatenate([first, second], axis=1)
