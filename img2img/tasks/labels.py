"""Label maps to photographs, and photographs to label maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import Tensor, nn

from img2img.picture import Pixels, to_depth, to_display
from img2img.tasks.base import Interpolation, to_image, to_tensor
from img2img.tasks.classes import explain_misfit, from_probabilities, to_classes, to_one_hot
from img2img.tasks.graphs import ClassSource, ClassTarget, SignedSource, SignedTarget
from img2img.tasks.palettes import find_palette


class Labels:
    """Label map to photograph: the source is a map whose colours stand for classes.

    Label maps are resized to the nearest pixel, because a mixture of two colours may be a third
    class. Source: arXiv 1611.07004, section 6.2 (facades, Cityscapes), where they are fed as RGB.

    Args:
        palette: the classes' colours, as the name of a palette that ships (`facades`, `cityscapes`)
            or as [r, g, b] each. Every pixel then takes the colour of its class, which repairs maps
            that were saved as JPEG. Empty leaves the colours as they are.
        encoding: `rgb` feeds the colours, as the paper does; `onehot` a channel for each class of
            the palette, so that no class is nearer to another than to a third.
    """

    target_channels = 3
    source_interpolation: Interpolation = "nearest"
    target_interpolation: Interpolation = "smooth"
    plainer = "source"

    def __init__(
        self,
        *,
        palette: str | Sequence[Sequence[int]] = "",
        encoding: Literal["rgb", "onehot"] = "rgb",
    ) -> None:
        # Not `palette`, which would say that the targets are classes.
        self.colours = find_palette(palette) if len(palette) else None
        if encoding == "onehot" and self.colours is None:
            raise ValueError("encoding = 'onehot' needs a palette, such as palette = 'facades'")
        self.encoding = encoding
        self.source_channels = 3
        if encoding == "onehot" and self.colours is not None:
            self.source_channels = len(self.colours)

    def encode_source(self, image: Pixels) -> Tensor:
        if self.colours is None:
            return to_tensor(image)
        classes = to_classes(to_depth(image, np.uint8), self.colours)
        if self.encoding == "onehot":
            return to_one_hot(classes, len(self.colours))
        return to_tensor(self.colours[classes])

    def encode_target(self, image: Pixels) -> Tensor:
        return to_tensor(image)

    def decode_source(self, source: Tensor) -> Pixels:
        if self.encoding == "onehot" and self.colours is not None:
            return from_probabilities(source, self.colours)
        return to_image(source)

    def decode_target(self, target: Tensor, source: Tensor) -> Pixels:
        return to_image(target)

    def source_graph(self) -> nn.Module:
        """`encode_source` as a module, for `img2img export`."""
        if self.colours is None:
            return SignedSource()
        return ClassSource(self.colours, one_hot=self.encoding == "onehot")

    def target_graph(self) -> nn.Module:
        """`decode_target` as a module, for `img2img export`."""
        return SignedTarget()

    def misfit(self, source: Pixels, target: Pixels) -> str | None:
        """Why a pair's source is no label map in the palette's colours, or None."""
        if self.colours is None:
            return None
        return explain_misfit(to_display(source), to_display(target), self.colours, "source")


class PhotoToLabels:
    """Photograph to label map: the output is a probability for each class of a palette.

    Shown and written as the likeliest class, in the palette's colours. Wants a loss for classes
    such as `cross_entropy`. Departure from arXiv 1611.07004, section 4.6, which paints label maps
    in RGB: for that, use `paired`.

    Args:
        palette: the classes' colours, as the name of a palette that ships (`facades`, `cityscapes`)
            or as [r, g, b] each. Target pixels belong to the class of the nearest colour, so maps
            that were saved as JPEG will do.
    """

    source_channels = 3
    source_interpolation: Interpolation = "smooth"
    target_interpolation: Interpolation = "nearest"

    def __init__(self, *, palette: str | Sequence[Sequence[int]] = "facades") -> None:
        self.palette = find_palette(palette)
        self.target_channels = len(self.palette)

    def encode_source(self, image: Pixels) -> Tensor:
        return to_tensor(image)

    def encode_target(self, image: Pixels) -> Tensor:
        classes = to_classes(to_depth(image, np.uint8), self.palette)
        return to_one_hot(classes, len(self.palette))

    def decode_source(self, source: Tensor) -> Pixels:
        return to_image(source)

    def decode_target(self, target: Tensor, source: Tensor) -> Pixels:
        return from_probabilities(target, self.palette)

    def source_graph(self) -> nn.Module:
        """`encode_source` as a module, for `img2img export`."""
        return SignedSource()

    def target_graph(self) -> nn.Module:
        """`decode_target` as a module, for `img2img export`."""
        return ClassTarget(self.palette)

    def misfit(self, source: Pixels, target: Pixels) -> str | None:
        """Why a pair's target is no label map in the palette's colours, or None."""
        return explain_misfit(to_display(target), to_display(source), self.palette, "target")
