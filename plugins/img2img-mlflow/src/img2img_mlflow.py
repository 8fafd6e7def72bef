"""Logs runs to MLflow, a plugin for img2img."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import img2img
from img2img.files import whole_file

TRUE = ("1", "true", "yes", "on")
# The longest value of a parameter, in characters, and the most in a request, that MLflow takes.
LONGEST, AT_ONCE = 6000, 100
RETRIES = "3"


class MlflowLogger:
    """Sends losses, validation scores, sample sheets and warnings of a run to MLflow.

    MLflow's id of the run lies in `mlflow.json` in the run directory, so that a run that is resumed
    goes on as the same one there. `MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME` and the other
    variables of MLflow count. `IMG2IMG_MLFLOW_CHECKPOINTS=1` also sends checkpoints.
    """

    def __init__(self) -> None:
        self._client: Any = None
        self._id = ""

    @img2img.hookimpl
    def on_run_start(
        self, run_dir: Path, recipe: Mapping[str, Any], start_step: int, total_steps: int
    ) -> None:
        # Here and not above: it takes seconds, and every command loads this module.
        from mlflow.tracking import MlflowClient

        # MLflow's own seven are minutes of silence, before the first step, where no server answers.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", RETRIES)
        client = MlflowClient()
        file = run_dir / "mlflow.json"
        known = _known_id(file, client, start_step)
        self._id = known or _new_run(
            client, os.environ.get("MLFLOW_RUN_NAME", run_dir.resolve().name)
        )
        if known:
            client.update_run(known, status="RUNNING")
        with whole_file(file) as partial:
            partial.write_text(json.dumps({"run_id": self._id}) + "\n", encoding="utf-8")
        if not known:
            # What is logged once cannot change there, so a run that goes on keeps its first ones.
            _log_params(client, self._id, recipe)
        client.log_dict(self._id, dict(recipe), f"recipe-from-step-{start_step}.json")
        client.set_tag(self._id, "total_steps", str(total_steps))
        self._client = client

    @img2img.hookimpl
    def on_metrics(self, metrics: Mapping[str, Any]) -> None:
        values = {
            f"{group}/{name}": value
            for group in ("losses", "validation")
            for name, value in metrics.get(group, {}).items()
            if value is not None
        }
        if metrics.get("images_per_s") is not None:
            values["speed/images_per_s"] = metrics["images_per_s"]
        if self._client is None or not values:
            return
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(
            self._id,
            metrics=[Metric(name, float(v), now, metrics["step"]) for name, v in values.items()],
        )

    @img2img.hookimpl
    def on_samples(self, path: Path) -> None:
        if self._client is not None:
            self._client.log_artifact(self._id, str(path), "samples")

    @img2img.hookimpl
    def on_warning(self, step: int, kind: str, message: str) -> None:
        if self._client is not None:
            self._client.log_metric(self._id, f"warnings/{kind}", 1.0, step=step)
            # Tags are what MLflow shows; the last of a kind stays.
            self._client.set_tag(self._id, f"warning.{kind}", f"step {step}: {message}"[:LONGEST])

    @img2img.hookimpl
    def on_checkpoint(self, path: Path) -> None:
        if os.environ.get("IMG2IMG_MLFLOW_CHECKPOINTS", "").lower() not in TRUE:
            return
        if self._client is not None:
            self._client.log_artifacts(self._id, str(path), f"checkpoints/{path.name}")

    @img2img.hookimpl
    def on_run_end(self, step: int, finished: bool) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.set_tag(self._id, "step", str(step))
            client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


def _known_id(file: Path, client: Any, start_step: int) -> str | None:
    """The id of a run that goes on and is still there; one that starts over is another."""
    from mlflow.exceptions import MlflowException

    if not start_step:
        return None
    try:
        known = json.loads(file.read_text(encoding="utf-8"))["run_id"]
        found = client.get_run(known)
    # Written to another server, or removed there.
    except (OSError, ValueError, KeyError, TypeError, MlflowException):
        return None
    return known if found.info.lifecycle_stage == "active" else None


def _new_run(client: Any, name: str) -> str:
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "img2img")
    found = client.get_experiment_by_name(experiment)
    number = found.experiment_id if found else client.create_experiment(experiment)
    return str(client.create_run(number, run_name=name).info.run_id)


def _log_params(client: Any, run_id: str, recipe: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    params = [Param(key, value[:LONGEST]) for key, value in flat(recipe)]
    for first in range(0, len(params), AT_ONCE):
        client.log_batch(run_id, params=params[first : first + AT_ONCE])


def flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """A recipe's values by dotted keys; an entry of a list of tables goes by its name."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)) and any(isinstance(one, Mapping) for one in value):
        for number, one in enumerate(value):
            name = one.get("name", number) if isinstance(one, Mapping) else number
            taken = sum(other.get("name") == name for other in value[:number])
            yield from flat(one, f"{key}.{name}{f'-{taken + 1}' if taken else ''}")
    else:
        yield key, value if isinstance(value, str) else json.dumps(value, default=str)


LOGGER = MlflowLogger()
