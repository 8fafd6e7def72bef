"""How many colours an image has, and whether it has any."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Mean difference between the channels, of 256 levels: JPEG gives grey that is grey exactly.
GREY = 0.5


def variety(image: NDArray[np.uint8]) -> float:
    """Entropy in bits of the colours of (H, W, 3), 16 levels a channel."""
    levels = image.astype(np.int64) // 16
    colours = levels[..., 0] * 256 + levels[..., 1] * 16 + levels[..., 2]
    counts = np.bincount(colours.ravel())
    share = counts[counts > 0] / colours.size
    return float(-(share * np.log2(share)).sum())


def colourfulness(image: NDArray[np.uint8]) -> float:
    """Mean difference between the largest and the smallest channel of (H, W, 3), in levels."""
    red, green, blue = np.moveaxis(image, 2, 0)
    # Along an axis of three, `max` takes ten times as long.
    high, low = (f(f(red, green), blue) for f in (np.maximum, np.minimum))
    return float(np.mean(high - low))
