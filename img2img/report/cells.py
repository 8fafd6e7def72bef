"""Where the images of a sample sheet are in it, as the sheet's own file says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

CHUNK = "img2img cells"
"""Keyword of the PNG text chunk that holds a layout."""

MAX_ROWS = 64
"""As many samples as a recipe may ask for."""

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels of the sheet; the last two just outside."""


@dataclass(frozen=True)
class Layout:
    """The images of a sheet.

    Attributes:
        columns: what is in each column.
        scale: how many times each image was enlarged, by repeating its pixels.
        rows: a box for every column of every row.
    """

    columns: tuple[str, ...]
    scale: int
    rows: tuple[tuple[Box, ...], ...]


def layout_to_text(layout: Layout) -> str:
    """A layout as the text of its chunk."""
    fields = {"columns": layout.columns, "scale": layout.scale, "rows": layout.rows}
    return json.dumps(fields, separators=(",", ":"))


def text_to_layout(text: object, size: tuple[int, int]) -> Layout | None:
    """The layout that a chunk holds; None where it is none of a sheet of this (width, height).

    A sheet is a file like any other: it may come from a stranger, or have been cropped since.
    """
    try:
        fields = json.loads(str(text))
        columns, scale, rows = fields["columns"], fields["scale"], fields["rows"]
        layout = Layout(
            tuple(str(column) for column in columns),
            int(scale),
            tuple(tuple(_box(numbers, int(scale), size) for numbers in row) for row in rows),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    whole = 0 < len(layout.rows) <= MAX_ROWS and all(
        len(row) == len(layout.columns) for row in layout.rows
    )
    return layout if whole else None


def _box(numbers: Sequence[int], scale: int, size: tuple[int, int]) -> Box:
    left, top, right, bottom = map(int, numbers)
    if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
        raise ValueError("outside the sheet")
    if scale < 1 or (right - left) % scale or (bottom - top) % scale:
        raise ValueError("not enlarged by that")
    return left, top, right, bottom
