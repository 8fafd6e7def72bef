"""Large images in tiles: what is cut, what tiles share, and that the seams do not show."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from img2img.generators import ResNet, UNet
from img2img.inference import Policy, Translator, running
from img2img.inference.moment import Moment
from img2img.inference.noise import GOLDEN, SeededDropout, mix, mix_tensor
from img2img.inference.resizing import resize, resize_rows
from img2img.inference.running import Runner
from img2img.inference.statistics import ImageNorm
from img2img.inference.tiles import Axis, blend, cut, read_tile, share_out, spread
from img2img.picture import Picture
from img2img.tasks import Paired

CPU = torch.device("cpu")
SIZES = [
    (100, 32, 1, 1),
    (700, 256, 64, 64),
    (65, 64, 64, 64),
    (257, 100, 4, 7),
    (1000, 256, 256, 1),
]


def runner(network, policy=Policy(), tile=0, channels=3):
    return Runner(copy.deepcopy(network), channels, policy, device=CPU, tile=tile)


def in_tiles(made, image, seed=5):
    bands = made.tiled(lambda rows, columns: image[:, rows, columns], image.shape[-2:], seed)
    return torch.cat(list(bands), dim=1)


def photo(height, width, channels=3, seed=0):
    """Something with large and small structure, (C, H, W) in [-1, 1]."""
    noise = torch.randn(1, channels, height // 16 + 1, width // 16 + 1, generator=seeded(seed))
    smooth = nn.functional.interpolate(noise, (height, width), mode="bicubic")[0]
    return (smooth + 0.1 * torch.randn(smooth.shape, generator=seeded(seed + 1))).clamp(-1, 1)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# Cutting


@pytest.mark.parametrize(("size", "tile", "multiple", "least"), SIZES)
def test_tiles_cover_a_side_and_their_weights_add_up_to_one(size, tile, multiple, least):
    axis = cut(size, tile, multiple, least)
    total = torch.zeros(axis.padded)
    for start, weight in zip(axis.starts, axis.weights, strict=True):
        assert len(weight) == axis.tile
        total[start : start + axis.tile] += weight
    assert axis.padded >= size
    assert axis.padded % multiple == 0
    assert axis.tile % multiple == 0
    assert (total - 1).abs().max() < 1e-6


def test_tiles_begin_on_the_grid_of_the_network_and_share_a_quarter():
    axis = cut(5000, 1024, 256, 256)
    assert all(start % 256 == 0 for start in axis.starts)
    shared = [a + axis.tile - b for a, b in zip(axis.starts, axis.starts[1:], strict=False)]
    assert min(shared) >= axis.tile // 4


def test_what_lies_at_a_tiles_border_counts_for_nothing():
    axis = cut(4096, 1024, 256, 1)
    first, second = axis.weights[:2]
    shared = axis.starts[0] + axis.tile - axis.starts[1]
    assert first[-shared // 4 :].max() == 0
    assert second[: shared // 4].max() == 0
    assert first[0] == 1
    assert axis.weights[-1][-1] == 1


@pytest.mark.parametrize("size", [(50, 90), (64, 64), (33, 200), (3, 70)])
@pytest.mark.parametrize("tile", [16, 32])
def test_tiles_of_an_untouched_image_are_the_image(size, tile):
    image = photo(*size)
    rows, columns = (cut(side, tile, 8, 8) for side in size)

    def same(row, column):
        return read_tile(lambda y, x: image[:, y, x], rows, columns, row, column)

    whole = torch.cat(list(blend(rows, columns, same)), dim=1)
    assert whole.shape == image.shape
    assert (whole - image).abs().max() < 1e-6


def test_beyond_the_image_tiles_are_reflected_as_numpy_does():
    image = torch.arange(35.0).reshape(1, 5, 7)
    rows, columns = cut(5, 8, 8, 1), cut(7, 16, 16, 1)
    tile = read_tile(lambda y, x: image[:, y, x], rows, columns, 0, 0)
    expected = np.pad(image[0].numpy(), ((0, 3), (0, 9)), mode="reflect")
    assert np.array_equal(tile[0].numpy(), expected)


@pytest.mark.parametrize(("size", "tile", "multiple", "least"), SIZES)
def test_parts_for_statistics_cover_all_and_hardly_overlap(size, tile, multiple, least):
    axis = cut(size, tile, multiple, least)
    parts = share_out(axis, multiple)
    counted = np.zeros(axis.padded)
    for start in parts.starts:
        counted[start : start + parts.tile] += 1
    assert counted.min() == 1
    assert parts.tile <= axis.tile
    assert counted.sum() - axis.padded < multiple * len(parts.starts)


def test_patches_are_spread_over_the_image():
    axis = Axis(1000, 1000, 100, tuple(range(0, 1000, 100)), ())
    found = spread(axis, axis, 9)
    assert sorted({row for row, _ in found}) == [100, 500, 800]
    assert len(spread(axis, axis, 1000)) == 100
    assert len(spread(axis, axis, 1)) == 1


# Tiles and the whole image


class Local(nn.Module):
    """Sees one pixel around each."""

    def __init__(self, norm):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 8, 1), norm
        self.second = nn.Conv2d(8, 3, 3, padding=1, padding_mode="reflect")

    def forward(self, images):
        return torch.tanh(self.second(torch.relu(self.norm(self.first(images)))))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(8), nn.InstanceNorm2d(8), nn.GroupNorm(2, 8)])
def test_tiles_share_the_statistics_of_the_whole_image(norm):
    """One half is flat and one is busy: by their own statistics the tiles could not agree."""
    image = photo(128, 192)
    image[:, :, :96] = image[:, :, :96] * 0.05 + 0.6
    whole = runner(Local(norm)).whole(image[None], [0])[0]
    tiled = in_tiles(runner(Local(norm), tile=64), image)
    assert (tiled - whole).abs().max() < 2e-5


def test_without_sharing_they_would_differ():
    """Guards the test above: the same image, each tile by its own statistics."""
    image = photo(128, 192)
    image[:, :, :96] = image[:, :, :96] * 0.05 + 0.6
    made = runner(Local(nn.BatchNorm2d(8)), tile=64)
    whole = made.whole(image[None], [0])[0]
    made._shares = False
    assert (in_tiles(made, image) - whole).abs().max() > 0.2


def test_running_statistics_need_no_sharing():
    torch.manual_seed(0)
    network = ResNet(3, 3, width=4, blocks=1)
    for _ in range(3):
        network(torch.randn(2, 3, 32, 32))
    image = photo(300, 420)
    policy = Policy("running", dropout=False)
    whole = runner(network, policy).whole(image[None], [0])[0]
    tiled = in_tiles(runner(network, policy, tile=256), image)
    assert (tiled - whole).abs().max() < 1e-4


def test_seams_are_no_larger_than_what_other_noise_changes():
    torch.manual_seed(0)
    network = UNet(3, 3, image_size=32, width=16)
    for _ in range(3):
        network(torch.randn(4, 3, 32, 32))
    image = photo(300, 420)
    made, cutting = runner(network), runner(network, tile=128)
    whole, other = (made.whole(image[None], [seed])[0] for seed in (5, 6))
    tiled = in_tiles(cutting, image)
    assert (tiled - whole).abs().mean() < (other - whole).abs().mean()
    axis = cut(420, 128, 32, 32)
    borders = [at for start in axis.starts for at in (start, start + axis.tile) if 0 < at < 420]
    step, natural = (
        max((out[..., at] - out[..., at - 1]).abs().max().item() for at in borders)
        for out in (tiled, whole)
    )
    assert step < 1.1 * natural


@pytest.mark.parametrize("stride", [1, 4])
def test_noise_is_the_same_in_a_tile_and_in_the_whole(stride):
    """Also where the features are smaller than the image."""

    class Noisy(nn.Module):
        size_multiple = 8

        def __init__(self):
            super().__init__()
            self.dropout = nn.Dropout(0.5)

        def forward(self, images):
            small = nn.functional.avg_pool2d(images, stride)
            return nn.functional.interpolate(self.dropout(small), scale_factor=stride)

    image = photo(120, 160)
    whole = runner(Noisy()).whole(image[None], [9])[0]
    tiled = in_tiles(runner(Noisy(), tile=64), image, seed=9)
    assert (tiled - whole).abs().max() < 1e-6


# The noise itself


def test_noise_is_that_of_splitmix():
    """Published outputs of SplitMix64 from the seed 1234567."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    states = [(1234567 + GOLDEN * (i + 1)) % 2**64 for i in range(4)]
    assert [mix(state) for state in states] == known
    signed = torch.tensor([s - 2**64 if s >= 2**63 else s for s in states])
    assert [int(v) % 2**64 for v in mix_tensor(signed)] == known


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_noise_has_its_rate_everywhere_and_no_pattern(rate):
    moment = Moment()
    moment.seeds = [1, 2]
    kept = (SeededDropout(rate, 0, moment, channels=False)(torch.ones(2, 64, 64, 64)) > 0).double()
    for axes in ((2, 3), (1, 3), (1, 2)):
        # Means of 4096 values: five standard deviations.
        assert (kept.mean(dim=axes) - (1 - rate)).abs().max() < 5 * (
            rate * (1 - rate) / 4096
        ) ** 0.5
    off = kept - kept.mean()
    for shift, axis in ((1, 1), (1, 2), (1, 3), (2, 3), (8, 2)):
        assert (off * off.roll(shift, axis)).mean().abs() < 0.005
    assert (off[0] * off[1]).mean().abs() < 0.01


def test_noise_differs_by_layer_seed_and_sample():
    def drawn(layer, seed):
        moment = Moment()
        moment.seeds = [seed]
        return SeededDropout(0.5, layer, moment, channels=False)(torch.ones(1, 4, 16, 16))

    assert torch.equal(drawn(0, 1), drawn(0, 1))
    assert not torch.equal(drawn(0, 1), drawn(1, 1))
    assert not torch.equal(drawn(0, 1), drawn(0, 2))


def test_dropout_of_channels_drops_whole_ones():
    moment = Moment()
    moment.seeds = [4]
    out = SeededDropout(0.5, 0, moment, channels=True)(torch.ones(1, 200, 3, 3))[0]
    assert set(out.flatten(1).sum(1).tolist()) == {0.0, 18.0}


# Norms


@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize("batch", [1, 3])
def test_image_norm_is_the_layer_it_stands_for(size, batch):
    torch.manual_seed(0)
    images = torch.randn(batch, 8, size, size) * 3 + 1
    for norm in (nn.BatchNorm2d(8), nn.GroupNorm(4, 8), nn.InstanceNorm2d(8, affine=True)):
        nn.init.uniform_(norm.weight), nn.init.uniform_(norm.bias)
        made = ImageNorm(norm, 0, Moment())(images)
        if size == 1 and not isinstance(norm, nn.GroupNorm):
            assert torch.equal(made, norm.bias.view(1, -1, 1, 1).expand_as(images))
        else:
            expected = torch.cat([norm.train()(image[None]) for image in images])
            assert (made - expected).abs().max() < 1e-5


def test_image_norm_is_exact_for_large_images():
    """Sums over a megapixel must not lose what float32 can hold."""
    images = torch.randn(1, 4, 1024, 1024, generator=seeded(0)) * 0.5 + 1.5
    expected = nn.functional.instance_norm(images.double())
    for layout in (torch.channels_last, torch.contiguous_format):
        made = ImageNorm(nn.BatchNorm2d(4), 0, Moment())(images.contiguous(memory_format=layout))
        assert (made - expected).abs().max() < 5e-6


def test_norms_of_timm_keep_their_activation():
    from timm.layers import BatchNormAct2d, GroupNormAct

    images = torch.randn(2, 8, 6, 6)
    for norm in (BatchNormAct2d(8), GroupNormAct(8, num_groups=2)):
        made = ImageNorm(norm, 0, Moment())(images)
        expected = torch.cat([norm.train()(image[None]) for image in images])
        assert (made - expected).abs().max() < 1e-5
        assert made.min() == 0


# Back to the image's size


@pytest.mark.parametrize("mode", ["bicubic", "bilinear", "nearest-exact"])
@pytest.mark.parametrize(("before", "after"), [(40, 97), (97, 40), (64, 64), (5, 200), (200, 7)])
def test_rows_are_resized_as_the_whole_would_be(mode, before, after):
    image = torch.randn(3, before, 20, generator=seeded(0))
    expected = resize(image[None], (after, 33), mode)[0]
    for cuts in ([before], [1] * before, [3, before - 4, 1]):
        parts = list(resize_rows(iter(image.split(cuts, dim=1)), before, (after, 33), mode))
        assert [row for row, _ in parts] == list(
            np.cumsum([0, *(rows.shape[1] for _, rows in parts)])[:-1]
        )
        result = torch.cat([rows for _, rows in parts], dim=1)
        assert result.shape == expected.shape
        assert (result - expected).abs().max() < 1e-5


# Through the translator


def test_a_large_picture_in_tiles_is_the_picture_at_once():
    """At another scale, at 16 bits, and with alpha."""
    pixels = ((photo(150, 230).permute(1, 2, 0).numpy() + 1) * 32767).astype(np.uint16)
    alpha = np.arange(150 * 230, dtype=np.uint16).reshape(150, 230)
    picture = Picture(pixels, alpha, np.dtype(np.uint16), True)
    results = []
    for tile in (0, 48):
        network = Local(nn.InstanceNorm2d(8))
        model = Translator(network, Paired(), Policy(scale=(0.7, 1.3)), tile=tile)
        assert model.is_large(picture.size) == bool(tile)
        results.append(model.translate_pictures([picture])[0])
    whole, tiled = results
    assert tiled.pixels.dtype == np.uint16
    assert tiled.pixels.shape == pixels.shape
    assert np.array_equal(tiled.alpha, alpha)
    assert tiled.profiled
    off = np.abs(whole.pixels.astype(int) - tiled.pixels)
    # Of 65535: the statistics count a few reflected pixels that differ.
    assert off.max() < 500
    assert off.mean() < 60


def test_what_would_take_more_than_the_budget_is_cut(monkeypatch):
    image = photo(300, 300)[None]
    model = Translator(Local(nn.Identity()), Paired(), Policy())
    # Features of 8 + 8 + 3 channels, 4 bytes each.
    assert model._runner.pixels_at_once() == pytest.approx(running.BUDGET / (4 * 19), rel=0.01)
    assert not model.is_large((3000, 3000))
    assert model.is_large((9000, 9000))
    monkeypatch.setattr(running, "BUDGET", 300 * 299 * 4 * 19)
    monkeypatch.setattr(running, "TILE", 64)
    small = Translator(Local(nn.Identity()), Paired(), Policy())
    assert small.is_large((300, 300))
    assert not small.is_large((300, 298))
    assert (small.translate(image) - model.translate(image)).abs().max() < 1e-5


def test_never_and_always():
    never = Translator(Local(nn.Identity()), Paired(), Policy(), tile=0)
    always = Translator(Local(nn.Identity()), Paired(), Policy(), tile=32)
    assert not never.is_large((100_000, 100_000))
    assert always.is_large((33, 8))
    assert not always.is_large((32, 32))
