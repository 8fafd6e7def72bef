"""Grey to colour, in Lab."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from img2img.picture import Pixels, to_depth
from img2img.tasks.base import Interpolation
from img2img.tasks.graphs import LabTarget, LightnessSource


class Colorization:
    """Grey to colour: lightness L in, a and b out, in CIE Lab (D65); shown as sRGB.

    L (0 to 100) becomes L / 50 - 1; a and b are divided by 110, the authors' scaling, and clipped
    to [-1, 1]. The output keeps the source's L wherever sRGB has such a colour. Both may come from
    one folder of photos: `data.source = "derived"` with `derive = "copy"`. Source: arXiv
    1611.07004, section 6.2.
    """

    source_channels = 1
    target_channels = 2
    source_interpolation: Interpolation = "smooth"
    target_interpolation: Interpolation = "smooth"
    # The source is in the target.
    comparable = False

    def encode_source(self, image: Pixels) -> Tensor:
        lightness = _lab(image)[..., :1].transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(lightness / 50 - 1))

    def encode_target(self, image: Pixels) -> Tensor:
        chroma = _lab(image)[..., 1:].transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(np.clip(chroma / 110, -1, 1)))

    def decode_source(self, source: Tensor) -> Pixels:
        return self.decode_target(source.new_zeros(2, *source.shape[1:]), source)

    def decode_target(self, target: Tensor, source: Tensor) -> Pixels:
        lightness = (source.detach().float().cpu() + 1) * 50
        lab = torch.cat([lightness, target.detach().float().cpu() * 110]).numpy()
        rgb = cv2.cvtColor(np.ascontiguousarray(lab.transpose(1, 2, 0)), cv2.COLOR_Lab2RGB)
        return np.clip(rgb, 0, 1).astype(np.float32, copy=False)

    def source_graph(self) -> nn.Module:
        """`encode_source` as a module, for `img2img export`."""
        return LightnessSource()

    def target_graph(self) -> nn.Module:
        """`decode_target` as a module, for `img2img export`."""
        return LabTarget()


def _lab(image: Pixels) -> NDArray[np.float32]:
    """(H, W, 3) sRGB to float32 Lab; floats, because 8-bit Lab would lose two bits."""
    # From linear light, because OpenCV interpolates sRGB in a coarse table, off by up to 0.4.
    light = _LINEAR[image] if image.dtype == np.uint8 else _linear(to_depth(image, np.float64))
    lab = cv2.cvtColor(light, cv2.COLOR_LRGB2Lab)
    return lab.astype(np.float32, copy=False)


def _linear(level: NDArray[np.float64]) -> NDArray[np.float32]:
    """Linear light of levels of sRGB (IEC 61966-2-1), both from 0 to 1."""
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32)


# Of all 256 levels of 8 bits.
_LINEAR = _linear(np.arange(256) / 255)
