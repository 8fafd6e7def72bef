"""The figure of a comparison: a row an input, with source, every variant and target."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from img2img.data.loading import PairDataset
from img2img.data.writing import write_picture
from img2img.errors import DataError, ImageError
from img2img.evaluation.scores import spread
from img2img.inference import Translator
from img2img.names import printable
from img2img.picture import Picture, to_display
from img2img.report.sheet import COLUMN, GAP, INK, PAPER, Image

# Pixels of all images together on their longer side; they are made smaller for more than that.
LARGEST = 6000
# Pixels; no column is wider.
WIDEST = 512


@dataclass(frozen=True)
class Column:
    """A model whose outputs fill a column.

    Attributes:
        title: over it.
        folder: a run directory.
        dataset: the model's validation pairs.
        names: of these pairs.
    """

    title: str
    folder: Path
    dataset: PairDataset
    names: Sequence[str]


def figure_rows(
    columns: Sequence[Column], load: Callable[[Path], Translator], count: int
) -> list[list[Image]]:
    """Images (H, W, 3) of evenly chosen validation pairs: source, every model's output, target.

    Of these, only pairs count that all models have, by name. Source and target are those of the
    first model's data. Pairs that cannot be read are left out.

    Args:
        columns: one or more models.
        load: a run directory's model.
        count: rows.

    Raises:
        DataError: there is no pair that all of them have, or none can be read.
        Img2ImgError: a model cannot be read.
    """
    places = [{name: index for index, name in enumerate(column.names)} for column in columns]
    common = [name for name in places[0] if all(name in other for other in places[1:])]
    if not common:
        raise DataError("the variants have no validation pair of the same name")
    names = [common[index] for index in spread(len(common), count)]
    names = [
        name
        for name in names
        if all(
            _readable(column.dataset, place[name])
            for column, place in zip(columns, places, strict=True)
        )
    ]
    if not names:
        raise DataError("none of the validation pairs chosen for it can be read")
    rows: list[list[Image]] = [[] for _ in names]
    targets: list[Image] = []
    for column, place in zip(columns, places, strict=True):
        translator, dataset = load(column.folder), column.dataset
        task = dataset.task
        for row, name in zip(rows, names, strict=True):
            source, target = dataset.tensors(place[name])
            output = translator.translate(source[None]).cpu()[0]
            if column is columns[0]:
                row.append(to_display(task.decode_source(source)))
                targets.append(to_display(task.decode_target(target, source)))
            row.append(to_display(task.decode_target(output, source)))
    return fitting([[*row, target] for row, target in zip(rows, targets, strict=True)])


def _readable(dataset: PairDataset, index: int) -> bool:
    try:
        dataset.tensors(index)
    except ImageError:
        return False
    return True


def fitting(rows: Sequence[Sequence[Image]]) -> list[list[Image]]:
    """Rows no larger together than the figure may be; small images enlarged by a whole factor."""
    width = max(image.shape[1] for row in rows for image in row)
    across = width * max(map(len, rows))
    down = sum(max(image.shape[0] for image in row) for row in rows)
    enlarged = min(COLUMN // width, LARGEST // max(across, down))
    if enlarged > 1:
        return [[image.repeat(enlarged, 0).repeat(enlarged, 1) for image in row] for row in rows]
    factor = min(1.0, WIDEST / width, LARGEST / across, LARGEST / down)
    return [[_smaller(image, factor) for image in row] for row in rows]


def _smaller(image: Image, factor: float) -> Image:
    if factor == 1:
        return image
    size = [max(1, int(side * factor)) for side in (image.shape[1], image.shape[0])]
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


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
