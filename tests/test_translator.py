"""`Translator` as Python programs use it: kinds and depths of images, lists, threads, samples."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from img2img.generators import EncoderDecoder, ResNet, UNet
from img2img.inference import Policy, Translator, packing
from img2img.inference.moment import Moment
from img2img.inference.packing import packed_copy
from img2img.inference.samples import Moments
from img2img.picture import Picture
from img2img.tasks import Paired, PhotoToLabels


class Pointwise(nn.Module):
    """Each channel of the output is one minus the source's, so what must come out is known."""

    def __init__(self, source=3, target=3):
        super().__init__()
        self.mix = nn.Conv2d(source, target, 1)
        nn.init.zeros_(self.mix.bias)
        with torch.no_grad():
            self.mix.weight.copy_(-torch.eye(target, source)[..., None, None])

    def forward(self, images):
        return self.mix(images)


def negative(source=3, target=3, **options):
    return Translator(
        Pointwise(source, target),
        Paired(source_channels=source, target_channels=target),
        Policy(),
        **options,
    )


def unet(policy=Policy(), network=UNet, seed=0, **options):
    torch.manual_seed(0)
    made = network(3, 3, image_size=32, width=8, **options)
    for _ in range(3):
        made(torch.randn(4, 3, 32, 32))
    return Translator(made, Paired(), policy, seed=seed)


def photo(height, width, channels=3, dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    shape = (height, width, channels) if channels else (height, width)
    if np.issubdtype(dtype, np.floating):
        return rng.random(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


# Kinds and depths


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_arrays_come_back_at_their_depth_to_the_last_bit(dtype, channels):
    image = photo(9, 7, channels, dtype)
    white = 1 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
    result = negative(channels, channels)(image)
    assert result.dtype == dtype
    assert result.shape == image.shape
    off = np.abs(result.astype(np.float64) - (white - image.astype(np.float64)))
    assert off.max() <= (1e-6 if white == 1 else 0)


def test_grey_arrays_without_a_channel_axis():
    grey = photo(9, 7, 0)
    assert np.array_equal(negative(1, 1)(grey), 255 - grey)
    assert np.array_equal(negative()(grey), np.stack([255 - grey] * 3, axis=-1))
    assert negative(1, 1)(grey[..., None]).shape == (9, 7, 1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "F"])
def test_pillow_images_of_every_mode(mode):
    if mode == "I;16":
        given = Image.fromarray(photo(9, 7, 0, np.uint16))
    elif mode == "F":
        given = Image.fromarray(photo(9, 7, 0, np.float32))
    else:
        given = Image.fromarray(photo(9, 7, 4), "RGBA").convert("RGB" if mode == "CMYK" else mode)
        given = given.convert("RGB").convert(mode) if mode == "P" else given.convert(mode)
    result = negative()(given)
    assert isinstance(result, Image.Image)
    assert result.size == given.size
    assert result.mode == {"RGBA": "RGBA", "LA": "RGBA"}.get(mode, "RGB")
    if mode in ("RGBA", "LA"):
        assert np.array_equal(np.asarray(result)[..., -1], np.asarray(given)[..., -1])
    if mode == "RGB":
        assert np.array_equal(np.asarray(result), 255 - np.asarray(given))


def test_deep_grey_pillow_images_keep_their_depth():
    deep = photo(9, 7, 0, np.uint16)
    result = negative(1, 1)(Image.fromarray(deep))
    assert result.mode == "I;16"
    assert np.array_equal(np.asarray(result), 65535 - deep)


def test_lists_and_batches():
    model = unet()
    sizes = [(20, 24), (20, 24), (33, 17), (20, 24)]
    images = [photo(*size, seed=i) for i, size in enumerate(sizes)]
    alone = [model(image) for image in images]
    together = model(images)
    assert [r.shape for r in together] == [i.shape for i in images]
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
    batch = model(np.stack(images[:2]))
    assert batch.shape == (2, 20, 24, 3)
    assert np.abs(batch.astype(int) - np.stack(alone[:2])).max() <= 1
    pictures = model([Image.fromarray(image) for image in images])
    assert all(isinstance(picture, Image.Image) for picture in pictures)
    assert np.abs(np.asarray(pictures[2]).astype(int) - alone[2]).max() <= 1
    tensors = model([torch.zeros(3, 20, 24), torch.zeros(2, 3, 8, 8)])
    assert [tuple(t.shape) for t in tensors] == [(3, 20, 24), (2, 3, 8, 8)]
    assert model([]) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("photo.png", "not str"),
        (None, "not NoneType"),
        ([photo(4, 4), Image.new("RGB", (4, 4))], "one kind"),
        (photo(4, 4, 4), "has 4 channels, and the model takes 3"),
        (photo(4, 4, 3, np.int32), "int32"),
        (photo(4, 4, 3, np.float32) * 300, "from .* to"),
        (np.full((4, 4, 3), np.nan, np.float32), "finite"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((2, 2, 2, 2, 3), np.uint8), r"\(H, W\)"),
        (torch.zeros(1, 8, 8), r"\(3, H, W\)"),
        (torch.zeros(8, 8), r"\(3, H, W\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "floats"),
    ],
)
def test_what_does_not_fit_says_why(image, message):
    with pytest.raises((TypeError, ValueError), match=message):
        negative()(image)


def test_classes_come_back_as_classes():
    class Likeliest(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Conv2d(3, 3, 1, bias=False)
            with torch.no_grad():
                self.mix.weight.copy_(50 * torch.eye(3)[..., None, None])

        def forward(self, images):
            return self.mix(images).softmax(dim=1)

    palette = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    model = Translator(Likeliest(), PhotoToLabels(palette=palette), Policy())
    image = np.array([[[200, 10, 10], [10, 180, 9]], [[1, 2, 90], [90, 2, 1]]], np.uint8)
    picture = model(Image.fromarray(image))
    assert picture.mode == "P"
    assert np.asarray(picture).tolist() == [[0, 1], [2, 0]]
    deep = model(image.astype(np.uint16) * 257)
    assert deep.dtype == np.uint8
    assert deep[0].tolist() == [[255, 0, 0], [0, 255, 0]]


# The same result every time


@pytest.mark.parametrize("network", [UNet, EncoderDecoder, ResNet])
@pytest.mark.parametrize("statistics", ["image", "running"])
@pytest.mark.parametrize("dropout", [True, False])
def test_neither_neighbours_nor_order_change_an_output(network, statistics, dropout):
    torch.manual_seed(0)
    made = network(3, 3, image_size=32, width=8) if network is not ResNet else ResNet(3, 3, width=8)
    for _ in range(3):
        made(torch.randn(4, 3, 32, 32))
    model = Translator(made, Paired(), Policy(statistics, dropout))
    images = torch.randn(5, 3, 40, 48)
    alone = torch.cat([model.translate(image[None]) for image in images])
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 1, 3], [3, 3, 1]):
        together = model.translate(images[order])
        assert (together - alone[order]).abs().max() < 1e-5


def test_a_network_that_batches_change_is_run_image_by_image():
    class Meddling(nn.Module):
        def forward(self, images):
            return images * 0.5 + 1e-4 * len(images)

    model = Translator(Meddling(), Paired(), Policy())
    images = torch.rand(4, 3, 8, 8)
    alone = torch.cat([model.translate(image[None]) for image in images])
    assert torch.equal(model.translate(images), alone)
    assert not model._runner.batches_agree()
    assert unet()._runner.batches_agree()


def test_a_new_translator_gives_the_same_again():
    image = photo(40, 48)
    assert np.array_equal(unet()(image), unet()(image))
    assert not np.array_equal(unet()(image), unet(seed=1)(image))


def test_threads_share_one_translator():
    model = unet()
    images = [photo(32, 32 + 8 * (i % 3), seed=i) for i in range(24)]
    alone = [model(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(alone, pool.map(model, images * 3), strict=False):
            assert np.array_equal(one, other)


# Samples


@pytest.mark.parametrize("tile", [0, 32])
def test_samples_differ_and_the_first_is_the_usual_one(tile):
    model = unet()
    model._runner.tile = tile
    picture = Picture(photo(40, 72, dtype=np.uint16), dtype=np.dtype(np.uint16))
    found = model.sample(picture, 6)
    assert len(found.pictures) == 6
    usual = model.translate_pictures([picture])[0]
    third = model.translate_pictures([picture], sample=2)[0]
    for made, expected in ((found.pictures[0], usual), (found.pictures[2], third)):
        assert np.abs(made.pixels.astype(int) - expected.pixels).max() <= 2
    values = np.stack([made.pixels for made in found.pictures]) / 65535
    assert np.abs(values[0] - values[1]).max() > 0.01
    assert np.abs(found.mean.pixels / 65535 - values.mean(0)).max() < 1e-4
    assert np.abs(found.spread - values.std(0).mean(2)).max() < 1e-4
    assert found.spread.shape == (40, 72)


def test_without_noise_samples_would_be_equal():
    assert unet().noisy
    assert not unet(Policy(dropout=False)).noisy
    assert not unet(dropout=0.0).noisy
    found = unet(Policy(dropout=False)).sample(Picture(photo(32, 32)), 3)
    assert found.spread.max() < 1e-6


def test_moments_are_those_of_numpy_also_where_values_hardly_differ():
    rng = np.random.default_rng(0)
    arrays = (0.9 + 1e-5 * rng.standard_normal((7, 12, 5, 3))).astype(np.float32)
    moments = Moments(12)
    for i, array in enumerate(arrays):
        for row in range(0, 12, 5):
            moments.add(row, array[row : row + 5], i + 1)
    assert np.abs(moments.mean - arrays.mean(0, dtype=np.float64)).max() < 1e-7
    expected = arrays.astype(np.float64).std(0).mean(2)
    assert np.abs(moments.deviation(7) - expected).max() < 0.02 * expected.max()


# Packed weights


def packed_layers(network):
    return sum("forward" in vars(module) for module in network.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights_change_no_bit(dtype):
    layout = torch.channels_last
    torch.manual_seed(0)
    network = UNet(3, 3, image_size=32, width=16).eval().requires_grad_(False)
    network = network.to(dtype).to(memory_format=layout)
    images = torch.randn(2, 3, 32, 64).to(dtype).contiguous(memory_format=layout)
    plain = network(images)
    fast = packed_copy(network, Moment())
    assert (packed_layers(fast), packed_layers(network)) == (10, 0)
    for _ in range(2):
        assert torch.equal(fast(images), plain)
        assert fast(images).is_contiguous(memory_format=layout)
    assert all(a is b for a, b in zip(fast.parameters(), network.parameters(), strict=True))


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network[0].weight.mul_(2),
        lambda network: setattr(network[0].weight, "data", torch.ones(8, 3, 3, 3)),
        lambda network: network[0].load_state_dict(
            {"weight": torch.ones(8, 3, 3, 3)}, strict=False
        ),
        lambda network: network.double(),
    ],
)
def test_packed_weights_are_not_used_once_the_weights_have_changed(change):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 3, 3)).requires_grad_(False)
    fast = packed_copy(network, Moment())
    before = fast(torch.ones(1, 3, 16, 16))
    change(network)
    images = torch.ones(1, 3, 16, 16, dtype=network[0].weight.dtype)
    assert torch.allclose(fast(images), network(images), atol=1e-5)
    assert (fast(images) - before).abs().max() > (1e-8 if images.dtype == torch.float64 else 0.1)
    sized = fast[1](torch.zeros(1, 8, 5, 5, dtype=images.dtype), output_size=(7, 7))
    assert sized.shape[-2:] == (7, 7)


def test_what_cannot_be_packed_is_left_alone(monkeypatch):
    class Own(nn.Conv2d):
        def forward(self, features):
            return super().forward(features) + 1

    odd = nn.Sequential(
        Own(4, 4, 3),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding="same"),
    )
    assert packed_copy(odd, Moment()) is odd
    plain = nn.Sequential(nn.Conv2d(4, 4, 3))
    monkeypatch.setattr(packing, "_agrees", lambda dtype: False)
    assert packed_copy(plain, Moment()) is plain
    monkeypatch.setattr(packing, "_OPERATIONS", object())
    assert packed_copy(plain, Moment()) is plain


def test_translating_draws_nothing_from_the_state_that_training_counts_on():
    model = unet()
    before = torch.get_rng_state()
    model([photo(32, 32), photo(32, 32, seed=1)])
    model.sample(Picture(photo(32, 32)), 2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("used", [False, True])
def test_the_module_stays_one_to_copy_save_and_differentiate(used, tmp_path):
    model = unet()
    images = torch.randn(2, 3, 32, 32)
    if used:
        model.translate(images)
        assert packed_layers(model._runner._fast_network()) == 10
    module = model.module
    with torch.no_grad():
        expected = module(images)
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    doubled = nn.Module.double(UNet(3, 3, image_size=32, width=8))
    doubled.load_state_dict(module.state_dict(), strict=False)
    images.requires_grad_(True)
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    output = module(images)
    assert (output - expected).abs().max() < 1e-5
    output.square().mean().backward()
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_outputs_are_tensors_that_autograd_takes():
    output = unet()(torch.zeros(3, 32, 32))
    assert not output.is_inference()
    assert not output.requires_grad


def test_windows_in_the_batch_have_noise_of_their_own():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = nn.Dropout(0.5)

        def forward(self, images):
            parts = images.unflatten(2, (-1, 8)).movedim(2, 1).flatten(0, 1)
            parts = self.dropout(parts)
            return parts.unflatten(0, (len(images), -1)).movedim(1, 2).flatten(2, 3)

    model = Translator(Windows(), Paired(), Policy())
    images = torch.ones(3, 3, 32, 16) * torch.tensor([1.0, 2.0, 3.0]).view(-1, 1, 1, 1)
    together = model.translate(images)
    alone = torch.cat([model.translate(image[None]) for image in images])
    assert torch.equal(together, alone)
    kept = together[0] > 0
    assert not torch.equal(kept[:, :8], kept[:, 8:16])


def test_a_scale_beyond_the_limit_is_refused():
    model = Translator(Pointwise(), Paired(), Policy(scale=(200.0, 200.0)))
    with pytest.raises(ValueError, match="more than the limit"):
        model(photo(400, 400))
