"""The U-Net on timm backbones, the weights it is given, and how it is used afterwards."""

import logging
import pickle
import tomllib

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from torch import nn

import img2img
from img2img.backbones import Backbone, backbone_levels
from img2img.bundle import load_bundle
from img2img.engine.checkpoint import find_checkpoints
from img2img.engine.directory import RunDirectory
from img2img.engine.precision import set_precision
from img2img.errors import Img2ImgError
from img2img.generators import TimmUNet, UNet
from img2img.hub import first_sentence
from img2img.inference import Policy, Translator
from img2img.tasks import Paired

# timm's own for tests: whole architectures of a few hundred thousand weights.
SMALL = "test_resnet"


@pytest.fixture
def hub(monkeypatch):
    """What timm asks of the hub, and the weights that it answers with."""
    import timm.models._builder as builder

    asked, answers = [], []

    def fetch(place, *args, **kwargs):
        asked.append(place)
        if not answers:
            raise OSError("no route to host\nand a second line")
        return dict(answers[0])

    monkeypatch.setattr(builder, "load_state_dict_from_hf", fetch)
    fetch.asked, fetch.answers = asked, answers
    return fetch


def build(backbone=SMALL, *, in_channels=3, out_channels=3, pretrained=False, **settings):
    settings = {"image_size": 64, "width": 4, **settings}
    return TimmUNet(in_channels, out_channels, backbone=backbone, pretrained=pretrained, **settings)


def on_meta(*args, **settings):
    with torch.device("meta"):
        return build(*args, **settings)


def images(channels=3, height=64, width=64, batch=2):
    torch.manual_seed(1)
    return torch.rand(batch, channels, height, width) * 2 - 1


def weights_of(backbone=SMALL, seed=5, **settings):
    """A whole network of timm, every value drawn, as a file of weights would hold them."""
    torch.manual_seed(seed)
    network = timm.create_model(backbone, pretrained=False, **settings)
    state = network.state_dict()
    for value in state.values():
        if value.is_floating_point():
            # Positive, because variances must be.
            value.copy_(torch.rand_like(value) * 0.2 + 0.01)
    return state


def write(path, state):
    safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, path)
    return str(path)


# The network


def test_it_is_the_usual_one():
    """24,436,369 weights is what segmentation_models_pytorch.Unet("resnet34") has."""
    with torch.device("meta"):
        network = TimmUNet(3, 1, pretrained=False)
        assert network(torch.empty(1, 3, 256, 256)).shape == (1, 1, 256, 256)
    assert sum(p.numel() for p in network.parameters()) == 24_436_369
    assert network.size_multiple == 32


def norm(x, module):
    scale = module.weight / torch.sqrt(module.running_var + module.eps)
    shift = module.bias - module.running_mean * scale
    return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


@pytest.mark.parametrize("activation", [torch.tanh, lambda x: x.softmax(1)])
def test_decoder_by_hand(activation):
    torch.manual_seed(0)
    name = "tanh" if activation is torch.tanh else "softmax"
    network = build(activation=name).double()
    for _ in range(20):
        # Running statistics near the weights' own, so that the maps keep their size.
        network(images().double())
    nn.init.normal_(network.decoder[-1][0].weight)
    network.eval()
    x = images(height=64, width=96).double()
    *skips, y = network.backbone(x)
    assert [s.shape[1:] for s in (*skips, y)] == [
        (level.channels, 64 // level.reduction, 96 // level.reduction)
        for level in backbone_levels(SMALL)
    ]
    for layer in network.decoder[:-1]:
        conv1, norm1, _, conv2, norm2, *_ = layer
        y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
        if skips:
            y = torch.cat([y, skips.pop()], 1)
        y = F.conv2d(y, conv1.weight, padding=1)
        y = norm(y, norm1).clamp_min(0)
        y = F.conv2d(y, conv2.weight, padding=1)
        y = norm(y, norm2).clamp_min(0)
    head = network.decoder[-1][0]
    y = activation(F.conv2d(y, head.weight, head.bias, padding=1))
    assert y.std() > 1e-2
    assert (network(x) - y).abs().max() < 1e-10
    assert [layer[0].out_channels for layer in network.decoder[:-1]] == [64, 32, 16, 8, 4]


def test_dropout_where_asked():
    network = on_meta(dropout=0.3, dropout_layers=(2, 5, 9))
    found = {
        i: [m.p for m in layer.modules() if isinstance(m, nn.Dropout)]
        for i, layer in enumerate(network.decoder, 1)
    }
    assert found == {1: [], 2: [0.3], 3: [], 4: [], 5: [0.3], 6: []}
    assert not any(isinstance(m, nn.Dropout) for m in on_meta(dropout=0.0).modules())


@pytest.mark.parametrize(
    ("backbone", "multiple", "joins"),
    [
        ("resnet18", 32, [1, 1, 1, 1, 0]),
        ("efficientnet_b0", 32, [1, 1, 1, 1, 0]),
        ("mobilenetv3_small_050", 32, [1, 1, 1, 1, 0]),
        ("vgg11_bn", 32, [1, 1, 1, 1, 1]),
        # The finest map is a quarter of the image.
        ("convnext_atto", 32, [1, 1, 1, 0, 0]),
        # Channels last.
        ("test_mambaout", 32, [1, 1, 1, 0, 0]),
        # Channels last, and built for a size.
        ("swin_tiny_patch4_window7_224", 32, [1, 1, 1, 0, 0]),
        ("swinv2_tiny_window8_256", 32, [1, 1, 1, 0, 0]),
        # All maps of one size.
        ("test_vit", 16, [0, 0, 0, 0]),
        ("deit_tiny_patch16_224", 16, [0, 0, 0, 0]),
        ("csatv2", 64, [1, 1, 1, 0, 0, 0]),
    ],
)
def test_backbones_of_every_kind(backbone, multiple, joins):
    network = on_meta(backbone, image_size=256)
    assert network.size_multiple == multiple
    assert network.joins == [bool(join) for join in joins]
    parameters = dict(network.named_parameters())
    for height, width in ((256, 256), (multiple, 2 * multiple)):
        output = network(torch.empty(2, 3, height, width, device="meta"))
        assert output.shape == (2, 3, height, width)
    found = torch.autograd.grad(output.sum(), list(parameters.values()), allow_unused=True)
    idle = [name for name, g in zip(parameters, found, strict=True) if g is None]
    assert idle == []


@pytest.mark.parametrize(
    "backbone", [SMALL, "test_efficientnet", "test_convnext", "test_mambaout", "test_vit"]
)
def test_a_step_in_either_precision(backbone):
    torch.manual_seed(0)
    network = build(backbone, dropout=0.0)
    x = images()
    exact = network(x)
    state = {name: tensor.to("meta") for name, tensor in network.state_dict().items()}
    assert torch.func.functional_call(network, state, (x.to("meta"),)).shape == exact.shape
    rounded = set_precision(network, "bfloat16")(x)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().max() < 0.15
    rounded.square().mean().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())


def test_training_with_a_batch_of_one_and_norms_of_pooled_maps():
    """As in squeeze-and-excitation; torch refuses to normalise a single value."""
    torch.manual_seed(0)
    network = build("skresnet18")
    network(images(batch=1)).mean().backward()
    assert torch.isfinite(network.decoder[-1][0].weight.grad).all()


@pytest.mark.parametrize(
    ("size", "depth", "innermost"),
    [
        (64, None, 2),
        # With one pixel left, a batch norm would have nothing to go by in a batch of one.
        (32, None, 2),
        (48, None, 3),
        (24, None, 3),
        (32, 5, 1),
        (64, 3, 8),
    ],
)
def test_depth_follows_the_crops(size, depth, innermost):
    network = on_meta(image_size=size, depth=depth)
    assert network.size_multiple == size // innermost
    *_, map_ = network.backbone(torch.empty(1, 3, size, size, device="meta"))
    assert map_.shape[-1] == innermost
    # What lies behind the last map is not built.
    counts = [sum(p.numel() for p in on_meta(depth=d).backbone.parameters()) for d in (2, 3, 4, 5)]
    assert sorted(set(counts)) == counts


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "resnet43"}, r"no backbone 'resnet43'; did you mean 'resnet34'"),
        ({"backbone": "ConvNext_tiny"}, r"did you mean 'convnext_tiny'"),
        ({"backbone": "resnet34.a9_in1k"}, r"no weights 'a9_in1k' .*'resnet34\.a1_in1k'"),
        ({"backbone": "hf-hub:timm/resnet18"}, r"no backbone 'hf-hub:timm/resnet18'"),
        ({"backbone": ""}, r"no backbone ''"),
        ({"backbone": "inception_v4"}, r"125x125 pixels instead of 128x128"),
        ({"backbone": "levit_128"}, r"takes images of 256x256 pixels and no others"),
        ({"backbone": "test_vit_relpos"}, r"takes images of 256x256 pixels and no others"),
        ({"image_size": 100}, r"multiple of 32, .* use 96 or 128 pixels, or depth = 2$"),
        ({"image_size": 72}, r"multiple of 32, .* use 64 or 96 pixels, or depth = 3$"),
        ({"image_size": 70}, r"multiple of 32, .* use 64 or 96 pixels$"),
        ({"image_size": 250}, r"multiple of 32, .* use 224 or 256 pixels$"),
        # Too small for the coarsest map, and no multiple of the next one.
        ({"image_size": 40}, r"multiple of 16, .* use 32 or 48 pixels, or depth = 3$"),
        ({"backbone": "resnet18", "image_size": 100}, r"'resnet18' .* use 96 or 128 pixels, or"),
        ({"image_size": 4}, r"multiple of 4 and at least 8"),
        ({"backbone": "test_vit", "image_size": 40}, r"multiple of 16, .* use 32 or 48 pixels$"),
        ({"backbone": "test_vit", "image_size": 24}, r"multiple of 16 and at least 32"),
        ({"image_size": 250, "depth": 3}, r"multiples of 8; 250 is not: use 248 or 256 pixels"),
        ({"depth": 6}, r"no feature map of depth 6; it has 1, 2, 3, 4, 5"),
        ({"backbone": "test_convnext", "depth": 1}, r"depth 1; it has 2, 3, 4, 5"),
        ({"width": 0}, "width must be above 0"),
        ({"dropout": 1.0}, "below 1"),
        ({"dropout_layers": (0, 1)}, "count from 1"),
        ({"norm": "layer"}, "'layer' is not one of"),
    ],
)
def test_what_cannot_be_built_says_why(settings, message):
    with pytest.raises(ValueError, match=message):
        on_meta(**{"image_size": 256, **settings})


@pytest.mark.parametrize(("height", "width", "fit"), [(40, 64, "64x64"), (1, 70, "32x96")])
def test_images_that_do_not_fit_are_told_what_to_be_padded_to(height, width, fit):
    network = on_meta()
    with pytest.raises(ValueError, match=f"{height}x{width} pixels do not fit.*{fit}"):
        network(torch.empty(1, 3, height, width, device="meta"))


# Normalisation and weights


@pytest.mark.parametrize(
    ("backbone", "mean", "std"),
    [
        ("test_efficientnet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (SMALL, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        (f"{SMALL}.r160_in1k", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
@pytest.mark.parametrize("from_file", [True, False])
def test_images_are_normalised_as_the_backbone_wants(backbone, mean, std, from_file, tmp_path):
    state = weights_of(backbone)
    given = write(tmp_path / "weights.safetensors", state) if from_file else False
    ours = build(backbone, pretrained=given).backbone.eval()
    theirs = timm.create_model(backbone, pretrained=False).eval()
    theirs.load_state_dict(state)
    if not from_file:
        # The same architecture, so the same weights in the same order, the classifier apart.
        for a, b in zip(ours.features.state_dict().values(), state.values(), strict=False):
            a.copy_(b)
    x = images()
    pixels = (x.numpy() + 1) / 2
    wanted = (pixels - np.array(mean).reshape(1, 3, 1, 1)) / np.array(std).reshape(1, 3, 1, 1)
    with torch.no_grad():
        found = ours(x)[-1]
        expected = theirs.forward_intermediates(
            torch.from_numpy(wanted).float(), intermediates_only=True
        )[-1]
    # Efficientnets give what comes before their last, widening convolution.
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_other_channels_take_the_means_of_the_three(channels):
    backbone = on_meta("test_efficientnet", in_channels=channels).backbone
    assert backbone.scale.shape == (1, channels, 1, 1)
    backbone = build("test_efficientnet", in_channels=channels).backbone
    mean, std = (0.485 + 0.456 + 0.406) / 3, (0.229 + 0.224 + 0.225) / 3
    assert backbone.scale.flatten().tolist() == pytest.approx([0.5 / std] * channels)
    assert backbone.shift.flatten().tolist() == pytest.approx([(0.5 - mean) / std] * channels)


def test_grey_images_meet_the_sum_of_the_weights(tmp_path):
    state = weights_of()
    path = write(tmp_path / "weights.safetensors", state)
    grey, rgb = (build(in_channels=c, pretrained=path).backbone.eval() for c in (1, 3))
    x = images(1)
    for a, b in zip(grey(x), rgb(x.expand(-1, 3, -1, -1)), strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def holds(network, state):
    """Whether every weight of a backbone is one of a file's, in the file's order."""
    tensors = [v for v in state.values() if v.is_floating_point()]
    ours = [v for v in network.backbone.features.state_dict().values() if v.is_floating_point()]
    return all(torch.equal(a, b) for a, b in zip(ours, tensors, strict=False))


def test_weights_of_a_file_whatever_its_form(tmp_path, caplog):
    state = weights_of()
    files = {"bare.safetensors": write(tmp_path / "bare.safetensors", state)}
    wrapped = {f"module.{name}": value for name, value in state.items()}
    no_head = {name: value for name, value in state.items() if not name.startswith("fc.")}
    for name, content in {
        "plain.pth": state,
        "checkpoint.pth.tar": {"epoch": 3, "state_dict": wrapped},
        "headless.pt": no_head,
        "other_classes.pth": weights_of(num_classes=7),
    }.items():
        torch.save(content, tmp_path / name)
        files[name] = str(tmp_path / name)
    assert not holds(build(), state)
    for name, path in files.items():
        network = build(pretrained=path)
        assert holds(network, state if "other" not in name else weights_of(num_classes=7)), name
        # The file itself is not carried along.
        kept = [m.pretrained_cfg for m in network.modules() if hasattr(m, "pretrained_cfg")]
        assert kept
        assert not any("state_dict" in config for config in kept)
        assert all(p.requires_grad for p in network.parameters())
    # timm would warn of a classifier that nobody misses.
    build(
        "test_efficientnet",
        pretrained=write(tmp_path / "e.safetensors", weights_of("test_efficientnet")),
    )
    assert caplog.records == []


def test_weights_for_another_size_are_fitted(tmp_path):
    """A ViT's positions are those of its size: timm interpolates them."""
    state = weights_of("test_vit")
    path = write(tmp_path / "weights.safetensors", state)
    network = build("test_vit", pretrained=path)
    found = dict(network.backbone.features.named_parameters())
    assert torch.equal(found["model.patch_embed.proj.weight"], state["patch_embed.proj.weight"])
    assert found["model.pos_embed"].shape[1] == 4 * 4 + 1
    assert state["pos_embed"].shape[1] == 10 * 10 + 1


class Payload:
    """Executed, if a file is unpickled without care."""

    def __reduce__(self):
        return (pytest.fail, ("code in a file of weights was executed",))


@pytest.mark.parametrize(
    ("backbone", "content", "message"),
    [
        ("resnet18", "resnet34", r"not those of backbone 'resnet18' \(.*layer1\.2"),
        ("resnet34", "resnet18", r"not those of backbone 'resnet34' \(.*layer1\.2"),
        ("test_resnet", "test_vit", r"not those of backbone 'test_resnet'"),
        ("test_resnet", b"nonsense", r"cannot be read as weights"),
        ("test_resnet", {"epoch": 3}, r"cannot be read as weights"),
        ("test_resnet", {}, r"cannot be read as weights"),
        ("test_resnet", Payload(), r"cannot be read as weights.*tensors alone"),
        ("test_resnet", None, r"there is no file .*weights\.pth; it is true"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_file_that_does_not_fit_says_so(backbone, content, message, tmp_path):
    path = tmp_path / "weights.pth"
    if isinstance(content, str):
        torch.save(timm.create_model(content, pretrained=False).state_dict(), path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, Payload):
        path.write_bytes(pickle.dumps(content, protocol=2))
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message) as caught:
        build(backbone, pretrained=str(path))
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_weights_from_the_hub(hub):
    state = weights_of()
    hub.answers.append(state)
    assert holds(build(pretrained=True), state)
    assert hub.asked == ["timm/test_resnet.r160_in1k"]


def test_a_hub_that_cannot_be_reached(hub):
    with pytest.raises(ValueError, match=r"cannot be fetched from the hub \(OSError: no route to"):
        build(pretrained=True)
    with pytest.raises(
        ValueError,
        match=r'pretrained = "path/to/model\.safetensors"\. Or .*: pretrained = false$',
    ):
        build(pretrained=True)


def test_what_is_suggested_can_be_built():
    for settings in ({"image_size": 96}, {"image_size": 128}, {"image_size": 100, "depth": 2}):
        on_meta(**settings)
    # What the last maps bring is most of it.
    whole = sum(p.numel() for p in on_meta("resnet18", image_size=96, width=16).parameters())
    assert whole > 14_000_000


def test_a_hub_that_is_tried_again_says_so_once(monkeypatch, capfd):
    import timm.models._builder as builder

    logger = logging.getLogger("huggingface_hub")
    inner = logging.getLogger("huggingface_hub.utils._http")
    before = logger.handlers, logger.propagate

    def fetch(*arguments, **options):
        inner.warning("You are sending unauthenticated requests")
        for _ in range(3):
            inner.warning("'[Errno -2]' thrown while requesting HEAD https://x")
            inner.warning("Retrying in 1s [Retry 1/5].")
        raise OSError("It is away (see https://x/ e.g. \n there). Please check.")

    monkeypatch.setattr(builder, "load_state_dict_from_hf", fetch)
    with (
        pytest.warns(RuntimeWarning, match="cannot be reached so far; trying again") as told,
        pytest.raises(ValueError, match=r"\(OSError: It is away\); where there is no network"),
    ):
        build(pretrained=True)
    assert len(told) == 1
    assert capfd.readouterr().err == ""
    assert (logger.handlers, logger.propagate) == before


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("One. Two.", "One"),
        ("Version 1.2 is old. Take 1.3", "Version 1.2 is old"),
        (
            "No such file (e.g. Here. Or there), sorry. Bye",
            "No such file (e.g. Here. Or there), sorry",
        ),
        ("one\ntwo", "one"),
        ("shapes: [1,\n2]", "shapes"),
        ("word " * 50 + "(and (more", ("word " * 40).strip()),
        ("word " * 38 + "(bracket that goes on)", ("word " * 38).strip()),
        (OSError(), "OSError"),
    ],
)
def test_first_sentences(said, kept):
    assert first_sentence(said) == kept


def test_a_backbone_without_weights(hub):
    name = next(n for n in timm.list_models("resnet*") if not timm.is_model_pretrained(n))
    said = rf"timm has no weights for backbone '{name}': .* scratch: pretrained = false$"
    with pytest.raises(ValueError, match=said):
        on_meta(name, pretrained=True)
    assert hub.asked == []


@pytest.mark.parametrize("pretrained", [True, "nowhere/weights.safetensors"])
def test_nothing_is_fetched_where_other_weights_follow(hub, pretrained):
    network = build(pretrained=pretrained, initialize=False)
    assert hub.asked == []
    network.load_state_dict(build().state_dict())


def test_the_state_holds_what_it_was_normalised_with():
    """A later timm may say something else of the same name; the trained model should not care."""
    network = build("test_efficientnet")
    state = network.state_dict()
    state["backbone.scale"] *= 2
    network.load_state_dict(state)
    assert network.backbone.scale.flatten()[0].item() == pytest.approx(2 * 0.5 / 0.229)


# In use


def seen(network):
    """Train it a little, so that its norms have seen data."""
    torch.manual_seed(0)
    for _ in range(3):
        network(torch.randn(4, 3, 64, 64) * 2 + 1)
    return network


@pytest.mark.parametrize("backbone", [SMALL, "test_efficientnet", "test_byobnet"])
def test_own_statistics_are_those_of_training_with_a_batch_of_one(backbone):
    """timm's norms hold an activation, which must survive."""
    network = seen(build(backbone, dropout=0.0))
    image = images(batch=1)
    with torch.no_grad():
        expected = network.train()(image)
    found = Translator(network, Paired(), Policy("image", dropout=False)).translate(image)
    assert expected.std() > 1e-3
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("backbone", [SMALL, "test_efficientnet"])
def test_running_statistics_are_those_of_eval_mode(backbone):
    network = seen(build(backbone, dropout=0.0))
    with torch.no_grad():
        expected = network.eval()(images())
    found = Translator(network, Paired(), Policy("running", dropout=False)).translate(images())
    assert (found - expected).abs().max() < 1e-6


def test_synchronised_norms_use_each_images_statistics_too():
    torch.manual_seed(0)
    networks = [UNet(3, 3, image_size=16, width=8, norm=norm) for norm in ("batch", "sync")]
    networks[1].load_state_dict(networks[0].state_dict())
    policy = Policy("image", dropout=False)
    image = images(height=16, width=16)
    found = [Translator(network, Paired(), policy).translate(image) for network in networks]
    assert (found[0] - found[1]).abs().max() < 1e-6
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in networks[1].modules())


def test_a_dropout_inside_a_norm_is_seeded():
    class Holding(nn.BatchNorm2d):
        """As timm's norms are made."""

        def __init__(self):
            super().__init__(4)
            self.drop = nn.Dropout(0.5)
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(self.drop(super().forward(x)))

    network = nn.Sequential(nn.Conv2d(3, 4, 1), Holding(), nn.Conv2d(4, 3, 1))
    model = Translator(network, Paired(), Policy("image", dropout=True))
    one, two = (model.translate(images()) for _ in range(2))
    assert torch.equal(one, two)
    assert (one == network[2].bias.view(1, 3, 1, 1)).all(dim=1).any()


RECIPE = """
name = "small"
[task]
name = "paired"
[data]
source = "synthetic"
crop_size = 64
count = 4
[generator]
name = "timm_unet"
backbone = "test_resnet"
width = 4
[discriminator]
name = "patchgan16"
width = 4
[[losses]]
name = "adversarial"
[[losses]]
name = "l1"
weight = 100
[train]
steps = 2
checkpoint_every = 2
"""


def test_a_run_needs_its_file_of_weights_once(tmp_path):
    recipe, out = tmp_path / "small.toml", tmp_path / "run"
    recipe.write_text(RECIPE)
    file = tmp_path / "weights.safetensors"
    state = weights_of()
    settings = {"generator.pretrained": write(file, state)}
    img2img.train(recipe, overrides=settings, out=out, device="cpu")
    written = tomllib.loads((out / "recipe.toml").read_text())
    assert written["generator"]["pretrained"] == str(file)
    file.unlink()
    # A run that goes on has its weights in the checkpoint.
    settings["train.steps"] = 3
    img2img.train(recipe, overrides=settings, out=out, device="cpu", resume=True)
    assert len(find_checkpoints(RunDirectory(out))) > 0
    weights, info = load_bundle(out / "model.safetensors")
    assert info.generator["settings"]["pretrained"] == str(file)
    first = weights["backbone.features.conv1.0.weight"]
    # Three steps of Adam at 2e-4 from the file.
    assert 0 < (first - state["conv1.0.weight"]).abs().max() < 1e-3
    translator = img2img.load(out, device="cpu")
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    assert translator(image).shape == image.shape
    # And a new run says what is missing, with the line.
    with pytest.raises(Img2ImgError, match=r"generator: .*there is no file"):
        img2img.train(recipe, overrides=settings, out=tmp_path / "other", device="cpu")


def test_a_typo_in_a_recipe_names_file_line_and_a_backbone(tmp_path):
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE.replace("test_resnet", "resnet43"))
    with pytest.raises(Img2ImgError, match=r"small\.toml:9: generator: .*did you mean 'resnet34'"):
        img2img.train(recipe, out=tmp_path / "run", device="cpu")


def test_backbone_reaches_no_more_than_it_gives():
    """A backbone's maps are chosen by number; later layers are left out."""
    one = Backbone("resnet18", indices=[1])
    assert [level.reduction for level in one.levels] == [4]
    assert not any("layer2" in name for name in one.state_dict())
