"""Pairs from photographs alone: the first image is made from the second."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from img2img.data.images import Split, split_images
from img2img.data.reading import read_picture
from img2img.picture import Pixels, to_depth


class Derived:
    """A folder of photographs; the first image is derived from the second, the photograph.

    `root` holds `train/` and `val/` (or `test/`), or just images, of which every tenth is held out.
    Photographs keep their depth.

    Args:
        derive: `edges` (Canny, dark lines on white), `grey`, or `copy`, for tasks that take the
            source out of the photograph themselves, such as colorization.
        edge_low: Canny's lower threshold, in grey levels per pixel; edges below it are dropped.
        edge_high: Canny's upper threshold; edges above it are always kept.

    Raises:
        DataError: the folder is missing or empty.
    """

    # Nothing is learned of the data by comparing the two.
    makes_first = True

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

    def paths(self, index: int) -> tuple[Path, ...]:
        return (self.files[index],)

    def pair(self, index: int) -> tuple[Pixels, Pixels]:
        photo = read_picture(self.files[index]).pixels
        if self.derive == "copy":
            return photo, photo
        shown = to_depth(photo, np.uint8) if self.derive == "edges" else photo
        grey: Pixels = cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY)
        if self.derive == "edges":
            # A slight blur first, or film grain and JPEG blocks become lines.
            lines = cv2.Canny(cv2.GaussianBlur(grey, (5, 5), 0), *self.thresholds)
            grey = (255 - lines).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2), photo
