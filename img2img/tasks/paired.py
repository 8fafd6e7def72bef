"""Image to image, of any channels."""

from __future__ import annotations

from torch import Tensor, nn

from img2img.picture import Pixels, fit_channels
from img2img.tasks.base import Interpolation, to_image, to_tensor
from img2img.tasks.graphs import SignedSource, SignedTarget


class Paired:
    """Any image to any other, in as many channels as they have, scaled to [-1, 1].

    Args:
        source_channels: 3 for RGB, 1 for grey, 4 for RGB with alpha, 2 for grey with alpha; or any
            other count, for TIFF and `.npy` files that have it.
        target_channels: the same for the target.
    """

    source_interpolation: Interpolation = "smooth"
    target_interpolation: Interpolation = "smooth"

    def __init__(self, *, source_channels: int = 3, target_channels: int = 3) -> None:
        if min(source_channels, target_channels) < 1:
            raise ValueError(
                f"images have at least 1 channel, not {min(source_channels, target_channels)}"
            )
        self.source_channels = source_channels
        self.target_channels = target_channels
        self.image_channels = (source_channels, target_channels)

    def encode_source(self, image: Pixels) -> Tensor:
        return to_tensor(fit_channels(image, self.source_channels))

    def encode_target(self, image: Pixels) -> Tensor:
        return to_tensor(fit_channels(image, self.target_channels))

    def decode_source(self, source: Tensor) -> Pixels:
        return to_image(source)

    def decode_target(self, target: Tensor, source: Tensor) -> Pixels:
        return to_image(target)

    def source_graph(self) -> nn.Module:
        """`encode_source` as a module, for `img2img export`."""
        return SignedSource()

    def target_graph(self) -> nn.Module:
        """`decode_target` as a module, for `img2img export`."""
        return SignedTarget()


class Maps(Paired):
    """Street maps and aerial photographs, either way: both in RGB (arXiv 1611.07004, section 6.2).

    Neither has an up, so a recipe may add `data.rotate = true` to the paper's mirroring.
    """

    def __init__(self) -> None:
        super().__init__()
