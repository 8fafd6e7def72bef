"""Which metrics to compute: by name, with settings as recipes have them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from img2img.component import Component
from img2img.document import parse_assignment
from img2img.errors import MetricError, RequestError
from img2img.metrics import Metric
from img2img.metrics.base import undeclared
from img2img.recipe import Choice
from img2img.registry import Registry, suggest
from img2img.table import check_table

ALL = "all"
# What needs no weights: computed where nobody says what to compute, if it suits what there is.
USUAL = ("l1", "psnr", "ssim", "ms-ssim", "lab-histogram", "accuracy")
JUDGED = "fcn-score"


def check_names(names: Iterable[str], registry: Registry) -> None:
    """Raise a RequestError for a metric that is not there; it names the nearest."""
    possible = [*registry.names("metric"), ALL]
    for name in names:
        if name not in possible:
            raise RequestError(f"{name!r} is not a metric{suggest(name, possible)}")


def choose(
    names: Sequence[str],
    assignments: Sequence[str],
    registry: Registry,
    *,
    of_recipe: Sequence[Choice] = (),
    judge: bool = False,
) -> dict[str, dict[str, Any]]:
    """The settings of each metric to try, by its name.

    Args:
        names: what was asked for; `all` is every metric. None is those of the recipe and the usual.
        assignments: `NAME.KEY=VALUE`, settings on top of the recipe's.
        registry: where names are looked up.
        of_recipe: the metrics of the run's recipe.
        judge: whether there is one; the FCN-score is computed then in any case.

    Raises:
        RequestError: an unknown name, or a setting that is wrong or of a metric not chosen.
    """
    check_names(names, registry)
    known = registry.names("metric")
    if ALL in names:
        chosen = known
    elif names:
        chosen = list(names)
    else:
        chosen = [choice.name for choice in of_recipe]
        # What it says of a judge's classes, the FCN-score says as pixel accuracy.
        chosen += [name for name in USUAL if name in known and not (judge and name == "accuracy")]
    if judge:
        chosen = [*chosen, JUDGED]
    settings: dict[str, dict[str, Any]] = {name: {} for name in chosen}
    for choice in of_recipe:
        if choice.name in settings:
            settings[choice.name] = dict(choice.settings)
    changed: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        try:
            path, value = parse_assignment(assignment)
            if len(path) != 2:
                raise ValueError("expected NAME.KEY=VALUE, such as fid.weights=FILE")
        except ValueError as error:
            raise RequestError(f"--metric-set {assignment}: {error}") from error
        check_names(path[:1], registry)
        if path[0] not in settings:
            raise RequestError(
                f"--metric-set {assignment}: {path[0]} is not computed; add --metric {path[0]}"
            )
        changed.setdefault(path[0], {})[path[1]] = value
    for name in settings:
        component = registry.get("metric", name)
        table = {**component.defaults, **settings[name], **changed.get(name, {})}
        found, mistakes = check_table(component.model, (name,), table, f"a setting of {name!r}")
        if found is None:
            raise RequestError("; ".join(f"--metric-set: {message}" for _, message in mistakes))
        settings[name] = {s.name: getattr(found, s.name) for s in component.settings}
    return settings


def build_metrics(
    settings: Mapping[str, Mapping[str, Any]],
    registry: Registry,
    kinds: Iterable[str],
    *,
    classes: int | None,
    asked: Iterable[str] = (),
    pairs: int | None = None,
) -> tuple[dict[str, Metric], dict[str, str]]:
    """The metrics that suit what there is, built, and why others could not be.

    Args:
        settings: by name; see `choose`.
        registry: where names are looked up.
        kinds: what there is to compare: `images`, `classes` or both.
        classes: how many there are, where there are classes.
        asked: of these it is said why they do not suit, and all that can be done about what they
            lack; others are left out silently, or with the short reason.
        pairs: how many there are; a metric that needs more is not built.

    Raises:
        RequestError: settings that a metric refuses, or one that was asked for does not suit.
    """
    kinds, asked = set(kinds), set(asked)
    built: dict[str, Metric] = {}
    failed: dict[str, str] = {}
    for name, given in settings.items():
        component = registry.get("metric", name)
        # One that wants to know how many classes there are cannot be built without any.
        if classes is None and "classes" in component.takes:
            if name in asked:
                raise RequestError(f"{name} {_why_unsuited('classes')}")
            continue
        try:
            if pairs is not None and (few := _too_few(component, given, kinds, pairs)):
                failed[name] = few
                continue
            metric: Metric = component.build(dict(given), classes=classes)
        except MetricError as error:
            failed[name] = str(error) if name in asked else error.short
            continue
        except ValueError as error:
            raise RequestError(f"{name}: {error}") from error
        # A plugin's may fail in any way, and the others should not end with it.
        except Exception as error:
            failed[name] = f"it cannot be built: {type(error).__name__}: {error}"
            continue
        if lack := undeclared(metric):
            failed[name] = f"it {lack}"
        elif metric.of in kinds:
            built[name] = metric
        elif name in asked:
            raise RequestError(f"{name} {_why_unsuited(metric.of)}")
    return built, failed


def _too_few(
    component: Component, settings: Mapping[str, Any], kinds: Collection[str], pairs: int
) -> str | None:
    """Why a metric cannot be computed of so few pairs, as far as it says so before it is built."""
    factory = component.factory
    tell = getattr(factory, "least_of", None)
    least = tell(settings) if callable(tell) else getattr(factory, "least", 1)
    suits = getattr(factory, "of", None) in kinds
    if not suits or not isinstance(least, int) or pairs >= least:
        return None
    there = "there is 1 pair" if pairs == 1 else f"there are {pairs} pairs"
    instead = getattr(factory, "for_fewer", None)
    way_out = f"; try {instead}, which needs fewer" if instead else ""
    return f"{there}, and {component.name} needs {least} or more{way_out}"


def _why_unsuited(of: str) -> str:
    """Why a metric does not suit, and what to do, behind its name."""
    if of == "images":
        return (
            "compares images, and the model's outputs are classes: leave it out, or use 'accuracy' "
            "or 'fcn-score'"
        )
    return (
        "compares classes, and the model's outputs are images: name a model that tells classes "
        "from photographs with --judge, such as runs/facades-segmenter"
    )
