"""Outputs of a model against their targets, by any metrics: one pair after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from img2img.data.loading import PairDataset
from img2img.errors import ImageError, MetricError, RequestError
from img2img.evaluation.judge import Judge
from img2img.inference import Translator
from img2img.metrics import Metric
from img2img.metrics.base import BrokenMetricError, scores_of_images, scores_of_set
from img2img.picture import Pixels, fit_channels, to_depth
from img2img.tasks.base import Task

Given = ParamSpec("Given")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ImageScores:
    """What one image scored, by the metrics that single images have.

    Attributes:
        name: of the pair.
        index: of the pair in its dataset.
        scores: by name.
    """

    name: str
    index: int
    scores: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """How near a model's outputs came to their targets.

    Attributes:
        scores: over all images, by name; those that could not be computed are not there.
        higher_is_better: of every score of every metric, also of those that failed.
        images: each image's own, in the order of the pairs.
        ceiling: what the judge makes of the real targets; empty without a judge.
        failed: why a metric could not be computed, by the metric's name.
        broken: of these, the ones that did not say so themselves, with a MetricError.
        skipped: pairs that were left out: their name, and why.
    """

    scores: dict[str, float] = field(default_factory=dict)
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    images: list[ImageScores] = field(default_factory=list)
    ceiling: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Made:
    """A pair and what was made of it, tensors (C, H, W) on the CPU."""

    index: int
    source: Tensor
    output: Tensor
    target: Tensor


def evaluate(
    translator: Translator,
    dataset: PairDataset,
    metrics: Mapping[str, Metric],
    *,
    indices: Sequence[int] | None = None,
    judge: Judge | None = None,
    batch_size: int = 1,
    on_pair: Callable[[], None] = lambda: None,
    on_output: Callable[[int, Tensor, Tensor, Tensor], None] | None = None,
) -> Evaluation:
    """Score a model on pairs, at the size at which the dataset shows them.

    Metrics of images get what people would see, in 8 bits. Metrics of classes get the task's own
    where targets are classes; else the judge's classes of the outputs, against those that the
    sources, which are label maps, stand for. No more than a batch is held at once.

    Args:
        translator: the model.
        dataset: pairs; its task is the model's.
        metrics: by name, built anew for this call.
        indices: which pairs; by default all.
        judge: tells classes from photographs, where a metric needs that.
        batch_size: pairs that are translated together; results do not depend on it. Images of
            another size begin another batch.
        on_pair: called after each pair, also after one that was skipped.
        on_output: called with the index, the source, the output and the target of each pair,
            (C, H, W) as the task has them.

    Raises:
        RequestError: a judge where targets are classes already.
        DataError: the sources are no label maps in the judge's colours.
    """
    task = translator.task
    chosen = range(len(dataset)) if indices is None else indices
    if judge is not None:
        if translator.palette is not None:
            raise RequestError("the model's outputs are classes, which need no judge: leave it out")
        judge.check(dataset, chosen)
    kinds = {"classes"} if translator.palette is not None else {"images"}
    if judge is not None:
        kinds.add("classes")
    scoring = _Scoring(metrics, translator.device, kinds)
    of_real = None if judge is None else scoring.copied("classes")
    images: list[ImageScores] = []
    skipped: list[tuple[str, str]] = []

    def skip(index: int, reason: str) -> None:
        skipped.append((dataset.pairs.name(index), reason))
        on_pair()

    for batch in _batches(translator, dataset, chosen, batch_size, skip):
        rows: list[dict[str, float]] = [{} for _ in batch]
        if "images" in kinds:
            outputs, targets = _seen(task, batch)
            _join(rows, scoring.update("images", outputs, targets))
            if judge is not None and of_real is not None:
                truth = torch.stack([judge.truth(task.decode_source(p.source)) for p in batch])
                judged = judge.classes(outputs, translator.scale)
                _join(rows, scoring.update("classes", judged, truth))
                of_real.update("classes", judge.classes(targets, translator.scale), truth)
        else:
            classes = [
                torch.stack([getattr(pair, side).argmax(dim=0) for pair in batch])
                for side in ("output", "target")
            ]
            _join(rows, scoring.update("classes", *classes))
        for pair, row in zip(batch, rows, strict=True):
            images.append(ImageScores(dataset.pairs.name(pair.index), pair.index, row))
            if on_output is not None:
                on_output(pair.index, pair.source, pair.output, pair.target)
            on_pair()
    higher = {name: up for metric in metrics.values() for name, up in metric.scores.items()}
    if not images:
        return Evaluation(higher_is_better=higher, skipped=skipped)
    scores = scoring.compute()
    lost = {name for metric in scoring.failed for name in metrics[metric].scores}
    for image in images:
        for name in lost:
            image.scores.pop(name, None)
    failed = dict(scoring.failed)
    ceiling = {}
    if of_real is not None:
        ceiling = of_real.compute()
        lacking = of_real.failed.items() - failed.items()
        failed |= {f"ceiling of {name}": why for name, why in lacking if name not in failed}
    broken = frozenset(scoring.broken)
    return Evaluation(scores, higher, images, ceiling, failed, broken, skipped)


def as_scored(image: Pixels) -> NDArray[np.uint8]:
    """An image (H, W, C) as it is scored: 8-bit, and grey as RGB, so that the two compare."""
    eight: NDArray[np.uint8] = to_depth(image, np.uint8)
    return fit_channels(eight, 3) if eight.shape[2] == 1 else eight


def as_tensor(image: Pixels) -> Tensor:
    """An image (H, W, C) as metrics get it, (C, H, W) float32 in [0, 1] in steps of 1/255."""
    return torch.from_numpy(np.ascontiguousarray(as_scored(image))).permute(2, 0, 1).float() / 255


class _Scoring:
    """Metrics that are given what is theirs; one that fails is left out from then on.

    Attributes:
        failed: why, by the metric's name.
        broken: those whose failure was none of their own messages.
    """

    def __init__(
        self, metrics: Mapping[str, Metric], device: torch.device, kinds: set[str]
    ) -> None:
        self.failed: dict[str, str] = {}
        self.broken: set[str] = set()
        self._metrics, self._device = dict(metrics), device
        for name, metric in metrics.items():
            if metric.of not in kinds:
                self.failed[name] = (
                    "the model's outputs are classes, and it compares images"
                    if metric.of == "images"
                    else "it compares classes: a judge, a model from photographs to label maps, "
                    "must tell them from the images (--judge)"
                )
            elif callable(move := getattr(metric, "to", None)):
                self._try(name, move, device)

    def copied(self, of: str) -> _Scoring:
        """The same metrics of that kind, before anything was given to them."""
        copies = _Scoring({}, self._device, {of})
        for name, metric in self._metrics.items():
            if metric.of != of or name in self.failed:
                continue
            found = copies._try(name, copy.deepcopy, metric)
            if found is not None:
                copies._metrics[name] = found
        return copies

    def update(self, of: str, output: Tensor, target: Tensor) -> list[dict[str, float]]:
        """Feed a batch to the metrics of that kind; gives the scores of each image."""
        output, target = output.to(self._device), target.to(self._device)
        rows: list[dict[str, float]] = [{} for _ in range(len(output))]
        for name, metric in self._metrics.items():
            if metric.of != of or name in self.failed:
                continue
            found = self._try(name, _update, metric, output, target)
            _join(rows, found if found is not None else [{} for _ in rows])
        return rows

    def compute(self) -> dict[str, float]:
        """All scores of the metrics that did not fail."""
        scores: dict[str, float] = {}
        for name, metric in self._metrics.items():
            if name in self.failed:
                continue
            scores |= self._try(name, _compute, metric) or {}
        return scores

    def _try(
        self, name: str, call: Callable[Given, Result], *given: Given.args, **more: Given.kwargs
    ) -> Result | None:
        """What a metric gives; None, and it is left out, where it fails."""
        try:
            return call(*given, **more)
        except MetricError as error:
            self.failed[name] = str(error)
            if isinstance(error, BrokenMetricError):
                self.broken.add(name)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        # A metric may be a plugin's, and the others, or a run of days, should not end with it.
        except Exception as error:
            if isinstance(error, RuntimeError) and "memory" in str(error):
                raise  # the CPU's allocator has no type of its own
            reason = " ".join(str(error).split())[:300]
            self.failed[name] = f"{type(error).__name__}: {reason}"
            self.broken.add(name)
        return None


def _update(metric: Metric, output: Tensor, target: Tensor) -> list[dict[str, float]]:
    return scores_of_images(metric, metric.update(output, target), len(output))


def _compute(metric: Metric) -> dict[str, float]:
    return scores_of_set(metric, metric.compute())


def _batches(
    translator: Translator,
    dataset: PairDataset,
    indices: Sequence[int],
    batch_size: int,
    skip: Callable[[int, str], None],
) -> Iterator[list[_Made]]:
    """Pairs and what was made of them, in their order, of one size in each batch."""
    waiting: list[tuple[int, Tensor, Tensor]] = []

    def made() -> list[_Made]:
        outputs = translator.translate(torch.stack([source for _, source, _ in waiting])).cpu()
        return [
            _Made(index, source, output, target)
            for (index, source, target), output in zip(waiting, outputs, strict=True)
        ]

    for index in indices:
        try:
            source, target = dataset.tensors(index)
        except ImageError as error:
            skip(index, error.reason)
            continue
        if waiting and (waiting[0][1].shape != source.shape or len(waiting) >= batch_size):
            yield made()
            waiting.clear()
        waiting.append((index, source, target))
    if waiting:
        yield made()


def _seen(task: Task, batch: Sequence[_Made]) -> tuple[Tensor, Tensor]:
    """Outputs and targets as images, each (B, 3, H, W) in [0, 1]."""
    outputs = [as_tensor(task.decode_target(pair.output, pair.source)) for pair in batch]
    targets = [as_tensor(task.decode_target(pair.target, pair.source)) for pair in batch]
    return torch.stack(outputs), torch.stack(targets)


def _join(rows: Sequence[dict[str, float]], more: Sequence[dict[str, float]]) -> None:
    for row, new in zip(rows, more, strict=True):
        row |= new
