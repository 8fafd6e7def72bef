"""The best model so far by a validation score, kept beside the last one."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path

from img2img.bundle import BundleInfo, read_info
from img2img.errors import ModelFileError
from img2img.evaluation.evaluating import Evaluation


class Best:
    """Finds when `best.safetensors` is due: a validation strictly better than all that count.

    The file itself says what it holds, so that a run which was killed goes on from it. One of a
    later step than the run goes on from stays until the next validation and then counts for
    nothing: that step comes again, and with other settings to another score.

    Args:
        path: the file.
        by: which score decides; None is the first that validation gives.
        start: the step that the run goes on from.
    """

    def __init__(self, path: Path, by: str | None, start: int) -> None:
        self._path, self._by = path, by
        self._name: str | None = None
        self._value = math.nan
        if not path.exists():
            return
        try:
            name, value, step = _read(path)
            if step <= start:
                self._name, self._value = name, value
        except ModelFileError as error:
            warnings.warn(
                f"the best model so far is lost, and the next validation's takes its place: "
                f"{error}",
                RuntimeWarning,
                stacklevel=2,
            )

    def offer(self, found: Evaluation, step: int, info: BundleInfo) -> BundleInfo | None:
        """What the file should say, if the scores after a step are the best so far.

        Whoever asks writes it, with the weights of that step.
        """
        name = self._by or next(iter(found.scores), None)
        value = math.nan if name is None else found.scores.get(name, math.nan)
        if name is None or not math.isfinite(value):
            return None
        higher = found.higher_is_better[name]
        # Where another score decided before, none of its values says anything.
        if name == self._name and not (value > self._value if higher else value < self._value):
            return None
        self._name, self._value = name, value
        trained = {**info.trained, "step": step, "score": {"name": name, "value": value}}
        return replace(info, trained=trained)


def describe_best(path: Path) -> str | None:
    """A line about the best model for people: `step 400, l1 0.0831`; None where there is none."""
    try:
        name, value, step = _read(path)
    except ModelFileError:
        return None
    return f"step {step}, {name} {value:.4f}"


def _read(path: Path) -> tuple[str, float, int]:
    """Score, its value and the step of a best model.

    Raises:
        ModelFileError: it cannot be read, or says nothing of the kind.
    """
    trained = read_info(path).trained
    score, step = trained.get("score"), trained.get("step")
    if isinstance(score, dict) and isinstance(step, int):
        name, value = score.get("name"), score.get("value")
        if isinstance(name, str) and isinstance(value, float) and math.isfinite(value):
            return name, value, step
    raise ModelFileError(f"{path} does not say which score it had at which step")
