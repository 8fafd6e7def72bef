"""Pairs for repair, from photographs alone: the first image is the second one, damaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np

from img2img.data.images import Image, Split, split_images
from img2img.data.reading import read_image

Damage = Literal["noise", "blur", "shrink", "hole"]


class Damaged:
    """A folder of photographs, each damaged in a way that a model can learn to undo.

    `root` holds `train/` and `val/` (or `test/`), or just images, of which every tenth is held out.
    Photographs are taken as 8-bit RGB. The damage is done to what the network will see, after
    resizing and cropping; noise and blur are drawn anew in each epoch. `data.resize = false` takes
    crops as they are, so that a model learns the detail that photographs really have.

    Args:
        damage: `noise`, `blur`, `shrink` (shrunk and enlarged again, for super-resolution) or
            `hole` (a grey rectangle in the middle, for inpainting).
        noise: least and most standard deviation of the Gaussian noise, in levels of 256.
        blur: least and most sigma of the Gaussian blur, in pixels.
        shrink: by what factor images are shrunk before they are enlarged again.
        hole: height and width of the hole as a share of the image's.

    Raises:
        DataError: the folder is missing or empty.
        ValueError: a setting that cannot be.
    """

    def __init__(
        self,
        root: Path,
        split: Split,
        *,
        damage: Damage = "noise",
        noise: Sequence[float] = (5.0, 50.0),
        blur: Sequence[float] = (1.0, 3.0),
        shrink: int = 4,
        hole: float = 0.5,
    ) -> None:
        if damage not in get_args(Damage):
            raise ValueError(f"damage {damage!r} is not one of {', '.join(get_args(Damage))}")
        for name, values in (("noise", noise), ("blur", blur)):
            if len(values) != 2 or not 0 < values[0] <= values[1] < 256:
                raise ValueError(
                    f"{name} holds the least and the most, both above 0, not {list(values)}"
                )
        if shrink < 2:
            raise ValueError(f"shrink must be at least 2, not {shrink}")
        if not 0 < hole < 1:
            raise ValueError(f"hole must be between 0 and 1, not {hole}")
        self.files = split_images(root, split)
        self.damage: Damage = damage
        self.noise, self.blur, self.shrink, self.hole = noise, blur, shrink, hole

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return str(self.files[index])

    def paths(self, index: int) -> tuple[Path, ...]:
        return (self.files[index],)

    def pair(self, index: int) -> tuple[Image, Image]:
        photo = read_image(self.files[index])
        return photo, photo

    def degrade(self, second: Image, seed: int) -> Image:
        """The damaged image for a photograph as the network sees it; the same for the same seed."""
        random = np.random.default_rng(seed)
        if self.damage == "noise":
            return add_noise(second, random.uniform(self.noise[0], self.noise[1]), random)
        if self.damage == "blur":
            sigma = random.uniform(self.blur[0], self.blur[1])
            return cv2.GaussianBlur(second, (0, 0), sigma).astype(np.uint8, copy=False)
        if self.damage == "shrink":
            return shrink_and_enlarge(second, self.shrink)
        return cut_hole(second, self.hole)


def add_noise(image: Image, sigma: float, random: np.random.Generator) -> Image:
    """Gaussian noise of a standard deviation in levels of 256. Shape: (H, W, 3), the same out.

    As in arXiv 1608.03981, section III, but clipped and rounded to 8 bits as files are.
    """
    noisy = image + random.normal(0.0, sigma, image.shape)
    return np.rint(np.clip(noisy, 0, 255)).astype(np.uint8)


def shrink_and_enlarge(image: Image, factor: int) -> Image:
    """Without the detail that `factor` times smaller images lack. Shape: (H, W, 3), the same out.

    Means over areas on the way down, bicubic on the way up, as image viewers enlarge.
    """
    height, width = image.shape[:2]
    size = max(1, width // factor), max(1, height // factor)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return large.astype(np.uint8, copy=False)


def cut_hole(image: Image, size: float) -> Image:
    """A grey rectangle in the middle, `size` of each side. Shape: (H, W, 3), the same out.

    Half of each side is the central region of Context Encoders (arXiv 1604.07379, section 3.3),
    whose data the paper's inpainting uses.
    """
    height, width = image.shape[:2]
    high, wide = round(height * size), round(width * size)
    top, left = (height - high) // 2, (width - wide) // 2
    holed = image.copy()
    holed[top : top + high, left : left + wide] = 128
    return holed
