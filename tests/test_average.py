"""Averaged weights: the arithmetic, and that everything shown and saved is the average."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import img2img
from img2img.engine.average import WeightAverage
from img2img.engine.checkpoint import find_checkpoints
from img2img.engine.directory import RunDirectory

RECIPE = """
name = "averaged"
[task]
name = "edges"
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
[train]
steps = 6
log_every = 1
sample_every = 6
checkpoint_every = 3
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "averaged.toml"
    path.write_text(RECIPE)
    return path


class Replacing(nn.Module):
    """A shared weight, and a buffer that is another tensor after each step."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("nothing", None)


def test_a_shared_weight_counts_once_and_a_replaced_buffer_is_followed():
    network = Replacing()
    average = WeightAverage(network, 0.0)  # all of the new
    network.seen = torch.full((3,), 5.0)
    with torch.no_grad():
        network.first.weight.fill_(2.0)
    average.update(network, 1)
    for name, value in network.state_dict().items():
        assert torch.allclose(average.network.state_dict()[name], value), name
    half = WeightAverage(network, 0.5)
    with torch.no_grad():
        network.first.weight.fill_(4.0)
    half.update(network, 100)
    assert half.network.second.weight.unique().tolist() == [3.0]
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.first.weight.fill_(9.0)
    half.update(other, 100)
    assert half.network.second.weight.unique().tolist() == [6.0]


def test_it_is_the_moving_average():
    """Beside sums written out by hand: decay d keeps min(d, (1 + n) / (10 + n))."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).double()
    average = WeightAverage(network, 0.4)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    for step in range(1, 12):
        with torch.no_grad():
            for tensor in (*network.parameters(), *network.buffers()):
                tensor.add_(1)
        average.update(network, step)
        kept = min(0.4, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            mixed = kept * expected[name] + (1 - kept) * value
            expected[name] = mixed if value.is_floating_point() else value
    for name, value in average.network.state_dict().items():
        assert torch.allclose(value, expected[name]), name
    assert not any(p.requires_grad for p in average.network.parameters())
    assert all(p.requires_grad for p in network.parameters())


def test_it_leaves_the_training_alone(tmp_path, recipe):
    """Averaging watches; the weights that are trained are those of a run without."""
    finals = []
    for decay in (0.0, 0.9):
        out = tmp_path / f"run-{decay}"
        img2img.train(recipe, out=out, device="cpu", overrides={"train.ema_decay": decay})
        newest = find_checkpoints(RunDirectory(out))[-1]
        finals.append(load_file(newest / "networks.safetensors"))
    assert finals[0].keys() == finals[1].keys()
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in finals[0])


def test_the_bundle_holds_the_average(tmp_path, recipe):
    out = tmp_path / "run"
    img2img.train(recipe, out=out, device="cpu", overrides={"train.ema_decay": 0.9})
    newest = find_checkpoints(RunDirectory(out))[-1]
    trained = load_file(newest / "networks.safetensors")
    averaged = load_file(newest / "loose.safetensors")
    bundle = load_file(out / "model.safetensors")
    weights = [name for name in bundle if name.endswith("weight")]
    assert weights
    for name in bundle:
        assert torch.equal(bundle[name], averaged[f"average.{name}"])
    assert any(not torch.equal(bundle[name], trained[f"generator.{name}"]) for name in weights)


def test_resumed_is_uninterrupted(tmp_path, recipe):
    settings = {"train.ema_decay": 0.9}
    img2img.train(recipe, out=tmp_path / "whole", device="cpu", overrides=settings)
    short = {**settings, "train.steps": 3}
    img2img.train(recipe, out=tmp_path / "parts", device="cpu", overrides=short)
    img2img.train(recipe, out=tmp_path / "parts", device="cpu", overrides=settings, resume=True)
    whole, parts = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_samples_and_scores_are_of_the_average(tmp_path, recipe, monkeypatch):
    """Both go through one translator, whose network must be the averaged one."""
    from img2img.engine import records

    seen = []

    class Watched(records.Translator):
        def __init__(self, network, *args, **kwargs):
            seen.append(copy.deepcopy(network.state_dict()))
            super().__init__(network, *args, **kwargs)

    monkeypatch.setattr(records, "Translator", Watched)
    out = tmp_path / "run"
    settings = {"train.ema_decay": 0.9, "train.validate_every": 0}
    img2img.train(recipe, out=out, device="cpu", overrides=settings)
    bundle = load_file(out / "model.safetensors")
    assert len(seen) == 3  # sheets at the beginning and the end, and the scores
    for weights in seen[1:]:
        assert all(torch.equal(weights[name], bundle[name]) for name in bundle)
