"""Images that an exported file is tried on, and what the model makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from img2img.inference import Translator
from img2img.picture import to_depth
from img2img.tasks.base import image_channels_of

# Below it the sizes of probes are not much larger than a convolution.
LEAST = 16


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


@dataclass(frozen=True)
class Expected:
    """What the model gives for a probe.

    Attributes:
        output: of the network, cropped to the images, (B, C', H, W).
        images: the task's images of it, (B, C', H, W) float32 in [0, 1].
        exact: they are not rounded to levels.
    """

    output: Tensor
    images: Tensor
    exact: bool


def make_probes(channels: int, multiple: int, least: int) -> list[Probe]:
    """Probes for a file that takes any size: none, some and much of the padding it can need."""
    side = max(multiple, least)
    unit = -(-max(side, LEAST) // multiple) * multiple
    high, wide = unit + unit // 2 + 5, unit + 3
    probes = [
        Probe(
            "a smooth and a noise image",
            np.stack([smooth(high, wide, channels), noise(high, wide, channels)]),
        ),
        Probe("a noise image", noise(2 * unit, unit, channels)[None]),
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


def expect(translator: Translator, probes: Sequence[Probe]) -> list[Expected]:
    """What a translator gives for probes, by the task's own methods, at the size they have."""
    task = translator.task
    expected = []
    for probe in probes:
        sources = torch.stack([task.encode_source(image) for image in probe.images])
        output = translator.translate(sources).cpu()
        decoded = [task.decode_target(o, s) for o, s in zip(output, sources, strict=True)]
        exact = all(np.issubdtype(image.dtype, np.floating) for image in decoded)
        floats = np.stack([to_depth(image, np.float32) for image in decoded])
        images = torch.from_numpy(floats).permute(0, 3, 1, 2)
        channels = image_channels_of(task)[1]
        expected.append(Expected(output, images[:, :channels], exact))
    return expected


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
