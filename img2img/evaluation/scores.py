"""How near outputs are to their targets, and what trivial answers would score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from img2img.data.loading import PairDataset
from img2img.errors import ImageError
from img2img.evaluation.outputs import Outputs
from img2img.inference import Translator
from img2img.picture import Pixels, fit_channels, to_depth
from img2img.tasks.base import Task

# Enough for a steady number while training; `img2img run` should not wait on its own scores.
MOST_PAIRS = 200

# Pixels; a smaller image has no SSIM.
SSIM_WINDOW = 11

HIGHER_IS_BETTER = {"l1": False, "psnr": True, "ssim": True, "accuracy": True}


def spread(count: int, most: int) -> list[int]:
    """Up to `most` indices of `count`, evenly spaced and always the same."""
    if count <= most:
        return list(range(count))
    return [i * count // most for i in range(most)]


def score_images(output: Pixels, target: Pixels) -> dict[str, float]:
    """Scores of one image, both (H, W, C), rounded to 8 bits and taken in [0, 1].

    `l1` mean absolute difference, `psnr` in dB, `ssim` with an 11-pixel Gaussian window where the
    image has room for one (torchmetrics).
    """
    # Here, because importing it takes longer than many a small run has patience for.
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    a, b = (_unit(_eight_bits(image)) for image in (output, target))
    scores = {"l1": float((a - b).abs().mean())}
    # Two equal images have no finite PSNR; 8 bits cannot show more than this.
    scores["psnr"] = min(float(peak_signal_noise_ratio(a, b, data_range=1.0)), 100.0)
    if min(output.shape[:2]) >= SSIM_WINDOW:
        ssim = structural_similarity_index_measure(a, b, data_range=1.0)
        assert isinstance(ssim, torch.Tensor)
        scores["ssim"] = float(ssim)
    return scores


def validate(
    translator: Translator,
    dataset: PairDataset,
    most: int = MOST_PAIRS,
    *,
    seen: Outputs | None = None,
) -> dict[str, float]:
    """Mean scores over validation pairs, evenly chosen; unreadable ones are left out.

    Args:
        translator: the model.
        dataset: validation pairs.
        most: how many of them are scored.
        seen: takes in each pair and its output.

    Returns:
        `l1`, `psnr`, `ssim`; or, where targets are classes, whose colours have no distances that
        mean anything, `accuracy`, the share of pixels with the right one. Empty if no pair could be
        read.
    """
    task = translator.task
    scores = []
    for source, target in readable(dataset, spread(len(dataset), most)):
        output = translator.translate(source[None]).cpu()[0]
        if seen is not None:
            seen.add(task, source, output, target)
        if translator.palette is not None:
            right = output.argmax(dim=0) == target.argmax(dim=0)
            scores.append({"accuracy": float(right.float().mean())})
            continue
        shown = task.decode_target(output, source), task.decode_target(target, source)
        scores.append(score_images(*shown))
    return _means(scores)


def baselines(
    train: PairDataset, validation: PairDataset, task: Task, most: int = MOST_PAIRS
) -> dict[str, float]:
    """Scores of answers that need no model; a model worth having beats them.

    Returns:
        `l1_source`: handing back the source, where it has the target's channels; `l1_mean_target`:
        the mean of the training targets.
        Or, where targets are classes, `accuracy_most_frequent`: the training targets' most frequent
        class everywhere. Both datasets must give images of one size.
    """
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
        image = _eight_bits(task.decode_target(target, source)).astype(np.float64)
        total = image if total is None else total + image
        count += 1
    if total is None:
        return {}
    mean = total / count
    scores = []
    for source, target in held_out:
        image = _eight_bits(task.decode_target(target, source)).astype(np.float64)
        shown = _eight_bits(task.decode_source(source)).astype(np.float64)
        score = {}
        if shown.shape == image.shape:
            score["l1_source"] = float(np.abs(shown - image).mean() / 255)
        scores.append(score | {"l1_mean_target": float(np.abs(mean - image).mean() / 255)})
    return _means(scores)


def readable(
    dataset: PairDataset, indices: Iterable[int]
) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
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


def _eight_bits(image: Pixels) -> NDArray[np.uint8]:
    """An image as it is scored: 8-bit, and grey as RGB, so that the two can be compared."""
    eight: NDArray[np.uint8] = to_depth(image, np.uint8)
    return fit_channels(eight, 3) if eight.shape[2] == 1 else eight


def _unit(image: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
