"""Trained generators in use: independence of the batch, sizes, kinds of input, folders, bundles."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import img2img
from img2img.bundle import BundleInfo, load_bundle, save_bundle
from img2img.errors import ModelFileError
from img2img.generators import UNet
from img2img.inference import Policy, Translator
from img2img.inference.moment import Moment
from img2img.inference.noise import SeededDropout
from img2img.inference.tiles import reflect_to_multiple
from img2img.picture import to_depth
from img2img.tasks import Colorization, Paired


def trained_like(norm="batch", innermost_norm=False):
    """A network whose norms have seen data, so that running and own statistics differ."""
    torch.manual_seed(0)
    network = UNet(3, 3, image_size=16, width=8, norm=norm, innermost_norm=innermost_norm)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
    for _ in range(3):
        network(torch.randn(4, 3, 16, 16) * 2 + 1)
    return network


def translator(policy=Policy(), seed=0, **kwargs):
    return Translator(trained_like(**kwargs), Paired(), policy, seed=seed)


@pytest.mark.parametrize("innermost_norm", [False, True])
def test_own_statistics_are_those_of_training_with_a_batch_of_one(innermost_norm):
    network = trained_like(innermost_norm=innermost_norm)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    image = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        expected = network.train()(image)
    result = Translator(network, Paired(), Policy("image", dropout=False)).translate(image)
    assert (result - expected).abs().max() < 1e-5


def test_running_statistics_are_those_of_eval_mode():
    network = trained_like()
    image = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = network.eval()(image)
    result = Translator(network, Paired(), Policy("running", dropout=False)).translate(image)
    assert (result - expected).abs().max() < 1e-6


@pytest.mark.parametrize("statistics", ["image", "running"])
@pytest.mark.parametrize("dropout", [True, False])
def test_neighbours_in_a_batch_change_nothing(statistics, dropout):
    model = translator(Policy(statistics, dropout))
    images = torch.randn(5, 3, 16, 16)
    together = model.translate(images)
    alone = torch.cat([model.translate(image[None]) for image in images])
    backwards = model.translate(images.flip(0)).flip(0)
    assert (together - alone).abs().max() < 1e-5
    assert (together - backwards).abs().max() < 1e-5


def test_dropout_is_on_repeatable_and_seeded():
    image = torch.randn(1, 3, 16, 16)
    first, again = (translator(seed=1).translate(image) for _ in range(2))
    other = translator(seed=2).translate(image)
    off = translator(Policy(dropout=False)).translate(image)
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-3
    assert (first - off).abs().max() > 1e-3


def test_dropout_keeps_its_rate():
    moment = Moment()
    moment.seeds = [3]
    kept = SeededDropout(0.3, 0, moment, channels=False)(torch.ones(1, 64, 64, 64))
    assert (kept == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert kept.max().item() == pytest.approx(1 / 0.7)


@pytest.mark.parametrize("size", [(16, 16), (17, 30), (5, 40), (1, 1), (33, 16)])
def test_any_size_comes_back(size):
    model = translator()
    assert model.size_multiple == 16
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    assert model(image).shape == image.shape


def test_padding_is_reflection_as_numpy_has_it():
    image = torch.arange(15.0).reshape(1, 1, 3, 5)
    padded = reflect_to_multiple(image, 8)
    expected = np.pad(image[0, 0].numpy(), ((0, 5), (0, 3)), mode="reflect")
    assert np.array_equal(padded[0, 0].numpy(), expected)


def test_images_are_seen_at_the_scale_of_training():
    """Half as wide, three quarters as high; what the network gives comes back at full size."""
    seen = []
    network = nn.Conv2d(3, 3, 1)
    network.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[-2:]))
    with torch.no_grad():
        network.weight.copy_(torch.eye(3)[..., None, None]), network.bias.zero_()
    model = Translator(network, Paired(), Policy(scale=(0.5, 0.75)))
    ramp = np.linspace(0, 255, 40).astype(np.uint8)
    image = np.broadcast_to(ramp[None, :, None], (24, 40, 3)).copy()
    output = model(image)
    assert seen == [(18, 20)]
    assert output.shape == image.shape
    assert np.abs(output.astype(int) - image).max() <= 8
    model(torch.zeros(1, 3, 24, 40))
    assert seen[1] == (24, 40)


def test_kinds_of_input_come_back_as_they_went_in():
    model = translator()
    array = np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    from_array = model(array)
    assert from_array.dtype == np.uint8
    picture = model(Image.fromarray(array))
    assert isinstance(picture, Image.Image)
    assert np.array_equal(np.asarray(picture), from_array)
    tensor = model.task.encode_source(array)
    single, batch = model(tensor), model(tensor[None].repeat(2, 1, 1, 1))
    assert single.shape == (3, 20, 24)
    assert batch.shape == (2, 3, 20, 24)
    shown = to_depth(model.task.decode_target(single, tensor), np.uint8)
    assert np.array_equal(shown, from_array)
    assert model(array[..., 0]).shape == (20, 24, 3)
    assert isinstance(model(Image.fromarray(array).convert("L")), Image.Image)


def test_wrong_kinds_of_input_are_named():
    model = translator()
    with pytest.raises(TypeError, match="not str"):
        model("photo.png")
    with pytest.raises(ValueError, match="uint8"):
        model(np.zeros((8, 8, 3), np.int32))
    with pytest.raises(ValueError, match=r"\(3, H, W\)"):
        model(torch.zeros(1, 8, 8))


def test_colorization_keeps_lightness():
    network = UNet(1, 2, image_size=16, width=4)
    model = Translator(network, Colorization(), Policy())
    image = np.random.default_rng(0).integers(60, 190, (16, 16, 3), dtype=np.uint8)
    before = model.task.encode_source(image)
    after = model.task.encode_source(model(image))
    # Colours outside sRGB are clipped, which moves L a little.
    assert (before - after).abs().mean() < 0.02


def bundle(path, **changes):
    network = UNet(3, 3, image_size=16, width=4)
    info = BundleInfo(
        name="x",
        task={"name": "paired", "settings": {}},
        generator={
            "name": "unet",
            "settings": {"width": 4},
            "in_channels": 3,
            "out_channels": 3,
            "image_size": 16,
            "origin": "img2img",
        }
        | changes,
        inference={"statistics": "image", "dropout": True},
    )
    save_bundle(path, network.state_dict(), info)
    return network


def test_bundle_alone_rebuilds_the_model(tmp_path):
    import img2img

    network = bundle(tmp_path / "model.safetensors")
    shutil.copy(tmp_path / "model.safetensors", tmp_path / "elsewhere.safetensors")
    model = img2img.load(tmp_path / "elsewhere.safetensors", device="cpu")
    image = torch.randn(1, 3, 16, 16)
    expected = Translator(network, Paired(), Policy()).translate(image)
    assert torch.equal(model.translate(image), expected)
    assert model.module(image).shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("just text, no tensors"), "is not a model"),
        (lambda path: path.write_bytes(b""), "is not a model"),
        (lambda path: None, "there is no model file"),
        (lambda path: bundle(path, name="unte"), "needs the generator 'unte'"),
        (lambda path: bundle(path, settings={"width": 8}), "do not fit its description"),
        (lambda path: bundle(path, settings={"widht": 8}), "refuses its settings"),
        (lambda path: bundle(path, name="x", origin="my.py"), r"my\.py; give it with --plugin"),
        (lambda path: bundle(path, name="x", origin="img2img-x"), "install the plugin img2img-x"),
    ],
)
def test_bad_bundles_are_told_apart(tmp_path, make, message):
    import img2img

    path = tmp_path / "model.safetensors"
    make(path)
    with pytest.raises(ModelFileError, match=message):
        img2img.load(path, device="cpu")


@pytest.mark.parametrize("tile", [None, 16])
def test_images_of_more_than_8_bits_are_computed_in_float32(tmp_path, tile):
    """Unless it was asked for by name, bfloat16 would leave 16 bits with 8."""
    path = tmp_path / "model.safetensors"
    bundle(path)
    loaded = {
        precision: img2img.load(path, device="cpu", precision=precision, tile=tile)
        for precision in ("auto", "float32", "bfloat16")
    }
    loaded["auto"] = rebuilt_for_bfloat16(path, tile)
    eight = np.random.default_rng(0).integers(0, 255, (20, 24, 3), np.uint8)
    deep = eight.astype(np.uint16) * 257
    results = {name: (model(eight), model(deep)) for name, model in loaded.items()}
    assert np.array_equal(results["auto"][0], results["bfloat16"][0])
    assert np.array_equal(results["auto"][1], results["float32"][1])
    assert not np.array_equal(results["float32"][1], results["bfloat16"][1])


def rebuilt_for_bfloat16(path, tile):
    """As `auto` is on a processor that has bfloat16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("img2img.rebuild.resolve_precision", lambda name, device: "bfloat16")
        return img2img.load(path, device="cpu", precision="auto", tile=tile)


def test_the_snippet_of_the_page_runs(tmp_path, monkeypatch):
    page = Path(__file__).parents[1] / "docs" / "inference.md"
    (snippet,) = [
        text
        for text in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        if "img2img.load" in text
    ]
    monkeypatch.chdir(tmp_path)
    Path("runs/shoes").mkdir(parents=True)
    bundle(Path("runs/shoes/model.safetensors"))
    Image.new("RGBA", (20, 30), "red").save("drawing.png")
    known = {}
    exec(snippet, known)
    assert (known["photo"].mode, known["photo"].size) == ("RGBA", (20, 30))


def test_tensors_without_description_are_no_bundle(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelFileError, match="not what this program needs"):
        load_bundle(tmp_path / "x.safetensors")
