"""Models as files for other programs: they give what the model gives, or there is no file."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from packaging.version import Version
from PIL import Image
from torch import nn

import img2img.exporting.writing
from img2img.bundle import BundleInfo, read_info, save_bundle
from img2img.cli import main
from img2img.cli.export import parse_size, summary
from img2img.errors import Img2ImgError, RequestError
from img2img.exporting import Exported, export_model
from img2img.exporting.expected import expect
from img2img.exporting.graph import OwnNorm, extend, traceable
from img2img.exporting.model import describe
from img2img.exporting.probes import make_fixed_probes, make_probes, noise, smooth
from img2img.exporting.running import Difference, compare, open_file
from img2img.exporting.writing import Sizes
from img2img.inference import Policy, Translator
from img2img.picture import to_depth
from img2img.plugins import load_plugins
from img2img.rebuild import load_translator
from img2img.tasks import Colorization, Edges, Labels, Maps, Paired, PhotoToLabels
from img2img.tasks.base import image_channels_of
from img2img.tasks.graphs import ClassTarget, GreySource, LabTarget, lightness
from img2img.tasks.palettes import find_palette

PAGE = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)

# A network that is quick to trace, with all that an export has to see to; and faults on request.
PLUGIN = '''
import img2img
import torch
from img2img.tasks import Paired
from img2img.tasks.graphs import SignedSource, SignedTarget
from torch import Tensor, nn


class Small(nn.Module):
    """Halves and doubles twice.

    Args:
        fault: what is wrong with it.
        rate: of dropout.
    """

    size_multiple = 4

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        activation: str = "tanh",
        fault: str = "",
        rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.fault = fault
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 8, 4, 2, 1),
            nn.BatchNorm2d(8),
            nn.LeakyReLU(0.2),
            nn.Conv2d(8, 8, 4, 2, 1),
            nn.InstanceNorm2d(8),
            nn.Dropout(rate),
            nn.ConvTranspose2d(8, 8, 4, 2, 1),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
            nn.ConvTranspose2d(8, out_channels, 4, 2, 1),
            nn.Softmax(dim=1) if activation == "softmax" else nn.Tanh(),
        )

    def forward(self, source: Tensor) -> Tensor:
        if self.fault == "alone":
            return torch.stack([self.layers(one[None])[0] for one in source])
        if self.fault == "single":
            source = nn.functional.avg_pool2d(source + 0, 1) @ torch.eye(source.shape[-1])
        if self.fault == "permutes":
            last = source.shape[1:2]
            normed = nn.functional.layer_norm(source.permute(0, 2, 3, 1), last)
            source = normed.permute(0, 3, 1, 2)
        output = self.layers(source)
        if self.fault == "branches" and source.shape[-1] > 24:
            return output * 0.5
        if self.fault == "lies" and torch.compiler.is_exporting():
            return output + 0.001 * (source[:, :1] > 0.99)
        if self.fault == "blank" and torch.compiler.is_exporting():
            return (output - output) / (output - output)
        if self.fault == "untraceable":
            return output * source.numpy().shape[1] / 3
        return output


class Mute:
    """A task as those of before: it does not say how to export it."""

    source_channels = target_channels = 3
    source_interpolation = target_interpolation = "smooth"
    encode_source, encode_target = Paired.encode_source, Paired.encode_target
    decode_source, decode_target = Paired.decode_source, Paired.decode_target


class Wrong(Paired):
    """A task whose graph is another one than its methods."""

    def source_graph(self):
        return Other()


class Other(nn.Module):
    def forward(self, image):
        return image


@img2img.hookimpl
def register(registry):
    registry.generator("small", Small)
    registry.task("mute", Mute)
    registry.task("wrong", Wrong)
'''


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(PLUGIN, encoding="utf-8")
    return path


@pytest.fixture
def make(tmp_path, plugin):
    """Writes a bundle of an untrained model and gives its path and the registry it needs."""

    def bundle(
        path="model.safetensors",
        *,
        generator="small",
        task="paired",
        task_settings=None,
        size=32,
        dropout=False,
        scale=(1.0, 1.0),
        plugins=None,
        **settings,
    ):
        registry = load_plugins(plugins or [plugin], entry_points=False).registry
        of_task, of_generator = registry.get("task", task), registry.get("generator", generator)
        task_settings = {**of_task.defaults, **(task_settings or {})}
        made = of_task.build(task_settings)
        classes = getattr(made, "palette", None) is not None
        supplied = {
            "in_channels": made.source_channels,
            "out_channels": made.target_channels,
            "image_size": size,
            "activation": "softmax" if classes else "tanh",
        }
        settings = {**of_generator.defaults, **settings}
        torch.manual_seed(0)
        network = of_generator.build(settings, **supplied)
        for parameter in network.parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter)
        described = {"name": task, "settings": task_settings, "origin": of_task.origin}
        info = BundleInfo(
            "small",
            described,
            {"name": generator, "settings": settings, "origin": of_generator.origin, **supplied},
            {"statistics": "image", "dropout": dropout, "scale": list(scale)},
        )
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        save_bundle(target, network.state_dict(), info)
        return target, registry

    return bundle


def call(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["img2img", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code, capsys.readouterr()


def names_places(file, *folders):
    """Whether a file tells where on this machine code or data lie."""
    places = (*folders, Path(torch.__file__).parent, Path(img2img.__file__).parent)
    return any(str(place).encode() in file.read_bytes() for place in places)


def as_batch(images):
    """uint8 (H, W, C) as a batch (B, C, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 255)


# Tasks as graphs: the same as their methods

TASKS = {
    "paired": Paired(),
    "paired-1-4": Paired(source_channels=1, target_channels=4),
    "paired-5-2": Paired(source_channels=5, target_channels=2),
    "maps": Maps(),
    "edges": Edges(),
    "edges-inverted": Edges(invert=True),
    "edges-threshold": Edges(threshold=128),
    "edges-both": Edges(threshold=90, invert=True),
    "labels": Labels(),
    "labels-palette": Labels(palette="facades"),
    "labels-onehot": Labels(palette="cityscapes", encoding="onehot"),
    "photo2labels": PhotoToLabels(),
    "colorization": Colorization(),
}
# OpenCV's cube root and gamma are tables: off by as much as this, of a range of 2 and of 1.
ROUGH = {"colorization": 1e-4}


def test_every_built_in_task_can_be_exported(registry):
    built = {type(component.build(component.defaults)) for component in registry.components("task")}
    assert built == {type(task) for task in TASKS.values()}


@pytest.mark.parametrize("name", TASKS)
def test_source_graphs_are_encode_source(name):
    task = TASKS[name]
    channels = image_channels_of(task)[0]
    for height, width in ((24, 31), (1, 1), (2, 7)):
        images = [noise(height, width, channels), smooth(height, width, channels)]
        if channels == 3:
            images += [smeared_map(height, width)]
        expected = torch.stack([task.encode_source(image) for image in images])
        found = task.source_graph()(as_batch(images))
        assert found.shape == expected.shape
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() < ROUGH.get(name, 1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_target_graphs_are_decode_target(name):
    task = TASKS[name]
    generator = torch.Generator().manual_seed(0)
    images = [noise(24, 31, image_channels_of(task)[0]) for _ in range(2)]
    output = torch.rand(2, task.target_channels, 24, 31, generator=generator) * 2.2 - 1.1
    if name == "photo2labels":
        output = output.softmax(dim=1)
    sources = [task.encode_source(image) for image in images]
    decoded = [task.decode_target(o, s) for o, s in zip(output, sources, strict=True)]
    expected = np.stack([to_depth(image, np.float32) for image in decoded]).transpose(0, 3, 1, 2)
    found = task.target_graph()(output, as_batch(images))
    assert found.shape == expected.shape
    assert (found.numpy() >= 0).all()
    assert (found.numpy() <= 1).all()
    assert np.abs(found.numpy() - expected).max() < ROUGH.get(name, 1e-6)


def smeared_map(height, width):
    """Stripes of colours of both palettes, blurred and noisy, as JPEG leaves a label map."""
    random = np.random.default_rng(0)
    colours = np.concatenate([find_palette("facades"), find_palette("cityscapes")])
    stripes = np.repeat(colours, 5, axis=0)[:width]
    image = np.broadcast_to(np.resize(stripes, (width, 3)), (height, width, 3))
    blurred = cv2.GaussianBlur(np.ascontiguousarray(image), (3, 3), 0).reshape(height, width, 3)
    noisy = blurred + random.integers(-20, 21, blurred.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def test_luma_is_exact_but_where_it_lies_between_two_levels():
    """All colours of a coarse grid, in whole numbers; the even level where both are as near."""
    levels = np.arange(0, 256, 5)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    thousandths = colours @ np.array([299, 587, 114])
    floor, rest = np.divmod(thousandths, 1000)
    expected = floor + ((rest > 500) | ((rest == 500) & (floor % 2 == 1)))
    found = (GreySource()(as_batch([colours.astype(np.uint8)])) + 1) * 127.5
    assert (np.rint(found.numpy()[0, 0]) == expected).all()


def test_lab_agrees_with_scikit_image():
    color = pytest.importorskip("skimage.color")
    image = noise(40, 50, 3)
    lab = color.rgb2lab(image / 255)
    found = lightness(as_batch([image]))[0, 0].numpy()
    # Their thresholds have more digits than OpenCV's, which the model was trained with.
    assert np.abs(found - lab[..., 0]).max() < 2e-3
    chroma = torch.from_numpy(lab[..., 1:].transpose(2, 0, 1)[None] / 110).float()
    back = LabTarget()(chroma, as_batch([image]))
    assert (back - as_batch([image])).abs().max() < 2e-3


def test_classes_are_shown_in_their_colours():
    palette = find_palette("facades")
    probabilities = torch.zeros(1, 12, 1, 12)
    probabilities[0, torch.arange(12), 0, torch.arange(12)] = 1
    shown = ClassTarget(palette)(probabilities, torch.zeros(1, 3, 1, 12))
    assert (shown[0, :, 0].T.mul(255).round().numpy() == palette).all()


# The rest of the graph


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 20])
@pytest.mark.parametrize(("multiple", "least"), [(1, 1), (8, 1), (4, 8), (16, 1)])
def test_sides_are_reflected_as_numpy_does(size, multiple, least):
    side = torch.arange(1.0, size + 1).view(1, 1, size, 1)
    wanted = -(-max(size, least) // multiple) * multiple
    expected = np.pad(np.arange(1.0, size + 1), (0, wanted - size), mode="reflect")
    assert (extend(side, -2, multiple, least).numpy().ravel() == expected).all()


@pytest.mark.parametrize("norm", ["batch", "instance", "group", "affine"])
@pytest.mark.parametrize("size", [(1, 1), (5, 7)])
def test_norms_are_those_of_the_model(norm, size):
    layers = {
        "batch": nn.BatchNorm2d(6),
        "instance": nn.InstanceNorm2d(6),
        "affine": nn.InstanceNorm2d(6, affine=True),
        "group": nn.GroupNorm(2, 6),
    }
    layer = layers[norm]
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 1, 0.3)
    network = nn.Sequential(nn.Conv2d(3, 6, 1), layer)
    model = Translator(network, Paired(), Policy())
    traced = traceable(model.module)
    assert isinstance(traced[1], OwnNorm)
    features = torch.randn(3, 6, *size) * 3 + 2
    with torch.no_grad():
        found = traced[1](features)
    each = features.double().numpy().reshape(3, 2 if norm == "group" else 6, -1)
    centred = each - each.mean(axis=-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    expected = expected.reshape(features.shape)
    if layer.weight is not None:
        weight, bias = (p.detach().numpy()[:, None, None] for p in (layer.weight, layer.bias))
        expected = expected * weight + bias
    assert np.abs(found.numpy() - expected).max() < 2e-5
    assert not any(isinstance(module, OwnNorm) for module in model.module.modules())


def test_probes_are_of_several_sizes_and_leave_luma_no_choice():
    probes = make_probes(3, 32, 1, 64)
    sizes = {probe.images.shape[1:3] for probe in probes}
    assert {len(probe.images) for probe in probes} == {1, 2}
    assert any(min(size) < 32 for size in sizes)
    assert sum(1 for size in sizes if size[0] % 32 and size[1] % 32) >= 2
    for probe in (*probes, *make_fixed_probes(3, (64, 64), batches=True)):
        assert not (probe.images.astype(int) @ [299, 587, 114] % 1000 == 500).any()


# Whole files


def test_a_unet_as_onnx_takes_any_size(make, tmp_path, monkeypatch, capsys):
    """What ONNX Runtime gives is what the model gives, whatever the size and the batch."""
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, registry = make(
        generator="unet", width=8, size=16, depth=3, scale=(0.5, 1.0), dropout=True
    )
    code, printed = call(["export", model], monkeypatch, capsys)
    assert code == 0
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == ["note"] * 2
    assert "no dropout" in lines[0]
    assert "width of images by 0.5 and their height by 1 " in lines[1]
    file = tmp_path / "model.onnx"
    assert re.fullmatch(
        rf"wrote {file}: image \(B, 3, H, W\) in \[0, 1\] -> result, any height and width; "
        r"differs from the model by [1-9]\.\de-0[5-9] at most",
        lines[-1],
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.onnx",
        "model.safetensors",
        "small.py",
    ]

    onnx.checker.check_model(str(file), full_check=True)
    session = onnxruntime.InferenceSession(file)
    (image,), (result,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape) == ("image", ["batch", 3, "height", "width"])
    assert (result.name, result.shape) == ("result", ["batch", 3, "height", "width"])
    notes = session.get_modelmeta().custom_metadata_map
    assert notes == {
        "name": "small",
        "task": "paired",
        "generator": "unet",
        "statistics": "image",
        "scale": "[0.5, 1.0]",
        "size_multiple": "8",
        "size": "null",
        "img2img": importlib.metadata.version("img2img"),
    }
    assert not names_places(file, tmp_path)

    translator = load_translator(model, registry, device=torch.device("cpu"))
    for module in translator.module.modules():
        if hasattr(module, "rate"):
            module.rate = 0.0
    for height, width, batch in ((16, 16, 3), (37, 50, 2), (5, 9, 1), (2, 40, 1)):
        pixels = [noise(height, width, 3) for _ in range(batch)]
        pixels[0] = smooth(height, width, 3)
        encoded = torch.stack([Paired().encode_source(one) for one in pixels])
        expected = (translator.translate(encoded) + 1) / 2
        (found,) = session.run(None, {"image": as_batch(pixels).numpy()})
        assert np.abs(found - expected.numpy()).max() < 1e-5


def test_classes_come_with_their_probabilities(make, tmp_path):
    pytest.importorskip("onnxruntime")
    model, registry = make(task="photo2labels")
    done = export_model(model, registry, out=tmp_path / "out" / "classes.onnx")
    assert done.path == tmp_path / "out" / "classes.onnx"
    assert done.difference < 1e-5
    assert done.notes["palette"] == find_palette("facades").tolist()
    image = noise(21, 30, 3)
    shown, probabilities = open_file(done.path, "onnx")(as_batch([image]))
    assert probabilities.shape == (1, 12, 21, 30)
    assert (probabilities.sum(dim=1) - 1).abs().max() < 1e-5
    translator = load_translator(model, registry, device=torch.device("cpu"))
    expected = translator(image)
    found = shown[0].permute(1, 2, 0).mul(255).round().numpy()
    assert (found != expected).any(axis=-1).mean() < 0.01


def test_torch_export_of_any_size_and_of_one(make, tmp_path, monkeypatch, capsys, plugin):
    model, registry = make(task="edges", task_settings={"threshold": 100}, rate=0.3)
    out = tmp_path / "any.pt2"
    code, printed = call(
        ["export", model, "--out", out, "--plugin", plugin, "--json"], monkeypatch, capsys
    )
    assert code == 0
    told = json.loads(printed.out)
    assert (told["format"], told["image"], told["result"]) == (
        "torch",
        "(B, 3, H, W)",
        "(B, 3, H, W)",
    )
    about = {"img2img.json": ""}
    program = torch.export.load(out, extra_files=about)
    assert not names_places(out, tmp_path)
    assert json.loads(about["img2img.json"])["task"] == "edges"
    run = program.module()
    translator = load_translator(model, registry, device=torch.device("cpu"))
    for height, width, batch in ((33, 18, 2), (2, 3, 1), (64, 7, 4)):
        images = [noise(height, width, 3) for _ in range(batch)]
        expected = np.stack([translator(image) for image in images]) / 255
        found = run(as_batch(images)).detach().permute(0, 2, 3, 1).numpy()
        assert np.abs(found - expected).max() < 0.5 / 255 + 1e-5

    done = export_model(model, registry, out=out, format="torch", size=(18, 33), overwrite=True)
    assert done.sizes == Sizes((18, 33))
    assert done.remarks == ()
    fixed = torch.export.load(out).module()
    assert fixed(as_batch([noise(18, 33, 3)] * 3)).shape == (3, 3, 18, 33)
    with pytest.raises((RuntimeError, AssertionError)):
        fixed(as_batch([noise(20, 33, 3)]))


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.15"),
    reason="2.8, and perhaps some after it, cannot leave the sizes of permuted features open",
)
def test_what_torch_asks_of_sizes_does_not_bind_a_file(make):
    """Of permuted features it asks whether a side is 1, as a convnext's are for small images."""
    model, registry = make(fault="permutes")
    done = export_model(model, registry, format="torch")
    assert (done.sizes, done.remarks) == (Sizes(), ())


# What cannot be exported, or not like that


def test_a_file_that_is_wrong_is_not_kept(make, tmp_path, plugin, monkeypatch, capsys):
    """A thousandth, and only where the image is white: below what an eye sees or 8 bits hold."""
    pytest.importorskip("onnxruntime")
    model, _ = make(fault="lies")
    before = sorted(tmp_path.iterdir())
    code, printed = call(["export", model, "--plugin", plugin], monkeypatch, capsys)
    assert code == 1
    assert printed.out == ""
    assert re.fullmatch(
        r"error: \S+model\.onnx was not written: under ONNX Runtime its result of a smooth and a "
        r"noise image of \d+x\d+ pixels differs by up to 0\.0005, and 0\.0001 is allowed "
        r"\(row \d+, column \d+, channel \d\); --size .*\n",
        printed.err,
    )
    assert sorted(tmp_path.iterdir()) == before


def test_colours_must_be_those_of_the_likeliest_class(make):
    """Also where the probabilities are right."""
    model, registry = make(task="photo2labels")
    translator = load_translator(model, registry, device=torch.device("cpu"))
    target = translator.task.target_graph()
    (probe, *_) = make_probes(3, 4, 1, 32)
    (expected, *_) = expect(translator, [probe])
    right = target(expected.output, probe.tensor)
    assert compare(lambda _: (right, expected.output), probe, expected, target) == 0
    wrong = right.clone()
    wrong[1, :, 3, 4] += 1 / 255
    with pytest.raises(Difference, match=r"colours of the classes .* \(row 3, column 4, channel"):
        compare(lambda _: (wrong, expected.output), probe, expected, target)


def test_a_wrong_file_does_not_replace_another(make, tmp_path):
    model, registry = make(fault="blank")
    out = tmp_path / "model.pt2"
    out.write_bytes(b"of before")
    with pytest.raises(Img2ImgError, match=r"under torch\.export its result .* up to inf"):
        export_model(model, registry, out=out, overwrite=True)
    assert out.read_bytes() == b"of before"
    assert not list(tmp_path.glob(".partial-*"))


@pytest.mark.parametrize(
    ("fault", "sizes", "remark"),
    [
        ("branches", Sizes((32, 32)), "takes images of 32x32 pixels only: what its network does"),
        ("alone", Sizes((32, 32), batches=False), "takes one image at a time of 32x32 pixels only"),
    ],
)
def test_sizes_are_fixed_where_they_must_be(make, tmp_path, fault, sizes, remark):
    model, registry = make(fault=fault)
    done = export_model(model, registry, format="torch")
    assert done.sizes == sizes
    assert [text[: len(remark)] for text in done.remarks] == [remark]
    assert done.notes["size"] == [32, 32]
    assert done.difference < 1e-5


def test_a_network_that_cannot_be_traced_leaves_nothing(make, tmp_path):
    model, registry = make(fault="untraceable")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(Img2ImgError, match=r"cannot be written for torch\.export"):
        export_model(model, registry, format="torch", size=(32, 32))
    assert sorted(tmp_path.iterdir()) == before


def test_tasks_that_cannot_or_do_otherwise(make):
    model, registry = make(task="mute")
    with pytest.raises(RequestError, match=r"source_graph\(\) and target_graph\(\), see docs/exp"):
        export_model(model, registry, format="torch")
    model, registry = make(task="wrong")
    with pytest.raises(Img2ImgError, match="not do what encode_source and decode_target do"):
        export_model(model, registry, format="torch")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError, OSError])
def test_what_is_cut_short_leaves_nothing(make, tmp_path, monkeypatch, kind):
    model, registry = make()
    before = sorted(tmp_path.iterdir())

    def cut_short(program, path, **options):
        path.write_bytes(b"half")
        raise kind("no space")

    monkeypatch.setattr(img2img.exporting.writing.torch.export, "save", cut_short)
    expected = RequestError if kind is OSError else Img2ImgError
    with pytest.raises(KeyboardInterrupt if kind is KeyboardInterrupt else expected):
        export_model(model, registry, format="torch")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "model.safetensors"], "the name must end in .onnx or .pt2"),
        (["--out", "a.onnx", "--format", "torch"], "disagree"),
        (["--format", "tflite"], "--format cannot be 'tflite'"),
        (["--size", "0"], "--size cannot be '0'"),
        (["--size", "64x"], "--size cannot be '64x'"),
        (["--size", "64x64x3"], "--size cannot be '64x64x3'"),
        (["--out", "there.onnx"], "there.onnx is already there; use --overwrite"),
        (["--out", "folder.onnx"], "folder.onnx is a folder; name the file"),
        (["--out", "there.onnx/a.pt2"], "cannot write"),
        (["--format", "torch"], "needs the generator 'small'"),
    ],
)
def test_requests_that_are_wrong(make, tmp_path, monkeypatch, capsys, plugin, arguments, message):
    model, _ = make()
    (tmp_path / "there.onnx").write_bytes(b"of before")
    (tmp_path / "folder.onnx").mkdir()
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    loads = [] if "generator" in message else ["--plugin", plugin]
    code, printed = call(["export", model, *loads, *arguments], monkeypatch, capsys)
    assert code == 2
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there.onnx").read_bytes() == b"of before"


def test_names_that_no_file_can_have(make, tmp_path, monkeypatch, capsys):
    model, _ = make()
    long = "x" * 300
    for arguments, message in (
        ([tmp_path / long], "cannot be opened: File name too long"),
        ([model, "--out", tmp_path / f"{long}.pt2"], "cannot write"),
        ([""], "it is empty"),
        ([model, "--out", ""], "it is empty"),
        ([model, "--out", tmp_path / "\x1b[31m.txt"], "the name must end in"),
    ):
        code, printed = call(["export", *arguments], monkeypatch, capsys)
        assert code == 2
        # Usage is shown in a frame.
        assert message in " ".join(printed.err.split())
        assert "\x1b" not in printed.err


def test_what_was_written_leaves_the_terminal_as_it_is():
    done = Exported(Path("\x1b[31m.pt2"), "torch", Sizes(), (3, 3), 0.0, {}, ())
    assert summary(done).startswith(r"wrote \x1b[31m.pt2: image (B, 3, H, W)")


def test_no_model_is_no_model(tmp_path, monkeypatch, capsys):
    code, printed = call(["export", tmp_path, "--format", "torch"], monkeypatch, capsys)
    assert code == 2
    assert "holds no model.safetensors" in printed.err


def test_missing_packages_are_named(make, monkeypatch):
    model, registry = make()
    found = importlib.util.find_spec

    def lacks(name, *rest):
        return None if name == "onnxscript" else found(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", lacks)
    with pytest.raises(RequestError, match=r"need onnxscript: pip install 'img2img\[onnx\]'"):
        export_model(model, registry)


def test_models_too_large_for_one_file(make, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(img2img.exporting.writing, "LARGEST", 1000)
    model, registry = make()
    with pytest.raises(RequestError, match="one ONNX file holds 2 GB: use --format torch"):
        export_model(model, registry)


@pytest.mark.parametrize(("text", "size"), [("64", (64, 64)), ("40x72", (40, 72)), ("1X2", (1, 2))])
def test_sizes_as_people_write_them(text, size):
    assert parse_size(text) == size


# The page


def test_the_page_is_true(make, tmp_path, monkeypatch, capsys):
    """Its commands write files, and its programs make of an image what the model makes of it."""
    pytest.importorskip("onnxruntime")
    model, registry = make(
        "runs/facades/model.safetensors", generator="unet", width=4, size=16, depth=2
    )
    monkeypatch.chdir(tmp_path)
    drawing = noise(29, 34, 3)
    Image.fromarray(drawing).save("drawing.png")
    commands = re.findall(r"^\$ img2img (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        code, printed = call(command.split(), monkeypatch, capsys)
        assert code == 0
        shown = re.sub(r"\d\.\de-\d\d", "", printed.out.replace(f"{tmp_path}/", ""))
        assert shown in re.sub(r"\d\.\de-\d\d", "", PAGE)
    expected = load_translator(model, registry, device=torch.device("cpu"))(drawing)
    programs = [block for block in BLOCKS if "drawing.png" in block]
    assert len(programs) == 2
    for program in programs:
        exec(compile(program, "export.md", "exec"), {})
        written = np.asarray(Image.open("photo.png"))
        assert np.abs(written.astype(int) - expected).max() <= 1
        Path("photo.png").unlink()
    assert capsys.readouterr().out == "small\n"


def test_the_pages_task_can_be_exported(make, tmp_path, plugin):
    block = next(block for block in BLOCKS if block.startswith("# bright.py"))
    (tmp_path / "bright.py").write_text(block, encoding="utf-8")
    model, registry = make(task="bright", plugins=[plugin, tmp_path / "bright.py"])
    done = export_model(model, registry, format="torch", size=(16, 20))
    assert done.difference < 1e-5
    task = registry.get("task", "bright").build({})
    image = smooth(9, 9, 3)
    assert np.abs(task.decode_source(task.encode_source(image)) * 255 - image).max() < 0.01


def test_the_page_names_what_files_say(make):
    model, registry = make(task="photo2labels")
    translator = load_translator(model, registry, device=torch.device("cpu"))
    notes = describe(translator, read_info(model), Sizes())
    assert "palette" in notes
    for key in notes:
        assert f"`{key}`" in PAGE


@pytest.mark.parametrize("fault", ["", "single"])
def test_expectations_are_the_models(make, fault):
    """`expect` gives what the translator gives people, also where only float32 can be computed."""
    model, registry = make(fault=fault)
    translator = load_translator(model, registry, device=torch.device("cpu"))
    (probe, *_) = make_probes(3, 4, 1, 32)
    (expected, *_) = expect(translator, [probe])
    shown = expected.images.permute(0, 2, 3, 1).mul(255).numpy()
    rounded = np.stack([translator(image) for image in probe.images])
    assert np.abs(shown - rounded).max() < 0.501


def test_expectations_are_not_rounded_on_the_way():
    """A norm of features far from 0 costs float32 digits, which no file is to be blamed for."""
    conv = nn.Conv2d(3, 3, 1)
    nn.init.constant_(conv.bias, 3000)
    translator = Translator(nn.Sequential(conv, nn.BatchNorm2d(3)), Paired(), Policy())
    (probe, *_) = make_probes(3, 1, 1, 32)
    (expected, *_) = expect(translator, [probe])
    pixels = probe.images.astype(np.float64).transpose(0, 3, 1, 2) / 127.5 - 1
    weight = conv.weight.detach().double().numpy()[..., 0, 0]
    features = np.einsum("oc,bchw->bohw", weight, pixels) + 3000
    centred = features - features.mean(axis=(2, 3), keepdims=True)
    exact = centred / np.sqrt((centred**2).mean(axis=(2, 3), keepdims=True) + 1e-5)
    assert np.abs(expected.output.numpy() - exact).max() < 1e-5
    rough = translator.translate(torch.from_numpy(pixels).float())
    assert np.abs(rough.numpy() - exact).max() > 1e-4
