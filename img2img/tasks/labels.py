"""Label maps to photographs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from img2img.tasks.base import Image, Interpolation, to_image, to_tensor


class Labels:
    """Label map to photograph: the source is a map whose colours stand for classes, fed as RGB.

    Label maps are resized to the nearest pixel, because a mixture of two colours may be a third
    class. Source: arXiv 1611.07004, section 6.2 (facades, Cityscapes), where they are fed as RGB.

    Args:
        palette: the classes' colours as [r, g, b]; each pixel then takes the nearest of them, which
            repairs maps that were saved as JPEG. Empty leaves the colours as they are.
    """

    source_channels = 3
    target_channels = 3
    source_interpolation: Interpolation = "nearest"
    target_interpolation: Interpolation = "smooth"

    def __init__(self, *, palette: Sequence[Sequence[int]] = ()) -> None:
        for colour in palette:
            if len(colour) != 3 or not all(0 <= level <= 255 for level in colour):
                raise ValueError(f"palette holds [r, g, b] from 0 to 255, not {list(colour)}")
        if len(palette) == 1:
            raise ValueError("palette needs at least two colours")
        self.palette = np.array(palette, dtype=np.uint8).reshape(-1, 3)

    def encode_source(self, image: Image) -> Tensor:
        return to_tensor(self._snap(image) if len(self.palette) else image)

    def encode_target(self, image: Image) -> Tensor:
        return to_tensor(image)

    def decode_source(self, source: Tensor) -> Image:
        return to_image(source)

    def decode_target(self, target: Tensor, source: Tensor) -> Image:
        return to_image(target)

    def _snap(self, image: Image) -> Image:
        best = np.full(image.shape[:2], np.iinfo(np.int32).max, dtype=np.int32)
        index = np.zeros(image.shape[:2], dtype=np.intp)
        # A colour at a time: all distances at once would take palette times the image's memory.
        for i, colour in enumerate(self.palette.astype(np.int32)):
            distance = np.square(image.astype(np.int32) - colour).sum(axis=-1)
            closer = distance < best
            best[closer], index[closer] = distance[closer], i
        snapped: Image = self.palette[index]
        return snapped
