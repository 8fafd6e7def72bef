"""Contact sheets: many small pictures with a few lines below each."""

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
FRAME = (150, 150, 150)
# Of text, in pixels; and how many lines a reason may take.
LINE, REASON_LINES = 16, 2
COLOURS = {"error": (176, 32, 32), "warning": (166, 92, 0), "note": (60, 90, 140)}


@dataclass(frozen=True)
class Entry:
    """One suspect.

    Attributes:
        images: two (H, W, 3) uint8, or None where one cannot be read. An entry of none is a line
            of text below the others.
        titles: what each of them is.
        kind: what is wrong, shown in the colour of its severity.
        severity: `error`, `warning` or `note`.
        name: its file.
        reason: what was found, in words.
    """

    images: tuple[Image | None, Image | None]
    titles: tuple[str, str]
    kind: str
    severity: str
    name: str
    reason: str = ""


def draw_contact(entries: Sequence[Entry], heading: str) -> Image:
    """A grid of entries below a heading, (H, W, 3) uint8; those without images as a list below."""
    small, bold = (ImageFont.load_default(size=size) for size in (11, 13))
    drawn = [entry for entry in entries if any(image is not None for image in entry.images)]
    listed = [entry for entry in entries if all(image is None for image in entry.images)]
    width = 2 * PICTURE + 2
    height = LINE + PICTURE + 6 + (2 + REASON_LINES) * LINE
    columns = max(1, min(COLUMNS, len(drawn)))
    head, foot = 3 * LINE, (len(listed) + 2) * LINE if listed else 0
    bottom = head + math.ceil(len(drawn) / columns) * (height + GAP)
    # A list has long lines.
    size = (GAP + max(COLUMNS if listed else 2, columns) * (width + GAP), bottom + foot)
    sheet = PillowImage.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    room = size[0] - 2 * GAP
    pen.text((GAP, head / 2), cut_to_fit(pen, heading, room, bold), INK, bold, "lm")
    for number, entry in enumerate(drawn):
        left = GAP + (number % columns) * (width + GAP)
        top = head + (number // columns) * (height + GAP)
        for at, (image, title) in enumerate(zip(entry.images, entry.titles, strict=True)):
            x = left + at * (PICTURE + 2)
            pen.text((x, top), cut_to_fit(pen, title, PICTURE, small), FAINT, small)
            _paste(sheet, pen, image, (x, top + LINE))
        below = top + LINE + PICTURE + 5
        colour = COLOURS.get(entry.severity, INK)
        pen.text((left, below), _begin(pen, entry.kind, width, bold)[0], colour, bold)
        lines = [cut_to_fit(pen, entry.name, width, small), *_wrap(pen, entry.reason, width, small)]
        for at, text in enumerate(lines, start=1):
            pen.text((left, below + at * LINE + 1), text, INK if at == 1 else FAINT, small)
    if listed:
        pen.text((GAP, bottom), "Without a picture:", INK, bold)
    for at, entry in enumerate(listed, start=1):
        y = bottom + at * LINE + 2
        # The name may be long, and its end matters; so does the beginning of the reason.
        name = cut_to_fit(pen, entry.name, room / 2, small)
        pen.text((GAP, y), name, COLOURS.get(entry.severity, INK), small)
        used = pen.textlength(f"{name}  ", small)
        reason = _begin(pen, entry.reason or entry.kind, room - used, small)[0]
        pen.text((GAP + used, y), reason, FAINT, small)
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
    # Around the picture, which may be as white as the paper.
    pen.rectangle((x - 1, y - 1, x + PICTURE, y + PICTURE), fill=EMPTY, outline=FRAME)
    if image is None:
        pen.line((x, y, x + PICTURE - 1, y + PICTURE - 1), fill=FAINT)
        pen.line((x, y + PICTURE - 1, x + PICTURE - 1, y), fill=FAINT)
        return
    small = PillowImage.fromarray(image)
    small.thumbnail((PICTURE, PICTURE))
    sheet.paste(small, (x + (PICTURE - small.width) // 2, y + (PICTURE - small.height) // 2))


def cut_to_fit(
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


def _begin(
    pen: ImageDraw.ImageDraw,
    text: str,
    width: float,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> tuple[str, str]:
    """As much of a text's beginning as fits, marked where it is cut; and the rest."""
    text = printable(text)
    if len(text) <= width and pen.textlength(text, font) <= width:
        return text, ""
    end = min(len(text), int(width))
    while end and pen.textlength(text[:end] + "…", font) > width:
        end -= 1
    return text[:end] + "…", text[end:]


def _wrap(
    pen: ImageDraw.ImageDraw,
    text: str,
    width: float,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> list[str]:
    """A text in up to `REASON_LINES` lines, broken between words, the last one cut."""
    lines: list[str] = []
    while text and len(lines) < REASON_LINES - 1:
        line, rest = _begin(pen, text, width, font)
        if rest and " " in line:
            # At most the width in pixels was looked at.
            line = line[: line.rindex(" ")]
            rest = printable(text)[len(line) + 1 :]
        lines.append(line)
        text = rest
    return [*lines, _begin(pen, text, width, font)[0]] if text else lines
