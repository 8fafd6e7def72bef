"""What a source of pairs is."""

from __future__ import annotations

from typing import Protocol

from img2img.data.images import Image


class PairSource(Protocol):
    """A sequence of image pairs of one split.

    Constructed with `root` (a Path) and `split` ("train" or "val") if it names them; every other
    parameter is a setting of the recipe's `[data]`. It must give the same pair for the same index
    each time, in any process.

    One that makes its first images from the second may do that to what the network will see, after
    resizing and cropping: with a method `degrade(second, seed)` that gives the first. `pair` then
    gives the second image twice.
    """

    def __len__(self) -> int:
        """How many pairs there are."""

    def name(self, index: int) -> str:
        """What to call a pair in messages: its file."""

    def pair(self, index: int) -> tuple[Image, Image]:
        """The first and second image, (H, W, 3) uint8 sRGB, both of one size.

        Which of them is the translation's source is the recipe's `data.direction`.

        Raises:
            ImageError: this pair cannot be read; the others may.
        """
