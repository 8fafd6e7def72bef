"""A long run holds what a short one holds: no tensors, objects or files gather; no log is lost."""

import collections
import gc
import json
import os
import sys
from pathlib import Path

import pytest
import torch

import img2img
from img2img.engine.directory import RunDirectory
from img2img.plugins import load_plugins
from img2img.training import train_recipe

RECIPE = """
name = "long"
[task]
name = "edges"
[data]
source = "synthetic"
count = 8
size = 20
load_size = 18
crop_size = 16
[generator]
width = 2
[discriminator]
name = "patchgan16"
width = 2
[[losses]]
name = "adversarial"
[[losses]]
name = "l1"
weight = 100
[train]
steps = 100
batch_size = 2
ema_decay = 0.9
log_every = 2
sample_every = 10
sample_count = 1
checkpoint_every = 20
validate_every = 20
keep_checkpoints = 2
precision = "float32"
"""


class Watcher:
    """Counts what this process holds at some log lines, at the same place in each cycle."""

    def __init__(self):
        self.seen = []

    @img2img.hookimpl
    def on_metrics(self, metrics):
        if "losses" in metrics and metrics["step"] % 20 == 0:
            gc.collect()
            objects = gc.get_objects()
            kinds = collections.Counter(type(it).__name__ for it in objects)
            tensors = sum(issubclass(type(it), torch.Tensor) for it in objects)
            self.seen.append((kinds, tensors, len(list(Path("/proc/self/fd").iterdir()))))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_gathers(tmp_path):
    recipe = tmp_path / "long.toml"
    recipe.write_text(RECIPE)
    plugins = load_plugins(entry_points=False)
    watcher = Watcher()
    plugins.manager.register(watcher)
    train_recipe(str(recipe), plugins, out=tmp_path / "run", device="cpu")
    # The first cycles import what they need.
    warm, *later = watcher.seen[2:]
    assert len(later) == 2
    for kinds, tensors, files in later:
        assert tensors == warm[1]
        assert files == warm[2]
        # Twenty steps and ten log lines apart: what gathers with either is more than that.
        assert {name: n for name, n in (kinds - warm[0]).items() if n >= 10} == {}
    logged = [
        line["step"]
        for line in map(json.loads, Path(tmp_path / "run/metrics.jsonl").read_text().splitlines())
        if "losses" in line
    ]
    assert logged == list(range(2, 101, 2))
    steps = sorted(int(path.stem[5:]) for path in (tmp_path / "run/samples").iterdir())
    assert steps == list(range(0, 101, 10))


def test_logs_of_a_long_run_are_cut_in_a_moment(tmp_path):
    """A resume goes through all of metrics.jsonl; what it keeps it keeps to the letter."""
    directory = RunDirectory(tmp_path)
    losses = {"d_real": 0.1, "d_fake": 0.2, "l1": 3.0}
    lines = [json.dumps({"step": n, "losses": losses}) + "\n" for n in range(1, 50_001)]
    directory.metrics.write_text("".join(lines))
    began = os.times().user
    directory.drop_metrics_after(30_000)
    assert directory.metrics.read_text() == "".join(lines[:30_000])
    assert os.times().user - began < 5
