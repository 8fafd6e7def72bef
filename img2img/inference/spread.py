"""How far samples lie apart, as a picture for people or as numbers."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from img2img.picture import Picture

# The standard deviation at the end of the colour map. Colours mean the same in every picture.
FULL = 0.25


def picture_of_spread(spread: NDArray[np.float32], suffix: str) -> Picture:
    """A standard deviation as what a file of a format holds.

    Args:
        spread: (H, W), in units of the range from black to white.
        suffix: of the file. `.npy` gets the numbers, (H, W, 1) float32; every other format colours,
            (H, W, 3) uint8, from dark purple at 0 over green to yellow at `FULL` and beyond (the
            colour map viridis).
    """
    if suffix.lower() == ".npy":
        return Picture(spread[..., None].astype(np.float32), dtype=np.dtype(np.float32))
    levels = np.rint(np.clip(spread / FULL, 0, 1) * 255).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)
    return Picture(np.ascontiguousarray(colours[..., ::-1]).astype(np.uint8, copy=False))
