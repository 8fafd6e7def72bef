"""Norms, initial weights and last activations by name, in every built-in network."""

import math

import pytest
import torch
from torch import nn

from img2img.inference.policy import Policy, apply_policy
from img2img.layers import (
    BatchNorm2d,
    SyncBatchNorm,
    conv_bias,
    init_weights,
    norm_layer,
    output_activation,
)
from img2img.plugins import load_plugins

NETWORKS = [
    c
    for kind in ("generator", "discriminator")
    for c in load_plugins(entry_points=False).registry.components(kind)
]
every_network = pytest.mark.parametrize("component", NETWORKS, ids=lambda c: c.name)


def build(component, **chosen):
    settings = {s.name: s.default for s in component.settings} | chosen
    if "pretrained" in settings:
        settings |= {"pretrained": False, "backbone": "test_resnet"}
    if "width" in settings:
        settings["width"] = 16
    return component.build(settings, in_channels=3, out_channels=3, image_size=128)


# Norms


@every_network
@pytest.mark.parametrize("norm", ["batch", "instance", "group", "sync", "none"])
def test_every_network_takes_every_norm(component, norm):
    torch.manual_seed(0)
    network = build(component, norm=norm)
    wanted = {
        "batch": BatchNorm2d,
        "instance": nn.InstanceNorm2d,
        "group": nn.GroupNorm,
        "sync": SyncBatchNorm,
    }
    own = network.decoder if hasattr(network, "backbone") else network
    found = {type(m) for m in own.modules() if isinstance(m, tuple(wanted.values()))}
    assert found == ({wanted[norm]} if norm in wanted else set())
    images = torch.randn(2, 3, 128, 128, requires_grad=True)
    output = network(images)
    output.square().sum().backward()
    assert torch.isfinite(output).all()
    assert images.grad.any()


@pytest.mark.parametrize(
    ("channels", "groups"), [(4, 1), (16, 1), (32, 2), (64, 4), (512, 32), (48, 3), (50, 2)]
)
def test_group_norm_has_groups_of_sixteen(channels, groups):
    layer = norm_layer("group", channels)
    assert layer.num_groups == groups
    features = torch.randn(2, channels, 5, 5) * 3 + 7
    together = layer(features).reshape(2, groups, -1)
    assert torch.allclose(together.mean(-1), torch.zeros(2, groups), atol=1e-5)
    assert torch.allclose(together.var(-1, unbiased=False), torch.ones(2, groups), atol=1e-3)


@pytest.mark.parametrize("shape", [(3, 4, 6, 6), (1, 4, 1, 1)])
def test_sync_is_batch_norm_in_one_process(shape):
    torch.manual_seed(0)
    sync, batch = norm_layer("sync", 4), norm_layer("batch", 4)
    for _ in range(3):
        features = torch.randn(shape)
        assert torch.allclose(sync(features), batch(features))
    assert torch.allclose(sync.running_mean, batch.running_mean)
    assert torch.allclose(sync.running_var, batch.running_var)
    assert torch.allclose(sync.eval()(features), batch.eval()(features))


def test_sync_norm_has_the_statistics_of_the_image_at_test_time():
    """As batch norm has: the recipe's policy must not pass it over."""
    torch.manual_seed(0)
    features = torch.randn(2, 4, 6, 6) * 5 + 3
    outputs = []
    for norm in ("sync", "batch"):
        network = nn.Sequential(norm_layer(norm, 4))
        apply_policy(network, Policy())
        outputs.append(network(features))
    assert torch.allclose(*outputs)
    assert torch.allclose(outputs[0].mean((2, 3)), torch.zeros(2, 4), atol=1e-5)


def test_a_bias_is_left_out_only_where_the_norm_makes_it_idle():
    """Shifting all of a channel changes nothing after batch norm, and something after others."""
    torch.manual_seed(0)
    features, shift = torch.randn(2, 32, 5, 5), torch.randn(1, 32, 1, 1)
    for norm in ("batch", "sync", "instance", "group", "none"):
        layer = norm_layer(norm, 32)
        idle = torch.allclose(layer(features), layer(features + shift), atol=1e-5)
        # Instance norm makes it idle too; there it is kept because the common port has it.
        assert conv_bias(norm) is (norm == "instance" or not idle), norm


# Initial weights


@every_network
@pytest.mark.parametrize("init", ["normal", "xavier", "kaiming", "orthogonal"])
def test_every_network_takes_every_init(component, init):
    torch.manual_seed(0)
    network = build(component, init=init)
    own = network.decoder if hasattr(network, "backbone") else network
    convolutions = [m for m in own.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert convolutions
    largest = max(convolutions, key=lambda m: m.weight.numel())
    weight = largest.weight.detach()
    fan_out, fan_in = weight.shape[0] * weight[0, 0].numel(), weight[0].numel()
    if init == "orthogonal":
        rows = weight.flatten(1)
        gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
        assert torch.allclose(gram, torch.eye(len(gram)), atol=1e-4)
    else:
        expected = {
            "normal": 0.02,
            "xavier": math.sqrt(2 / (fan_in + fan_out)),
            "kaiming": math.sqrt(2 / fan_in),
        }[init]
        assert weight.std().item() == pytest.approx(expected, rel=0.05)
    assert all(not m.bias.any() for m in convolutions if m.bias is not None)


def test_scales_of_batch_norm_are_drawn_with_the_papers_weights_alone():
    for norm in ("batch", "sync"):
        network = nn.Sequential(norm_layer(norm, 4096))
        init_weights(network)
        assert network[0].weight.mean().item() == pytest.approx(1, abs=2e-3)
        assert network[0].weight.std().item() == pytest.approx(0.02, rel=0.1)
        network = nn.Sequential(norm_layer(norm, 8))
        init_weights(network, "kaiming")
        assert (network[0].weight == 1).all()


def test_unknown_names():
    with pytest.raises(ValueError, match="init 'glorot' is not one of normal, xavier"):
        init_weights(nn.Conv2d(1, 1, 1), "glorot")
    with pytest.raises(ValueError, match="activation 'relu' is not one of tanh, softmax, none"):
        output_activation("relu")


# Last activations


GENERATORS = [c for c in NETWORKS if c.kind == "generator"]


@pytest.mark.parametrize("component", GENERATORS, ids=lambda c: c.name)
def test_every_generator_can_give_probabilities(component):
    torch.manual_seed(0)
    settings = {s.name: s.default for s in component.settings}
    if "pretrained" in settings:
        settings |= {"pretrained": False, "backbone": "test_resnet"}
    network = component.build(
        settings | {"width": 8}, in_channels=3, out_channels=5, image_size=64, activation="softmax"
    )
    output = network(torch.randn(2, 3, 64, 64))
    assert output.min() >= 0
    assert torch.allclose(output.sum(1), torch.ones(2, 64, 64), atol=1e-5)


def test_no_activation_is_the_bare_output():
    features = torch.randn(1, 3, 4, 4)
    assert torch.equal(output_activation("none")(features), features)
    assert torch.equal(output_activation("tanh")(features), features.tanh())
