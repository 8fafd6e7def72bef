"""Which settings of a recipe say something about scores, when a trained model is scored on it."""

from __future__ import annotations

from collections.abc import Sequence

from img2img.document import parse_assignment
from img2img.errors import RequestError
from img2img.recipe import DataSettings

# Of `[data]`: what says at which size pairs are scored, and what is of training alone.
SIZES = {"test_size", "crop_size", "resize"}
TRAINING = DataSettings.model_fields.keys() - SIZES - {"source", "root", "direction"}
# Tables and keys of which some at least matter to the pairs, or to how they are scored.
SCORED = ("name", "task", "data", "train", "metrics")


def check_overrides(overrides: Sequence[str], *, of_run: bool, named: bool) -> None:
    """Raise a RequestError for a `--set` that changes neither the pairs nor how they are scored.

    Args:
        overrides: `key=value`, valid ones.
        of_run: whether the model has its run beside it.
        named: whether another recipe than the run's was named.
    """
    for assignment in overrides:
        if why := _idle(parse_assignment(assignment)[0], of_run=of_run, named=named):
            raise RequestError(f"--set {assignment} has no effect here: {why}")


def _idle(path: Sequence[str], *, of_run: bool, named: bool) -> str | None:
    """Why a setting changes nothing; None if it may change something."""
    table, key = path[0], path[1] if len(path) > 1 else ""
    if table not in SCORED:
        return "the model is trained already"
    if (table == "data" and key in TRAINING) or (table == "train" and key != "seed"):
        return "it is about training"
    if table == "data" and key in SIZES and not of_run:
        return "pairs are resized by the factors that the bundle carries"
    if table == "data" and key in SIZES and named:
        return (
            "pairs are resized as the run's own recipe says; name no recipe to score the run's own "
            "pairs at another size"
        )
    if table == "metrics" and of_run and named:
        return "the metrics are those of the run's own recipe; --metric names others"
    return None
