"""Which discriminator the generator's loss sees, worked out by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from img2img.losses import L1, Adversarial
from img2img.methods import Pix2Pix, WeightedLoss


class Net(nn.Module):
    """One layer; enough of a network for a step."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, images):
        return self.layer(images)


def pix2pix(sees):
    torch.manual_seed(0)
    losses = [WeightedLoss("adversarial", 1.0, Adversarial()), WeightedLoss("l1", 2.0, L1())]
    return Pix2Pix(
        lambda i, o: Net(i, o).double(),
        lambda i: Net(i, 1).double(),
        losses,
        1,
        3,
        True,
        learning_rate=0.05,
        generator_sees=sees,
    )


def pair():
    torch.manual_seed(1)
    return torch.randn(2, 1, 8, 8).double(), torch.randn(2, 3, 8, 8).double()


def objective(generator, discriminator, source, target):
    """Of the generator, as in arXiv 1611.07004, equations 1 and 3, non-saturating."""
    output = generator(source)
    logits = discriminator(torch.cat([source, output], 1))
    return F.softplus(-logits).mean(), 2.0 * (output - target).abs().mean()


@pytest.mark.parametrize("sees", ["before", "after"])
def test_the_generator_sees_that_discriminator(sees):
    method = pix2pix(sees)
    source, target = pair()
    old = {name: copy.deepcopy(network) for name, network in method.networks.items()}
    losses = method.step(source, target)
    discriminator = old["discriminator"] if sees == "before" else method.discriminator
    other = method.discriminator if sees == "before" else old["discriminator"]
    fooled, distance = objective(old["generator"], discriminator, source, target)
    assert losses["adversarial"].item() == pytest.approx(fooled.item(), rel=1e-12)
    wrong, _ = objective(old["generator"], other, source, target)
    assert losses["adversarial"].item() != pytest.approx(wrong.item(), rel=1e-4)
    # Adam's first step is the rate times g / (|g| + epsilon): its means are g and g**2.
    (fooled + distance).backward()
    for before, after in zip(
        old["generator"].parameters(), method.generator.parameters(), strict=True
    ):
        moved = 0.05 * before.grad / (before.grad.abs() + 1e-8)
        assert torch.allclose(after, before - moved, rtol=0, atol=1e-12)


def test_the_discriminator_step_is_the_same_either_way():
    """It sees the output from before the generator's step, whichever goes first."""
    methods = [pix2pix(sees) for sees in ("before", "after")]
    source, target = pair()
    logged = [method.step(source, target) for method in methods]
    for name in ("d_real", "d_fake", "l1"):
        assert torch.equal(logged[0][name], logged[1][name])
    for one, other in zip(*(m.discriminator.parameters() for m in methods), strict=True):
        assert torch.equal(one, other)
        assert one.requires_grad


def test_it_is_one_of_the_two():
    with pytest.raises(ValueError, match="generator_sees is 'after' or 'before', not 'never'"):
        pix2pix("never")
