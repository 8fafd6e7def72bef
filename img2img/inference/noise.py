"""Dropout whose noise belongs to an image: to its content, a seed, and the place in it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from img2img.inference.moment import Moment

# Multipliers and shifts of the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
GOLDEN = 0x9E3779B97F4A7C15
# Features may be as large as 2^20 by 2^20.
SIDE_BITS = 20


class SeededDropout(nn.Module):
    """Dropout that drops the same things again: whatever the batch, the device or the tile.

    Each value is dropped by a hash of the image's seed, the layer, and its place in the image's
    features. Shape: (B, C, H, W), the same out; other shapes with the batch first are one row.

    Args:
        rate: the share that is dropped.
        layer: which of the network's dropouts this is.
        moment: tells the seeds, and where in the image a tile lies.
        channels: whole channels are dropped, as `nn.Dropout2d` does.
    """

    def __init__(self, rate: float, layer: int, moment: Moment, *, channels: bool) -> None:
        super().__init__()
        self.rate, self.layer, self.moment, self.channels = rate, layer, moment, channels

    def forward(self, features: Tensor) -> Tensor:
        if self.rate <= 0:
            return features
        if self.rate >= 1:
            return torch.zeros_like(features)
        places = self._places(features)
        starts = self._starts(len(features)).to(features.device)
        noise = mix_tensor(places + starts.view(-1, *(1 for _ in places.shape[1:])))
        # 24 bits are what float32 holds, and more than a rate needs.
        level = (noise >> 40) & 0xFFFFFF
        keep = (level >= round(self.rate * 2**24)).to(features.dtype)
        return features * keep / (1 - self.rate)

    def _starts(self, count: int) -> Tensor:
        """A number for each of the batch: of its image, and of its part of it.

        Some networks fold windows of their images into the batch, image after image.
        """
        seeds = self.moment.seeds or [0] * count
        parts, rest = divmod(count, len(seeds))
        if rest:
            raise ValueError(
                f"dropout meets a batch of {count} for {len(seeds)} images, and noise needs as "
                f"many parts of each"
            )
        keys = [mix(seed ^ (GOLDEN * (self.layer + 1))) for seed in seeds]
        return torch.tensor([_signed(mix(key + part)) for key in keys for part in range(parts)])

    def _places(self, features: Tensor) -> Tensor:
        """A number for each value's place, the same in whichever tile it is, (B or 1, C, ...)."""
        device = features.device
        if features.ndim != 4:
            return torch.arange(features[0].numel(), device=device).view(1, *features.shape[1:])
        channels, height, width = features.shape[1:]
        channel = torch.arange(channels, device=device).view(1, -1, 1, 1) << 2 * SIDE_BITS
        if self.channels:
            return channel
        rows = torch.arange(height, device=device).view(1, 1, -1, 1)
        columns = torch.arange(width, device=device).view(1, 1, 1, -1)
        if len(self.moment.offsets) == len(features):
            # Tiles begin where the network's strides do, so these divisions leave nothing over.
            tall, wide = self.moment.size
            at = torch.tensor(self.moment.offsets, device=device)
            rows = rows + (at[:, 0] * height // tall).view(-1, 1, 1, 1)
            columns = columns + (at[:, 1] * width // wide).view(-1, 1, 1, 1)
        return channel + (rows << SIDE_BITS) + columns


def seed_of(checksum: int, seed: int, sample: int) -> int:
    """The seed of one sample of one image's noise."""
    return mix(checksum ^ mix(seed ^ mix(sample)))


def mix(value: int) -> int:
    """SplitMix64's finaliser: an unsigned 64-bit number to one that looks unrelated."""
    value &= 2**64 - 1
    value = (value ^ (value >> 30)) * FIRST & (2**64 - 1)
    value = (value ^ (value >> 27)) * SECOND & (2**64 - 1)
    return value ^ (value >> 31)


def mix_tensor(values: Tensor) -> Tensor:
    """`mix` of int64, which torch multiplies modulo 2^64 on every device."""
    values = (values ^ _shifted(values, 30)) * _signed(FIRST)
    values = (values ^ _shifted(values, 27)) * _signed(SECOND)
    mixed: Tensor = values ^ _shifted(values, 31)
    return mixed


def _shifted(values: Tensor, bits: int) -> Tensor:
    # torch's shift repeats the sign; the bits that it brings in are cleared.
    shifted: Tensor = (values >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
