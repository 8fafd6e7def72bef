"""How near outputs are to their targets, and what trivial answers would score."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from img2img.data.loading import PairDataset
from img2img.errors import ImageError
from img2img.evaluation.evaluating import Evaluation, as_scored, evaluate
from img2img.evaluation.outputs import Outputs
from img2img.inference import Translator
from img2img.metrics import Metric
from img2img.tasks.base import Task

# Enough for a steady number while training; `img2img run` should not wait on its own scores.
MOST_PAIRS = 200


def spread(count: int, most: int) -> list[int]:
    """Up to `most` indices of `count`, evenly spaced and always the same."""
    if count <= most:
        return list(range(count))
    return [i * count // most for i in range(most)]


def validate(
    translator: Translator,
    dataset: PairDataset,
    metrics: Mapping[str, Metric],
    most: int = MOST_PAIRS,
    *,
    seen: Outputs | None = None,
    on_pair: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Scores over validation pairs, evenly chosen; `img2img eval --limit 200` gives the same.

    Args:
        translator: the model.
        dataset: validation pairs.
        metrics: by name, built anew for this call.
        most: how many pairs are scored.
        seen: takes in each pair and its output.
        on_pair: called after each pair.
    """

    def look(index: int, source: Tensor, output: Tensor, target: Tensor) -> None:
        if seen is not None:
            seen.add(translator.task, source, output, target)

    return evaluate(
        translator,
        dataset,
        metrics,
        indices=spread(len(dataset), most),
        on_pair=on_pair,
        on_output=look,
    )


def baselines(
    train: PairDataset,
    validation: PairDataset,
    task: Task,
    most: int = MOST_PAIRS,
    *,
    scored: Collection[str] = ("l1", "accuracy"),
) -> dict[str, float]:
    """Scores of answers that need no model; a model worth having beats them.

    Args:
        train: whose targets some of them are made of.
        validation: pairs.
        task: of both.
        most: how many pairs of each are looked at.
        scored: the scores that the model has; others get no baseline.

    Returns:
        `l1_source`: handing back the source, where it has the target's channels; `l1_mean_target`:
        the mean of the training targets.
        Or, where targets are classes, `accuracy_most_frequent`: the training targets' most frequent
        class everywhere. Both datasets must give images of one size.
    """
    if ("l1" if getattr(task, "palette", None) is None else "accuracy") not in scored:
        return {}
    trained = readable(train, spread(len(train), most))
    held_out = readable(validation, spread(len(validation), most))
    if getattr(task, "palette", None) is not None:
        sums = (target.sum(dim=(1, 2), dtype=torch.float64) for _, target in trained)
        pixels = sum(sums, torch.zeros(()))
        if not pixels.ndim:
            return {}
        frequent = int(pixels.argmax())
        return _means(
            [{"accuracy_most_frequent": float(target[frequent].mean())} for _, target in held_out]
        )
    total: NDArray[np.float64] | None = None
    count = 0
    for source, target in trained:
        image = as_scored(task.decode_target(target, source)).astype(np.float64)
        total = image if total is None else total + image
        count += 1
    if total is None:
        return {}
    mean = total / count
    scores = []
    for source, target in held_out:
        image = as_scored(task.decode_target(target, source)).astype(np.float64)
        shown = as_scored(task.decode_source(source)).astype(np.float64)
        score = {}
        if shown.shape == image.shape:
            score["l1_source"] = float(np.abs(shown - image).mean() / 255)
        scores.append(score | {"l1_mean_target": float(np.abs(mean - image).mean() / 255)})
    return _means(scores)


def readable(dataset: PairDataset, indices: Iterable[int]) -> Iterable[tuple[Tensor, Tensor]]:
    """Tensors (C, H, W) of those pairs that can be read."""
    for index in indices:
        try:
            yield dataset.tensors(index)
        except ImageError:
            continue


def _means(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    if not scores:
        return {}
    return {name: float(np.mean([s[name] for s in scores])) for name in scores[0]}
