"""Another project's checkpoints: they come out right, and what is none is told apart."""

import gzip
import io
import json
import os
import pickle
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import img2img
from img2img.bundle import load_bundle
from img2img.cli import main
from img2img.errors import ModelFileError, RequestError
from img2img.generators import ResNet, UNet
from img2img.importing import import_checkpoint
from img2img.importing.reading import read_tensors

REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "peer-generators"
FOLDERS = ("resnet_6blocks_instance_ngf4", "unet_128_instance_ngf4", "unet_256_batch_ngf4")
PARTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


# Their names, in the order the layers run in, written without a look at the importer


def unet_names(depth):
    """A name for each convolution of theirs, and for the norm that follows it or None."""
    levels = ["model.model", *("model.model.1.model" + ".3.model" * k for k in range(depth - 1))]
    middle = levels[1:-1]
    return [
        ("model.model.0", None),
        *((f"{level}.1", f"{level}.2") for level in middle),
        (f"{levels[-1]}.1", None),
        (f"{levels[-1]}.3", f"{levels[-1]}.4"),
        *((f"{level}.5", f"{level}.6") for level in reversed(middle)),
        ("model.model.3", None),
    ]


def resnet_names(blocks, dropout):
    later = {6: (16, 19, 23), 9: (19, 22, 26), 1: (11, 14, 18)}[blocks]
    second = 6 if dropout else 5
    inside = [
        (f"model.{10 + k}.conv_block.{at}", f"model.{10 + k}.conv_block.{at + 1}")
        for k in range(blocks)
        for at in (1, second)
    ]
    plain = [(f"model.{at}", f"model.{at + 1}") for at in (1, 4, 7, *later[:2])]
    return [*plain[:3], *inside, *plain[3:], (f"model.{later[2]}", None)]


def randomised(network):
    """All of its tensors as if trained: norms and biases matter, and no output saturates."""
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.ndim > 1:
            tensor.normal_(0, 1.3 / tensor[0].numel() ** 0.5)
        elif tensor.is_floating_point():
            tensor.normal_(1.0 if name.endswith("weight") else 0.0, 0.3)
    return network


def theirs_of(network, names, norm):
    """The network's tensors as their checkpoint has them."""
    modules = list(network.modules())
    convs = [m for m in modules if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    norms = iter([m for m in modules if isinstance(m, nn.BatchNorm2d)])
    assert len(convs) == len(names)
    state = {}
    for conv, (conv_name, norm_name) in zip(convs, names, strict=True):
        state[f"{conv_name}.weight"] = conv.weight.detach().clone()
        last = conv is convs[-1]
        if norm == "none" and not last:
            # Theirs has none; so that ours computes the same, its own is nothing.
            nn.init.zeros_(conv.bias)
        elif norm == "instance" or last:
            state[f"{conv_name}.bias"] = conv.bias.detach().clone()
        if norm == "batch" and norm_name:
            held = next(norms).state_dict()
            state |= {f"{norm_name}.{part}": held[part].clone() for part in PARTS}
    assert next(norms, None) is None
    return state


def a_unet(norm="batch", depth=5, channels=(3, 3), width=2):
    torch.manual_seed(depth)
    network = UNet(*channels, image_size=2**depth, width=width, depth=depth, norm=norm, dropout=0.0)
    return randomised(network), unet_names(depth)


def a_resnet(norm="instance", blocks=6, channels=(3, 3), width=2, dropout=False):
    torch.manual_seed(blocks)
    network = ResNet(*channels, width=width, blocks=blocks, norm=norm, dropout=0.5 * dropout)
    return randomised(network), resnet_names(blocks, dropout)


def a_state(norm="batch", **settings):
    network, names = a_unet(norm, **settings)
    return theirs_of(network, names, norm)


def resnet_state(norm="instance", **settings):
    network, names = a_resnet(norm, **settings)
    return theirs_of(network, names, norm)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bring(folder, registry):
    """Save a state as they do, import it, and load what was written."""

    def bring(state, **settings):
        torch.save(state, "latest_net_G.pth")
        done = import_checkpoint(
            Path("latest_net_G.pth"), Path("b.safetensors"), registry, overwrite=True, **settings
        )
        return done, img2img.load("b.safetensors", device="cpu")

    return bring


# Right outputs


def check_outputs(bring, network, state, channels, size):
    """Our network with the same numbers, at test time with both kinds of statistics.

    In float64, because in float32 the order of sums alone, which the layout decides, moves the
    outputs of networks as wild as these by 2e-5.
    """
    images = torch.randn(1, channels[0], size, size).double()
    network = network.double()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for statistics in ("running", "image"):
        done, translator = bring(state, statistics=statistics, dropout=False)
        with torch.no_grad():
            expected = network.train(statistics == "image")(images)
        assert expected.std() > 0.05
        assert expected.shape[1] == channels[1]
        assert (translator.module.double()(images) - expected).abs().max() <= 1e-9
    return done


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
@pytest.mark.parametrize(
    ("depth", "channels", "width"),
    [
        (5, (3, 3), 2),
        (6, (1, 3), 3),
        (7, (3, 1), 2),
        (8, (3, 3), 1),
        (5, (1, 2), 5),
        (9, (1, 1), 1),
    ],
)
def test_unet(bring, norm, depth, channels, width):
    network, names = a_unet(norm, depth, channels, width)
    done = check_outputs(bring, network, theirs_of(network, names, norm), channels, 2**depth)
    settings = done.info.generator["settings"]
    assert done.info.generator["name"] == "unet"
    assert (settings["depth"], settings["width"], settings["norm"]) == (depth, width, norm)
    assert done.info.generator["image_size"] == 2**depth


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
@pytest.mark.parametrize(
    ("blocks", "channels", "width", "dropout"),
    [
        (6, (3, 3), 2, False),
        (6, (1, 3), 3, True),
        (9, (3, 1), 2, False),
        (9, (3, 3), 1, True),
        (1, (1, 2), 4, False),
    ],
)
def test_resnet(bring, norm, blocks, channels, width, dropout):
    network, names = a_resnet(norm, blocks, channels, width, dropout)
    done = check_outputs(bring, network, theirs_of(network, names, norm), channels, 24)
    settings = done.info.generator["settings"]
    assert done.info.generator["name"] == "resnet"
    assert (settings["blocks"], settings["width"], settings["norm"]) == (blocks, width, norm)
    assert settings["dropout"] == (0.5 if dropout else 0.0)
    assert done.info.generator["image_size"] == 256


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize(
    ("options", "kind"), [([], "train"), (["--statistics", "running"], "eval")]
)
def test_outputs_of_another_implementation(call, folder, name, options, kind):
    if not REFERENCE.is_dir():
        pytest.skip("no ../shared/reference here")
    call("import", REFERENCE / name / "latest_net_G.pth", "--out", "b.safetensors", *options)
    translator = img2img.load("b.safetensors", device="cpu")
    images = torch.from_numpy(np.load(REFERENCE / name / "input.npy"))
    expected = np.load(REFERENCE / name / f"output_{kind}.npy")
    assert np.abs(translator.module(images).numpy() - expected).max() <= 1e-5
    assert np.abs(translator(images).numpy() - expected).max() <= 1e-5


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("state", [a_state(), resnet_state()], ids=["unet", "resnet"])
def test_the_same_weights_in_other_wrappings(bring, state):
    def weights(given):
        bring(given)
        return load_bundle(Path("b.safetensors"))[0]

    plain = weights(state)
    assert all(value.dtype in (torch.float32, torch.int64) for value in plain.values())
    others = {
        "DataParallel": {f"module.{k}": v for k, v in state.items()},
        "torch.compile in it": {f"module._orig_mod.{k}": v for k, v in state.items()},
        "float64": {k: v.double() if v.is_floating_point() else v for k, v in state.items()},
        "parameters": {k: nn.Parameter(v, v.is_floating_point()) for k, v in state.items()},
        "another order": dict(reversed(state.items())),
        "before torch 0.4.1": {k: v for k, v in state.items() if "num_batches" not in k},
    }
    for label, given in others.items():
        assert same(weights(given), plain), label
    halves = weights({k: v.half() if v.is_floating_point() else v for k, v in state.items()})
    assert all(value.dtype in (torch.float32, torch.int64) for value in halves.values())
    assert all((halves[k] - plain[k]).abs().max() < 2e-3 for k in plain)


def test_files_of_before_torch_1_6(bring, registry):
    state = a_state()
    _, translator = bring(state)
    images = torch.randn(1, 3, 32, 32)
    torch.save(state, "old.pth", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile("old.pth")
    import_checkpoint(Path("old.pth"), Path("old.safetensors"), registry)
    old = img2img.load("old.safetensors", device="cpu")
    assert torch.equal(old.module(images), translator.module(images))


def test_statistics_that_old_instance_norms_kept_are_not_used(bring):
    network, names = a_unet("instance")
    state = theirs_of(network, names, "instance")
    images = torch.randn(1, 3, 32, 32)
    plain = bring(state)[1].module(images)
    for conv, norm in names:
        if norm:
            channels = state[f"{conv}.bias"].shape
            state[f"{norm}.running_mean"] = torch.full(channels, 5.0)
            state[f"{norm}.running_var"] = torch.full(channels, 9.0)
    done, translator = bring(state, statistics="running")
    assert done.architecture.norm == "instance"
    assert torch.equal(translator.module(images), plain)


# Dropout and the other choices


# Where theirs has it: decoder layers, 1 being the innermost.
@pytest.mark.parametrize(
    ("depth", "layers"), [(6, [2]), (7, [2, 3]), (8, [2, 3, 4]), (9, [2, 3, 4, 5])]
)
def test_unet_dropout_is_off_unless_asked_for(bring, depth, layers):
    state = a_state(depth=depth, width=1)
    done, quiet = bring(state)
    assert done.info.inference == {"statistics": "image", "dropout": False, "scale": [1.0, 1.0]}
    done, noisy = bring(state, dropout=True)
    assert done.info.inference["dropout"]
    settings = done.info.generator["settings"]
    assert (settings["dropout"], settings["dropout_layers"]) == (0.5, layers)
    images = torch.randn(1, 3, 2**depth, 2**depth)
    # Noise is the image's own, so that a result can be repeated.
    assert torch.equal(noisy.translate(images), noisy.translate(images))
    assert (noisy.translate(images) - quiet.translate(images)).abs().max() > 1e-3


@pytest.mark.parametrize("asked", [None, True, False])
def test_resnet_dropout_stays_on_where_the_file_shows_it(bring, asked):
    done, _ = bring(resnet_state(dropout=True), dropout=asked)
    assert done.info.inference["dropout"] is (asked is not False)


def test_dropout_where_there_is_none_is_refused(bring):
    with pytest.raises(RequestError, match=r"trained without dropout.*leave --dropout out"):
        bring(resnet_state(), dropout=True)
    with pytest.raises(RequestError, match=r"depth 5 has no dropout.*leave --dropout out"):
        bring(a_state(), dropout=True)


@pytest.mark.parametrize(
    ("channels", "task", "settings"),
    [
        ((3, 3), "paired", {"source_channels": 3, "target_channels": 3}),
        ((1, 3), "paired", {"source_channels": 1, "target_channels": 3}),
        ((3, 1), "paired", {"source_channels": 3, "target_channels": 1}),
        ((1, 2), "colorization", {}),
    ],
)
def test_task_by_channels(bring, channels, task, settings):
    done, translator = bring(a_state(channels=channels))
    assert (done.info.task["name"], done.info.task["settings"]) == (task, settings)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 33, 3), dtype=np.uint8))
    assert translator(image).size == image.size


@pytest.mark.parametrize("channels", [(3, 2), (4, 3), (3, 6), (2, 1)])
def test_other_channels_are_refused(bring, channels):
    said = f"turns {channels[0]} channels into {channels[1]}.*can be imported"
    with pytest.raises(ModelFileError, match=said):
        bring(a_state(channels=channels))


def test_size(bring):
    done, _ = bring(a_state(), size=64)
    assert done.info.generator["image_size"] == 64
    with pytest.raises(RequestError, match=r"--size 40: .*multiples of 32"):
        bring(a_state(), size=40)
    with pytest.raises(RequestError, match=r"--size 30: .*use 28 or 32"):
        bring(resnet_state(), size=30)


def test_what_the_bundle_says_of_itself(bring, registry):
    import hashlib

    done, _ = bring(a_state(), name="shoes")
    _, info = load_bundle(Path("b.safetensors"))
    assert info == done.info
    assert info.name == "shoes"
    content = Path("latest_net_G.pth").read_bytes()
    assert info.trained["file"] == "latest_net_G.pth"
    assert info.trained["sha256"] == hashlib.sha256(content).hexdigest()
    assert "pytorch-CycleGAN-and-pix2pix" in info.trained["imported_from"]
    # A bundle is whole: every setting is in it, so that later defaults change nothing.
    known = {s.name for s in registry.get("generator", "unet").settings}
    assert set(info.generator["settings"]) == known
    assert done.parameters == sum(p.numel() for p in a_unet()[0].parameters())


# Refused: one tensor is not as it should be

STATES = {
    "unet batch": a_state(),
    "unet instance": a_state("instance"),
    "unet none": a_state("none"),
    "resnet batch": resnet_state("batch", blocks=1),
    "resnet instance": resnet_state(dropout=True),
    "resnet none": resnet_state("none"),
}


@pytest.fixture
def refusal(folder, registry):
    """The message about a state, after a look that nothing was written."""

    def refusal(state):
        torch.save(state, "x_net_G.pth")
        with pytest.raises(ModelFileError) as caught:
            import_checkpoint(Path("x_net_G.pth"), Path("out/b.safetensors"), registry)
        assert [p.name for p in folder.iterdir()] == ["x_net_G.pth"]
        message = str(caught.value)
        assert message.startswith("x_net_G.pth")
        return message

    return refusal


@pytest.mark.parametrize("which", STATES)
def test_every_missing_tensor_is_named(refusal, which):
    state = STATES[which]
    for name in state:
        if name.endswith("num_batches_tracked"):
            continue
        message = refusal({k: v for k, v in state.items() if k != name})
        assert f"lacks {name};" in message or f"lacks {name} (and" in message, name
        assert "save the generator's whole state_dict() again" in message


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
@pytest.mark.parametrize("block", [0, 3, 5])
def test_a_missing_block_is_named(refusal, norm, block):
    inside = f"model.{10 + block}.conv_block."
    state = {k: v for k, v in resnet_state(norm).items() if not k.startswith(inside)}
    # Without its last block it looks like a shorter one, whose later layers are elsewhere.
    assert f"lacks {inside if block < 5 else 'model.15.'}" in refusal(state)


@pytest.mark.parametrize("level", [1, 2, 4])
def test_a_missing_level_is_noticed(refusal, level):
    inside = "model.model.1.model." + "3.model." * (level - 1)
    state = {k: v for k, v in a_state().items() if not k.startswith(inside)}
    assert refusal(state)


@pytest.mark.parametrize("which", STATES)
def test_every_misshapen_tensor_is_named(refusal, which):
    state = STATES[which]
    last = next(reversed(state)).rpartition(".")[0]
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        # The last layer's channels out are free, those in are not.
        side = 1 if name == f"{last}.weight" and which.startswith("resnet") else 0
        longer = torch.cat([tensor, tensor.narrow(side, 0, 1)], side)
        message = refusal(state | {name: longer})
        assert f"{name} has shape {tuple(longer.shape)}" in message, name
        assert str(tuple(tensor.shape)) in message, name


def test_misshapen_in_other_ways(refusal):
    state = STATES["unet batch"]
    for name, shape in (
        ("model.model.0.weight", (2, 3, 4)),
        ("model.model.0.weight", (0, 3, 4, 4)),
        ("model.model.1.model.1.weight", ()),
        ("model.model.1.model.1.weight", (4, 2, 3, 3)),
        ("model.model.3.weight", (4, 3, 4, 0)),
        ("model.model.1.model.2.running_var", (1, 4)),
    ):
        assert f"{name} has shape {shape}" in refusal(state | {name: torch.zeros(shape)})


@pytest.mark.parametrize("which", STATES)
def test_values_that_are_none_are_refused(refusal, which):
    state = STATES[which]
    for name in list(state)[::7]:
        if not state[name].is_floating_point():
            continue
        for value in (float("nan"), float("inf")):
            broken = state[name].clone()
            broken.view(-1)[-1] = value
            message = refusal(state | {name: broken})
            assert f"{name} holds values that are no finite numbers" in message
            assert "earlier checkpoint" in message


def test_too_large_for_float32(refusal):
    name = "model.model.0.weight"
    large = torch.full((2, 3, 4, 4), 1e300, dtype=torch.float64)
    assert f"{name} holds values" in refusal(a_state() | {name: large})


@pytest.mark.parametrize("which", STATES)
def test_an_extra_tensor_is_named(refusal, which):
    name = "model.40.weight" if "resnet" in which else "model.model.4.weight"
    message = refusal(STATES[which] | {name: torch.zeros(3)})
    assert f"holds {name}, which it has not" in message


@pytest.mark.parametrize("which", ["unet none", "unet batch"])
def test_a_bias_that_theirs_has_not(refusal, which):
    """Before batch norm it would be lost, and beside no norm it makes others missing."""
    message = refusal(STATES[which] | {"model.model.0.bias": torch.zeros(2)})
    assert "model.model." in message


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(2, 3, 4, 4, dtype=torch.int8), "holds int8"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.complex64), "holds complex64"),
        (torch.zeros(2, 3, 4, 4).to_sparse(), "is sparse, quantized or without values"),
        (torch.zeros(2, 3, 4, 4, device="meta"), "is sparse, quantized or without values"),
        (torch.zeros(1, 1, 1, 1).expand(2, 3, 4, 4), "is larger than what the file holds"),
        ([1.0, 2.0], "'model.model.0.weight' is list, not a tensor"),
    ],
)
def test_values_that_are_no_weights(refusal, value, said):
    message = refusal(a_state() | {"model.model.0.weight": value})
    assert said in message
    assert "model.model.0.weight" in message


def test_shapes_without_end_cost_nothing(refusal):
    """A view of one number can claim any shape; copied, it would fill the memory."""
    wide = 10**6
    state = {
        name: torch.zeros(1).expand([side * wide if side > 4 else side for side in tensor.shape])
        for name, tensor in a_state("none", width=5).items()
    }
    assert "x_net_G.pth" in refusal(state)


@pytest.mark.parametrize("name", ["\x1b[2J\x1b]0;title\x07", "a\nerror: all is well", "x" * 10_000])
def test_names_in_a_file_cannot_write_on_the_terminal(refusal, name):
    for state in (a_state() | {name: torch.zeros(1)}, {name: torch.zeros(1)}, {name: 1}):
        message = refusal(state)
        assert message.isprintable()
        assert len(message) < 500


# Refused: another thing altogether


class Trap:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("sprung",)


def saved(content, **how):
    stream = io.BytesIO()
    torch.save(content, stream, **how)
    return stream.getvalue()


def zipped(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"0")
    return stream.getvalue()


def tarred():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("latest_net_G.pth"))
    return stream.getvalue()


def picture():
    stream = io.BytesIO()
    Image.new("RGB", (20, 10)).save(stream, "png")
    return stream.getvalue()


def patchgan(norm):
    """`*_net_D.pth`, by names."""
    state = {f"model.{at}.weight": torch.zeros(2, 2, 4, 4) for at in (0, 2, 5, 8, 11)}
    state |= {"model.0.bias": torch.zeros(2), "model.11.bias": torch.zeros(1)}
    for at in (3, 6, 9):
        parts = {f"model.{at}.{part}": torch.zeros(2) for part in PARTS[:4]}
        state |= parts if norm else {f"model.{at - 1}.bias": torch.zeros(2)}
    return state


def hd():
    """pix2pixHD's generator, by names: four halvings, nine blocks."""
    convs = {f"model.{at}": (2, 2, 3, 3) for at in (1, 4, 7, 10, 13, 25, 28, 31, 34, 38)}
    blocks = {f"model.{at}.conv_block.{k}": (2, 2, 3, 3) for at in range(16, 25) for k in (1, 5)}
    return {f"{name}.weight": torch.zeros(shape) for name, shape in (convs | blocks).items()}


def affine(state):
    """Without the statistics: what an instance norm with weights leaves."""
    return {k: v for k, v in state.items() if "running" not in k and "num_batches" not in k}


OTHER_THINGS = {
    "discriminator": (saved(patchgan(True)), "is a discriminator; translating needs the generator"),
    "instance discriminator": (saved(patchgan(False)), "is a discriminator"),
    "pixel discriminator": (
        saved({f"net.{at}.weight": torch.zeros(2, 2, 1, 1) for at in (0, 2, 5)}),
        "is a discriminator",
    ),
    "pix2pixHD": (
        saved(hd()),
        "a ResNet with 4 halvings, where that of pix2pix and CycleGAN has 2",
    ),
    "another U-Net": (
        saved({"inc.double_conv.0.weight": torch.zeros(2, 3, 3, 3)}),
        "is another network, neither a U-Net nor a ResNet of pytorch-CycleGAN-and-pix2pix",
    ),
    "one level": (
        saved({f"model.model.{at}.weight": torch.zeros(2, 3, 4, 4) for at in (0, 3)}),
        "is another network",
    ),
    "a thousand levels": (
        saved({"model.model.1.model." + "3.model." * 1000 + "1.weight": torch.zeros(1)}),
        "is another network",
    ),
    "affine instance norm": (saved(affine(a_state())), "weights and no running statistics"),
    "optimizer": (
        saved(torch.optim.Adam([nn.Parameter(torch.zeros(1))]).state_dict()),
        "is the state of an optimizer",
    ),
    "training state": (
        saved({"epoch": 3, "netG": a_state(), "netD": patchgan(True)}),
        "weights_only=True)['netG']",
    ),
    "training state of a ResNet": (
        saved({"netD": patchgan(True), "netG": resnet_state()}),
        "weights_only=True)['netG']",
    ),
    "state with a number": (saved(a_state() | {"epoch": 3}), "'epoch' is int, not a tensor"),
    "numbers as names": (saved({0: torch.zeros(1)}), "0 is Tensor, not a tensor with a name"),
    "nothing": (saved({}), "holds no tensors"),
    "a list": (saved([torch.zeros(1)]), "holds one list"),
    "a tensor": (saved(torch.zeros(1)), "holds one Tensor"),
    "a module": (saved(nn.Conv2d(1, 1, 1)), "holds the Python object torch.nn.modules.conv.Conv2d"),
    "TorchScript": (
        zipped("x/data.pkl", "x/constants.pkl", "x/version", "x/code/x.py"),
        "is a TorchScript program",
    ),
    "npz": (zipped("a.npy", "b.npy"), "is a zip file, and none that torch.save wrote"),
    "tar": (tarred(), "is a tar archive; unpack it"),
    "safetensors": (None, "is a safetensors file"),
    "image": (picture(), "is an image of 20x10 pixels"),
    "text": (b"<!doctype html><p>Not found", "cannot be read as a PyTorch checkpoint"),
    "empty": (b"", "is empty"),
    "short": (b"\x80", "cannot be read as a PyTorch checkpoint"),
    "truncated": (saved(a_state())[:-2000], "its end is missing: copy or download it again"),
    "truncated early": (saved(a_state())[:3000], "its end is missing"),
    "truncated, old": (
        saved(a_state(), _use_new_zipfile_serialization=False)[:-2000],
        "cannot be read as a PyTorch checkpoint",
    ),
}


@pytest.fixture
def call(capfd, monkeypatch):
    """Run the program in this process, as its entry point would: code, out and err."""
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["img2img", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        assert (left.value.code or 0) == code, err
        if "--debug" not in arguments:
            assert "Traceback" not in out + err
        return out, err

    return call


@pytest.mark.parametrize("thing", OTHER_THINGS)
def test_other_files_are_told_apart(call, folder, thing):
    content, said = OTHER_THINGS[thing]
    if content is None:
        save_file({"a": torch.zeros(1)}, "x_net_G.pth")
    else:
        Path("x_net_G.pth").write_bytes(content)
    out, err = call("import", "x_net_G.pth", "--out", "out/b.safetensors", code=2)
    assert out == ""
    assert err.startswith("error: x_net_G.pth ")
    assert said in err
    assert err.count("\n") == 1
    # Torch's advice would be to run what is in it.
    assert "weights_only=False" not in err
    assert [p.name for p in folder.iterdir()] == ["x_net_G.pth"]


def traps():
    return {
        "zip": saved(Trap()),
        "zip, among tensors": saved(a_state() | {"x": Trap()}),
        "old format": saved(Trap(), _use_new_zipfile_serialization=False),
        "bare pickle": pickle.dumps(Trap()),
        "bare pickle of before": pickle.dumps(Trap(), protocol=0),
    }


@pytest.mark.parametrize("which", traps())
def test_a_pickle_that_would_run_code_does_not(call, folder, monkeypatch, which):
    # Somebody's shell may allow it for everything else.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    Path("x_net_G.pth").write_bytes(traps()[which])
    _, err = call("import", "x_net_G.pth", "--out", "b.safetensors", code=2)
    assert [p.name for p in folder.iterdir()] == ["x_net_G.pth"]
    assert "mkdir" in err or "cannot be read" in err
    if "bare" not in which:
        # It is a trap indeed.
        torch.load("x_net_G.pth", weights_only=False)
        assert Path("sprung").is_dir()


def test_folders_and_missing_files(call, folder):
    torch.save(a_state(), "200_net_G_A.pth")
    out = "out/b.safetensors"
    _, err = call("import", ".", "--out", out, code=2)
    assert "is a folder; name a checkpoint in it (it holds 200_net_G_A.pth)" in err
    _, err = call("import", "nowhere.pth", "--out", out, code=2)
    assert "there is no file nowhere.pth" in err
    assert not Path("out").exists()


def test_a_bundle_is_one_already(call, folder):
    torch.save(a_state(), "G.pth")
    call("import", "G.pth", "--out", "b.safetensors")
    for name in ("b.safetensors", "renamed.pth"):
        if name == "renamed.pth":
            Path("b.safetensors").rename(name)
        _, err = call("import", name, "--out", "c.safetensors", code=2)
        assert "`img2img infer` takes it as it is" in err


# The command


def test_import_and_infer(call, folder):
    torch.save(a_state("instance"), "latest_net_G.pth")
    out, err = call("import", "latest_net_G.pth", "--out", "deep/er/shoes.safetensors")
    assert err == ""
    assert "U-Net of depth 5 and width 2 with instance norm, 3 to 3 channels" in out
    assert "wrote deep/er/shoes.safetensors" in out
    assert load_bundle(Path("deep/er/shoes.safetensors"))[1].name == "shoes"
    for width, height in ((32, 32), (50, 41)):
        Image.new("RGB", (width, height), "teal").save(f"{width}.png")
        call("infer", "deep/er/shoes.safetensors", f"{width}.png", f"out/{width}.png")
        assert Image.open(f"out/{width}.png").size == (width, height)


def test_what_is_said(call, folder):
    torch.save(a_state(depth=6, width=1), "G.pth")
    out, _ = call("import", "G.pth", "--out", "b.safetensors")
    assert "--statistics running" in out
    assert "dropout is off: a U-Net's file does not show it" in out
    out, _ = call(
        *("import", "G.pth", "--out", "b.safetensors", "--overwrite"),
        *("--dropout", "--statistics", "running"),
    )
    assert "statistics gathered in training" in out
    assert "dropout stays on" in out
    out, _ = call("import", "G.pth", "--out", "b.safetensors", "--overwrite", "--quiet")
    assert out == ""
    out, err = call("import", "G.pth", "--out", "b.safetensors", "--overwrite", "--json")
    report = json.loads(out)
    assert err == ""
    assert report["bundle"] == "b.safetensors"
    assert report["generator"]["settings"]["depth"] == 6
    assert report["parameters"] > 0


def test_nothing_is_overwritten_unasked(call, folder):
    torch.save(a_state(), "G.pth")
    before = Path("G.pth").read_bytes()
    Path("b.safetensors").write_text("mine")
    _, err = call("import", "G.pth", "--out", "b.safetensors", code=2)
    assert "is already there; use --overwrite" in err
    assert Path("b.safetensors").read_text() == "mine"
    _, err = call("import", "G.pth", "--out", "G.pth", "--overwrite", code=2)
    assert "is the checkpoint itself" in err
    assert Path("G.pth").read_bytes() == before
    call("import", "G.pth", "--out", "b.safetensors", "--overwrite")
    assert load_bundle(Path("b.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing option '--out'"),
        (["--out", "."], "is a folder; name the bundle"),
        (["--out", "G.pth/b.safetensors"], "cannot write G.pth/b.safetensors"),
        (["--out", "b.safetensors", "--statistics", "runing"], "did you mean 'running'?"),
        (["--out", "b.safetensors", "--size", "0"], "--size"),
        (["--out", "b.safetensors", "--size", "100"], "multiples of 32"),
        (["--out", "b.safetensors", "--dropout"], "leave --dropout out"),
    ],
)
def test_wrong_requests(call, folder, arguments, said):
    torch.save(a_state(), "G.pth")
    out, err = call("import", "G.pth", *arguments, code=2)
    assert said in err
    assert out == ""
    assert [p.name for p in folder.iterdir()] == ["G.pth"]


def test_debug_shows_where(call, folder):
    Path("G.pth").write_bytes(b"nothing")
    _, err = call("import", "G.pth", "--out", "b.safetensors", "--debug", code=2)
    assert "Traceback" in err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        # An end of a zip file whose directory is not where it says.
        ("broken.pth", b"PK\x05\x06" + bytes(4) + b"\x01\x00\x01\x00" + b"\xff" * 8 + bytes(2)),
        ("cut.pth", gzip.compress(bytes(100_000))[:40]),
    ],
)
def test_describing_a_broken_archive_does_not_fail_itself(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelFileError, match=name):
        read_tensors(tmp_path / name)
