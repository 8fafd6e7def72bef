"""Ten steps of another implementation, recorded in float64, step by step."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from img2img.discriminators import PatchGAN
from img2img.generators import UNet
from img2img.losses import L1, Adversarial
from img2img.methods import Pix2Pix, WeightedLoss

TRACE = Path(__file__).parents[2] / "shared" / "reference" / "peer-training-trace"
pytestmark = pytest.mark.skipif(not TRACE.is_dir(), reason="no ../shared/reference here")


def generator_weights(path, network):
    """The peer nests its U-Net; flattened, its tensors come in the order encoder, decoder."""
    theirs = torch.load(path, weights_only=True)
    return _in_order(theirs, network)


def _in_order(theirs, network):
    ours = network.state_dict()
    assert len(theirs) == len(ours)
    # Both list layers in the order they run in, and so do their state dicts.
    for (name, value), other in zip(ours.items(), theirs.values(), strict=True):
        assert value.shape == other.shape, name
    return dict(zip(ours, theirs.values(), strict=True))


def method():
    def build_generator(in_channels, out_channels):
        network = UNet(in_channels, out_channels, image_size=128, width=4, depth=7, dropout=0.0)
        network.load_state_dict(generator_weights(TRACE / "initial_net_G.pth", network))
        return network.double()

    def build_discriminator(in_channels):
        network = PatchGAN(in_channels, width=8, layers=3)
        network.load_state_dict(generator_weights(TRACE / "initial_net_D.pth", network))
        return network.double()

    losses = [WeightedLoss("adversarial", 1.0, Adversarial()), WeightedLoss("l1", 100.0, L1())]
    return Pix2Pix(build_generator, build_discriminator, losses, 3, 3, True)


def batches():
    data = np.load(TRACE / "batches.npz")
    source, target = (
        torch.from_numpy(data[name]).permute(0, 3, 1, 2).double() / 127.5 - 1
        for name in ("source", "target")
    )
    return [(source[2 * k : 2 * k + 2], target[2 * k : 2 * k + 2]) for k in range(10)]


def test_ten_steps_in_float64():
    recorded = json.loads((TRACE / "trace.json").read_text())["steps"]
    pix2pix = method()
    names = {"G_GAN": "adversarial", "G_L1": "l1", "D_real": "d_real", "D_fake": "d_fake"}
    for k, ((source, target), expected) in enumerate(zip(batches(), recorded, strict=True)):
        losses = pix2pix.step(source, target)
        for theirs, ours in names.items():
            assert losses[ours].item() == pytest.approx(expected[theirs], rel=1e-9), (k, ours)
    for name, network in pix2pix.networks.items():
        final = generator_weights(TRACE / f"final_net_{name[0].upper()}.pth", network)
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                assert (value - final[key].double()).abs().max() <= 1e-9, (name, key)
