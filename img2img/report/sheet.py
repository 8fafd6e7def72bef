"""Sample sheets: source, output and target side by side."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from img2img.data.writing import write_whole
from img2img.report.cells import CHUNK, Box, Layout, layout_to_text

Image = NDArray[np.uint8]

GAP = 4
PAPER, INK = (255, 255, 255), (60, 60, 60)
# Small images are enlarged by whole factors until a column is about this wide.
COLUMN = 192


def draw_sheet(rows: Sequence[Sequence[Image]], titles: Sequence[str]) -> Image:
    """A grid of (H, W, 3) uint8 images with a title over each column."""
    return np.array(_draw(rows, _lay_out(rows, titles)))


def write_sheet(path: Path, rows: Sequence[Sequence[Image]]) -> None:
    """Write rows of (source, output, target) as a PNG, whole or not at all.

    A text chunk says where each of them is, so that the report can take them out again.
    """
    layout = _lay_out(rows, ("source", "output", "target"))
    told = PngInfo()
    told.add_text(CHUNK, layout_to_text(layout))
    data = io.BytesIO()
    # Without a search for repetition it takes a third of the time, and is as small.
    _draw(rows, layout).save(data, "PNG", pnginfo=told, compress_type=zlib.Z_RLE)
    write_whole(path, data.getvalue())


def _lay_out(rows: Sequence[Sequence[Image]], titles: Sequence[str]) -> Layout:
    widest = max(image.shape[1] for row in rows for image in row)
    scale = max(1, COLUMN // widest)
    column, top = widest * scale + GAP, _head(widest * scale)
    boxes: list[tuple[Box, ...]] = []
    for row in rows:
        boxes.append(
            tuple(
                (left, top, left + image.shape[1] * scale, top + image.shape[0] * scale)
                for left, image in zip(
                    range(GAP, GAP + column * len(row), column), row, strict=True
                )
            )
        )
        top += max(image.shape[0] for image in row) * scale + GAP
    return Layout(tuple(titles), scale, tuple(boxes))


def _font(width: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=max(11, min(18, width // 12)))


def _head(width: int) -> int:
    font = _font(width)
    return int(font.size * 1.8) if isinstance(font, ImageFont.FreeTypeFont) else 20


def _draw(rows: Sequence[Sequence[Image]], layout: Layout) -> PillowImage.Image:
    width = max(image.shape[1] for row in rows for image in row) * layout.scale
    bottom = max(box[3] for box in layout.rows[-1])
    size = (len(layout.columns) * (width + GAP) + GAP, bottom + GAP)
    sheet = PillowImage.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(layout.columns):
        middle = GAP + column * (width + GAP) + width / 2
        pen.text((middle, _head(width) / 2), title, fill=INK, font=_font(width), anchor="mm")
    for row, boxes in zip(rows, layout.rows, strict=True):
        for image, box in zip(row, boxes, strict=True):
            enlarged = image.repeat(layout.scale, 0).repeat(layout.scale, 1)
            sheet.paste(PillowImage.fromarray(enlarged), box[:2])
    return sheet
