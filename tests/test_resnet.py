"""The residual generator: against its own arithmetic written out, and another implementation."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from img2img.generators import ResNet

PEER = (
    Path(__file__).parents[2]
    / "shared"
    / "reference"
    / "peer-generators"
    / "resnet_6blocks_instance_ngf4"
)


def on_meta(*args, **settings):
    with torch.device("meta"):
        return ResNet(*args, **settings)


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def counted(channels, width, blocks, norm):
    """Parameters by hand: weights, and a bias a channel, or two where batch norm follows."""
    each = 2 if norm == "batch" else 1
    total = channels[0] * width * 49 + each * width
    for a, b in ((width, 2 * width), (2 * width, 4 * width)):
        total += 2 * 9 * a * b + each * (a + b)
    total += blocks * 2 * (9 * (4 * width) ** 2 + each * 4 * width)
    return total + width * channels[1] * 49 + channels[1]


# What the port prints for --ngf 64, to the last parameter.
@pytest.mark.parametrize(
    ("blocks", "norm", "exactly"),
    [
        (9, "instance", 11_378_179),
        (6, "instance", 7_837_699),
        (9, "batch", 11_383_427),
        (6, "batch", 7_841_411),
    ],
)
def test_resnet_parameters(blocks, norm, exactly):
    assert parameters(on_meta(3, 3, blocks=blocks, norm=norm)) == exactly
    assert counted((3, 3), 64, blocks, norm) == exactly
    small = on_meta(1, 2, width=6, blocks=blocks, norm=norm)
    assert parameters(small) == counted((1, 2), 6, blocks, norm)


def test_resnet_has_nine_blocks_of_width_64_unless_told():
    assert parameters(on_meta(3, 3)) == counted((3, 3), 64, 9, "batch")


def written_out(network, x, norm):
    """The forward pass as arXiv 1603.08155 describes it, from the weights alone."""
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    norms = iter([m for m in network.modules() if isinstance(m, nn.BatchNorm2d)])

    def normed(y):
        if norm == "none":
            return y
        mean = y.mean((0, 2, 3) if norm == "batch" else (2, 3), keepdim=True)
        variance = ((y - mean) ** 2).mean((0, 2, 3) if norm == "batch" else (2, 3), keepdim=True)
        y = (y - mean) / (variance + 1e-5).sqrt()
        if norm == "instance":
            return y
        module = next(norms)
        return y * module.weight[:, None, None] + module.bias[:, None, None]

    def mirrored(y, by):
        rows, columns = (
            torch.from_numpy(np.pad(np.arange(side), by, mode="reflect")) for side in y.shape[2:]
        )
        return y[:, :, rows][..., columns]

    first, *others = layers
    y = normed(F.conv2d(mirrored(x, 3), first.weight, first.bias)).relu()
    for layer in others[:2]:
        y = normed(F.conv2d(y, layer.weight, layer.bias, stride=2, padding=1)).relu()
    for a, b in zip(others[2:-3:2], others[3:-3:2], strict=True):
        inside = normed(F.conv2d(mirrored(y, 1), a.weight, a.bias)).relu()
        y = y + normed(F.conv2d(mirrored(inside, 1), b.weight, b.bias))
    for layer in others[-3:-1]:
        up = F.conv_transpose2d(y, layer.weight, layer.bias, stride=2, padding=1, output_padding=1)
        y = normed(up).relu()
    return torch.tanh(F.conv2d(mirrored(y, 3), others[-1].weight, others[-1].bias))


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
@pytest.mark.parametrize("blocks", [1, 6])
def test_resnet_agrees_with_itself_written_out(norm, blocks):
    torch.manual_seed(blocks)
    network = ResNet(3, 2, image_size=16, width=4, blocks=blocks, norm=norm).double()
    with torch.no_grad():
        for parameter in network.parameters():
            # Biases count only when they are not 0, and small weights would leave nothing to see.
            nn.init.normal_(parameter, std=0.3)
        x = torch.randn(2, 3, 24, 16, dtype=torch.float64)
        ours, theirs = network(x), written_out(network, x, norm)
    assert ours.std() > 0.1
    assert (ours - theirs).abs().max() < 1e-10


@pytest.mark.skipif(not PEER.is_dir(), reason="no ../shared/reference here")
def test_resnet_agrees_with_another_implementation():
    theirs = torch.load(PEER / "latest_net_G.pth", weights_only=True)
    network = ResNet(3, 3, width=4, blocks=6, norm="instance").eval()
    ours = network.state_dict()
    # Both list their layers in the order they run in.
    assert [v.shape for v in ours.values()] == [v.shape for v in theirs.values()]
    network.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    with torch.no_grad():
        output = network(torch.from_numpy(np.load(PEER / "input.npy"))).numpy()
    assert np.abs(output - np.load(PEER / "output_eval.npy")).max() <= 1e-5


@pytest.mark.parametrize("blocks", [6, 9])
def test_resnet_dropout_is_once_in_every_block(blocks):
    network = on_meta(3, 3, width=2, blocks=blocks, dropout=0.3)
    seen = []
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Dropout, nn.BatchNorm2d, nn.ReLU)):
            module.register_forward_hook(lambda m, i, o: seen.append(type(m).__name__))
    with torch.no_grad():
        network(torch.empty(1, 3, 16, 16, device="meta"))
    text = " ".join(seen).replace("BatchNorm2d", "norm")
    assert text.count("Conv2d norm ReLU Dropout Conv2d norm") == blocks
    assert text.count("Dropout") == blocks
    assert {m.p for m in network.modules() if isinstance(m, nn.Dropout)} == {0.3}


def test_resnet_without_dropout_has_the_same_weights():
    with_dropout, without = (on_meta(3, 3, width=2, dropout=rate) for rate in (0.5, 0.0))
    assert not any(isinstance(m, nn.Dropout) for m in without.modules())
    assert list(with_dropout.state_dict()) == list(without.state_dict())


@pytest.mark.parametrize("norm", ["batch", "instance", "group", "sync", "none"])
def test_resnet_passes_every_pixel_on(norm):
    """No convolution drops a border, and no size but multiples of 4 is needed."""
    torch.manual_seed(0)
    network = ResNet(1, 1, width=2, blocks=1, norm=norm)
    assert network.size_multiple == 4
    for height, width in ((8, 8), (12, 20)):
        images = torch.randn(2, 1, height, width, requires_grad=True)
        output = network(images)
        assert output.shape == images.shape
        output.square().sum().backward()
        assert images.grad.ne(0).all()


@pytest.mark.parametrize("size", [0, 4, 6, 7, 30, 255, 258])
def test_resnet_names_sizes_that_fit(size):
    with pytest.raises(ValueError, match=f"{size} is not: use") as caught:
        ResNet(3, 3, image_size=size, width=2)
    named = [int(n) for n in re.findall(r"\d+", str(caught.value).split("use ")[1])]
    assert named
    for works in named:
        network = on_meta(3, 3, image_size=works, width=2, blocks=1)
        images = torch.empty(1, 3, works, works, device="meta")
        assert network(images).shape == images.shape


@pytest.mark.parametrize(("height", "width"), [(4, 64), (64, 4), (10, 64), (63, 65), (1, 1)])
def test_resnet_says_what_images_are_to_be_padded_to(height, width):
    network = on_meta(3, 3, width=2, blocks=1)
    with pytest.raises(ValueError, match=f"{height}x{width}") as caught:
        network(torch.empty(1, 3, height, width, device="meta"))
    fit = [int(side) for side in re.search(r"to (\d+)x(\d+)", str(caught.value)).groups()]
    assert fit[0] >= height
    assert fit[1] >= width
    assert network(torch.empty(1, 3, *fit, device="meta")).shape[2:] == tuple(fit)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width must be above 0"),
        ({"blocks": 0}, "blocks must be above 0"),
        ({"dropout": 1.0}, "below 1"),
        ({"dropout": -0.1}, "at least 0"),
        ({"norm": "layer"}, "'layer' is not one of"),
        ({"init": "zeros"}, "'zeros' is not one of"),
    ],
)
def test_resnet_refuses_what_cannot_be_built(settings, message):
    with pytest.raises(ValueError, match=message):
        ResNet(3, 3, **settings)


def test_resnet_ends_in_what_the_task_wants():
    images = torch.randn(1, 3, 16, 16)
    probabilities = ResNet(3, 4, width=2, blocks=1, activation="softmax")(images)
    assert torch.allclose(probabilities.sum(1), torch.ones(1, 16, 16))
    assert isinstance(ResNet(3, 3, width=2, blocks=1).decoder[-1], nn.Tanh)


def test_resnet_initial_weights_are_normal():
    torch.manual_seed(0)
    network = ResNet(3, 3, width=16, blocks=2)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.weight.numel() > 5000:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert module.bias is None or not module.bias.any()


def test_a_tiny_image_is_translated():
    """Smaller than the network takes: reflected as far as it needs, and cropped back."""
    from img2img.inference import Policy, Translator
    from img2img.tasks import Paired

    network = ResNet(3, 3, width=4, blocks=6)
    translator = Translator(network, Paired(), Policy())
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    assert translator(image).shape == (3, 5, 3)
