"""Label maps: from colours, also smeared ones, to classes, and whether an image is a label map."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from img2img.tasks.palettes import PALETTES, Colours, find_palette

Classes = NDArray[np.uint8]
Image = NDArray[np.uint8]

# Distances are Euclidean, in levels of sRGB.
# A pixel this near to a colour of the palette has that class; one further off is a mixture.
SURE = 30
# How far, in pixels, JPEG and resizing carry a colour over a border.
REACH = 2
# Pixels whose neighbours are within so many levels are flat: what a label map is made of.
FLAT = 16
# Of the flat pixels of the authors' facades 99 % are this near to their palette, and 93 % still are
# when they are saved once more as JPEG of quality 30. Photographs reach 72 % where the palette has
# as many dull colours as Cityscapes', and none at all with facades'.
NEAR, ENOUGH = 20, 0.85
# Pixels at a time, so that the distances to all colours fit in a cache.
CHUNK = 1 << 14


def to_classes(image: Image, palette: Colours) -> Classes:
    """The class of each pixel of a label map (H, W, 3), as (H, W) indices into a palette (N, 3).

    It is that of the nearest colour, exactly. Only where no colour is within 30 levels, as in the
    smear that JPEG and resizing leave between two areas, it is the nearest among the classes that
    are sure within 2 pixels, so that a border between two classes is not a third. Of equally near
    colours the first counts.
    """
    index, distance = _nearest(image, palette)
    unsure = distance > SURE * SURE
    if not unsure.any():
        return index
    pixels = image[unsure].astype(np.int32)
    best = np.full(len(pixels), np.iinfo(np.int32).max, dtype=np.int32)
    chosen = index[unsure]
    around = np.ones((2 * REACH + 1, 2 * REACH + 1), dtype=np.uint8)
    for i in np.unique(index[~unsure]):
        here = ((index == i) & ~unsure).astype(np.uint8)
        reached = cv2.dilate(here, around)[unsure].astype(bool)
        far = np.square(pixels - palette[i].astype(np.int32)).sum(axis=1)
        closer = reached & (far < best)
        best[closer], chosen[closer] = far[closer], i
    index[unsure] = chosen
    return index


def to_one_hot(classes: Classes, count: int) -> Tensor:
    """(H, W) class indices to (count, H, W) float32, 1 at a pixel's class and 0 elsewhere."""
    is_class = np.arange(count, dtype=np.uint8)[:, None, None] == classes
    return torch.from_numpy(is_class.astype(np.float32))


def from_probabilities(probabilities: Tensor, palette: Colours) -> Image:
    """(N, H, W) class probabilities, or one-hot, to the likeliest class's colours (H, W, 3)."""
    image: Image = palette[probabilities.detach().float().argmax(dim=0).cpu().numpy()]
    return image


def fits_palette(image: Image, palette: Colours) -> bool:
    """Whether (H, W, 3) may be a label map in these colours (N, 3), JPEG and resizing allowed for.

    Nearly all pixels of flat areas must be close to a colour of the palette; borders do not count.
    """
    distance = _nearest(_flat_pixels(image), palette)[1]
    return bool((distance <= NEAR * NEAR).mean() >= ENOUGH)


def matching_palette(image: Image) -> str | None:
    """The shipped palette that an image (H, W, 3) is a label map in, by name."""
    return next((name for name in PALETTES if fits_palette(image, find_palette(name))), None)


def explain_misfit(image: Image, other: Image, palette: Colours, which: str) -> str | None:
    """Why an image cannot be a label map in a palette, in a sentence that says what to change.

    Where the other image is one, it says that; whether this pair is wrong or `data.direction` can
    be told of many pairs only.

    Args:
        image: what should be one, (H, W, 3).
        other: the other image of the pair, (H, W, 3).
        palette: colours of the classes, (N, 3).
        which: `source` or `target`, for the sentence.

    Returns:
        None if it fits.
    """
    if fits_palette(image, palette):
        return None
    no_map = f"the {which} is no label map in the colours of task.palette"
    if fits_palette(other, palette):
        its_place = "target" if which == "source" else "source"
        return f"{no_map}, the {its_place} is"
    shipped = matching_palette(image)
    if shipped is not None:
        return f"{no_map}, but in those of another: set task.palette to {shipped!r}"
    colours = ", ".join(str(colour) for colour in main_colours(image))
    return (
        f"{no_map}: its main colours are {colours}; change task.palette to the colours that its "
        f"classes have, or, if it is no label map, the data or the task"
    )


def main_colours(image: Image, count: int = 3) -> list[list[int]]:
    """The most frequent colours [r, g, b] of an image's flat areas, each apart from the others."""
    pixels = _flat_pixels(image)[:, 0].astype(np.int64)
    found: list[list[int]] = []
    while len(pixels) and len(found) < count:
        cells = pixels // 8 @ np.array([1024, 32, 1])
        here = cells == np.bincount(cells).argmax()
        colour = np.median(pixels[here], axis=0).astype(np.int64)
        found.append(colour.tolist())
        pixels = pixels[np.square(pixels - colour).sum(axis=1) > SURE * SURE]
    return found


def _nearest(image: Image, palette: Colours) -> tuple[Classes, NDArray[np.int32]]:
    """Index of the nearest colour and the square of its distance, each (H, W)."""
    flat = image.reshape(-1, 3)
    index = np.empty(len(flat), dtype=np.uint8)
    distance = np.empty(len(flat), dtype=np.int32)
    colours = palette.astype(np.float32)
    # |p - c|^2 = |p|^2 - 2 p c + |c|^2, all of them integers that float32 holds exactly.
    lengths = np.square(colours).sum(axis=1)[:, None]
    for part in _parts(len(flat)):
        pixels = flat[part].astype(np.float32)
        rest = lengths - 2 * colours @ pixels.T
        index[part] = rest.argmin(axis=0)
        distance[part] = rest.min(axis=0) + np.square(pixels).sum(axis=1)
    shape = image.shape[:2]
    return index.reshape(shape), distance.reshape(shape)


def _parts(count: int) -> Iterator[slice]:
    for start in range(0, count, CHUNK):
        yield slice(start, start + CHUNK)


def _flat_pixels(image: Image) -> Image:
    """Pixels of flat areas as (n, 1, 3); all of them where hardly any area is flat."""
    contiguous = np.ascontiguousarray(image)
    square = np.ones((3, 3), dtype=np.uint8)
    slope = cv2.subtract(cv2.dilate(contiguous, square), cv2.erode(contiguous, square))
    flat = slope.reshape(image.shape).max(axis=-1) <= FLAT
    pixels = contiguous[flat] if flat.mean() >= 0.05 else contiguous.reshape(-1, 3)
    return pixels[:, None]
