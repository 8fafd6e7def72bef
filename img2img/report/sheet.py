"""Sample sheets: source, output and target side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from img2img.data.writing import write_picture
from img2img.picture import Picture

Image = NDArray[np.uint8]

GAP = 4
PAPER, INK = (255, 255, 255), (60, 60, 60)
# Small images are enlarged by whole factors until a column is about this wide.
COLUMN = 192


def draw_sheet(rows: Sequence[Sequence[Image]], titles: Sequence[str]) -> Image:
    """A grid of (H, W, 3) uint8 images with a title over each column."""
    widest = max(image.shape[1] for row in rows for image in row)
    factor = max(1, COLUMN // widest)
    rows = [[image.repeat(factor, 0).repeat(factor, 1) for image in row] for row in rows]
    width = widest * factor
    font = ImageFont.load_default(size=max(11, min(18, width // 12)))
    head = int(font.size * 1.8) if isinstance(font, ImageFont.FreeTypeFont) else 20
    heights = [max(image.shape[0] for image in row) for row in rows]
    size = (
        len(titles) * (width + GAP) - GAP + 2 * GAP,
        head + sum(heights) + GAP * len(heights),
    )
    sheet = PillowImage.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        left = GAP + column * (width + GAP)
        pen.text((left + width / 2, head / 2), title, fill=INK, font=font, anchor="mm")
    top = head
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            sheet.paste(PillowImage.fromarray(image), (GAP + column * (width + GAP), top))
        top += height + GAP
    return np.array(sheet)


def write_sheet(path: Path, rows: Sequence[Sequence[Image]]) -> None:
    """Write rows of (source, output, target) as a PNG, whole or not at all."""
    write_picture(path, Picture(draw_sheet(rows, ("source", "output", "target"))))
