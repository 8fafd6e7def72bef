"""Which metrics validation computes, and whether the best model can go by one of their scores."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from img2img.assemble.problems import Problems
from img2img.component import Component
from img2img.document import KeyPath
from img2img.errors import MetricError
from img2img.metrics import Metric
from img2img.metrics.base import scores_of_images, undeclared
from img2img.recipe import Choice, Recipe
from img2img.registry import Registry, suggest
from img2img.tasks.base import Task

# What a recipe gets that names none.
USUAL = {"images": ("l1", "psnr", "ssim"), "classes": ("accuracy",)}
OTHER: dict[str, Literal["images", "classes"]] = {"images": "classes", "classes": "images"}


class MetricsBuilder:
    """Builds the metrics of a run's validation, by name, anew at each call.

    Args:
        chosen: which, with their settings.
        classes: how many there are, for metrics of classes.
        least: how many images each of them needs.
    """

    def __init__(
        self, chosen: Sequence[tuple[Component, Choice]], classes: int, least: Mapping[str, int]
    ) -> None:
        self.least = least
        self._chosen, self._classes = chosen, classes

    def __call__(self) -> dict[str, Metric]:
        found: dict[str, Metric] = {}
        for component, choice in self._chosen:
            try:
                # Networks are drawn before they get their weights, which must not change the run.
                with torch.random.fork_rng(devices=[]):
                    found[choice.name] = component.build(choice.settings, classes=self._classes)
            # Its file was there when the run began; no run should end because it is gone, or
            # because of whatever else has happened to it since.
            except Exception as error:
                what = "" if isinstance(error, MetricError) else f"{type(error).__name__}: "
                warnings.warn(
                    f"validation goes on without {choice.name}: {what}{error}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return found


def metrics_of(recipe: Recipe, registry: Registry, task: Task) -> MetricsBuilder:
    """What builds the metrics of a run's validation, by name, anew for each.

    All of them are built once here, and those that the recipe names are tried on blank images, so
    that one that cannot be had says so before any training.

    Raises:
        RecipeError: a metric that refuses its settings, lacks its weights or does not suit the
            task; a `train.best_by` that none of them computes.
    """
    problems = Problems(recipe)
    palette = getattr(task, "palette", None)
    sort = "images" if palette is None else "classes"
    count = 0 if palette is None else len(palette)
    chosen: list[tuple[KeyPath, Component, Choice]] = [
        (("metrics", i), registry.get("metric", choice.name), choice)
        for i, choice in enumerate(recipe.metrics)
    ]
    if not chosen:
        chosen = [
            (("task", "name"), registry.get("metric", name), Choice(name)) for name in USUAL[sort]
        ]
    built: dict[str, Metric] = {}
    for key, component, choice in chosen:
        metric = _first(problems, key, component, choice, sort, count)
        if metric is not None:
            built[choice.name] = metric
    _check_names(problems, built)
    if not problems.found:
        _check_best(problems, built, sort, registry)
    problems.raise_any()
    least = {name: getattr(metric, "least", 1) for name, metric in built.items()}
    return MetricsBuilder([(component, choice) for _, component, choice in chosen], count, least)


def check_count(recipe: Recipe, metrics: MetricsBuilder, pairs: int, most: int) -> None:
    """Whether validation has as many pairs as its metrics need.

    Args:
        recipe: of the run.
        metrics: as `metrics_of` gives them.
        pairs: held out.
        most: of them are scored in a validation.

    Raises:
        RecipeError: it has not.
    """
    problems = Problems(recipe)
    for i, name in enumerate(choice.name for choice in recipe.metrics):
        least = metrics.least.get(name, 1)
        if min(pairs, most) < least:
            there = f"validation scores {min(pairs, most)} pairs of {pairs}"
            problems.add(
                ("metrics", i),
                f"{name} needs {least} images or more, and {there}: leave it to `img2img eval`, "
                f"which takes all pairs, or look at its settings with `img2img show metric {name}`",
            )
    problems.raise_any()


def _first(
    problems: Problems, key: KeyPath, component: Component, choice: Choice, sort: str, count: int
) -> Metric | None:
    """A metric, if it can be had and suits the task."""
    name, task = choice.name, problems.recipe.task.name
    instead = f"choose another, such as {USUAL[sort][0]!r}"
    # One that wants to know how many classes there are cannot be built without any.
    metric: Metric | None = None
    of: str | None = "classes"
    if sort == "classes" or "classes" not in component.takes:
        try:
            with torch.random.fork_rng(devices=[]):
                metric = problems.build(key, component, choice, classes=count)
        except MetricError as error:
            problems.add(key, f"{name} cannot be had: {error}")
            return None
        # A plugin's may fail in any way.
        except Exception as error:
            problems.add(key, f"{name} cannot be built: {type(error).__name__}: {error}")
            return None
        if metric is None:
            return None
        if lack := undeclared(metric):
            problems.add(key, f"{name} {lack}")
            return None
        of = metric.of
    if metric is not None and of == sort:
        if choice in problems.recipe.metrics and (fault := _fault(metric, problems.recipe)):
            problems.add(key, f"{name}: {fault}")
        return metric
    if of == "classes":
        problems.add(
            key,
            f"{name} compares classes, and the targets of {task!r} are images: {instead}, and "
            f"leave {name} to `img2img eval --judge`, where another model tells the classes",
        )
    else:
        problems.add(
            key, f"{name} compares images, and the targets of {task!r} are classes: {instead}"
        )
    return None


def _check_names(problems: Problems, built: Mapping[str, Metric]) -> None:
    """No two metrics may have a score of the same name."""
    owners: dict[str, str] = {}
    for name, metric in built.items():
        for score in metric.scores:
            if score in owners:
                problems.add(
                    ("metrics",),
                    f"{owners[score]!r} and {name!r} both have a score {score!r}; keep one of them",
                )
            owners[score] = name


def _check_best(
    problems: Problems, built: Mapping[str, Metric], sort: str, registry: Registry
) -> None:
    score, recipe = problems.recipe.train.best_by, problems.recipe
    if score is None:
        return
    key = ("train", "best_by")
    owner = next((name for name, metric in built.items() if score in metric.scores), None)
    if owner is not None:
        # What is tried already has no fault.
        tried = any(owner == choice.name for choice in recipe.metrics)
        if not tried and (fault := _fault(built[owner], recipe)):
            problems.add(key, f"{fault}; make data.test_size larger, or use another score")
        return
    valid = [name for metric in built.values() for name in metric.scores]
    if score in USUAL[OTHER[sort]]:
        problems.add(
            key,
            f"the targets of {recipe.task.name!r} are {sort}, which have no {score}: use "
            f"{' or '.join(map(repr, valid))}",
        )
    elif (name := score.replace("_", "-")) in registry.names("metric"):
        problems.add(
            key,
            f"validation does not compute {score} here: add [[metrics]] with name = {name!r}, "
            f"or use {' or '.join(map(repr, valid))}",
        )
    else:
        problems.add(key, f"validation has no score {score!r} here{suggest(score, valid)}")


def _fault(metric: Metric, recipe: Recipe) -> str | None:
    """Why a metric cannot be computed at the size of validation, if it cannot."""
    size = recipe.data.test_size or recipe.data.crop_size
    if metric.of == "images":
        blank = torch.zeros(1, 3, size, size)
    else:
        blank = torch.zeros(1, size, size, dtype=torch.int64)
    try:
        scores_of_images(metric, metric.update(blank, blank.clone()), len(blank))
    except MetricError as error:
        return str(error)
    # A plugin's may fail in any way.
    except Exception as error:
        return f"fails on {tuple(blank.shape)}: {type(error).__name__}: {error}"
    return None
