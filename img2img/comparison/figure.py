"""The figure of a comparison: a row an input, with source, every variant and target."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from img2img.data.loading import PairDataset
from img2img.data.writing import write_picture
from img2img.errors import ImageError
from img2img.evaluation.scores import spread
from img2img.inference import Translator
from img2img.names import printable
from img2img.picture import Picture, to_display
from img2img.report.sheet import COLUMN, GAP, INK, PAPER, Image

# Pixels of the whole figure's longer side; columns are made smaller for more than that.
LARGEST = 6000
# Pixels; no column is wider.
WIDEST = 512


def figure_rows(
    models: Mapping[str, Path],
    load: Callable[[Path], Translator],
    data: Callable[[Path, Translator], PairDataset],
    count: int,
) -> list[list[Image]]:
    """Images (H, W, 3) of evenly chosen validation pairs: source, every model's output, target.

    Source and target are those of the first model's data. Pairs that cannot be read are left out.

    Args:
        models: run directories by variant.
        load: a run directory's model.
        data: its validation pairs.
        count: rows.
    """
    rows: list[list[Image]] = []
    targets: list[Image] = []
    chosen: list[int] = []
    for number, folder in enumerate(models.values()):
        translator = load(folder)
        dataset = data(folder, translator)
        task = dataset.task
        if number == 0:
            chosen = _readable(dataset, count)
        for row, index in enumerate(chosen):
            source, target = dataset.tensors(index)
            output = translator.translate(source[None]).cpu()[0]
            if number == 0:
                rows.append([to_display(task.decode_source(source))])
                targets.append(to_display(task.decode_target(target, source)))
            rows[row].append(to_display(task.decode_target(output, source)))
    return [_fitting([*row, target]) for row, target in zip(rows, targets, strict=True)]


def _readable(dataset: PairDataset, count: int) -> list[int]:
    chosen = []
    for index in spread(len(dataset), count):
        try:
            dataset.tensors(index)
        except ImageError:
            continue
        chosen.append(index)
    return chosen


def _fitting(row: list[Image]) -> list[Image]:
    """A row no wider than the figure may be; small images are enlarged by a whole factor."""
    width = max(image.shape[1] for image in row)
    enlarged = max(1, COLUMN // width)
    factor = min(1.0, WIDEST / width, LARGEST / (width * len(row)))
    if factor == 1:
        return [image.repeat(enlarged, 0).repeat(enlarged, 1) for image in row]
    return [
        np.asarray(
            cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8
        )
        for image in row
    ]


def draw_figure(path: Path, rows: Sequence[Sequence[Image]], titles: Sequence[str]) -> None:
    """Write rows of (H, W, 3) uint8 images under their titles as a PNG, whole or not at all.

    Titles are broken into lines that fit their column.
    """
    width = max(image.shape[1] for row in rows for image in row)
    font = ImageFont.load_default(size=max(11, min(18, width // 12)))
    lines = [wrap(title, width, lambda text: font.getlength(text)) for title in titles]
    line = sum(font.getmetrics()) if isinstance(font, ImageFont.FreeTypeFont) else 16
    head = max(map(len, lines)) * line + 2 * GAP
    heights = [max(image.shape[0] for image in row) for row in rows]
    size = (len(titles) * (width + GAP) + GAP, head + sum(heights) + GAP * len(rows))
    drawn = PillowImage.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(drawn)
    for column, broken in enumerate(lines):
        middle = GAP + column * (width + GAP) + width / 2
        # The last lines stand in one row, right over the images.
        top = head - GAP - len(broken) * line
        for i, text in enumerate(broken):
            pen.text((middle, top + i * line), text, fill=INK, font=font, anchor="ma")
    top = head
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            drawn.paste(PillowImage.fromarray(image), (GAP + column * (width + GAP), top))
        top += height + GAP
    write_picture(path, Picture(np.array(drawn)))


def wrap(title: str, width: float, length: Callable[[str], float]) -> list[str]:
    """Cut a title into lines of at most `width`: at its commas, else at signs, else anywhere."""
    title = printable(title)
    if length(title) <= width:
        return [title]
    if ", " in title:
        return [line for part in title.split(", ") for line in wrap(part, width, length)]
    lines = [""]
    for part in re.findall(r"[^\s+_=-]*[\s+_=-]*", title):
        if lines[-1] and length((lines[-1] + part).rstrip()) > width:
            lines.append("")
        for character in part:
            if length((lines[-1] + character).rstrip()) > width:
                lines.append("")
            lines[-1] += character
    return [line.strip() for line in lines]
