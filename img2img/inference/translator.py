"""A trained generator as something to call."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torch import Tensor, nn

from img2img.data.images import Image, resize_image, to_indexed, to_rgb
from img2img.inference.policy import Policy, apply_policy
from img2img.tasks.base import Task

AnyImage = TypeVar("AnyImage", PillowImage.Image, NDArray[np.uint8], Tensor)


class Translator:
    """Translates images with a trained generator; the same image gives the same result each time.

    Args:
        network: source to output, (B, C, H, W); it is changed to its test-time form in place.
        task: turns images into tensors and back.
        policy: normalisation and dropout at test time.
        device: where the network lies.
        seed: of the dropout noise, where the policy keeps it on.

    Attributes:
        module: the network, (B, C, H, W) float32 in [-1, 1].
        task: as given.
        palette: colours (N, 3) of the classes that outputs are, or None where they are images.
        size_multiple: pixels that the network's height and width must be a multiple of.
        size_least: pixels that both must have at least.
    """

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        policy: Policy,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        self._noise = apply_policy(network, policy)
        self.module = network.requires_grad_(False)
        self.task = task
        self.palette: Image | None = getattr(task, "palette", None)
        self.device = torch.device(device)
        self.seed = seed
        self.scale = policy.scale
        self.size_multiple = int(getattr(network, "size_multiple", 1))
        self.size_least = int(getattr(network, "size_least", 1))

    def __call__(self, image: AnyImage) -> AnyImage:
        """Translate one image: what goes in is what comes out.

        Where outputs are classes, a PIL image comes back as one of mode P whose values are the
        classes, an array as their colours, and a tensor as probabilities (N, H, W).

        Args:
            image: a PIL image of any 8-bit mode; an array (H, W, 3) or (H, W) of uint8; or a tensor
                of encoded sources, (C, H, W) or (B, C, H, W) float32 in [-1, 1].

        Raises:
            TypeError: it is none of these.
            ValueError: an array or tensor of another shape.
        """
        if isinstance(image, PillowImage.Image):
            result = self.translate_images([to_rgb(image)])[0]
            if self.palette is not None:
                return to_indexed(result, self.palette)
            return PillowImage.fromarray(result)
        if isinstance(image, Tensor):
            if image.ndim not in (3, 4) or image.shape[-3] != self.task.source_channels:
                raise ValueError(
                    f"expected a tensor ({self.task.source_channels}, H, W) or with a batch before "
                    f"it, not {tuple(image.shape)}"
                )
            batch = image if image.ndim == 4 else image[None]
            output = self.translate(batch).to(image.device)
            return output if image.ndim == 4 else output[0]
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim not in (2, 3):
                raise ValueError(
                    f"expected an array (H, W, 3) of uint8, not {image.shape} of {image.dtype}"
                )
            height, width = image.shape[:2]
            channels = 1 if image.ndim == 2 else image.shape[2]
            if channels not in (1, 3):
                raise ValueError(f"expected 1 or 3 channels last, not {image.shape}")
            deep = image.reshape(height, width, channels)
            rgb = np.ascontiguousarray(np.broadcast_to(deep, (height, width, 3)))
            return self.translate_images([rgb])[0]
        raise TypeError(f"expected a PIL image, an array or a tensor, not {type(image).__name__}")

    def translate_images(self, images: Sequence[Image]) -> list[Image]:
        """Translate (H, W, 3) uint8 images of one size together; the sizes come back unchanged.

        The network sees them at the scale it was trained at; what it gives is resized back.
        """
        height, width = images[0].shape[:2]
        seen = (round(width * self.scale[0]) or 1, round(height * self.scale[1]) or 1)
        sources = torch.stack([self.task.encode_source(image) for image in images])
        if seen == (width, height):
            outputs = self.translate(sources).cpu()
        else:
            how = self.task.source_interpolation
            small = [self.task.encode_source(resize_image(image, seen, how)) for image in images]
            outputs = self.translate(torch.stack(small)).cpu()
            nearest = self.task.target_interpolation == "nearest"
            mode = "nearest-exact" if nearest else "bicubic"
            if self.palette is not None:
                # Classes cannot be mixed, but their probabilities can; cubic would leave [0, 1].
                mode = "bilinear"
            outputs = torch.nn.functional.interpolate(
                outputs, (height, width), mode=mode, antialias=mode != "nearest-exact"
            )
        return [self.task.decode_target(o, s) for o, s in zip(outputs, sources, strict=True)]

    @torch.inference_mode()
    def translate(self, sources: Tensor) -> Tensor:
        """Encoded sources (B, C, H, W) to outputs (B, C', H, W) float32, of any height and width.

        They are taken as the network should see them; no scale is applied.
        Sizes the network does not take are padded by reflection, and the output is cropped back.
        """
        height, width = sources.shape[-2:]
        self._noise.seeds = [self._seed_of(source) for source in sources]
        padded = reflect_to_multiple(sources, self.size_multiple, self.size_least)
        output: Tensor = self.module(padded.to(self.device, torch.float32))
        self._noise.seeds = ()
        return output.float()[..., :height, :width]

    def _seed_of(self, source: Tensor) -> int:
        # The noise belongs to the image, not to its place in a folder.
        content = np.ascontiguousarray(source.float().cpu().numpy()).tobytes()
        return (zlib.crc32(content) << 31) ^ self.seed


def reflect_to_multiple(images: Tensor, multiple: int, least: int = 1) -> Tensor:
    """Extend (B, C, H, W) right and below by reflection until both sides are a multiple."""
    for axis in (-2, -1):
        size = images.shape[axis]
        wanted = -(-max(size, least) // multiple) * multiple
        if wanted != size:
            # Reflects as often as it takes: torch's own padding stops at the image's size.
            period = max(1, 2 * (size - 1))
            at = torch.arange(wanted, device=images.device) % period
            images = images.index_select(axis, torch.where(at < size, at, period - at))
    return images
