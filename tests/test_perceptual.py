"""The perceptual loss against a network run by hand, and what it leaves alone."""

import copy

import numpy as np
import pytest
import safetensors
import safetensors.torch
import timm
import torch
from torch import nn

import img2img
from img2img.errors import Img2ImgError
from img2img.losses import Perceptual

SMALL = "test_efficientnet"


@pytest.fixture
def hub(monkeypatch):
    """A hub without the weights, or with them once there are some in its list."""
    import timm.models._builder as builder

    answers = []

    def fetch(place, *args, **kwargs):
        if not answers:
            raise OSError("no route to host")
        return dict(answers[0])

    monkeypatch.setattr(builder, "load_state_dict_from_hf", fetch)
    return answers


def build(**settings):
    torch.manual_seed(0)
    settings = {"backbone": SMALL, "pretrained": False, "layers": (0, 1, 2)} | settings
    return Perceptual(**settings)


def pair(channels=3, size=32):
    torch.manual_seed(1)
    return torch.rand(2, 2, channels, size, size) * 2 - 1


# Before each pooling of VGG-11, if all its layers are counted (arXiv 1409.1556, table 1).
LAST_RELUS = (1, 4, 9, 14, 19)


def test_by_hand_on_a_vgg(tmp_path):
    torch.manual_seed(3)
    with torch.device("meta"):  # its classifier takes half a gigabyte, and is not wanted
        network = timm.create_model("vgg11", pretrained=False).eval()
    network.features.to_empty(device="cpu")
    for layer in network.features:
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    path = tmp_path / "vgg11.safetensors"
    weights = {
        name: torch.zeros(value.shape, dtype=torch.uint8) if value.is_meta else value
        for name, value in network.state_dict().items()
    }
    safetensors.torch.save_file(weights, path)
    loss = Perceptual(
        backbone="vgg11", pretrained=str(path), layers=(3, 1), layer_weights=(0.5, 4.0)
    )
    output, target = pair()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    maps = []
    for images in (output, target):
        pixels = (images.numpy().transpose(0, 2, 3, 1) + 1) / 2
        x = torch.from_numpy(((pixels - mean) / std).transpose(0, 3, 1, 2)).float()
        found = []
        with torch.no_grad():
            for number, layer in enumerate(network.features):
                x = layer(x)
                if number in LAST_RELUS:
                    assert isinstance(layer, nn.ReLU)
                    found.append(x.numpy().astype(np.float64))
        maps.append(found)
    one, three = (np.abs(maps[0][i] - maps[1][i]).mean() for i in (1, 3))
    assert min(one, three) > 1e-3
    assert loss(output, target).item() == pytest.approx(4 * one + 0.5 * three, rel=1e-4)


@pytest.mark.parametrize(
    ("distance", "formula"), [("l1", np.abs), ("l2", np.square)], ids=["l1", "l2"]
)
@pytest.mark.parametrize(("layers", "weights"), [((0, 1, 2, 3), ()), ((2,), ()), ((3, 1), (0, 4))])
def test_distances_and_weights(distance, formula, layers, weights):
    loss = build(layers=layers, layer_weights=weights, distance=distance)
    output, target = pair()
    with torch.no_grad():
        apart = {
            level.index: (a - b).numpy().astype(np.float64)
            for level, a, b in zip(
                loss.backbone.levels, loss.backbone(output), loss.backbone(target), strict=True
            )
        }
    factors = dict(zip(layers, weights or [1] * len(layers), strict=True))
    assert apart.keys() == factors.keys()
    expected = sum(factor * formula(apart[i]).mean() for i, factor in factors.items())
    assert loss(output, target).item() == pytest.approx(expected, rel=1e-5)


def test_what_the_defaults_look_at():
    with torch.device("meta"):
        backbone = Perceptual(pretrained=False).backbone
        shapes = [f.shape[1:] for f in backbone(torch.empty(1, 3, 64, 64))]
    assert shapes == [(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8)]
    assert sum(isinstance(m, nn.Conv2d) for m in backbone.modules()) == 10


def test_it_is_frozen_and_gradients_reach_the_output_alone():
    loss = build()
    before = copy.deepcopy(loss.state_dict())
    output, target = pair()
    output.requires_grad_(), target.requires_grad_()
    loss.train()
    assert not any(module.training for module in loss.modules())
    loss(output, target).backward()
    assert output.grad.any()
    assert target.grad is None
    parameters = list(loss.parameters())
    assert parameters
    assert not any(p.requires_grad or p.grad is not None for p in parameters)
    after = loss.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_gradient_is_that_of_the_difference():
    """Against central differences along a direction, in float64."""
    loss = build(distance="l2").double()
    output, target = pair().double()
    output.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(output, target), output)
    direction = torch.randn_like(output)
    step = 1e-4
    with torch.no_grad():
        ahead, behind = (loss(output + s * direction, target) for s in (step, -step))
    slope = ((ahead - behind) / (2 * step)).item()
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-4)


def test_grey_images_are_repeated():
    loss = build()
    output, target = pair(1)
    three = loss(output.expand(-1, 3, -1, -1), target.expand(-1, 3, -1, -1))
    assert loss(output, target).item() == pytest.approx(three.item(), rel=1e-6)


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_refused(channels):
    with pytest.raises(ValueError, match=f"one or three channels.* have {channels}: leave"):
        build()(*pair(channels))


def test_images_too_small_for_the_maps():
    loss = build(layers=(0, 4))
    assert torch.isfinite(loss(*pair(size=32)))
    with pytest.raises(ValueError, match=r"images of 16x16 pixels leave nothing.*at least 32"):
        loss(*pair(size=16))


def test_in_float32_whatever_is_around_it():
    loss = build()
    output, target = pair()
    exact = loss(output, target)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(output, target)
        also = loss(output.bfloat16(), target)
    assert inside.dtype == also.dtype == torch.float32
    assert inside.item() == exact.item()
    # Only the input was rounded.
    assert also.item() == pytest.approx(exact.item(), rel=2e-2)


def test_it_moves_to_a_device_whole():
    assert build().to("meta")(*pair().to("meta")).is_meta


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "vgg16.tv_in2k"}, r"no weights 'tv_in2k' .*'vgg16\.tv_in1k'"),
        ({"backbone": "vgg61"}, r"no backbone 'vgg61'; did you mean 'vgg"),
        ({"layers": ()}, r"5 feature maps of 'test_efficientnet', numbered 0 to 4.*not \[\]"),
        ({"layers": (0, 5)}, r"not \[0, 5\]"),
        ({"layers": (-1,)}, r"not \[-1\]"),
        ({"layers": (1, 1)}, r"each once, and not \[1, 1\]"),
        ({"layer_weights": (1.0,)}, "a number for each of the 3 layers, and has 1"),
        ({"layer_weights": (1.0, -1.0, 1.0)}, "must not be negative"),
        ({"distance": "l3"}, "'l3' is not one of l1, l2"),
        (
            {"pretrained": "nowhere.pth"},
            "there is no file nowhere.pth; it is true for weights .* or the",
        ),
    ],
)
def test_what_cannot_be_says_why(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_weights_of_the_hub(hub):
    with pytest.raises(
        ValueError, match=r"cannot be fetched.*pretrained = \"path/to/model"
    ) as error:
        build(pretrained=True)
    # Without weights it would compare something, but not what is seen.
    assert "false" not in str(error.value)
    torch.manual_seed(9)
    state = timm.create_model(SMALL, pretrained=False).state_dict()
    hub.append(state)
    found = build(pretrained=True).backbone.features.conv_stem.weight
    assert torch.equal(found, state["conv_stem.weight"])


RECIPE = """
name = "small"
[task]
name = "paired"
[data]
source = "synthetic"
crop_size = 32
count = 4
[generator]
name = "unet"
width = 4
[[losses]]
name = "perceptual"
backbone = "test_efficientnet"
layers = [0, 2]
layer_weights = [1, 0.5]
[train]
steps = 2
"""


def test_a_run_with_it_saves_nothing_of_it(tmp_path):
    recipe, out, weights = tmp_path / "small.toml", tmp_path / "run", tmp_path / "weights.pth"
    recipe.write_text(RECIPE)
    torch.save(timm.create_model(SMALL, pretrained=False).state_dict(), weights)
    overrides = {"losses.perceptual.pretrained": str(weights)}
    img2img.train(recipe, overrides=overrides, out=out, device="cpu")
    saved = [*out.rglob("*.safetensors")]
    assert len(saved) > 1
    for path in saved:
        with safetensors.safe_open(path, framework="pt") as opened:
            assert not any("conv_stem" in name for name in opened.keys())  # noqa: SIM118
    assert not any(b"conv_stem" in path.read_bytes() for path in out.rglob("*.pt"))
    weights.unlink()
    # The finished model has no use for it.
    img2img.load(out, device="cpu")


def test_a_recipe_without_a_hub_says_what_to_do(tmp_path, hub):
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE)
    with pytest.raises(Img2ImgError, match=r"small\.toml:12: losses.* cannot be fetched"):
        img2img.train(recipe, out=tmp_path / "run", device="cpu")
