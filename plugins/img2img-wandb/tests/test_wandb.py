"""What a run writes for W&B, offline, read back from the log that `wandb sync` would send."""

import importlib.util
import json
import os
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import img2img_wandb
import pytest
from PIL import Image

import img2img
from img2img.plugins import load_plugins

needs_wandb = pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="wandb is not installed"
)
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
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_RUN_ID", "IMG2IMG_WANDB_CHECKPOINTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb-own"))
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    yield path
    if os.environ.get("WANDB_MODE") != "offline" and sys.modules.get("wandb"):
        # It keeps for all that follow what the variables were when it was first used.
        sys.modules["wandb"].teardown()


def train(recipe, out, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a logger that fails is told of by one
        return img2img.train(recipe, out=out, device="cpu", precision="float32", **options)


def records(log):
    """Records of a `.wandb` file: LevelDB's log format after a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = log.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    found = []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def sessions(run_dir):
    """The records of each time the run was going, oldest first.

    A process of W&B's own writes them, on a busy machine after `finish` has given up waiting.
    """
    logs = sorted(run_dir.glob("wandb/offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime)
    until = time.monotonic() + 60
    while True:
        found = [records(log) for log in logs]
        if all(of_kind(session, "exit") for session in found) or time.monotonic() > until:
            return found
        time.sleep(0.2)


def history(session):
    rows = []
    for record in session:
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


def of_kind(session, kind):
    return [getattr(record, kind) for record in session if record.WhichOneof("record_type") == kind]


@needs_wandb
def test_a_run_and_its_continuation(distribution, recipe, tmp_path):
    out = tmp_path / "runs" / "mine"
    train(recipe, out)
    train(recipe, out, resume=True, overrides={"train.steps": 4})

    first, second = sessions(out)
    (run,), (again,) = of_kind(first, "run"), of_kind(second, "run")
    assert (run.project, run.display_name) == ("img2img", "mine")
    assert run.run_id == again.run_id == json.loads((out / "wandb/img2img.json").read_text())["id"]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["losses"][0]["weight"] == 100
    assert config["generator"]["width"] == 4
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for group in ("losses", "validation"):
        logged = [
            (row["step"], row[f"{group}/l1"])
            for row in history(first) + history(second)
            if f"{group}/l1" in row
        ]
        assert logged == [(line["step"], line[group]["l1"]) for line in lines if group in line]
        assert [step for step, _ in logged][-1] == 4
    folder = min(out.glob("wandb/offline-run-*"), key=lambda p: p.stat().st_mtime) / "files"
    sheets = [row for row in history(first) if "samples.path" in row]
    assert sheets
    for row in sheets:
        # Written anew by W&B: the same picture in other bytes.
        with (
            Image.open(folder / row["samples.path"]) as sent,
            Image.open(out / f"samples/step-{row['step']:08}.png") as own,
        ):
            assert sent.convert("RGB").tobytes() == own.convert("RGB").tobytes()
    assert of_kind(second, "exit")[0].exit_code == 0
    assert not of_kind(first, "artifact")


@needs_wandb
def test_what_starts_over_is_another_run(distribution, recipe, tmp_path):
    train(recipe, tmp_path / "run")
    first = (tmp_path / "run/wandb/img2img.json").read_text()
    train(recipe, tmp_path / "run", fresh=True)
    assert (tmp_path / "run/wandb/img2img.json").read_text() != first


@needs_wandb
def test_warnings_and_checkpoints(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("IMG2IMG_WANDB_CHECKPOINTS", "1")
    checkpoint = tmp_path / "checkpoints" / "step-00000007"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")
    (tmp_path / "run").mkdir()
    logger = img2img_wandb.WandbLogger()
    logger.on_run_start(tmp_path / "run", {"name": "x"}, 0, 10)
    logger.on_warning(5, "collapsed_output", "outputs are all alike")
    logger.on_metrics({"step": 6, "losses": {"l1": None}})
    logger.on_checkpoint(7, checkpoint)
    logger.on_run_end(8, False)
    logger.on_run_end(8, False)

    (session,) = sessions(tmp_path / "run")
    (alert,) = of_kind(session, "alert")
    assert (alert.title, alert.text) == ("collapsed_output", "step 5: outputs are all alike")
    assert [row["step"] for row in history(session)] == [5]
    told = [
        *of_kind(session, "artifact"),
        *(r.log_artifact.artifact for r in of_kind(session, "request")),
    ]
    artifact = next(one for one in told if one.type == "model")
    assert json.loads(artifact.metadata) == {"step": 7}
    assert [entry.path for entry in artifact.manifest.contents] == ["state.json"]
    assert of_kind(session, "exit")[0].exit_code == 1


@needs_wandb
def test_without_a_key_nobody_is_asked(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    import wandb

    assert img2img_wandb._mode(wandb) == "offline"
    assert "wandb login" in capsys.readouterr().err


@needs_wandb
@pytest.mark.parametrize("mode", ["", "online"])
def test_without_network_a_run_is_logged_offline(mode, recipe, tmp_path, monkeypatch, capsys):
    import wandb

    monkeypatch.setenv("WANDB_MODE", mode)
    really = wandb.init

    def login(**_):
        raise wandb.errors.AuthenticationError("no route")

    def init(**options):
        if options["mode"] is None:
            raise wandb.errors.CommError("no route")
        return really(**options)

    monkeypatch.setattr(wandb, "login", login)
    monkeypatch.setattr(wandb, "init", init)
    (tmp_path / "run").mkdir()
    logger = img2img_wandb.WandbLogger()
    logger.on_run_start(tmp_path / "run", {"name": "x"}, 0, 10)
    logger.on_metrics({"step": 6, "losses": {"l1": 1.5}})
    logger.on_run_end(10, True)
    assert "refuses the key (no route), so the run is logged offline" in capsys.readouterr().err
    (session,) = sessions(tmp_path / "run")
    assert [row["losses/l1"] for row in history(session)] == [1.5]


def test_events_outside_a_run_do_nothing():
    logger = img2img_wandb.WandbLogger()
    logger.on_metrics({"step": 1, "losses": {"l1": 1.0}})
    logger.on_samples(1, Path("missing.png"))
    logger.on_warning(1, "kind", "message")
    logger.on_run_end(1, True)


def test_a_logger_that_cannot_log_ends_no_run(distribution, recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    with pytest.warns(RuntimeWarning, match="'img2img-wandb' failed in on_run_start"):
        run = img2img.train(recipe, out=tmp_path / "run", device="cpu", precision="float32")
    assert run.validation["l1"] > 0


def test_found_by_its_entry_point_and_light(distribution):
    plugins = load_plugins()
    assert plugins.origins[distribution] == "0.1.0"
    assert distribution not in plugins.broken
    source = Path(img2img_wandb.__file__).parent
    program = (
        f"import sys; sys.path.insert(0, {str(source)!r}); import img2img_wandb\n"
        "sys.exit('wandb' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
