"""How alike the colours of two sets of images are."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from img2img.errors import MetricError
from img2img.tasks.graphs import KNEE, OFFSET, SLOPE, WHITE, XYZ_TO_RGB

# a and b of sRGB colours lie between -108 and 99.
REACH = 110.0
CHANNELS = ("l", "a", "b")


class LabHistogram:
    """Intersection of the histograms of L, a and b over all pixels, outputs against targets.

    Each of the three scores is the sum, over bins, of the smaller of the two shares: 1 where the
    colours are used equally often, wherever in the images. An image's own scores compare its output
    and its target alone, so the set's are not their mean.

    Source: arXiv 1611.07004, section 4.2 and figure 7, which does not give its bins. Here L is
    divided from 0 to 100, a and b from -110 to 110, with the middle of a bin at 0, so that grey
    falls into one. More bins make all numbers smaller. CIE Lab is of sRGB and D65.

    Args:
        bins: how many there are from end to end.
    """

    of: Literal["images", "classes"] = "images"

    def __init__(self, *, bins: int = 100) -> None:
        if not 2 <= bins <= 10_000:
            raise ValueError(f"bins must be from 2 to 10000, not {bins}")
        self._bins = bins
        self.scores = {f"lab_histogram_{name}": True for name in CHANNELS}
        self._outputs, self._targets = (
            torch.zeros(len(CHANNELS), bins + 1, dtype=torch.int64) for _ in range(2)
        )

    def update(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        outputs, targets = self._histograms(output), self._histograms(target)
        self._outputs += outputs.sum(dim=0)
        self._targets += targets.sum(dim=0)
        return dict(zip(self.scores, intersection(outputs, targets).unbind(dim=1), strict=True))

    def compute(self) -> dict[str, float]:
        if not self._targets.any():
            raise MetricError("there were no images")
        found = intersection(self._outputs, self._targets).tolist()
        return dict(zip(self.scores, found, strict=True))

    def _histograms(self, images: Tensor) -> Tensor:
        """Pixels in each bin, (B, 3, bins + 1), on the CPU."""
        lab = to_lab(images)
        light = (lab[:, :1] / 100 * self._bins).floor().clamp(0, self._bins - 1)
        # Half a bin farther, and so one bin more.
        chroma = ((lab[:, 1:] + REACH) / (2 * REACH) * self._bins).round().clamp(0, self._bins)
        places = torch.cat([light, chroma], dim=1).long().flatten(2)
        rows = places.shape[0] * places.shape[1]
        size = self._bins + 1
        offset = torch.arange(rows).view(*places.shape[:2], 1) * size
        counts = torch.bincount((places + offset).flatten(), minlength=rows * size)
        return counts.view(*places.shape[:2], size)


def intersection(counts: Tensor, other: Tensor) -> Tensor:
    """Intersection of histograms, each divided by its sum. Shape: (..., bins) twice -> (...)."""
    shares, others = (c.double() / c.sum(dim=-1, keepdim=True) for c in (counts, other))
    return torch.minimum(shares, others).sum(dim=-1)


def to_lab(images: Tensor) -> Tensor:
    """CIE Lab (D65) of sRGB. Shape: (B, 3, H, W) in [0, 1] -> the same, float64, on the CPU."""
    # Not every device has float64.
    images = images.cpu().double()
    light = torch.where(images <= 0.04045, images / 12.92, ((images + 0.055) / 1.055) ** 2.4)
    rgb_to_xyz = torch.tensor(XYZ_TO_RGB, dtype=torch.float64).inverse()
    white = torch.tensor(WHITE, dtype=torch.float64)
    xyz = F.conv2d(light, (rgb_to_xyz / white[:, None])[:, :, None, None])
    of_xyz = torch.where(xyz > KNEE, xyz.clamp_min(KNEE) ** (1 / 3), SLOPE * xyz + OFFSET)
    x, y, z = of_xyz.unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)
