"""Pairs that share a file, halves side by side."""

from __future__ import annotations

from pathlib import Path

from img2img.data.images import Part, split_images
from img2img.data.reading import read_picture
from img2img.errors import ImageError
from img2img.picture import Pixels


class SideBySide:
    """Image files whose left half is the first image and whose right half the second.

    `root` holds `train/` and `val/` (or `test/`), searched through all folders below. The layout of
    the pix2pix authors' data sets.

    Raises:
        DataError: the folder is missing or empty.
    """

    def __init__(self, root: Path, split: Part, channels: tuple[int, int] = (3, 3)) -> None:
        self.files = split_images(root, split)
        self.channels = channels

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return str(self.files[index])

    def paths(self, index: int) -> tuple[Path, ...]:
        return (self.files[index],)

    def pair(self, index: int) -> tuple[Pixels, Pixels]:
        path, (first, second) = self.files[index], self.channels
        left, right = split_halves(read_picture(path, first).pixels, path)
        if second != first:
            right = split_halves(read_picture(path, second).pixels, path)[1]
        return left, right


def split_halves(image: Pixels, path: Path) -> tuple[Pixels, Pixels]:
    """Left and right half of (H, W, C).

    Raises:
        ImageError: the width is odd, so it is not two images of one size.
    """
    width = image.shape[1]
    if width % 2 or width < 2:
        raise ImageError(
            path, f"{width} pixels wide, so not two images of one size side by side", "size"
        )
    return image[:, : width // 2], image[:, width // 2 :]
