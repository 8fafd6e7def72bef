"""Jitter, crop, mirror and colour changes: the one module that knows albumentations."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

import cv2
import numpy as np

from img2img.picture import Pixels
from img2img.tasks.base import Interpolation

# Before the import, which would otherwise ask the network for a newer version.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
# It would import the hub's client, to share pipelines there, which takes longer than all the rest.
_hides_hub = "huggingface_hub" not in sys.modules
if _hides_hub:
    sys.modules["huggingface_hub"] = cast(ModuleType, None)
try:
    import albumentations as A
finally:
    if _hides_hub:
        del sys.modules["huggingface_hub"]


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
        if load_size is None:
            fit = A.PadIfNeeded(crop_size, crop_size, border_mode=cv2.BORDER_REFLECT_101)
        else:
            fit = A.Resize(
                load_size,
                load_size,
                interpolation=cv2.INTER_NEAREST_EXACT if nearest else cv2.INTER_CUBIC,
                mask_interpolation=cv2.INTER_NEAREST_EXACT,
                # Cubic would skip pixels when shrinking; the mean over an area does not.
                area_for_downscale=None if nearest else "image",
            )
        steps: list[Any] = []
        if load_size is None or crop_size < load_size:
            crop = A.CenterCrop if center else A.RandomCrop
            steps.append(crop(crop_size, crop_size))
        if mirror:
            steps.append(A.HorizontalFlip(p=0.5))
        if rotate:
            steps.append(A.RandomRotate90(p=1.0))
        other = {"other": "image" if alike else "mask"}
        # Each step draws from a generator of its own, so that two pipelines give what one would.
        self._fit = A.Compose([fit], additional_targets=other, seed=0)
        self._geometry = A.Compose(steps, additional_targets=other, seed=0) if steps else None
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
        return self.vary(*self.prepare(source, target), seed)

    def prepare(self, source: Pixels, target: Pixels) -> tuple[Pixels, Pixels]:
        """What is the same in each epoch: both at `load_size`, or extended to a crop's size.

        Where the source is derived, both are the target.
        """
        source, target = (_in_range(image) for image in self._apply(self._fit, source, target))
        return (source if self._derive is None else target), target

    def vary(self, source: Pixels, target: Pixels, seed: int) -> tuple[Pixels, Pixels]:
        """The rest, drawn from the seed, for a prepared pair, which it does not write to."""
        if self._geometry is not None:
            self._geometry.set_random_seed(seed)
            source, target = self._apply(self._geometry, source, target)
        source, target = _writeable(source), _writeable(target)
        if self._derive is not None:
            source = self._derive(target, seed)
            # OpenCV, which many do it with, drops a last axis of one.
            source = source if source.ndim == 3 else source[..., None]
        if self._color is not None:
            self._color.set_random_seed(seed)
            source = _in_range(self._color(image=source)["image"])
        return source, target

    def _apply(self, pipeline: Any, source: Pixels, target: Pixels) -> tuple[Pixels, Pixels]:
        if self._source_leads:
            both = pipeline(image=source, other=target)
            return both["image"], both["other"]
        both = pipeline(image=target, other=source)
        return both["other"], both["image"]


def _in_range(image: Pixels) -> Pixels:
    """Floats clipped to [0, 1], which cubic resizing leaves at edges; integers cannot."""
    return np.clip(image, 0, 1) if image.dtype.kind == "f" else image


def _writeable(image: Pixels) -> Pixels:
    """The image, or a copy where it may not be written to: a part of a pair that is kept."""
    return image if image.flags.writeable else image.copy()


def _around_one(amount: float) -> tuple[float, float]:
    return (max(0.0, 1 - amount), 1 + amount)


def use_one_thread() -> None:
    """Keep OpenCV from starting threads: images are small, and loader workers share the cores."""
    cv2.setNumThreads(0)
