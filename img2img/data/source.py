"""What a source of pairs is."""

from __future__ import annotations

from typing import Protocol

from img2img.picture import Pixels


class PairSource(Protocol):
    """A sequence of image pairs of one split.

    Constructed with `root` (a Path), `split` ("train" or "val") and `channels` (two ints: how many
    the first and the second image should have) if it names them; every other parameter is a setting
    of the recipe's `[data]`. It must give the same pair for the same index each time, in any
    process.

    One that makes its first images from the second may do that to what the network will see, after
    resizing and cropping: with a method `degrade(second, seed)` that gives the first. `pair` then
    gives the second image twice. One that makes them in `pair` says so with `makes_first = True`:
    `img2img check` then does not compare the two. One whose pairs lie in files of their own may
    have a method `paths(index)` that gives the file, or the first's and the second's, for what
    `img2img check` says of the kinds of images (palette, CMYK, alpha), which pixels do not show.

    One whose pairs lie together in files that are best read from front to back tells how many lie
    in each with `shards`, a sequence of ints in the order of the indices, whose sum is the length.
    Training then goes through a few of these files at a time, in an order that is new in each
    epoch, and through their pairs at random.

    One that can tell at once that its pairs are others, or in another order, does so with a method
    `fingerprint()`: a short text, of nothing that a move to another folder or machine changes. A
    run that goes on with another one than before says so.
    """

    def __len__(self) -> int:
        """How many pairs there are."""

    def name(self, index: int) -> str:
        """What to call a pair in messages: its file."""

    def pair(self, index: int) -> tuple[Pixels, Pixels]:
        """The first and second image, both of one size, at the depth that they have.

        Each is (H, W, C) of uint8, uint16, or float32 in [0, 1]: RGB in sRGB, grey, or as many
        channels as `channels` says. Grey and RGB become each other later where the task wants the
        other. Which of them is the translation's source is the recipe's `data.direction`.

        Raises:
            ImageError: this pair cannot be read; the others may.
        """
