"""Colour image to colour image."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from img2img.tasks.base import Image, Interpolation, to_grey, to_image, to_tensor


class Paired:
    """Any image to any other: both in RGB or grey, scaled to [-1, 1].

    Args:
        source_channels: 3 for RGB, 1 for grey.
        target_channels: 3 for RGB, 1 for grey.
    """

    source_interpolation: Interpolation = "smooth"
    target_interpolation: Interpolation = "smooth"

    def __init__(
        self, *, source_channels: Literal[1, 3] = 3, target_channels: Literal[1, 3] = 3
    ) -> None:
        self.source_channels: int = source_channels
        self.target_channels: int = target_channels

    def encode_source(self, image: Image) -> Tensor:
        return to_tensor(image if self.source_channels == 3 else to_grey(image))

    def encode_target(self, image: Image) -> Tensor:
        return to_tensor(image if self.target_channels == 3 else to_grey(image))

    def decode_source(self, source: Tensor) -> Image:
        return to_image(source)

    def decode_target(self, target: Tensor, source: Tensor) -> Image:
        return to_image(target)


class Maps(Paired):
    """Street maps and aerial photographs, either way: both in RGB (arXiv 1611.07004, section 6.2).

    Neither has an up, so a recipe may add `data.rotate = true` to the paper's mirroring.
    """

    def __init__(self) -> None:
        super().__init__()
