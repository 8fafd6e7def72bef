"""What a metric is, and whether what a plugin offers as one keeps to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from img2img.errors import MetricError


class Metric(Protocol):
    """Scores outputs against targets, over a set of pairs; built anew for each set.

    Attributes:
        scores: the name of each score that it computes, and whether more of it is better.
        of: what it is given: `images`, (B, 3, H, W) float32 in [0, 1], sRGB, rounded to 8 bits,
            or `classes`, (B, H, W) int64, the class of each pixel.

    A metric that needs several images says how many with `least`, so that too few are told of
    before any is made; where that depends on its settings, a static method `least_of(settings)`
    says it before it is built. `for_fewer` may name a metric that does with fewer. A metric with
    networks has `to(device)` as modules do, and what it is given is on that device.
    """

    # As properties, because nobody sets them: a dict will do, and one fixed for the class.
    @property
    def scores(self) -> Mapping[str, bool]: ...

    @property
    def of(self) -> Literal["images", "classes"]: ...

    def update(self, output: Tensor, target: Tensor) -> Mapping[str, Tensor]:
        """Take in a batch; gives the scores that single images have, (B,) each, or nothing.

        Raises:
            MetricError: it cannot be computed of these images; says what to do.
        """

    def compute(self) -> Mapping[str, float]:
        """The scores over all that was taken in.

        Raises:
            MetricError: it cannot be computed, such as of too few images; says what to do.
        """


class BrokenMetricError(MetricError):
    """A metric gave something that no metric gives; its author, and not its user, can mend it."""


def undeclared(metric: object) -> str | None:
    """What a plugin's metric fails to say of itself, for people; None if it says what it should."""
    scores = getattr(metric, "scores", None)
    named = isinstance(scores, Mapping) and scores and all(isinstance(name, str) for name in scores)
    if named and getattr(metric, "of", None) in ("images", "classes"):
        return None
    return (
        "does not say what it scores: a metric has attributes `scores` and `of`, see "
        "img2img.metrics.Metric"
    )


def scores_of_images(metric: Metric, found: object, count: int) -> list[dict[str, float]]:
    """What `update` gave of `count` images, image by image; NaN says that one has no such score.

    Raises:
        BrokenMetricError: it is not what a metric gives.
    """
    rows: list[dict[str, float]] = [{} for _ in range(count)]
    for score, values in _declared(metric, found, "update").items():
        given = torch.as_tensor(values)
        if given.shape != (count,):
            raise BrokenMetricError(
                f"update gave {score!r} of shape {tuple(given.shape)} for {count} images, which "
                f"should be ({count},)"
            )
        for row, value in zip(rows, map(float, given.tolist()), strict=True):
            if not math.isnan(value):
                row[score] = value
    return rows


def scores_of_set(metric: Metric, found: object) -> dict[str, float]:
    """What `compute` gave, a number for each score.

    Raises:
        BrokenMetricError: it is not what a metric gives, or no finite number.
    """
    given = _declared(metric, found, "compute")
    if missing := metric.scores.keys() - given.keys():
        raise BrokenMetricError(
            f"compute gave no {', '.join(sorted(missing))}, which `scores` names"
        )
    scores = {score: float(value) for score, value in given.items()}
    if bad := [score for score, value in scores.items() if not math.isfinite(value)]:
        raise BrokenMetricError(f"{', '.join(bad)} came out as no finite number")
    return scores


def _declared(metric: Metric, found: object, call: str) -> Mapping[str, Any]:
    if not isinstance(found, Mapping):
        raise BrokenMetricError(
            f"{call} gave {type(found).__name__}, which should be a dict of scores"
        )
    if extra := [score for score in found if score not in metric.scores]:
        raise BrokenMetricError(f"{call} gave {extra[0]!r}, which `scores` does not name")
    return found
