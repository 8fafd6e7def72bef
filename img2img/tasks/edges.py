"""Drawings to photographs."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from img2img.picture import Pixels, to_depth, white_of
from img2img.tasks.base import Interpolation, to_grey, to_image, to_tensor
from img2img.tasks.graphs import GreySource, SignedTarget


class Edges:
    """Line drawing to photograph: the source is grey, dark lines on light paper; the target RGB.

    Source: arXiv 1611.07004, section 6.2 (edges to shoes and handbags). Departure: one grey channel
    where the authors repeat it three times, so that the colour of the ink cannot matter.

    Args:
        threshold: 0 keeps the greys; otherwise levels from this one up (1 to 255, of 8 bits) become
            white and all others black, which removes the smear of JPEG and of a soft pen.
        invert: the drawings are light lines on dark ground.
    """

    source_channels = 1
    target_channels = 3
    source_interpolation: Interpolation = "smooth"
    target_interpolation: Interpolation = "smooth"
    plainer = "source"

    def __init__(self, *, threshold: int = 0, invert: bool = False) -> None:
        if not 0 <= threshold <= 255:
            raise ValueError(f"threshold is a grey level from 0 to 255, not {threshold}")
        self.threshold = threshold
        self.invert = invert

    def encode_source(self, image: Pixels) -> Tensor:
        grey = to_grey(image)
        if self.invert:
            grey = (white_of(grey.dtype) - grey).astype(grey.dtype)
        if self.threshold:
            light = to_depth(grey, np.uint8) >= self.threshold
            grey = np.where(light, 255, 0).astype(np.uint8)
        return to_tensor(grey)

    def encode_target(self, image: Pixels) -> Tensor:
        return to_tensor(image)

    def decode_source(self, source: Tensor) -> Pixels:
        return to_image(source)

    def decode_target(self, target: Tensor, source: Tensor) -> Pixels:
        return to_image(target)

    def source_graph(self) -> nn.Module:
        """`encode_source` as a module, for `img2img export`."""
        return GreySource(threshold=self.threshold, invert=self.invert)

    def target_graph(self) -> nn.Module:
        """`decode_target` as a module, for `img2img export`."""
        return SignedTarget()
