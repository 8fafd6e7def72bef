"""What a task is, and the conversions that several share."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from img2img.errors import PluginError
from img2img.picture import Pixels, fit_channels, white_of

Interpolation = Literal["smooth", "nearest"]


class Task(Protocol):
    """Turns images into tensors (C, H, W) and back.

    Images are (H, W, C) of uint8, uint16, or float32 in [0, 1], in sRGB: (H, W, 3), unless the task
    has `image_channels`, how many those of its source and its target have.

    Attributes:
        source_channels: C of an encoded source.
        target_channels: C of an encoded target.
        source_interpolation: how sources are resized; `nearest` where colours stand for classes.
        target_interpolation: the same for targets.

    What it decodes is float32 in [0, 1], which callers turn into the depth that they want, or uint8
    where colours are exact.

    A task whose targets are classes also has `palette`, their colours (N, 3) uint8: its targets are
    one-hot, (N, H, W) in [0, 1], and outputs are class probabilities. A task may have
    `misfit(source, target)`, both images, which says in a sentence why a pair cannot be of its
    kind, or gives None; a run and `img2img check` ask it about some pairs before they begin. For
    `img2img check` it may say with `plainer`, "source" or "target", which image of a pair has fewer
    colours than the other, and with `comparable = False` that the two may be one image, so that
    they are not held against each other.
    For `img2img export` it also has `source_graph()` and `target_graph()`, modules that do what
    `encode_source` and `decode_target` do; see `tasks/graphs.py`.
    """

    source_channels: int
    target_channels: int
    source_interpolation: Interpolation
    target_interpolation: Interpolation

    def encode_source(self, image: Pixels) -> Tensor:
        """The network's input, (source_channels, H, W) float32 in [-1, 1]."""

    def encode_target(self, image: Pixels) -> Tensor:
        """What the network should give, (target_channels, H, W) float32 in [-1, 1]."""

    def decode_source(self, source: Tensor) -> Pixels:
        """A source as an image that people can see."""

    def decode_target(self, target: Tensor, source: Tensor) -> Pixels:
        """A target or an output as an image; the source is there for tasks that need it."""


def image_channels_of(task: Task) -> tuple[int, int]:
    """How many channels the images of a task's source and target have; colour unless it says."""
    first, second = getattr(task, "image_channels", (3, 3))
    return int(first), int(second)


def plainer_of(task: Task) -> int | None:
    """Which image of a pair must have fewer colours: 0 the source, 1 the target, None either.

    Raises:
        PluginError: the task's `plainer` is neither.
    """
    side = getattr(task, "plainer", None)
    if side not in (None, "source", "target"):
        kind = type(task).__name__
        raise PluginError(f"{kind}.plainer is {side!r}; it must be 'source' or 'target'")
    return {"source": 0, "target": 1}.get(str(side))


def is_comparable(task: Task) -> bool:
    """Whether source and target are different images; they are unless the task says otherwise."""
    return bool(getattr(task, "comparable", True))


def to_tensor(image: NDArray[Any]) -> Tensor:
    """(H, W, C) or (H, W) of uint8, uint16 or floats in [0, 1] to (C, H, W) float32 in [-1, 1]."""
    array = image[..., None] if image.ndim == 2 else image
    # Torch knows few operations on 16-bit levels, and float32 holds them exactly.
    array = array if array.dtype == np.uint8 else array.astype(np.float32)
    # A copy: Pillow's arrays may be read-only, which torch warns of.
    tensor = torch.from_numpy(np.array(array.transpose(2, 0, 1), order="C"))
    # x / 127.5 - 1, the scaling of the reference trace, to the last bit.
    return tensor.to(torch.float32).div_(white_of(image.dtype) / 2).sub_(1.0)


def to_image(tensor: Tensor) -> NDArray[np.float32]:
    """(C, H, W) in [-1, 1] to (H, W, C) float32 in [0, 1]; what is outside is clipped."""
    # Halving is exact, so that rounding to 8 bits is that of (x + 1) * 127.5.
    scaled = tensor.detach().float().add(1.0).mul(0.5).clamp(0, 1)
    return np.ascontiguousarray(scaled.cpu().numpy().transpose(1, 2, 0))


def to_grey(image: Pixels) -> Pixels:
    """(H, W, 3) sRGB, or (H, W, 1), to (H, W) luma (ITU-R BT.601, as JPEG and Pillow have it)."""
    return fit_channels(image, 1)[..., 0]
