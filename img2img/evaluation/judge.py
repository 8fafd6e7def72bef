"""A model that tells classes from photographs, as the judge of photographs that another made."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from img2img.data.loading import PairDataset
from img2img.errors import DataError, ImageError, RequestError
from img2img.inference import Translator
from img2img.picture import Picture, Pixels, to_display
from img2img.tasks.classes import (
    Image,
    fits_palette,
    main_colours,
    matching_palette,
    to_classes,
)

# Pairs whose label maps are looked at before anything is judged.
LOOKED_AT = 8


class Judge:
    """A segmenter that looks at outputs: good photographs show it the classes they were made from.

    Source: the FCN-score of arXiv 1611.07004, section 3.4, whose judge is an FCN-8s for Cityscapes;
    here it is any model of this program whose outputs are classes.

    Args:
        translator: that model.
        name: what to call it in messages.

    Attributes:
        palette: colours (N, 3) uint8 of its classes.

    Raises:
        RequestError: its outputs are no classes.
    """

    def __init__(self, translator: Translator, name: str = "the judge") -> None:
        if translator.palette is None:
            raise RequestError(
                f"{name} is no judge: its outputs are images, and a judge's are classes; train one "
                f"with the task 'photo2labels', as the recipe facades-segmenter does"
            )
        if translator.image_channels[0] != 3:
            raise RequestError(
                f"{name} is no judge of photographs: it takes images of "
                f"{translator.image_channels[0]} channels, and they are in RGB"
            )
        self.palette = translator.palette
        self.name = name
        self._translator = translator

    def classes(self, images: Tensor, scale: Sequence[float] = (1.0, 1.0)) -> Tensor:
        """The class of each pixel, (B, H, W) int64 on the CPU.

        The judge looks at images at the scale that it was trained at, and its probabilities are
        resized to theirs.

        Args:
            images: (B, 3, H, W) in [0, 1], 8-bit.
            scale: factors on width and height by which the files were resized to these images.
        """
        seer = copy.copy(self._translator)
        # Its own factors are those for files as they are.
        seer.scale = tuple(own / done for own, done in zip(seer.scale, scale, strict=True))
        levels = (images.detach().cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        pictures = [Picture(np.ascontiguousarray(image)) for image in levels.numpy()]
        made = seer.translate_pictures(pictures)
        # Exact colours of the palette, whose index is the class.
        return torch.stack([self.truth(picture.pixels) for picture in made])

    def truth(self, label_map: Pixels) -> Tensor:
        """The judge's classes that a label map (H, W, 3) stands for, (H, W) int64."""
        return torch.from_numpy(to_classes(to_display(label_map), self.palette).astype(np.int64))

    def check(self, dataset: PairDataset, indices: Sequence[int]) -> None:
        """Look at some of the pairs for what would make a score meaningless.

        Raises:
            DataError: most of the sources looked at are no label maps in the judge's colours, or
                targets are no photographs.
        """
        task = dataset.task
        colours = getattr(task, "colours", None)
        if colours is not None and (extra := _rows(colours) - _rows(self.palette)):
            raise DataError(
                f"{self.name} cannot judge these pairs: it knows no class of the colour "
                f"{list(min(extra))}, which task.palette has; take a judge that was trained on the "
                f"same palette"
            )
        step = max(1, len(indices) // LOOKED_AT)
        wrong, looked = [], 0
        for index in indices[::step]:
            try:
                source, target = dataset.tensors(index)
            except ImageError:
                continue
            looked += 1
            labels, photo = task.decode_source(source), task.decode_target(target, source)
            if photo.shape[2] not in (1, 3):
                raise DataError(
                    f"{self.name} judges photographs, and {dataset.pairs.name(index)} has targets "
                    f"of {photo.shape[2]} channels"
                )
            other = "AtoB" if dataset.swap else "BtoA"
            reason = self._misfit(to_display(labels), to_display(photo), other)
            if reason is not None:
                wrong.append((dataset.pairs.name(index), reason))
        if 2 * len(wrong) > looked:
            name, reason = wrong[0]
            raise DataError(
                f"{self.name} cannot judge these pairs: in {len(wrong)} of {looked} looked at, the "
                f"source is no label map in the colours of its classes; {name}: {reason}"
            )

    def _misfit(self, labels: Image, photo: Image, other: str) -> str | None:
        """Why a source is no label map in the judge's colours, and what to do; None if it is."""
        if fits_palette(labels, self.palette):
            return None
        if fits_palette(photo, self.palette):
            return f"its target is one: set the other direction, --direction {other}"
        shipped = matching_palette(labels)
        if shipped is not None:
            return f"it is one in those of {shipped!r}, so take a judge that was trained on these"
        colours = ", ".join(str(colour) for colour in main_colours(labels))
        return (
            f"its main colours are {colours}; take a judge that was trained on label maps in them"
        )


def _rows(palette: NDArray[np.uint8]) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in palette.tolist()}
