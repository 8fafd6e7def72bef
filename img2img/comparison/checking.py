"""Whether the variants of a comparison can be scored, found out before any of them trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from img2img.comparison.pairs import pairs_settings, validation_pairs
from img2img.comparison.variants import Variant
from img2img.data.loading import PairDataset
from img2img.errors import ImageError, Img2ImgError, MetricError, RequestError
from img2img.evaluation.choosing import build_metrics
from img2img.evaluation.evaluating import as_tensor
from img2img.evaluation.judge import Judge
from img2img.metrics import Metric
from img2img.recipe import Recipe
from img2img.registry import Registry


def check_scoring(
    variants: Sequence[Variant],
    registry: Registry,
    metrics: Mapping[str, Mapping[str, Any]],
    judge: Judge | None,
    device: torch.device,
) -> None:
    """Look at the validation pairs of the variants, those of equal data and task once.

    Args:
        variants: recipes.
        registry: where names are looked up.
        metrics: settings of those that were asked for, by name.
        judge: of the outputs.
        device: of the metrics.

    Raises:
        RequestError: a judge of other classes than the data, data that is not there, or a metric
            that cannot be had, needs more pairs, or refuses images of this size; a line each.
    """
    found: dict[tuple[str | None, str], Variant] = {}
    for variant in variants:
        root = variant.recipe.data.root
        found.setdefault((root, pairs_settings(variant.recipe)), variant)
    problems: list[str] = []
    for variant in found.values():
        begin = "" if len(found) == 1 else f"variant {variant.name}: "
        try:
            reasons = _lacking(variant.recipe, registry, metrics, judge, device)
        except Img2ImgError as error:
            reasons = [str(error)]
        problems += [f"{begin}{reason}" for reason in reasons]
    if problems:
        raise RequestError("\n".join(problems))


def _lacking(
    recipe: Recipe,
    registry: Registry,
    settings: Mapping[str, Mapping[str, Any]],
    judge: Judge | None,
    device: torch.device,
) -> list[str]:
    """Why metrics could not be computed over the validation pairs of a recipe.

    Raises:
        RequestError, DataError: a metric or the judge does not suit, or there are no pairs.
    """
    dataset = validation_pairs(recipe, registry)
    task = dataset.task
    own = getattr(task, "palette", None)
    if judge is not None:
        if own is not None:
            raise RequestError(
                f"the outputs of {recipe.task.name!r} are classes, which need no judge: leave "
                "it out"
            )
        judge.check(dataset, range(len(dataset)))
    palette = judge.palette if judge is not None else own
    kinds = {"classes"} if own is not None else {"images"}
    built, failed = build_metrics(
        settings,
        registry,
        kinds if palette is None else {*kinds, "classes"},
        classes=None if palette is None else len(palette),
        asked=settings,
    )
    reasons = [f"{name}: {why}" for name, why in failed.items()]
    for name, metric in built.items():
        least = getattr(metric, "least", 1)
        if len(dataset) < least:
            why = f"it needs {least} validation pairs or more, and there are {len(dataset)}"
            reasons.append(f"{name}: {why}; `img2img show metric {name}` has its settings")
            continue
        fault = _fault(metric, _truth(dataset, metric.of, judge), device)
        if fault is not None:
            reasons.append(f"{name}: {fault}")
    return reasons


def _truth(dataset: PairDataset, of: str, judge: Judge | None) -> Tensor | None:
    """The target of the first pair that can be read, as a metric gets it: an image, or classes."""
    task = dataset.task
    for index in range(len(dataset)):
        try:
            source, target = dataset.tensors(index)
        except ImageError:
            continue
        if of == "images":
            return as_tensor(task.decode_target(target, source))
        return target.argmax(dim=0) if judge is None else judge.truth(task.decode_source(source))
    return None


def _fault(metric: Metric, truth: Tensor | None, device: torch.device) -> str | None:
    """Why a metric refuses a target against itself, such as its size; None if it does not."""
    if truth is None:
        return None
    try:
        if callable(move := getattr(metric, "to", None)):
            move(device)
        one = truth[None].to(device)
        metric.update(one, one)
    except MetricError as error:
        return str(error)
    # What else a plugin raises may be due to images that are equal; scoring will tell.
    except Exception:
        pass
    return None
