"""Jitter, crop, mirror and colour changes: the one module that knows albumentations."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Before the import, which would otherwise ask the network for a newer version.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np

from img2img.picture import Pixels
from img2img.tasks.base import Interpolation


@dataclass(frozen=True)
class ColorChange:
    """How far colours of the source may move: each factor is drawn from [1 - x, 1 + x]."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __bool__(self) -> bool:
        return any((self.brightness, self.contrast, self.saturation, self.hue))


class Augmentation:
    """Resize, crop, mirror and turn both images of a pair alike; change the source's colours alone.

    Shape: (H, W, C) and (H, W, C') of uint8 or float32 in [0, 1] -> the same with H and W of
    crop_size. A pure function of the pair and the seed, so that a resumed run sees what an
    uninterrupted one would. Source: arXiv 1611.07004, section 6.2 (resize to 286, crop to 256,
    mirror).

    Args:
        load_size: both sides after resizing, in pixels; None keeps images as they are, and extends
            those that are smaller than a crop by reflection.
        crop_size: both sides of the crop, in pixels.
        center: crop the middle, not a random place.
        mirror: flip left and right half of the time.
        rotate: turn by a random number of quarters, for images that have no up.
        color: changes for the source alone, which must be in 1 or 3 channels then.
        source_interpolation: `nearest` for label maps.
        target_interpolation: the same for the target.
        derive: makes the source, as cropped, from the target and the seed; what is called with as
            the source is not looked at then.
    """

    def __init__(
        self,
        load_size: int | None,
        crop_size: int,
        *,
        center: bool = False,
        mirror: bool = False,
        rotate: bool = False,
        color: ColorChange | None = None,
        source_interpolation: Interpolation = "smooth",
        target_interpolation: Interpolation = "smooth",
        derive: Callable[[Pixels, int], Pixels] | None = None,
    ) -> None:
        # The smooth one is what albumentations calls the image; another kind goes as its mask,
        # which is resized to the nearest pixel.
        self._source_leads = source_interpolation == "smooth"
        alike = source_interpolation == target_interpolation
        nearest = alike and source_interpolation == "nearest"
        steps: list[Any] = []
        if load_size is None:
            steps.append(A.PadIfNeeded(crop_size, crop_size, border_mode=cv2.BORDER_REFLECT_101))
        else:
            steps.append(
                A.Resize(
                    load_size,
                    load_size,
                    interpolation=cv2.INTER_NEAREST_EXACT if nearest else cv2.INTER_CUBIC,
                    mask_interpolation=cv2.INTER_NEAREST_EXACT,
                    # Cubic would skip pixels when shrinking; the mean over an area does not.
                    area_for_downscale=None if nearest else "image",
                )
            )
        if load_size is None or crop_size < load_size:
            crop = A.CenterCrop if center else A.RandomCrop
            steps.append(crop(crop_size, crop_size))
        if mirror:
            steps.append(A.HorizontalFlip(p=0.5))
        if rotate:
            steps.append(A.RandomRotate90(p=1.0))
        self._geometry = A.Compose(
            steps, additional_targets={"other": "image" if alike else "mask"}, seed=0
        )
        self._derive = derive
        self._color = None
        if color:
            self._color = A.Compose(
                [
                    A.ColorJitter(
                        brightness=_around_one(color.brightness),
                        contrast=_around_one(color.contrast),
                        saturation=_around_one(color.saturation),
                        hue=(-color.hue, color.hue),
                        p=1.0,
                    )
                ],
                seed=0,
            )

    def __call__(self, source: Pixels, target: Pixels, seed: int) -> tuple[Pixels, Pixels]:
        self._geometry.set_random_seed(seed)
        if self._source_leads:
            both = self._geometry(image=source, other=target)
            source, target = both["image"], both["other"]
        else:
            both = self._geometry(image=target, other=source)
            source, target = both["other"], both["image"]
        source, target = _in_range(source), _in_range(target)
        if self._derive is not None:
            source = self._derive(target, seed)
            # OpenCV, which many do it with, drops a last axis of one.
            source = source if source.ndim == 3 else source[..., None]
        if self._color is not None:
            self._color.set_random_seed(seed)
            source = _in_range(self._color(image=source)["image"])
        return source, target


def _in_range(image: Pixels) -> Pixels:
    """Floats clipped to [0, 1], which cubic resizing leaves at edges; integers cannot."""
    return np.clip(image, 0, 1) if image.dtype.kind == "f" else image


def _around_one(amount: float) -> tuple[float, float]:
    return (max(0.0, 1 - amount), 1 + amount)


def use_one_thread() -> None:
    """Keep OpenCV from starting threads: images are small, and loader workers share the cores."""
    cv2.setNumThreads(0)
