"""A picture of the best, the median and the worst outputs by a score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from img2img.data.loading import PairDataset
from img2img.data.writing import write_picture
from img2img.evaluation.evaluating import ImageScores
from img2img.inference import Translator
from img2img.picture import Picture, to_display
from img2img.report.contact import cut_to_fit
from img2img.report.sheet import GAP, INK, PAPER, draw_sheet

Image = NDArray[np.uint8]

# Of a caption, in pixels; and of an image, which is made smaller beyond that.
CAPTION, TEXT, LARGEST = 28, 14, 512
COLUMNS = ("source", "output", "target")


def extremes(
    images: Sequence[ImageScores], score: str, *, higher: bool
) -> list[tuple[str, ImageScores]]:
    """The best, the median and the worst image by a score; fewer where there are fewer.

    The median of an even number is the better of the two in the middle.
    """
    order = sorted(
        (image for image in images if score in image.scores),
        key=lambda image: image.scores[score],
        reverse=higher,
    )
    places = {"best": 0, "median": (len(order) - 1) // 2, "worst": len(order) - 1}
    found: dict[int, str] = {}
    for title, place in places.items():
        if order:
            found[place] = f"{found[place]} and {title}" if place in found else title
    return [(title, order[place]) for place, title in sorted(found.items())]


def draw_extremes(
    translator: Translator,
    dataset: PairDataset,
    chosen: Sequence[tuple[str, ImageScores]],
    score: str,
) -> Image:
    """Rows of source, output and target, each with its score and name above, (H, W, 3)."""
    task = translator.task
    rows = []
    for title, image in chosen:
        # Made once more, which costs less than to keep them all.
        source, target = dataset.tensors(image.index)
        output = translator.translate(source[None]).cpu()[0]
        shown = (
            task.decode_source(source),
            task.decode_target(output, source),
            task.decode_target(target, source),
        )
        drawn = draw_sheet([[_small(to_display(one)) for one in shown]], COLUMNS)
        rows.append((f"{title}: {score} {image.scores[score]:.4g}", image.name, drawn))
    width = max(drawn.shape[1] for _, _, drawn in rows)
    height = sum(drawn.shape[0] + CAPTION for _, _, drawn in rows)
    sheet = PillowImage.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=TEXT)
    top = 0
    for told, name, drawn in rows:
        room = width - 2 * GAP - pen.textlength(f"{told}, ", font)
        text = f"{told}, {cut_to_fit(pen, name, room, font)}"
        pen.text((GAP, top + CAPTION - 7), text, INK, font, "ls")
        sheet.paste(PillowImage.fromarray(drawn), (0, top + CAPTION))
        top += drawn.shape[0] + CAPTION
    return np.array(sheet)


def write_extremes(path: Path, drawn: Image) -> None:
    """Write such a picture, whole or not at all; the suffix says in which format.

    Raises:
        OSError: it cannot be written there.
    """
    write_picture(path, Picture(drawn))


def _small(image: Image) -> Image:
    if max(image.shape[:2]) <= LARGEST:
        return image
    small = PillowImage.fromarray(image)
    small.thumbnail((LARGEST, LARGEST))
    return np.array(small)
