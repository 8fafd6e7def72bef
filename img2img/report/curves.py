"""Curves and figures of a run, out of its `metrics.jsonl`."""

from __future__ import annotations

import json
import math
import statistics
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Not the model's scores, but those that answers without a model get beside them.
BASELINES = ("l1_source", "l1_mean_target", "accuracy_most_frequent")

BUCKETS = 600  # what a curve keeps two points of each of: enough to zoom in to a tenth
SMOOTHING = 0.04  # reach of the moving average to either side, as a share of the logged values
MAX_WARNINGS = 20  # of all kinds; a sick run has a few


def read_metrics(text: str, remarks: list[str]) -> dict[str, Any]:
    """Losses and validation scores as curves, and how far the run has come."""
    found: dict[str, dict[str, dict[int, float]]] = {"losses": {}, "validation": {}}
    higher: dict[str, bool] = {}
    progress: dict[str, float] = {}
    speeds: list[float] = []
    warnings: dict[str, list[str]] = {}
    unreadable = 0
    for line in filter(str.strip, text.split("\n")):
        try:
            record = json.loads(line)
            step = int(record["step"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            unreadable += 1
            continue
        for kind, by_name in found.items():
            values = record.get(kind)
            for name, value in values.items() if isinstance(values, dict) else ():
                # By step, and the later line wins: a resumed run repeats what its checkpoint lacks.
                by_name.setdefault(name, {})[step] = _number(value)
        directions = record.get("higher_is_better")
        for name, better in directions.items() if isinstance(directions, dict) else ():
            higher[name] = bool(better)
        _note_warning(record, step, warnings)
        progress["step"] = step
        for key in ("images", "elapsed_s", "images_per_s"):
            if not math.isnan(number := _number(record.get(key))):
                progress[key] = number
                speeds += [number] if key == "images_per_s" else []
    skipped = warnings.pop("unreadable", [])
    if skipped:
        more = f" (and {len(skipped) - 1:,} more like it)" if len(skipped) > 1 else ""
        warnings["unreadable"] = [f"{skipped[0]}{more}"]
    remarks += [message for told in warnings.values() for message in told][:MAX_WARNINGS]
    if unreadable:
        remarks.append(f"Lines of metrics.jsonl that could not be read: {unreadable}.")
    if speeds:  # the median, because the first steps compile and warm up
        progress["images_per_s"] = statistics.median(speeds)
    curves = {kind: [_curve(*item) for item in by_name.items()] for kind, by_name in found.items()}
    for curve in curves["validation"]:
        curve["higher"] = higher.get(curve["name"])
        # What a metric of the run has told of is its score, whatever its name.
        curve["baseline"] = curve["name"] in BASELINES and curve["name"] not in higher
    return {"progress": progress, **curves}


def _note_warning(record: dict[str, Any], step: int, warnings: dict[str, list[str]]) -> None:
    """What the run pointed out about itself, by kind, and whether it has passed since."""
    told, passed = record.get("warning"), record.get("passed")
    if isinstance(told, dict):
        messages = warnings.setdefault(_kind(told), [])
        message = told.get("message")
        messages.append(f"Step {step:,}: {message if isinstance(message, str) else 'a warning'}.")
    if isinstance(passed, dict) and (messages := warnings.get(_kind(passed), [])):
        messages[-1] += f" This had passed at step {step:,}."


def _kind(of: dict[str, Any]) -> str:
    kind = of.get("kind")
    return kind if isinstance(kind, str) else ""


def _number(value: Any) -> float:
    """NaN for all that cannot be drawn: infinities, null, text, numbers too large to be summed."""
    try:
        return number if abs(number := float(value)) < 1e200 else math.nan
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _curve(name: str, by_step: dict[int, float]) -> dict[str, Any]:
    steps = sorted(by_step)
    values = [by_step[step] for step in steps]
    count = len(values)
    broken = {i for i, value in enumerate(values) if math.isnan(value)}
    kept = {0, count - 1}
    bucket = math.ceil(count / BUCKETS)
    for start in range(0, count, bucket):  # of each bucket both extremes, so that no spike is lost
        span = range(start, min(start + bucket, count))
        if finite := [i for i in span if i not in broken]:
            kept |= {min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)}
        kept.update([i for i in span if i in broken][:1])  # and a gap
    smooth = _smoothed(np.array(values), sorted(kept)) if count >= 10 else []
    return {
        "name": name,
        "steps": [steps[i] for i in sorted(kept)],
        "values": [_short(values[i]) for i in sorted(kept)],
        "smoothed": [_short(value) for value in smooth],
        "broken": {"count": len(broken), "first": steps[min(broken)]} if broken else None,
    }


def _smoothed(values: NDArray[np.float64], where: list[int]) -> list[float]:
    """The moving average at some of the values; NaN where there is none."""
    # Of all values, since those that are kept are extremes; centred, so that nothing lags; with
    # weights that fall off to both sides, so that a spike leaves a small hill and not a box.
    reach = min(500, round(len(values) * SMOOTHING)) + 1
    weights = reach - np.abs(np.arange(1 - reach, reach)).astype(float)
    finite = np.pad(np.isfinite(values).astype(float), reach - 1)
    padded = np.pad(np.nan_to_num(values), reach - 1)
    smooth = []
    for i in where:
        around = slice(i, i + 2 * reach - 1)
        weight = float(weights @ finite[around])
        smooth.append(
            float(weights @ padded[around]) / weight if finite[i + reach - 1] else math.nan
        )
    return smooth


def _short(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.5g}")
