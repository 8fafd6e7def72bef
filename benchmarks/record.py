"""Puts what a benchmark found into `docs/performance.md`, between two markers of its own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch

from img2img.bench.hardware import device_name

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"

Row = Sequence[object]


def add_record_option(parser: argparse.ArgumentParser) -> None:
    """`--record [PAGE]`: None where it is left out."""
    parser.add_argument(
        "--record",
        type=Path,
        nargs="?",
        const=PAGE,
        metavar="PAGE",
        help="also write the outcome into this page, docs/performance.md by default",
    )


def record(
    page: Path, name: str, device: torch.device, headings: Row, rows: Sequence[Row], note: str = ""
) -> None:
    """Replace what stands between `<!-- NAME begin -->` and `<!-- NAME end -->` by a table.

    Under it stand the device, torch's version and the date.

    Args:
        page: a Markdown file that holds both markers, in this order.
        name: which outcome; the device's type is added, so that a GPU's figures replace no CPU's.
        device: what it was measured on.
        headings: of the columns; all but the first are numbers.
        rows: as many cells each; a float is rounded to three digits.
        note: a sentence or two below the table.

    Raises:
        SystemExit: the page or one of the markers is missing; the page is as it was.
    """
    begin, end = (f"<!-- {name}-{device.type} {side} -->" for side in ("begin", "end"))
    try:
        before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    except OSError as error:
        raise SystemExit(f"--record {page}: {error.strerror or error}") from error
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"--record {page}: it has no lines {begin} and {end}, in this order")
    measured = f"{device_name(device)}, torch {torch.__version__}, {date.today().isoformat()}."
    lines = [
        _row(headings),
        "|".join(["", "---", *["---:"] * (len(headings) - 1), ""]),
        *map(_row, rows),
        "",
        f"{measured} {note}".strip(),
    ]
    text = "\n".join([before + begin, "", *lines, "", end + after])
    partial = page.with_name(f".partial-{page.name}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(page)


def _row(cells: Row) -> str:
    shown = (f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells)
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in shown)} |"
