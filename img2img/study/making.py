"""From real and generated images to everything that the page of a study holds."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from img2img.data.images import resize_image
from img2img.errors import ImageError
from img2img.picture import to_depth
from img2img.study.images import Images, Shown
from img2img.study.pairing import Trial, plan_trials
from img2img.study.sealing import seal
from img2img.tasks.base import Interpolation

FORMAT = "img2img-study"
VERSION = 1


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


def make_study(
    real: Images,
    fake: Images,
    indices: list[int],
    settings: Settings,
    about: dict[str, Any],
    how: Interpolation = "smooth",
    on_image: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Everything that the page of a study holds, as JSON has it.

    Pairs that cannot be read are named in a RuntimeWarning, and others take their place.

    Args:
        real: the real image of a pair.
        fake: the generated one.
        indices: of those that may be used.
        settings: what the study is like.
        about: what is said of the model, for the score.
        how: images are resized; `nearest` where colours stand for classes.
        on_image: called after each image.

    Raises:
        RequestError: there are fewer usable pairs than trials.
    """
    made: dict[tuple[bool, int], bytes] = {}

    def image(is_real: bool, index: int) -> bytes:
        if (is_real, index) not in made:
            shown = (real if is_real else fake)(index)
            made[is_real, index] = as_webp(_fit(shown, settings.size, how))
            on_image()
        return made[is_real, index]

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
            for is_real, index in ((True, trial.real), (False, trial.fake)):
                try:
                    image(is_real, index)
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


def _fit(image: Shown, size: int, how: Interpolation) -> Shown:
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
