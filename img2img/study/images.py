"""The images of a study: real ones, and those of a model or of a folder of finished outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from img2img.data.images import find_images, resize_image
from img2img.data.reading import read_image
from img2img.data.source import PairSource
from img2img.errors import ImageError, RequestError
from img2img.inference import Translator
from img2img.inference.resizing import Mode, resize
from img2img.names import printable
from img2img.picture import Picture, Pixels, UnusableError, fit_picture, to_depth, to_display
from img2img.tasks.base import Interpolation, Task, image_channels_of

Shown = NDArray[np.uint8]
Images = Callable[[int], Shown]
"""The image (H, W, 3) of a pair's number; raises ImageError where there is none."""


class Inputs:
    """Pairs as a task sees them.

    Args:
        pairs: a split of the data.
        task: of the model.
        swap: the second image of a pair is the source.
        scale: factors on width and height at which the model sees a source; None where outputs are
            finished.
    """

    def __init__(
        self,
        pairs: PairSource,
        task: Task,
        *,
        swap: bool,
        scale: Sequence[float] | None = None,
    ) -> None:
        self.pairs, self.task = pairs, task
        self._swap, self._scale = swap, scale
        self._derive: Callable[[Pixels, int], Pixels] | None = getattr(pairs, "degrade", None)

    def pair(self, index: int) -> tuple[Pixels, Pixels]:
        """Source and target (H, W, C) with as many channels as the task takes.

        Raises:
            ImageError: they cannot be read, or have other channels.
        """
        first, second = self.pairs.pair(index)
        source, target = (second, first) if self._swap else (first, second)
        if self._derive is not None:
            derived = self._derive(target, index)
            source = derived if derived.ndim == 3 else derived[..., None]
        try:
            fitted = [
                fit_picture(Picture(image), channels).pixels
                for image, channels in zip(
                    (source, target), image_channels_of(self.task), strict=True
                )
            ]
        except UnusableError as error:
            raise ImageError(Path(self.pairs.name(index)), str(error)) from error
        return fitted[0], fitted[1]

    def real(self, index: int) -> Shown:
        """The target (H, W, 3) as it would be drawn, had the model made it of the source.

        It has the form that the task gives to outputs, such as flat colours of classes, the
        source's size, and the detail of the size at which the model works: else these told it
        apart.

        Raises:
            ImageError: it cannot be read.
        """
        source, target = self.pair(index)
        made = self.task.encode_target(target)
        if self._scale is not None:
            full, own = source.shape[:2], target.shape[:2]
            seen = [
                max(1, min(round(side * factor), most))
                for side, factor, most in zip(full, self._scale[::-1], own, strict=True)
            ]
            if seen != list(own):
                how = self.task.target_interpolation
                small = resize_image(target, (seen[1], seen[0]), how)
                made = self.task.encode_target(small)
            made = resize(made[None], (full[0], full[1]), self._mode())[0]
        drawn = self.task.decode_target(made, self.task.encode_source(source))
        return to_display(to_depth(drawn, np.uint8))

    def _mode(self) -> Mode:
        """As a translator brings outputs back to their source's size."""
        if getattr(self.task, "palette", None) is not None:
            return "bilinear"
        return "nearest-exact" if self.task.target_interpolation == "nearest" else "bicubic"


def images_of_model(translator: Translator, inputs: Inputs) -> tuple[Images, Images]:
    """The targets, and what a model makes of the sources."""

    def fake(index: int) -> Shown:
        source, _ = inputs.pair(index)
        return to_display(translator.translate_pictures([Picture(source)])[0].pixels)

    return inputs.real, fake


def fakes_in_folder(folder: Path, pairs: PairSource) -> tuple[Images, list[int]]:
    """Finished outputs, found by the names of the pairs; and the indices of those that have one.

    An output `a/b.png` belongs to the pair whose file's path ends in `a/b`, whatever its suffix.

    Raises:
        RequestError: there are no images, none belongs to a pair, or one to several.
    """
    files = {path.relative_to(folder).with_suffix("").parts: path for path in find_images(folder)}
    if not files:
        raise RequestError(f"{folder}: no images in it, nor a trained model")
    lengths = sorted({len(parts) for parts in files})
    found: dict[int, Path] = {}
    taken: dict[Path, str] = {}
    for index in range(len(pairs)):
        parts = Path(pairs.name(index)).with_suffix("").parts
        for length in lengths:
            path = files.get(parts[-length:])
            if path is None:
                continue
            if path in taken:
                raise RequestError(
                    f"{path} could belong to {taken[path]} and to {pairs.name(index)}: lay the "
                    f"outputs out in folders as the data is"
                )
            found[index], taken[path] = path, pairs.name(index)
            break
    if not found:
        example = printable("/".join(next(iter(files))))
        raise RequestError(
            f"none of the {len(files)} images in {folder} has the name of a pair, such as "
            f"{printable(Path(pairs.name(0)).stem)!r}; theirs are like {example!r}. Outputs are "
            f"found by the names of the files they were made from"
        )
    return lambda index: read_image(found[index]), sorted(found)


def alike(real: Images, fake: Images, how: Interpolation) -> tuple[Images, Images]:
    """Both images of a pair at the smaller of their widths and heights.

    Outputs of another program may have been squared, or be smaller or larger than the real images.
    """

    def at_one_size(index: int, which: int) -> Shown:
        both = real(index), fake(index)
        (height, width), other = both[0].shape[:2], both[1].shape[:2]
        size = min(width, other[1]), min(height, other[0])
        image = both[which]
        if size == (image.shape[1], image.shape[0]):
            return image
        return np.asarray(resize_image(image, size, how), np.uint8)

    return lambda index: at_one_size(index, 0), lambda index: at_one_size(index, 1)
