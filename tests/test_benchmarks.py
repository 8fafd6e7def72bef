"""The benchmark scripts run, and print what their README says."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from img2img.discriminators import PatchGAN70
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


@pytest.fixture
def train_step():
    spec = importlib.util.spec_from_file_location("train_step", BENCHMARKS / "train_step.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
