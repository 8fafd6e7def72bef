"""Images that an exported file is tried on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Sides in pixels: below, images are not much larger than a convolution; above, they take long.
SMALLEST, LARGEST = 16, 256


@dataclass(frozen=True)
class Probe:
    """A batch of images of one size.

    Attributes:
        name: for messages.
        images: (B, H, W, C) uint8.
    """

    name: str
    images: NDArray[np.uint8]

    @property
    def tensor(self) -> Tensor:
        """(B, C, H, W) float32 in [0, 1]."""
        scaled = torch.from_numpy(self.images).permute(0, 3, 1, 2).to(torch.float32) / 255
        return scaled.contiguous()


def make_probes(channels: int, multiple: int, least: int, crop: int) -> list[Probe]:
    """Probes for a file that takes any size: none, some and much of the padding it can need.

    Most are about as large as the training crops. Where features shrink to two pixels or so, an
    image's own statistics make much of rounding.

    Args:
        channels: of the images.
        multiple: what the network's sides must be a multiple of, in pixels.
        least: what they must have at least.
        crop: side of the training crops, in pixels.
    """
    side = max(multiple, least)
    unit = -(-max(side, SMALLEST, min(crop, LARGEST)) // multiple) * multiple
    high, wide = unit + unit // 2 + 5, unit + 3
    both = np.stack([smooth(high, wide, channels), noise(high, wide, channels)])
    probes = [
        Probe("a smooth and a noise image", both),
        Probe("a noise image", noise(unit, unit, channels)[None]),
    ]
    if side >= 4:
        small = smooth(side // 4 + 1, side - 1, channels)
        probes.append(Probe("a small smooth image", small[None]))
    return probes


def make_fixed_probes(channels: int, size: tuple[int, int], *, batches: bool) -> list[Probe]:
    """Probes for a file that takes one height and width, with batches of two where it has them."""
    images = [smooth(*size, channels), noise(*size, channels)]
    probes = [
        Probe("a smooth image", images[0][None]),
        Probe("a noise image", images[1][None]),
    ]
    if batches:
        probes.append(Probe("a smooth and a noise image", np.stack(images)))
    return probes


def smooth(height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """(H, W, C) of slow waves, another in every channel."""
    down, right = np.mgrid[0:height, 0:width] / max(height, width)
    phase = np.arange(channels) * 2.0
    waves = np.sin(5 * down[..., None] + phase) + np.cos(4 * right[..., None] * (1 + phase / 9))
    return _decided(np.rint(127.5 + 60 * waves).astype(np.uint8))


def noise(height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """(H, W, C) of independent levels."""
    random = np.random.default_rng(height * 10007 + width)
    return _decided(random.integers(0, 256, (height, width, channels), dtype=np.uint8))


def _decided(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colours whose luma lies half-way between two levels are changed by a level of blue.

    Which way those are rounded depends on the library, and even on the width of the image.
    """
    if image.shape[-1] == 3:
        halfway = image.astype(np.int64) @ np.array([299, 587, 114]) % 1000 == 500
        image[halfway, 2] ^= 1
    return image
