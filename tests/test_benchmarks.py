"""The benchmark scripts run, and print what their README says."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from img2img.discriminators import PatchGAN, PatchGAN70
from img2img.generators import UNet

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PEER = """
import torch

class Pix2PixModel:
    def __init__(self, opt):
        print("not JSON")
        make = lambda count: torch.nn.ParameterList([torch.zeros(count)])
        self.netG, self.netD = make({generator}), make({discriminator})
        assert (opt.netG, opt.ngf, opt.no_dropout) == ("unet_128", 2, False)

    def setup(self, opt):
        self.ready = True

    def set_input(self, batch):
        assert batch["A"].shape == batch["B"].shape == (1, 3, 128, 128)

    def optimize_parameters(self):
        assert self.ready
"""


def script(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def train_step():
    return script("train_step")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_train_step(train_step, capsys, precision):
    settings = {"size": 32, "width": 4, "batch": 2, "steps": 2, "rounds": 3, "precision": precision}
    train_step.main(["--device=cpu", *(f"--{key}={value}" for key, value in settings.items())])
    printed = json.loads(capsys.readouterr().out)
    timed = printed.pop("ours")
    keys = {"device", "device_name", "threads", "torch", "cudnn_benchmark", "parameters"}
    assert set(printed) == {*keys, "settings"}
    assert len(timed["rounds_s"]) == 3
    assert 0 < timed["best_s"] <= timed["median_s"] <= max(timed["rounds_s"])
    assert printed["device"] == "cpu"
    assert printed["settings"] == settings
    assert set(printed["parameters"]) == {"generator", "discriminator"}


@pytest.fixture
def beside_a_peer(tmp_path):
    """Arguments that name a checkout with the interface the script uses, idle in its steps."""

    def write(**sizes):
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "pix2pix_model.py").write_text(PEER.format(**sizes))
        settings = {"device": "cpu", "size": 128, "width": 2, "steps": 1, "rounds": 2}
        return [f"--peer={tmp_path}", *(f"--{key}={value}" for key, value in settings.items())]

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "models"]:
        del sys.modules[name]


def test_train_step_beside_a_peer(train_step, capsys, beside_a_peer):
    networks = UNet(3, 3, image_size=128, width=2), PatchGAN70(6, width=2)
    sizes = [sum(p.numel() for p in network.parameters()) for network in networks]
    train_step.main(beside_a_peer(generator=sizes[0], discriminator=sizes[1]))
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["peer"]["rounds_s"]) == len(printed["ours"]["rounds_s"]) == 2
    assert printed["ratio"] == printed["ours"]["median_s"] / printed["peer"]["median_s"]
    assert printed["ratio_of_best"] == printed["ours"]["best_s"] / printed["peer"]["best_s"]
    assert len(printed["ratio_spread"]) == 2


def test_train_step_refuses_to_compare_other_networks(train_step, beside_a_peer):
    with pytest.raises(SystemExit, match="not the same networks"):
        train_step.main(beside_a_peer(generator=1, discriminator=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--rounds=0", "--rounds must be at least 1, not 0"),
        ("--device=nowhere", "'nowhere' is not a device"),
        ("--peer=. --size=96", "--size must be a multiple of 128"),
    ],
)
def test_train_step_refuses(train_step, capsys, arguments, message):
    with pytest.raises(SystemExit) as left:
        train_step.main(arguments.split())
    assert left.value.code == 2
    assert message in capsys.readouterr().err


# The paper's tables


@pytest.mark.parametrize(("layers", "field"), [(1, 16), (2, 34), (3, 70)])
def test_receptive_fields_are_measured(layers, field):
    network = PatchGAN(6, width=4, layers=layers)
    assert script("paper_tables").receptive_field(network, 6, 160) == (field, False)


def test_a_row_of_the_papers_tables(pairs_folder, monkeypatch, capsys):
    """Sizes and field are the shipped recipe's; the training is as small as was asked."""
    arguments = ["--steps", "2", "--size", "32", "--width", "4", "--device", "cpu"]
    rows = ["table2/encoder_decoder-l1", "table3/1x1"]
    command = ["paper_tables.py", "--data", str(pairs_folder), *arguments, "--only", *rows]
    monkeypatch.setattr(sys, "argv", [*command, "--json"])
    script("paper_tables").main()
    found = json.loads(capsys.readouterr().out)["rows"]
    assert list(found) == rows
    one, other = (found[row] for row in rows)
    assert "discriminator" not in one["networks"]
    seen = other["networks"]["discriminator"]
    assert (seen["receptive_field"], seen["paper_receptive_field"]) == (1, 1)
    assert other["networks"]["generator"]["parameters"] == 54_413_955
    assert all(row["last_losses"]["l1"] > 0 and row["validation"]["l1"] > 0 for row in (one, other))
    monkeypatch.setattr(sys, "argv", command)
    script("paper_tables").main()
    printed = capsys.readouterr().out
    assert "1 / 1" in printed
    assert "54.41 / 54.41" in printed
    assert "whole image" in printed
