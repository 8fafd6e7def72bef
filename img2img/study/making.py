"""From a model, or a folder of finished outputs, and its data to the images of a study."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from img2img.data.images import find_images, resize_image
from img2img.data.reading import read_image
from img2img.data.source import PairSource
from img2img.errors import ImageError, RequestError
from img2img.inference import Translator
from img2img.names import printable
from img2img.picture import Picture, Pixels, UnusableError, fit_picture, to_depth, to_display
from img2img.study.pairing import Trial, plan_trials
from img2img.study.sealing import seal
from img2img.tasks.base import Task, image_channels_of

FORMAT = "img2img-study"
VERSION = 1
Shown = NDArray[np.uint8]
Fake = Callable[[int], Shown]
"""The generated image (H, W, 3) for a pair; raises ImageError where there is none."""


@dataclass(frozen=True)
class Settings:
    """What a study is like; the defaults are the paper's.

    Attributes:
        trials: that count.
        practice: before these, with feedback.
        seconds: for which each image is shown.
        seed: of pairs, order and sides.
        size: pixels that the longer side of each image is resized to.
        same_input: whether real and generated image of a trial come from the same pair.
    """

    trials: int = 40
    practice: int = 10
    seconds: float = 1.0
    seed: int = 0
    size: int = 256
    same_input: bool = False


class Inputs:
    """Pairs as a task sees them.

    Args:
        pairs: a split of the data.
        task: of the model.
        swap: the second image of a pair is the source.
    """

    def __init__(self, pairs: PairSource, task: Task, *, swap: bool) -> None:
        self.pairs, self.task = pairs, task
        self._swap = swap
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
        """The target (H, W, 3) as the task would draw it, had the model made it.

        What the form alone shows, such as flat colours of classes, is so in both images of a trial.

        Raises:
            ImageError: it cannot be read.
        """
        source, target = self.pair(index)
        drawn = self.task.decode_target(
            self.task.encode_target(target), self.task.encode_source(source)
        )
        return to_display(to_depth(drawn, np.uint8))


def fakes_of_model(translator: Translator, inputs: Inputs) -> Fake:
    """What a model makes of the sources, at their own size."""

    def fake(index: int) -> Shown:
        source, _ = inputs.pair(index)
        return to_display(translator.translate_pictures([Picture(source)])[0].pixels)

    return fake


def fakes_in_folder(folder: Path, pairs: PairSource) -> tuple[Fake, list[int]]:
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


def make_study(
    inputs: Inputs,
    fake: Fake,
    indices: list[int],
    settings: Settings,
    about: dict[str, Any],
    on_image: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Everything that the page of a study holds, as JSON has it.

    Pairs that cannot be read are named in a RuntimeWarning, and others take their place.

    Args:
        inputs: the pairs.
        fake: the generated image for one.
        indices: of those that may be used.
        settings: what the study is like.
        about: what is said of the model, for the score.
        on_image: called after each image.

    Raises:
        RequestError: there are fewer usable pairs than trials.
    """
    how = inputs.task.target_interpolation
    made: dict[tuple[bool, int], bytes] = {}

    def image(real: bool, index: int) -> bytes:
        if (real, index) not in made:
            shown = inputs.real(index) if real else fake(index)
            made[real, index] = as_webp(_fit(shown, settings.size, how))
            on_image()
        return made[real, index]

    usable = list(indices)
    while True:
        plan = plan_trials(
            usable,
            settings.trials,
            settings.practice,
            seed=settings.seed,
            same_input=settings.same_input,
        )
        broken: dict[int, str] = {}
        for trial in plan:
            for real, index in ((True, trial.real), (False, trial.fake)):
                try:
                    image(real, index)
                except ImageError as error:
                    broken[index] = str(error)
        if not broken:
            break
        for reason in broken.values():
            warnings.warn(f"left out: {reason}", RuntimeWarning, stacklevel=2)
        usable = [index for index in usable if index not in broken]
    return _assembled(plan, image, settings, about)


def _assembled(
    plan: list[Trial],
    image: Callable[[bool, int], bytes],
    settings: Settings,
    about: dict[str, Any],
) -> dict[str, Any]:
    shown: list[tuple[bytes, bytes]] = []
    for trial in plan:
        both = image(True, trial.real), image(False, trial.fake)
        shown.append(both[::-1] if trial.fake_at == 0 else both)
    # Neither the order nor the number of an image tells what it is.
    places = list(range(2 * len(plan)))
    random.Random(f"img2img study places {settings.seed}").shuffle(places)
    images = [b""] * len(places)
    trials = []
    for number, both in enumerate(shown):
        pair = places[2 * number : 2 * number + 2]
        for place, encoded in zip(pair, both, strict=True):
            images[place] = encoded
        trials.append(pair)
    of_study: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "trials": settings.trials,
        "practice": settings.practice,
        "seconds": settings.seconds,
        "seed": settings.seed,
        "size": settings.size,
        "inputs": "same" if settings.same_input else "different",
        "about": about,
    }
    sides = [trial.fake_at for trial in plan]
    told = json.dumps([of_study, trials, sides], sort_keys=True).encode()
    digest = hashlib.sha256(told)
    for encoded in images:
        digest.update(hashlib.sha256(encoded).digest())
    study = digest.hexdigest()[:16]
    count = settings.practice
    return {
        **of_study,
        "id": study,
        "practice_key": seal(sides[:count], study, "practice"),
        "key": seal(sides[count:], study, "trials"),
        "order": trials,
        "images": [base64.b64encode(encoded).decode("ascii") for encoded in images],
    }


def _fit(image: Shown, size: int, how: Any) -> Shown:
    """An image at the size of the study, its longer side `size` pixels."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    wanted = max(1, round(width * scale)), max(1, round(height * scale))
    if wanted == (width, height):
        return image
    fitted: Shown = to_depth(resize_image(image, wanted, how), np.uint8)
    return fitted


def as_webp(image: Shown) -> bytes:
    """(H, W, 3) uint8 without loss; real and generated images are written alike."""
    PillowImage.fromarray(image).save(data := io.BytesIO(), "WEBP", lossless=True, method=4)
    return data.getvalue()
