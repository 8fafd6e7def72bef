"""Contact sheets: many small pictures with a line or two below each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from img2img.data.writing import write_picture
from img2img.names import printable
from img2img.picture import Picture

Image = NDArray[np.uint8]

# Of one picture at most, and of the grid, in pixels.
PICTURE, GAP, COLUMNS = 128, 16, 4
PAPER, INK, FAINT, EMPTY = (255, 255, 255), (40, 40, 40), (110, 110, 110), (232, 232, 232)
COLOURS = {"error": (176, 32, 32), "warning": (166, 92, 0), "note": (60, 90, 140)}


@dataclass(frozen=True)
class Entry:
    """One suspect.

    Attributes:
        images: two (H, W, 3) uint8, or None where one cannot be read.
        titles: what each of them is.
        kind: what is wrong, shown in the colour of its severity.
        severity: `error`, `warning` or `note`.
        name: its file.
    """

    images: tuple[Image | None, Image | None]
    titles: tuple[str, str]
    kind: str
    severity: str
    name: str


def draw_contact(entries: Sequence[Entry], heading: str) -> Image:
    """A grid of entries below a heading, (H, W, 3) uint8."""
    small, bold = (ImageFont.load_default(size=size) for size in (11, 13))
    width, line = 2 * PICTURE + 2, 16
    height = line + PICTURE + 2 * line + 6
    columns = max(1, min(COLUMNS, len(entries)))
    rows = math.ceil(len(entries) / columns)
    head = 3 * line
    size = (GAP + max(2, columns) * (width + GAP), head + rows * (height + GAP))
    sheet = PillowImage.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, head / 2), _cut(pen, heading, size[0] - 2 * GAP, bold), INK, bold, "lm")
    for number, entry in enumerate(entries):
        left = GAP + (number % columns) * (width + GAP)
        top = head + (number // columns) * (height + GAP)
        for at, (image, title) in enumerate(zip(entry.images, entry.titles, strict=True)):
            x = left + at * (PICTURE + 2)
            pen.text((x, top), _cut(pen, title, PICTURE, small), FAINT, small)
            _paste(sheet, pen, image, (x, top + line))
        below = top + line + PICTURE + 5
        colour = COLOURS.get(entry.severity, INK)
        pen.text((left, below), _cut(pen, entry.kind, width, bold), colour, bold)
        pen.text((left, below + line + 1), _cut(pen, entry.name, width, small), INK, small)
    return np.array(sheet)


def write_contact(path: Path, entries: Sequence[Entry], heading: str) -> None:
    """Write a contact sheet, whole or not at all; the suffix says in which format.

    Raises:
        OSError: it cannot be written there.
    """
    write_picture(path, Picture(draw_contact(entries, heading)))


def _paste(
    sheet: PillowImage.Image,
    pen: ImageDraw.ImageDraw,
    image: Image | None,
    corner: tuple[int, int],
) -> None:
    x, y = corner
    pen.rectangle((x, y, x + PICTURE - 1, y + PICTURE - 1), fill=EMPTY)
    if image is None:
        pen.line((x, y, x + PICTURE - 1, y + PICTURE - 1), fill=FAINT)
        pen.line((x, y + PICTURE - 1, x + PICTURE - 1, y), fill=FAINT)
        return
    small = PillowImage.fromarray(image)
    small.thumbnail((PICTURE, PICTURE))
    sheet.paste(small, (x + (PICTURE - small.width) // 2, y + (PICTURE - small.height) // 2))


def _cut(
    pen: ImageDraw.ImageDraw,
    text: str,
    width: float,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> str:
    """A text that fits, with its end rather than its beginning: files differ there."""
    text = printable(text)
    if pen.textlength(text, font) <= width:
        return text
    # A character is at least some pixels wide, and names may be long.
    text = text[-int(width) :]
    while text and pen.textlength("…" + text, font) > width:
        text = text[1:]
    return "…" + text
