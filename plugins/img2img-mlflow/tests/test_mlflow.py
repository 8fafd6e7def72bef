"""What a run leaves in a local MLflow store, read back through MLflow itself."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import img2img_mlflow
import pytest

import img2img
from img2img.plugins import load_plugins

RECIPE = """
name = "small"
[data]
source = "synthetic"
count = 8
size = 32
load_size = 32
crop_size = 32
[generator]
width = 4
[[losses]]
name = "l1"
weight = 100
[train]
steps = 2
log_every = 1
sample_every = 2
checkpoint_every = 2
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_NAME", "IMG2IMG_MLFLOW_CHECKPOINTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def client(recipe):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    return MlflowClient()


def train(recipe, out, **options):
    with warnings.catch_warnings():
        # A logger that fails is told of by one.
        warnings.filterwarnings("error", "plugin", RuntimeWarning)
        return img2img.train(recipe, out=out, device="cpu", precision="float32", **options)


def test_a_run_and_its_continuation(distribution, recipe, client, tmp_path):
    out = tmp_path / "runs" / "mine"
    train(recipe, out)
    train(recipe, out, resume=True, overrides={"train.steps": 4})

    experiment = client.get_experiment_by_name("img2img")
    (run,) = client.search_runs([experiment.experiment_id])
    assert json.loads((out / "mlflow.json").read_text()) == {"run_id": run.info.run_id}
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")
    assert run.data.params["losses.l1.weight"] in ("100", "100.0")
    assert run.data.params["generator.width"] == "4"
    assert run.data.tags["total_steps"] == run.data.tags["step"] == "4"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for group in ("losses", "validation"):
        points = client.get_metric_history(run.info.run_id, f"{group}/l1")
        logged = sorted((point.step, point.value) for point in points)
        assert logged == [(line["step"], line[group]["l1"]) for line in lines if group in line]
        assert logged[-1][0] == 4
    sheets = {file.path for file in client.list_artifacts(run.info.run_id, "samples")}
    assert sheets == {f"samples/{path.name}" for path in (out / "samples").iterdir()}
    assert not client.list_artifacts(run.info.run_id, "checkpoints")
    recipes = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"recipe-from-step-0.json", "recipe-from-step-2.json"} <= recipes


def test_what_starts_over_or_was_removed_is_another_run(client, tmp_path):
    ids = []
    logger = img2img_mlflow.MlflowLogger()
    for start in (0, 0, 5, 7):
        if start == 7:
            client.delete_run(ids[-1])
        logger.on_run_start(tmp_path, {"name": "x"}, start, 10)
        logger.on_run_end(9, False)
        ids.append(json.loads((tmp_path / "mlflow.json").read_text())["run_id"])
    assert ids[1] == ids[2]
    assert len(set(ids)) == 3
    assert client.get_run(ids[-1]).info.status == "KILLED"


def test_warnings_and_checkpoints(client, tmp_path, monkeypatch):
    monkeypatch.setenv("IMG2IMG_MLFLOW_CHECKPOINTS", "1")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    checkpoint = tmp_path / "step-00000007"
    checkpoint.mkdir()
    (checkpoint / "state.json").write_text("{}")
    logger = img2img_mlflow.MlflowLogger()
    logger.on_run_start(tmp_path, {"name": "long", "text": "x" * 10_000}, 0, 10)
    logger.on_warning(5, "collapsed_output", "outputs are all alike")
    logger.on_metrics({"step": 6, "losses": {"l1": None}})
    logger.on_checkpoint(checkpoint)
    logger.on_run_end(8, False)
    logger.on_run_end(8, False)

    (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert run.data.tags["warning.collapsed_output"] == "step 5: outputs are all alike"
    assert run.data.metrics == {"warnings/collapsed_output": 1.0}
    assert len(run.data.params["text"]) == 6000
    (sent,) = client.list_artifacts(run.info.run_id, "checkpoints/step-00000007")
    assert sent.path == "checkpoints/step-00000007/state.json"


@pytest.mark.parametrize(("own", "used"), [(None, "3"), ("0", "0")])
def test_a_server_that_is_not_there_is_given_up_soon(own, used, client, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    if own is not None:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", own)
    logger = img2img_mlflow.MlflowLogger()
    logger.on_run_start(tmp_path, {"name": "x"}, 0, 10)
    logger.on_run_end(9, True)
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == used


def test_keys_of_a_recipe():
    recipe = {
        "name": "x",
        "train": {"steps": 4, "best_by": None},
        "losses": [{"name": "l1", "weight": 1.5}, {"name": "l1", "weight": 2}, {"weight": 3}],
        "data": {"sizes": [1, 2]},
    }
    assert dict(img2img_mlflow.flat(recipe)) == {
        "name": "x",
        "train.steps": "4",
        "train.best_by": "null",
        "losses.l1.name": "l1",
        "losses.l1.weight": "1.5",
        "losses.l1-2.name": "l1",
        "losses.l1-2.weight": "2",
        "losses.2.weight": "3",
        "data.sizes": "[1, 2]",
    }


def test_events_outside_a_run_do_nothing():
    logger = img2img_mlflow.MlflowLogger()
    logger.on_metrics({"step": 1, "losses": {"l1": 1.0}})
    logger.on_samples(Path("missing.png"))
    logger.on_warning(1, "kind", "message")
    logger.on_run_end(1, True)


def test_a_logger_that_cannot_log_ends_no_run(distribution, recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)  # as where it is not installed
    with pytest.warns(RuntimeWarning, match="'img2img-mlflow' failed in on_run_start"):
        run = img2img.train(recipe, out=tmp_path / "run", device="cpu", precision="float32")
    assert run.validation["l1"] > 0


def test_found_by_its_entry_point_and_light(distribution):
    plugins = load_plugins()
    assert plugins.origins[distribution] == "0.1.0"
    assert distribution not in plugins.broken
    source = Path(img2img_mlflow.__file__).parent
    program = (
        f"import sys; sys.path.insert(0, {str(source)!r}); import img2img_mlflow\n"
        "sys.exit('mlflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
