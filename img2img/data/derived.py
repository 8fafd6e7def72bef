"""Pairs from photographs alone: the first image is made from the second."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from img2img.data.images import Image, Split, read_image, split_images


class Derived:
    """A folder of photographs; the first image is derived from the second, the photograph.

    `root` holds `train/` and `val/` (or `test/`), or just images, of which every tenth is held out.

    Args:
        derive: `edges` (Canny, dark lines on white), `grey`, or `copy`, for tasks that take the
            source out of the photograph themselves, such as colorization.
        edge_low: Canny's lower threshold, in grey levels per pixel; edges below it are dropped.
        edge_high: Canny's upper threshold; edges above it are always kept.

    Raises:
        DataError: the folder is missing or empty.
    """

    def __init__(
        self,
        root: Path,
        split: Split,
        *,
        derive: Literal["edges", "grey", "copy"] = "edges",
        edge_low: float = 60.0,
        edge_high: float = 140.0,
    ) -> None:
        if not 0 < edge_low <= edge_high:
            raise ValueError(
                f"edge_low must be above 0 and at most edge_high, not {edge_low} and {edge_high}"
            )
        self.files = split_images(root, split)
        self.derive = derive
        self.thresholds = (edge_low, edge_high)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return str(self.files[index])

    def pair(self, index: int) -> tuple[Image, Image]:
        photo = read_image(self.files[index])
        if self.derive == "copy":
            return photo, photo
        grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
        if self.derive == "edges":
            # A slight blur first, or film grain and JPEG blocks become lines.
            grey = 255 - cv2.Canny(cv2.GaussianBlur(grey, (5, 5), 0), *self.thresholds)
        first: Image = np.repeat(grey[..., None], 3, axis=2).astype(np.uint8, copy=False)
        return first, photo
