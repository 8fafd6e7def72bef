"""Palettes: which colour stands for which class in a label map."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Colours = NDArray[np.uint8]

# As many as an indexed PNG can hold.
MOST_CLASSES = 256

# A class is its place in here, counted from 0.
PALETTES: dict[str, dict[str, tuple[int, int, int]]] = {
    # Rows 6, 11, ..., 61 of MATLAB's jet(64), in the order of CMP Facades' own class numbers. Found
    # in the files as the pix2pix authors distribute them: flat patches of these colours, saved with
    # the files' own JPEG tables, give the peaks of their histogram. CMP calls the ornament over a
    # window a cornice, and a ledge along the whole front a molding.
    "facades": {
        "background": (0, 0, 223),
        "facade": (0, 48, 255),
        "window": (0, 128, 255),
        "door": (0, 207, 255),
        "cornice": (32, 255, 223),
        "sill": (112, 255, 143),
        "balcony": (191, 255, 64),
        "blind": (255, 239, 0),
        "deco": (255, 159, 0),
        "molding": (255, 80, 0),
        "pillar": (255, 0, 0),
        "shop": (175, 0, 0),
    },
    # cityscapesScripts, helpers/labels.py, in the order of its ids. Labels that share a colour
    # cannot be told apart and are one class here: ego vehicle, rectification border, out of roi and
    # static are black as unlabeled is, polegroup is as pole, license plate as car.
    "cityscapes": {
        "unlabeled": (0, 0, 0),
        "dynamic": (111, 74, 0),
        "ground": (81, 0, 81),
        "road": (128, 64, 128),
        "sidewalk": (244, 35, 232),
        "parking": (250, 170, 160),
        "rail track": (230, 150, 140),
        "building": (70, 70, 70),
        "wall": (102, 102, 156),
        "fence": (190, 153, 153),
        "guard rail": (180, 165, 180),
        "bridge": (150, 100, 100),
        "tunnel": (150, 120, 90),
        "pole": (153, 153, 153),
        "traffic light": (250, 170, 30),
        "traffic sign": (220, 220, 0),
        "vegetation": (107, 142, 35),
        "terrain": (152, 251, 152),
        "sky": (70, 130, 180),
        "person": (220, 20, 60),
        "rider": (255, 0, 0),
        "car": (0, 0, 142),
        "truck": (0, 0, 70),
        "bus": (0, 60, 100),
        "caravan": (0, 0, 90),
        "trailer": (0, 0, 110),
        "train": (0, 80, 100),
        "motorcycle": (0, 0, 230),
        "bicycle": (119, 11, 32),
    },
}


def find_palette(palette: str | Sequence[Sequence[int]]) -> Colours:
    """The colours of a shipped palette, or those given as [r, g, b], as (N, 3) uint8.

    Raises:
        ValueError: no palette has this name, or the colours are none, too few, too many or not all
            different.
    """
    if isinstance(palette, str):
        if palette not in PALETTES:
            near = difflib.get_close_matches(palette, PALETTES, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(
                f"there is no palette {palette!r}{hint}; possible: {', '.join(PALETTES)}, or "
                f"colours as a list of [r, g, b]"
            )
        return np.array(list(PALETTES[palette].values()), dtype=np.uint8)
    first: dict[tuple[int, ...], int] = {}
    for index, colour in enumerate(palette):
        if len(colour) != 3 or not all(0 <= level <= 255 for level in colour):
            raise ValueError(f"palette holds [r, g, b] from 0 to 255, not {list(colour)}")
        if tuple(colour) in first:
            raise ValueError(
                f"palette gives {list(colour)} to the classes {first[tuple(colour)]} and {index}; "
                f"they could not be told apart"
            )
        first[tuple(colour)] = index
    if not 2 <= len(palette) <= MOST_CLASSES:
        raise ValueError(
            f"palette needs two to {MOST_CLASSES} colours, not {len(palette)}: give them as "
            f"[r, g, b], or the name of one that ships: {', '.join(PALETTES)}"
        )
    return np.array(palette, dtype=np.uint8)
