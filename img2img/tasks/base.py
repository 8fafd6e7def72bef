"""What a task is, and the conversions that several share."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Image = NDArray[np.uint8]
Interpolation = Literal["smooth", "nearest"]


class Task(Protocol):
    """Turns images into tensors and back. Images are (H, W, 3) uint8 sRGB, tensors (C, H, W).

    Attributes:
        source_channels: C of an encoded source.
        target_channels: C of an encoded target.
        source_interpolation: how sources are resized; `nearest` where colours stand for classes.
        target_interpolation: the same for targets.

    A task whose targets are classes also has `palette`, their colours (N, 3) uint8: its targets are
    one-hot, (N, H, W) in [0, 1], and outputs are class probabilities. A task may have
    `misfit(source, target)`, both images, which says in a sentence why a pair cannot be of its
    kind, or gives None; a run and `img2img check` ask it about some pairs before they begin.
    """

    source_channels: int
    target_channels: int
    source_interpolation: Interpolation
    target_interpolation: Interpolation

    def encode_source(self, image: Image) -> Tensor:
        """The network's input, (source_channels, H, W) float32 in [-1, 1]."""

    def encode_target(self, image: Image) -> Tensor:
        """What the network should give, (target_channels, H, W) float32 in [-1, 1]."""

    def decode_source(self, source: Tensor) -> Image:
        """A source as people should see it."""

    def decode_target(self, target: Tensor, source: Tensor) -> Image:
        """A target or an output as an image; the source is there for tasks that need it."""


def to_tensor(image: NDArray[Any]) -> Tensor:
    """(H, W, C) or (H, W) uint8 to (C, H, W) float32 in [-1, 1]."""
    array = image[..., None] if image.ndim == 2 else image
    # A copy: Pillow's arrays may be read-only, which torch warns of.
    tensor = torch.from_numpy(np.array(array.transpose(2, 0, 1), order="C"))
    # x / 127.5 - 1, the scaling of the reference trace, to the last bit.
    return tensor.to(torch.float32).div_(127.5).sub_(1.0)


def to_image(tensor: Tensor) -> Image:
    """(C, H, W) in [-1, 1], one or three channels, to (H, W, 3) uint8; others are clipped."""
    scaled = tensor.detach().float().add(1.0).mul(127.5).round().clamp(0, 255)
    array = scaled.to(torch.uint8).cpu().numpy().transpose(1, 2, 0)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def to_grey(image: Image) -> Image:
    """(H, W, 3) sRGB to (H, W) luma (ITU-R BT.601, as JPEG and Pillow have it)."""
    weights = np.array([0.299, 0.587, 0.114])
    grey: Image = np.rint(image @ weights).astype(np.uint8)
    return grey
