"""Puts what a benchmark found into `docs/performance.md`, between two markers of its own."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from img2img.bench.hardware import device_name
from img2img.engine.precision import make_current, resolve_device
from img2img.errors import Img2ImgError

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"

Row = Sequence[object]


def add_record_option(parser: argparse.ArgumentParser, page: Path = PAGE) -> None:
    """`--record [PAGE]`, with `page` where none is named: None where it is left out."""
    parser.add_argument(
        "--record",
        type=Path,
        nargs="?",
        const=page,
        metavar="PAGE",
        help=f"also write the outcome into this page, docs/{page.name} by default",
    )


def check_page(page: Path | None, device: torch.device, *names: str) -> None:
    """Find out, before anything is measured, whether `record` can write into a page.

    Args:
        page: None where nothing is to be recorded.
        device: what will be measured on.
        names: of the outcomes.

    Raises:
        SystemExit: the page or one of the markers is missing.
    """
    for name in names if page is not None else ():
        _around(page, name, device)


def measure(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    name: str,
    benchmark: Callable[[argparse.Namespace, torch.device], dict[str, Any]],
    keep: Callable[[Path, dict[str, Any], torch.device], None],
) -> None:
    """Measure on the device that the options name, print JSON, and keep it where they say so.

    Args:
        parser: tells of mistakes.
        options: with `device` and `record`.
        name: of the outcome on its page.
        benchmark: what measures.
        keep: writes the outcome into a page.
    """
    try:
        device = make_current(resolve_device(options.device))
        check_page(options.record, device, name)
        result = benchmark(options, device)
    except Img2ImgError as error:
        parser.error(str(error))
    print(json.dumps(result, indent=2))
    if options.record is not None:
        keep(options.record, result, device)


def progress(text: str) -> None:
    """Say on stderr how far a benchmark is, for whoever waits for it."""
    print(text, file=sys.stderr, flush=True)


def shown(number: float) -> str:
    """Three digits, but all of those before the point: from 100 on there is no exponent."""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


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
        rows: as many cells each; a float is written as `shown` has it.
        note: a sentence or two below the table.

    Raises:
        SystemExit: the page or one of the markers is missing; the page is as it was.
    """
    before, after = _around(page, name, device)
    measured = f"{device_name(device)}, torch {torch.__version__}, {date.today().isoformat()}."
    lines = [
        _row(headings),
        "|".join(["", "---", *["---:"] * (len(headings) - 1), ""]),
        *map(_row, rows),
        "",
        f"{measured} {note}".strip(),
    ]
    text = "\n".join([before, "", *lines, "", after])
    partial = page.with_name(f".partial-{page.name}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(page)


def _around(page: Path, name: str, device: torch.device) -> tuple[str, str]:
    """The page up to the first marker of an outcome, and from the second on, both with them."""
    begin, end = (f"<!-- {name}-{device.type} {side} -->" for side in ("begin", "end"))
    try:
        before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"--record {page}: {getattr(error, 'strerror', error)}") from error
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"--record {page}: it has no lines {begin} and {end}, in this order")
    return before + begin, end + after


def _row(cells: Row) -> str:
    texts = (shown(cell) if isinstance(cell, float) else str(cell) for cell in cells)
    return f"| {' | '.join(text.replace('|', '&#124;') for text in texts)} |"
