"""What `img2img check` found, as a table, as a list and as a contact sheet."""

from __future__ import annotations

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

# More are counted, not printed; of each kind some.
SHOWN, SHOWN_OF_A_KIND = 20, 3
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
    counts = Counter((problem.kind, problem.split) for problem in problems)
    for (kind, split), count in counts.items():
        table.add_row(KINDS[kind].severity, KINDS[kind].title, split, f"{count:,}")
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
    by_reason: dict[str, list[str]] = {}
    for problem in problems:
        by_reason.setdefault(printable(problem.reason), []).append(printable(problem.file))
    left = most
    for reason, files in by_reason.items():
        if len(files) == 1 and left:
            console.print(f"  {files[0]}: {reason}")
        elif left:
            console.print(f"  {len(files)} files: {reason}")
            for file in files[:left]:
                console.print(f"    {file}")
        left = max(0, left - len(files))
    if len(problems) > most:
        console.print(f"  and {len(problems) - most} more; --json lists all")


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

    Raises:
        OSError: it cannot be written there.
    """
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
    if problem.index is None:
        images, titles = (_single(Path(problem.file)), None), ("image", "partner")
    else:
        images = _pair(sources[problem.split], problem.index, swap)
        if problem.twin is not None:
            split, index = problem.twin
            others = _pair(sources[split], index, swap)
            images, titles = (
                (_joined(images), _joined(others)),
                ("this pair", f"in {split}"),
            )
    where = f"{problem.split}: " * (problem.file != problem.split)
    title = f"{where}{KINDS[problem.kind].title}"
    return Entry(images, titles, title, problem.severity, problem.file)


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
