"""Model files: what they say of themselves, and that a stranger's is opened without harm."""

import json
import os
import re
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import img2img
from img2img import construction, rebuild
from img2img.bundle import (
    BundleInfo,
    OpenBundle,
    Stored,
    load_bundle,
    open_bundle,
    read_info,
    save_bundle,
    saved_step,
)
from img2img.construction import UNSAVED, ForWeights, misfits
from img2img.errors import ModelFileError
from img2img.generators import TimmUNet, UNet
from img2img.inference import Policy, Translator
from img2img.plugins import load_plugins
from img2img.rebuild import load_translator
from img2img.tasks import Paired

CPU = torch.device("cpu")
REGISTRY = load_plugins(entry_points=False).registry
UNET = {
    "name": "unet",
    "settings": {"width": 2},
    "in_channels": 3,
    "out_channels": 3,
    "image_size": 8,
    "activation": "tanh",
    "origin": "img2img",
}
WHOLE = {
    "format": 1,
    "name": "shoes",
    "task": {"name": "paired", "settings": {}, "origin": "img2img"},
    "generator": UNET,
    "inference": {"statistics": "image", "dropout": True, "scale": [1.0, 1.0]},
    "trained": {"img2img": "0.1.0", "step": 7},
}


def trained(seed=0, **settings):
    """A small network whose weights, and statistics, are no initial ones."""
    torch.manual_seed(seed)
    network = UNet(3, 3, image_size=8, width=2, **settings)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape) * 0.4 + 0.05)
    return network


def described(**changes):
    """A whole description with other values at these places, `__` between keys; ... removes."""
    data = json.loads(json.dumps(WHOLE))
    for place, value in changes.items():
        *path, last = place.split("__")
        table = data
        for key in path:
            table = table[key]
        if value is ...:
            del table[last]
        else:
            table[last] = value
    return data


def write(path, description, tensors=None):
    """A file with this description, text or plain values, and the weights of `trained`."""
    text = description if isinstance(description, str) else json.dumps(description)
    save_file(trained().state_dict() if tensors is None else tensors, path, {"img2img": text})
    return path


@pytest.fixture
def model(tmp_path):
    return tmp_path / "model.safetensors"


def load(path, **options):
    return load_translator(path, REGISTRY, device=CPU, **options)


def refused(path, match=None):
    """What is said of a file that is refused, which must be fit for a terminal and come soon."""
    began = time.perf_counter()
    with pytest.raises(ModelFileError, match=match) as raised:
        load(path)
    assert time.perf_counter() - began < 15
    text = str(raised.value)
    assert path.name in text
    assert all(line.isprintable() for line in text.split("\n"))
    assert len(text) < 6000
    assert raised.value.exit_code == 2
    return text


# What is written is read


def test_a_bundle_comes_back_as_it_was(model):
    network = trained()
    info = BundleInfo(**{key: value for key, value in WHOLE.items() if key != "format"})
    save_bundle(model, network.state_dict(), info)
    assert read_info(model) == info
    weights, again = load_bundle(model)
    assert again == info
    state = network.state_dict()
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name in state)
    assert saved_step(model) == 7
    assert [path.name for path in model.parent.iterdir()] == [model.name]


def test_the_network_is_the_one_that_was_saved(model):
    write(model, WHOLE)
    sources = torch.randn(2, 3, 8, 8)
    expected = Translator(trained(), Paired(), Policy(), seed=3).translate(sources)
    assert torch.equal(load(model, seed=3).translate(sources), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"generator__activation": ...},
        {"generator__image_size": None, "generator__settings": {"width": 2, "depth": 3}},
        {"generator__image_size": ..., "generator__settings": {"width": 2, "depth": 3}},
        {"generator__origin": ..., "task__origin": ...},
        {"inference__scale": ...},
        {"inference": {}},
        {"trained": ...},
        {"inference__scale": [1, 2]},
        {"name": "\udcff of a file name", "trained__file": "\udcff.pth"},
        {"name": "\x1b[31mred"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_bundles_of_before_and_of_importers_are_read(model, changes):
    """Each is a bundle that this program or its importer once wrote, or could have."""
    write(model, described(**changes))
    sources = torch.randn(1, 3, 8, 8)
    translator = load(model)
    expected = Translator(trained(), Paired(), Policy()).translate(sources)
    assert torch.equal(translator.translate(sources), expected)
    read_info(model).name.encode()


def test_the_inference_policy_is_the_bundles(model):
    write(model, described(inference={"statistics": "running", "dropout": False, "scale": [2, 1]}))
    translator = load(model)
    assert tuple(translator.scale) == (2, 1)
    sources = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        expected = trained().eval()(sources)
    assert (translator.translate(sources) - expected).abs().max() < 1e-6


def test_weights_are_not_drawn_to_be_replaced(model, monkeypatch):
    """Neither by torch's constructors nor by ours, and once is enough for their memory."""
    write(model, WHOLE)
    before = torch.get_rng_state()
    load(model)
    assert torch.equal(torch.get_rng_state(), before)
    with ForWeights(1):
        assert isinstance(nn.init.orthogonal_(nn.Parameter(torch.zeros(2, 2))), nn.Parameter)
        values = torch.zeros(4)
        # What is no parameter keeps its values: no file has them.
        assert nn.init.ones_(values).sum() == 4
        assert values.normal_().std() > 0


def test_a_description_is_read_without_the_weights(tmp_path, monkeypatch):
    """8 GiB of weights that are not there: a file may have holes."""

    def read(opened):
        pytest.fail("somebody reads all weights")

    monkeypatch.setattr(OpenBundle, "read", read)
    path = tmp_path / "large.safetensors"
    size = 8 << 30
    header = {
        "__metadata__": {"img2img": json.dumps(WHOLE)},
        "w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]},
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + size)
    began = time.perf_counter()
    assert read_info(path).name == "shoes"
    assert saved_step(path) == 7
    with open_bundle(path) as opened:
        assert opened.tensors == {"w": Stored("F32", (size // 4,))}
    assert "1 tensor is too many: 'w'" in refused(path, "do not fit its description")
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("step", [None, "7", 7.5, [7]])
def test_a_step_is_a_number(model, step):
    write(model, described(trained__step=step))
    assert saved_step(model) is None


def test_no_bundle_has_no_step(tmp_path):
    (tmp_path / "x").write_text("x")
    write(tmp_path / "y", "{")
    assert [saved_step(tmp_path / name) for name in ("x", "y", "z", ".")] == [None] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generator": UNET | {"settings": {"x": float("nan")}}}, "settings.x is nan"),
        ({"generator": UNET | {"image_size": 0}}, "image_size should be at least 1"),
        ({"inference": {"scale": [1000.0, 1.0]}}, r"scale\.0 should be at most 256"),
    ],
)
def test_what_could_not_be_read_is_not_written(model, changes, message):
    info = BundleInfo(**{k: v for k, v in (WHOLE | changes).items() if k != "format"})
    model.write_text("as it was")
    with pytest.raises(ModelFileError, match=message):
        save_bundle(model, trained().state_dict(), info)
    assert [path.name for path in model.parent.iterdir()] == [model.name]
    assert model.read_text() == "as it was"


# Descriptions with mistakes

MISTAKES = [
    ({"format": ...}, "format is missing"),
    ({"format": "1"}, "format should be an integer, not '1'"),
    ({"format": True}, "format should be an? (integer|number), not true"),
    ({"name": 5}, "name should be a text in quotes, not 5"),
    ({"task": ...}, "task is missing"),
    ({"task": ["paired"]}, r"task should be a table, not \['paired'\]"),
    ({"taks": {}}, r"taks is not part of a bundle \(did you mean 'task'\?\)"),
    ({"task__name": ["paired"]}, "task.name should be a text in quotes"),
    ({"task__name": "pared"}, r"needs the task 'pared', which is not here.*mean 'paired'"),
    ({"task__settings": ...}, "task.settings is missing"),
    ({"task__settings": []}, r"task.settings should be a table, not \[\]"),
    ({"task__settings__palette": 1}, "task.settings.palette is not a setting of 'paired'"),
    ({"task__settings__source_channels": "3"}, "task.settings.source_channels"),
    ({"task": {"name": "labels", "settings": {"palette": "facade"}}}, "mean 'facades'"),
    (
        {"task": {"name": "labels", "settings": {"palette": [[0, 0, "x"]] * 2400}}},
        "task.settings.palette should be",
    ),
    ({"task__settings__source_channels": 1}, "in_channels is 3, and sources .*'paired' have 1"),
    ({"task__settings__target_channels": 1}, "out_channels is 3, and targets .*'paired' have 1"),
    ({"generator__name": "unte"}, r"needs the generator 'unte'.*\(did you mean 'unet'\?\)"),
    ({"generator__name": None}, "generator.name should be a text in quotes"),
    ({"generator__name": ...}, "generator.name is missing"),
    ({"generator__nmae": "unet"}, r"generator.nmae is not a key of generator \(did you mean"),
    ({"generator__settings__widht": 2}, r"settings.widht is not a setting of 'unet' \(did you"),
    ({"generator__settings__width": "2"}, "settings.width should be an integer, not '2'"),
    ({"generator__settings__width": True}, "settings.width should be an? .*, not true"),
    ({"generator__settings__width": 2.5}, "settings.width should be .*integer"),
    ({"generator__settings__width": 0}, "width must be above 0 and finite, not 0"),
    ({"generator__settings__width": 10**9}, "settings.width should be at most 8192"),
    ({"generator__settings__width": -(10**9)}, "settings.width should be at most 8192"),
    ({"generator__settings__width": 10**30}, "width is an integer that does not fit in 64 bits"),
    ({"generator__settings__depth": 10**6}, "settings.depth should be at most 8192"),
    ({"generator__settings__depth": 7}, "depth 7 halves images 7 times"),
    ({"generator__settings__dropout": 2.0}, "dropout must be at least 0 and below 1"),
    ({"generator__settings__dropout_layers": [10**7]}, r"dropout_layers\.0 should be at most"),
    ({"generator__settings__norm": "bacth"}, r"settings.norm should be .*\(did you mean 'batch'"),
    ({"generator__in_channels": 0}, "generator.in_channels should be at least 1, not 0"),
    ({"generator__in_channels": "3"}, "generator.in_channels should be an integer, not '3'"),
    ({"generator__in_channels": None}, "generator.in_channels should be an integer"),
    ({"generator__in_channels": 4}, "generator.in_channels is 4, and sources .* have 3"),
    ({"generator__out_channels": ...}, "generator.out_channels is missing"),
    ({"generator__out_channels": 65537}, "generator.out_channels should be at most 65536"),
    ({"generator__image_size": 10**9}, "generator.image_size should be at most 65536"),
    ({"generator__image_size": [8, 8]}, "generator.image_size should be an integer"),
    ({"generator__image_size": 10}, "cannot be halved twice"),
    ({"generator__activation": "tahn"}, r"generator.activation should be .*\(did you mean 'tanh'"),
    ({"generator__origin": 5}, "generator.origin should be a text in quotes"),
    ({"inference": None}, "inference should be a table"),
    ({"inference__statistics": "images"}, r"statistics should be .*\(did you mean 'image'\?\)"),
    ({"inference__dropout": 1}, "inference.dropout should be true or false, not 1"),
    ({"inference__dropuot": True}, r"inference.dropuot is not a key .*\(did you mean 'dropout'"),
    ({"inference__scale": [1.0]}, "inference.scale has only 1"),
    ({"inference__scale": [1.0, 1.0, 1.0]}, "inference.scale"),
    ({"inference__scale": 1.0}, "inference.scale should be a list"),
    ({"inference__scale": [0.0, 1.0]}, r"inference.scale\.0 should be at least"),
    ({"inference__scale": [1.0, -1.0]}, r"inference.scale\.1 should be at least"),
    ({"inference__scale": [1.0, 257.0]}, r"inference.scale\.1 should be at most 256"),
    ({"inference__scale": [True, True]}, r"scale\.0 should be a number, not true"),
    ({"inference__scale": [1.0, float("nan")]}, r"inference.scale\.1 is nan"),
    ({"inference__scale": [float("-inf"), 1.0]}, r"inference.scale\.0 is -inf"),
    ({"trained": [1]}, "trained should be a table"),
    ({"trained__x": "x" * 20_000}, "trained.x is a text of 20000 characters"),
    ({"trained__x": list(range(20_000))}, "holds more than 10000 values"),
    ({"trained__x": 10**30}, "trained.x is an integer that does not fit in 64 bits"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES)
def test_a_mistake_is_told_with_its_place(model, changes, message):
    write(model, described(**changes))
    refused(model, message)


def test_every_mistake_is_told_at_once(model):
    write(
        model,
        described(
            taks={},
            task__name="pared",
            generator__settings__widht=2,
            generator__settings__norm="x",
            generator__in_channels=0,
            inference__scale=[0.0, 300.0],
        ),
    )
    text = refused(model, "its description has 7 mistakes:")
    for place in ("taks", "'pared'", "widht", ".norm", "in_channels", "scale.0", "scale.1"):
        assert place in text
    # What only shows when components are built comes together, too.
    write(
        model,
        described(
            task={"name": "labels", "settings": {"palette": "nowhere"}},
            generator__settings={"depth": 1},
        ),
    )
    text = refused(model, "2 mistakes")
    assert "no palette 'nowhere'" in text
    assert "depth must be at least 2" in text


def test_many_mistakes_are_counted(model):
    write(model, described(generator__settings={f"{'width' * 30}{i}": 1 for i in range(3000)}))
    assert "3000 mistakes" in refused(model, "and 2990 more")


TEXTS = {
    "nothing": ("", "damaged description"),
    "no JSON": ("shoes", "damaged description"),
    "cut off": (json.dumps(WHOLE)[:-20], "damaged description"),
    "no object": ("[1]", "no JSON object"),
    "null": ("null", "no JSON object"),
    "lists in lists": ("[" * 100_000, "nested too deeply"),
    "closed lists in lists": ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    "tables in tables": ('{"a":' * 100_000, "nested too deeply"),
    "deeper than a recipe": (
        json.dumps(described(trained__x=json.loads("[" * 200 + "]" * 200))),
        r"trained\.x\.0\.\.\. is nested too deeply",
    ),
    "thousands of digits": ('{"format": ' + "9" * 5000 + "}", "damaged description"),
    "a float beyond all": (json.dumps(WHOLE).replace("[1.0", "[1e999"), r"scale\.0 is inf"),
    "the same key twice": ('{"format": 1, "format": 1, "name": 5}', "'format' is there twice"),
    "the same key often": (
        json.dumps(WHOLE).replace(
            '"settings": {}', '"settings": {' + '"a": 1,' * 50_000 + '"a": 1}'
        ),
        "'a' is there twice",
    ),
    "a long text": (json.dumps(described(name="x" * (4 << 20))), "description of 419.* characters"),
    "a later version": (
        json.dumps({"format": 2, "trained": {"img2img": "9.0\x1b[31m"}, "other": 1}),
        r"bundle format 2, this program reads 1; install .* '9\.0\\x1b\[31m'",
    ),
    "a later version of nobody": ('{"format": -1}', "bundle format -1.*a newer one"),
    "a key of escapes": (json.dumps(described(**{"\x1b[31m": 1})), r"'\\x1b\[31m' is no name"),
    "a key of two lines": (json.dumps(described(**{"a\nerror: b": 1})), "is no name of a key"),
    "a long key": (json.dumps(described(**{"k" * 300: 1})), "is no name of a key"),
    "a name of escapes": (
        json.dumps(described(generator__name="\x1b]0;x\x07unet\n\u202e")),
        r"needs the generator '\\x1b\]0;x\\x07unet\\n\\u202e'",
    ),
    "half a character": (json.dumps(described(task__name="\ud800")), r"the task '.*ud800'"),
    "an origin of escapes": (
        json.dumps(described(generator__name="x", generator__origin="a; curl b\x1b[2J\n| sh")),
        r"install the plugin 'a; curl b\\x1b\[2J\\n\| sh'",
    ),
    "a file of escapes": (
        json.dumps(described(generator__name="x", generator__origin="\x1b[2J.py")),
        r"it came from the file \\x1b\[2J\.py; give it with --plugin",
    ),
    "a setting of escapes": (
        json.dumps(described(generator__settings={"norm": "\x1b[31m\n"})),
        r"not '\\x1b\[31m\\n'",
    ),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_hostile_text_is_a_readable_refusal(model, kind):
    text, message = TEXTS[kind]
    write(model, text)
    refused(model, message)


# Settings that are valid one by one, and whose network is no stranger's to ask for


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        ({"settings": {"width": 8192}}, "do not fit its description: .*of another shape"),
        ({"settings": {"width": 8191, "norm": "group"}}, "do not fit its description"),
        ({"settings": {"width": 2, "depth": 8192}}, "depth 8192 halves|refuses its settings"),
        ({"name": "resnet", "settings": {"blocks": 8192}}, "far too large a network"),
        (
            {"name": "resnet", "settings": {"blocks": 8192, "norm": "none", "width": 1}},
            "far too large a network",
        ),
    ],
)
def test_nothing_large_is_built(model, monkeypatch, generator, message):
    """Terabytes of weights, or hours of counting; of such a size torch cannot even ask for them."""
    monkeypatch.setattr(construction, "CALLS", 4000)
    changes = {"image_size": 512} | generator
    write(model, described(**{f"generator__{key}": value for key, value in changes.items()}))
    refused(model, message)
    # The building may have been ended inside a `no_grad`.
    assert torch.is_grad_enabled()


def test_the_deepest_network_of_ours_is_within_the_bounds(monkeypatch):
    """What is far too large is a hundred times what building such networks takes."""
    monkeypatch.setattr(construction, "CALLS", 0)
    for name in ("unet", "resnet", "encoder_decoder"):
        component = REGISTRY.get("generator", name)
        with torch.device("meta"), ForWeights(10**4) as mode:
            component.build({}, in_channels=3, out_channels=3)
        assert 0 < 10**6 - mode.left < 10**4


TIMM = {"name": "timm_unet", "image_size": 32}


@pytest.mark.parametrize(
    "backbone", ["hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp", "../resnet18", "resnet18.x", ""]
)
def test_a_backbone_is_a_name_of_timms(model, backbone):
    write(model, described(generator=UNET | TIMM | {"settings": {"backbone": backbone}}))
    refused(model, "'timm_unet' refuses its settings: timm has no")


@pytest.mark.parametrize("pretrained", [True, "/dev/zero"])
def test_no_other_weights_are_fetched_or_read(model, monkeypatch, pretrained):
    """Another part of the suite sees to it that the network cannot be reached."""
    import timm

    real = timm.create_model

    def create(name, **options):
        assert options.get("pretrained") is False
        return real(name, **options)

    monkeypatch.setattr(timm, "create_model", create)
    settings = {"backbone": "resnet18", "depth": 2, "width": 2}
    network = TimmUNet(3, 3, image_size=32, pretrained=False, **settings)
    described_so = UNET | TIMM | {"settings": settings | {"pretrained": pretrained}}
    write(model, described(generator=described_so), network.state_dict())
    translator = load(model)
    sources = torch.randn(1, 3, 32, 32)
    expected = Translator(network, Paired(), Policy()).translate(sources)
    assert torch.equal(translator.translate(sources), expected)


def test_what_a_network_computes_with_and_does_not_save_is_right(model):
    """The filters of a blur: no file has them."""
    settings = {"backbone": "efficientnet_blur_b0", "depth": 3, "width": 2, "pretrained": False}
    network = TimmUNet(3, 3, image_size=32, **settings)
    unsaved = dict(network.named_buffers()).keys() - network.state_dict().keys()
    assert unsaved
    write(model, described(generator=UNET | TIMM | {"settings": settings}), network.state_dict())
    translator = load(model)
    sources = torch.randn(1, 3, 32, 32)
    expected = Translator(network, Paired(), Policy()).translate(sources)
    assert torch.equal(translator.translate(sources), expected)


def test_what_is_not_saved_has_a_bound():
    with torch.device("meta"):
        network = nn.Conv2d(1, 1, 1)
        network.register_buffer("mask", torch.empty(UNSAVED + 2), persistent=False)
    stored = {"weight": Stored("F32", (1, 1, 1, 1)), "bias": Stored("F32", (1,))}
    assert misfits(network, stored) == []
    network.register_buffer("one", torch.empty(1, device="meta"), persistent=False)
    assert f"compute with {UNSAVED + 3} more" in misfits(network, stored)[0]


# Tensors that are not the network's


def changed(name, make):
    def change(state):
        state[name] = make(state[name])

    return change


FIRST = "encoder.0.0.weight"
NORM = "decoder.0.2.running_var"
TENSORS = {
    "one is missing": (lambda s: s.pop(FIRST), f"1 tensor is missing: '{FIRST}'"),
    "some are missing": (
        lambda s: [s.pop(name) for name in sorted(s)[:5]],
        r"5 tensors are missing: 'decoder\S+', 'decoder\S+', 'decoder\S+' and 2 more",
    ),
    "none is there": (lambda s: s.clear(), "tensors are missing"),
    "one is too many": (lambda s: s.update(x=torch.zeros(1)), "1 tensor is too many: 'x'"),
    "a name of escapes": (
        lambda s: s.update({"\x1b[31m\n" + "x" * 500: torch.zeros(1)}),
        r"1 tensor is too many: '\\x1b\[31m\\nx*\.\.\.",
    ),
    "another shape": (
        changed(FIRST, lambda t: t[:1].clone()),
        f"of another shape: '{FIRST}' is 1x3x4x4 and should be 2x3x4x4",
    ),
    "as many values": (changed(FIRST, lambda t: t.reshape(3, 2, 4, 4)), "is 3x2x4x4 and should"),
    "a single value": (changed(FIRST, lambda t: t.sum()), "is a single value and should be"),
    "nothing": (changed(FIRST, lambda t: t[:0].clone()), "is 0x3x4x4 and should be"),
    "whole numbers": (
        changed(FIRST, lambda t: t.to(torch.int8)),
        f"of another type: '{FIRST}' holds I8, not F32",
    ),
    "8-bit floats": (changed(FIRST, lambda t: t.to(torch.float8_e4m3fn)), "holds F8_E4M3, not"),
    "complex numbers": (changed(FIRST, lambda t: t.to(torch.complex64)), "holds C64, not F32"),
    "a count of floats": (
        changed("decoder.0.2.num_batches_tracked", lambda t: t.float()),
        "holds F32, not I64",
    ),
    "not a number": (
        changed(FIRST, lambda t: t.index_fill(0, torch.tensor([1]), float("nan"))),
        f"no finite numbers: {FIRST}",
    ),
    "infinity": (changed(NORM, lambda t: t / (t > t.min())), f"no finite numbers: {NORM}"),
    "minus infinity": (changed(NORM, lambda t: -t / (t > t.min())), f"no finite numbers: {NORM}"),
    "beyond single precision": (changed(NORM, lambda t: t.double() * 1e300), "no finite numbers"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_do_not_fit_are_named(model, kind):
    change, message = TENSORS[kind]
    state = dict(trained().state_dict())
    change(state)
    write(model, WHOLE, state)
    refused(model, message)


def test_every_kind_of_misfit_is_told(model):
    state = dict(trained().state_dict())
    del state[NORM]
    state["x"] = torch.zeros(1)
    state[FIRST] = state[FIRST][:1].to(torch.int8)
    write(model, WHOLE, state)
    text = refused(model)
    for what in ("is missing", "is too many", "another shape", "another type"):
        assert what in text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_single_precision(model, dtype):
    state = {
        k: v.to(dtype) if v.is_floating_point() else v for k, v in trained().state_dict().items()
    }
    write(model, WHOLE, state)
    module = load(model).module
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    loaded = module.state_dict()[FIRST]
    assert torch.equal(loaded, state[FIRST].float())


# Files that are no bundles


def header(data, rest=b"", length=None):
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + rest


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HEADERS = {
    "empty": (b"", "is not a model"),
    "three bytes": (b"abc", "is not a model"),
    "a text": (b"just text, no tensors", "is not a model"),
    "an image": (b"\x89PNG\r\n\x1a\n" + bytes(200), "is not a model"),
    "a length beyond the file": (header({}, length=2**40), "is not a model"),
    "a length beyond all": (header({}, length=2**64 - 1), "is not a model"),
    "a long header": (header(b"{}" + b" " * (17 << 20)), "header of 1782.* bytes"),
    "no JSON": (header(b"\xff\xfe{"), "is not a model"),
    "a list": (header([]), "is not a model"),
    "nested": (header(b'{"a":' + b"[" * 100_000), "is not a model"),
    "offsets beyond the file": (header({"a": tensor("F32", [10**6], 0, 4 * 10**6)}), "is not a"),
    "offsets that overlap": (
        header({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 4, 12)}, bytes(12)),
        "is not a model",
    ),
    "a shape beyond all": (
        header({"a": tensor("F32", [2**40, 2**40], 0, 8)}, bytes(8)),
        "is not a",
    ),
    "a shape below nothing": (header({"a": tensor("F32", [-1], 0, 4)}, bytes(4)), "is not a model"),
    "a type of nobody": (header({"a": tensor("\x1b[31m", [1], 0, 4)}, bytes(4)), "is not a model"),
    "bytes behind": (header({}, b"xx"), "is not a model"),
    "no tensors": (header({}), "holds tensors but not what this program needs"),
    "a description that is a table": (header({"__metadata__": {"img2img": {}}}), "is not a model"),
    "a name of escapes": (
        header({"\x1b[31m": tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 4, 12)}, bytes(12)),
        "is not a model",
    ),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_lying_header_is_a_readable_refusal(model, kind):
    content, message = HEADERS[kind]
    model.write_bytes(content)
    refused(model, message)


def test_a_bundle_cut_anywhere_is_refused(model):
    write(model, WHOLE)
    whole = model.read_bytes()
    for length in np.linspace(0, len(whole) - 1, 25).astype(int):
        model.write_bytes(whole[:length])
        refused(model, "is not a model")


def test_places_that_are_no_files(tmp_path):
    (tmp_path / "pipe.safetensors").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    (tmp_path / "loop.safetensors").symlink_to("loop.safetensors")
    (tmp_path / "gone.safetensors").symlink_to("nowhere")
    (tmp_path / "file").write_text("x")
    (tmp_path / "run").mkdir()
    for name, message in {
        "pipe.safetensors": "no regular file",
        "zero.safetensors": "no regular file",
        "loop.safetensors": "cannot be opened|no model file",
        "gone.safetensors": "there is no model file",
        "nowhere": "there is no model file",
        "file/model": "there is no model file",
        "x" * 300: "cannot be opened: File name too long",
        "run": "holds no model.safetensors",
    }.items():
        refused(tmp_path / name, message)
    checkpoint = tmp_path / "latest_net_G.pth"
    torch.save({"a": torch.zeros(1)}, checkpoint)
    refused(checkpoint, "`img2img import` makes one")


def test_pickles_are_not_read(tmp_path):
    """Not even one that calls itself a bundle."""
    import pickle

    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harmed",))

    for name in ("model.safetensors", "model.pt"):
        (tmp_path / name).write_bytes(pickle.dumps(Payload()))
        refused(tmp_path / name, "is not a model")
    assert not (tmp_path / "harmed").exists()


# Plugins

PLUGIN = """
import torch
from torch import nn

import img2img


class Strange(nn.Module):
    '''A network that needs values when it is built, and holds some that are no buffers.'''

    def __init__(self, in_channels: int, out_channels: int, *, width: int = 4, how: str = "fine"):
        super().__init__()
        if how == "values":
            self.factor = torch.full((1,), 3.0).item()
        if how == "raises":
            raise KeyError("\\x1b[31mnothing\\nof that kind")
        if how == "picky":
            raise ValueError("how should be 'fine'")
        self.inner = nn.Conv2d(in_channels, width, 1)
        self.outer = nn.Conv2d(width, out_channels, 1)
        self.window = torch.linspace(0, 1, width).view(-1, 1, 1)
        drawn = torch.empty(width).normal_(generator=torch.Generator().manual_seed(5))
        self.register_buffer("drawn", drawn.view(-1, 1, 1), persistent=False)

    def forward(self, source):
        return self.outer(self.inner(source) * self.window + self.drawn).tanh()


@img2img.hookimpl
def register(registry):
    registry.generator("strange", Strange)
"""


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "strange.py"
    path.write_text(PLUGIN)
    return load_plugins([path], entry_points=False).registry


def strange(**settings):
    return UNET | {"name": "strange", "origin": "strange.py", "settings": settings}


@pytest.mark.parametrize("how", ["fine", "values"])
def test_a_plugins_network_is_rebuilt_with_what_it_does_not_save(model, plugin, how):
    settings = {"width": 4, "how": how}
    network = plugin.get("generator", "strange").build(settings, in_channels=3, out_channels=3)
    write(model, described(generator=strange(**settings)), network.state_dict())
    sources = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        expected = network(sources)
    translator = load_translator(model, plugin, device=CPU)
    assert (translator.module(sources) - expected).abs().max() < 1e-6
    # Its own numbers may be large: a seed, say. That its weights fit shows all the same.
    write(model, described(generator=strange(width=10**6)), network.state_dict())
    with pytest.raises(ModelFileError, match="of another shape"):
        load_translator(model, plugin, device=CPU)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", r"'strange' refuses its settings: KeyError: '\\x1b\[31mnothing\\nof that kind'"),
        ("picky", "'strange' refuses its settings: how should be 'fine'"),
    ],
)
def test_what_a_plugin_raises_is_told_once(model, plugin, how, message):
    write(model, described(generator=strange(how=how)), {"a": torch.zeros(1)})
    with pytest.raises(ModelFileError, match=re.compile(message)) as raised:
        load_translator(model, plugin, device=CPU)
    assert str(raised.value).count("refuses") == 1
    assert "\x1b" not in str(raised.value)


def test_a_fault_while_memory_runs_out_is_not_the_settings(model, monkeypatch):
    """Then a smaller batch or another machine helps, which the command line says."""
    write(model, WHOLE)

    def build(*arguments, **options):
        raise RuntimeError("DefaultCPUAllocator: not enough memory")

    monkeypatch.setattr(rebuild.Component, "build", build)
    with pytest.raises(RuntimeError, match="not enough memory"):
        load(model)


def test_the_face_of_the_package_says_the_same(model):
    write(model, described(generator__name="unte"))
    with pytest.raises(ModelFileError, match="did you mean 'unet'"):
        img2img.load(model, device="cpu")
