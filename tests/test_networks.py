"""What the paper fixes about the networks, measured on them rather than read off their code."""

import re
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from img2img.discriminators import (
    ImageGAN,
    PatchGAN,
    PatchGAN16,
    PatchGAN70,
    PatchGAN286,
    PixelGAN,
)
from img2img.generators import EncoderDecoder, UNet
from img2img.layers import BatchNorm2d, norm_layer

GENERATORS = [UNet, EncoderDecoder]
NORMS = (nn.BatchNorm2d, nn.InstanceNorm2d)


@dataclass
class Ran:
    """One leaf module as it ran."""

    module: nn.Module
    incoming: tuple[int, ...]
    outgoing: tuple[int, ...]


def trace(network, channels, height, width=None):
    """The leaf modules of a network on the meta device, in the order they run in; costs nothing."""
    ran = []

    def note(module, inputs, output):
        ran.append(Ran(module, tuple(inputs[0].shape), tuple(output.shape)))

    hooks = [
        module.register_forward_hook(note)
        for module in network.modules()
        if not list(module.children())
    ]
    with torch.no_grad():
        network(torch.empty(2, channels, height, width or height, device="meta"))
    for hook in hooks:
        hook.remove()
    return [r for r in ran if not isinstance(r.module, nn.Identity)]


def blocks(ran, kind):
    """Each convolution of a kind with what runs between it and the next convolution."""
    starts = [i for i, r in enumerate(ran) if isinstance(r.module, (nn.Conv2d, nn.ConvTranspose2d))]
    ends = [*starts[1:], len(ran)]
    return [
        (ran[start], [r.module for r in ran[start + 1 : end]])
        for start, end in zip(starts, ends, strict=True)
        if isinstance(ran[start].module, kind)
    ]


def holds(modules, kind):
    return any(isinstance(module, kind) for module in modules)


def on_meta(build, *args, **settings):
    with torch.device("meta"):
        return build(*args, **settings)


def millions(network):
    return round(sum(p.numel() for p in network.parameters()) / 1e6, 3)


# Sizes


def test_unet_has_54_41_million_parameters():
    """To the third digit that the common PyTorch port prints."""
    assert millions(on_meta(UNet, 3, 3)) == 54.414


def test_patchgan70_has_2_77_million_parameters_and_gives_30x30():
    network = on_meta(PatchGAN70, 6)
    assert millions(network) == 2.769
    assert trace(network, 6, 256)[-1].outgoing == (2, 1, 30, 30)


# Layers, in the paper's own notation


@pytest.mark.parametrize("build", GENERATORS)
def test_encoder_as_in_the_paper(build):
    layers = blocks(trace(on_meta(build, 3, 3), 3, 256), nn.Conv2d)
    assert "-".join(f"C{conv.outgoing[1]}" for conv, _ in layers) == (
        "C64-C128-C256-C512-C512-C512-C512-C512"
    )
    for conv, _ in layers:
        assert conv.module.kernel_size == (4, 4)
        assert conv.module.stride == (2, 2)
        assert conv.outgoing[2] * 2 == conv.incoming[2]
    for _, after in layers[:-1]:
        # The activation before the next convolution down.
        assert [m.negative_slope for m in after if isinstance(m, nn.LeakyReLU)] == [0.2]
    assert [holds(after, NORMS) for _, after in layers] == [False, *[True] * 6, False]


def test_unet_decoder_as_in_the_paper():
    """Its widths are those after concatenation, so what each layer takes in."""
    layers = blocks(trace(on_meta(UNet, 3, 3), 3, 256), nn.ConvTranspose2d)
    text = "-".join(
        f"C{'D' if holds(after, nn.Dropout) else ''}{conv.incoming[1]}" for conv, after in layers
    )
    assert text == "CD512-CD1024-CD1024-C1024-C1024-C512-C256-C128"
    check_decoder(layers)


def test_encoder_decoder_decoder_as_in_the_paper():
    layers = blocks(trace(on_meta(EncoderDecoder, 3, 3), 3, 256), nn.ConvTranspose2d)
    text = "-".join(
        f"C{'D' if holds(after, nn.Dropout) else ''}{conv.outgoing[1]}"
        for conv, after in layers[:-1]
    )
    assert text == "CD512-CD512-CD512-C512-C256-C128-C64"
    check_decoder(layers)


def check_decoder(layers):
    for conv, after in layers[:-1]:
        assert conv.module.kernel_size == (4, 4)
        assert conv.module.stride == (2, 2)
        assert conv.outgoing[2] == conv.incoming[2] * 2
        assert holds(after, NORMS)
        assert type(after[-1]) is nn.ReLU
    last, after = layers[-1]
    assert last.outgoing == (2, 3, 256, 256)
    assert [type(module) for module in after] == [nn.Tanh]


@pytest.mark.parametrize("build", GENERATORS)
@pytest.mark.parametrize("layers", [(), (1,), (2, 3, 4), (7,)])
def test_dropout_where_asked(build, layers):
    network = on_meta(build, 3, 3, width=2, dropout=0.3, dropout_layers=layers)
    decoder = blocks(trace(network, 3, 256), nn.ConvTranspose2d)
    found = {
        i: m.p for i, (_, after) in enumerate(decoder, 1) for m in after if type(m) is nn.Dropout
    }
    assert found == dict.fromkeys(layers, 0.3)
    for _, after in decoder:
        # Dropout comes after the norm and before the ReLU.
        kinds = [type(m) for m in after]
        if nn.Dropout in kinds:
            assert kinds == [BatchNorm2d, nn.Dropout, nn.ReLU]


@pytest.mark.parametrize("build", GENERATORS)
def test_no_dropout_at_rate_zero(build):
    network = on_meta(build, 3, 3, width=2, dropout=0.0)
    assert not holds(network.modules(), nn.Dropout)


@pytest.mark.parametrize("build", GENERATORS)
@pytest.mark.parametrize("wanted", [False, True])
def test_norm_in_the_innermost_layer_only_if_wanted(build, wanted):
    network = on_meta(build, 3, 3, width=2, innermost_norm=wanted)
    innermost = [
        (conv, after)
        for conv, after in blocks(trace(network, 3, 256), nn.Conv2d)
        if conv.outgoing[2:] == (1, 1)
    ]
    assert len(innermost) == 1
    assert holds(innermost[0][1], NORMS) is wanted


@pytest.mark.parametrize("build", GENERATORS)
def test_the_erratum_batch_of_one_and_a_normed_innermost_layer(build):
    """What the erratum describes: with batch size 1 nothing gets through the innermost layer."""
    torch.manual_seed(0)
    network = build(1, 1, image_size=8, width=4, innermost_norm=True, dropout=0.0)
    seen = []
    network.encoder[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(torch.randn(1, 1, 8, 8))
    network(torch.randn(1, 1, 8, 8))
    assert torch.equal(seen[0], seen[1])
    network(torch.randn(2, 1, 8, 8))
    assert not torch.equal(seen[2][:1], seen[0])


def test_batch_norm_of_one_value_a_channel_is_the_limit_of_torchs():
    """Two equal values a channel are what torch accepts; one must give the same."""
    ours, theirs = BatchNorm2d(3), nn.BatchNorm2d(3)
    with torch.no_grad():
        for norm in (ours, theirs):
            norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
            norm.bias.copy_(torch.tensor([0.5, -1.0, 2.0]))
    x = torch.randn(1, 3, 1, 1)
    assert torch.equal(ours(x), theirs(x.expand(2, 3, 1, 1))[:1])
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(ours(x), theirs(x))


def test_norm_layer_refuses_an_unknown_name():
    with pytest.raises(
        ValueError, match=r"'layer' is not one of batch, instance, group, sync, none"
    ):
        norm_layer("layer", 4)


# Information flow


@pytest.mark.parametrize(("build", "passes"), [(UNet, True), (EncoderDecoder, False)])
def test_skips_carry_what_the_innermost_layer_does_not(build, passes):
    torch.manual_seed(0)
    network = build(3, 3, image_size=32, width=4, dropout=0.0).eval()
    first, second = torch.randn(2, 1, 3, 32, 32)
    # Amplified, so that what does pass is far above rounding.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(5)
        assert not torch.allclose(network(first), network(second))
        network.encoder[-1].register_forward_hook(lambda module, inputs, output: output * 0)
        assert torch.allclose(network(first), network(second)) is not passes


class Nested(nn.Module):
    """A U-Net written the other way round: a block holds the next one, joined to its input."""

    def __init__(self, outer, widths, out_channels):
        super().__init__()
        inner, *deeper = widths
        self.down = nn.Conv2d(outer, inner, 4, 2, 1, bias=False)
        self.down_norm = nn.BatchNorm2d(inner) if deeper and out_channels is None else None
        self.inside = Nested(inner, deeper, None) if deeper else None
        self.last = out_channels is not None
        incoming = inner * 2 if deeper else inner
        self.up = nn.ConvTranspose2d(incoming, out_channels or outer, 4, 2, 1, bias=self.last)
        self.up_norm = None if self.last else nn.BatchNorm2d(outer)

    def forward(self, x):
        y = self.down(x if self.last else nn.functional.leaky_relu(x, 0.2))
        if self.down_norm is not None:
            y = self.down_norm(y)
        if self.inside is not None:
            y = self.inside(y)
        y = self.up(torch.relu(y))
        if self.last:
            return torch.tanh(y)
        return torch.cat([x, self.up_norm(y)], 1)


@pytest.mark.parametrize("depth", [2, 4, 5])
def test_unet_agrees_with_a_nested_one(depth):
    torch.manual_seed(depth)
    widths = [4, 8, 16, 32, 32][:depth]
    ours = UNet(3, 2, image_size=64, width=4, depth=depth, dropout=0.0).double()
    theirs = Nested(3, widths, 2).double()
    weights, names = list(ours.state_dict().values()), list(theirs.state_dict())
    assert len(weights) == len(names)
    theirs.load_state_dict(dict(zip(names, weights, strict=True)))
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for mode in (True, False):
        a, b = ours.train(mode)(x), theirs.train(mode)(x)
        assert a.std() > 1e-4
        assert (a - b).abs().max() < 1e-12


# Depth and sizes


@pytest.mark.parametrize("build", GENERATORS)
@pytest.mark.parametrize(
    ("size", "depth"),
    [(512, 8), (256, 8), (128, 7), (64, 6), (96, 5), (32, 5), (100, 2), (72, 3), (1024, 8)],
)
def test_default_depth_is_as_many_halvings_as_fit(build, size, depth):
    ran = trace(on_meta(build, 3, 3, image_size=size, width=2), 3, size)
    assert len(blocks(ran, nn.Conv2d)) == len(blocks(ran, nn.ConvTranspose2d)) == depth
    assert ran[-1].outgoing == (2, 3, size, size)


@pytest.mark.parametrize("build", GENERATORS)
@pytest.mark.parametrize(("size", "depth"), [(100, 5), (250, 8), (20, 3), (10, 4)])
def test_a_depth_that_does_not_fit_names_sizes_that_do(build, size, depth):
    with pytest.raises(ValueError, match=f"{size} is not: use") as caught:
        build(3, 3, image_size=size, width=2, depth=depth)
    named = [int(n) for n in re.findall(r"\d+", str(caught.value).split("use ")[1])]
    assert named
    for works in named:
        network = on_meta(build, 3, 3, image_size=works, width=2, depth=depth)
        assert trace(network, 3, works)[-1].outgoing == (2, 3, works, works)


@pytest.mark.parametrize("build", GENERATORS)
@pytest.mark.parametrize(("height", "width"), [(100, 128), (33, 31), (1, 64)])
def test_images_that_do_not_fit_are_told_what_to_be_padded_to(build, height, width):
    network = on_meta(build, 3, 3, image_size=32, width=2)
    with pytest.raises(ValueError, match=f"{height}x{width}") as caught:
        trace(network, 3, height, width)
    named = re.search(r"pad these to (\d+)x(\d+)", str(caught.value))
    fit = [int(side) for side in named.groups()]
    assert fit[0] >= height
    assert fit[1] >= width
    assert trace(network, 3, *fit)[-1].outgoing == (2, 3, *fit)


@pytest.mark.parametrize("build", GENERATORS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 6}, "multiple of 4"),
        ({"image_size": 255}, "multiple of 4"),
        ({"depth": 1}, "at least 2"),
        ({"width": 0}, "width must be above 0"),
        ({"dropout": 1.0}, "below 1"),
        ({"dropout": -0.1}, "at least 0"),
        ({"dropout_layers": (0, 1)}, r"not \[0\]"),
        ({"dropout_layers": (8,)}, r"not \[8\]"),
    ],
)
def test_generators_refuse_what_cannot_be_built(build, settings, message):
    with pytest.raises(ValueError, match=message):
        build(3, 3, **settings)


# Discriminators


@pytest.mark.parametrize(
    ("build", "settings", "text"),
    [
        (PixelGAN, {}, "C64-C128"),
        (PatchGAN16, {}, "C64-C128"),
        (PatchGAN70, {}, "C64-C128-C256-C512"),
        (PatchGAN286, {}, "C64-C128-C256-C512-C512-C512"),
        (PatchGAN, {"layers": 2}, "C64-C128-C256"),
    ],
)
def test_discriminator_layers_as_in_the_paper(build, settings, text):
    layers = blocks(trace(on_meta(build, 6, **settings), 6, 256), nn.Conv2d)
    assert "-".join(f"C{conv.outgoing[1]}" for conv, _ in layers[:-1]) == text
    last, after = layers[-1]
    assert last.outgoing[1] == 1
    assert after == []
    for i, (_, after) in enumerate(layers[:-1]):
        assert holds(after, NORMS) is (i > 0)
        assert [m.negative_slope for m in after if isinstance(m, nn.LeakyReLU)] == [0.2]


def seen_by_one_output(network, size):
    """Height and width of what the central output depends on, and whether it sees all within."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            # All positive, like the input: then no activation hides a pixel.
            parameter.fill_(0.0 if name.endswith("bias") else 1 / parameter[0].numel())
    images = torch.ones(1, 1, size, size, requires_grad=True)
    scores = network(images)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    rows, columns = images.grad[0, 0].nonzero(as_tuple=True)
    field = images.grad[0, 0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    # A field cut off by the border would be measured too small.
    inside = min(rows.min(), columns.min()) > 0 and max(rows.max(), columns.max()) < size - 1
    return tuple(field.shape), bool((field > 0).all()), bool(inside)


@pytest.mark.parametrize(
    ("build", "settings", "field"),
    [
        (PixelGAN, {}, 1),
        (PatchGAN16, {}, 16),
        (PatchGAN70, {}, 70),
        (PatchGAN286, {}, 286),
        (PatchGAN, {"layers": 1}, 16),
        (PatchGAN, {"layers": 2}, 34),
        (PatchGAN, {}, 70),
        (PatchGAN, {"layers": 4}, 142),
    ],
)
def test_receptive_field(build, settings, field):
    network = build(1, width=1, norm="none", **settings)
    assert seen_by_one_output(network, 448) == ((field, field), True, True)


@pytest.mark.parametrize("size", [8, 30, 65, 128, 256])
def test_imagegan_gives_one_score_that_depends_on_every_pixel(size):
    network = ImageGAN(1, image_size=size, width=1, norm="none")
    assert network(torch.zeros(3, 1, size, size)).shape == (3, 1, 1, 1)
    shape, whole, _ = seen_by_one_output(network, size)
    assert shape == (size, size)
    assert whole


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_patchgan_names_the_smallest_size_that_works(layers):
    network = on_meta(PatchGAN, 3, width=2, layers=layers)
    with pytest.raises(ValueError, match="too small") as caught:
        trace(network, 3, 4)
    smallest = int(re.search(r"at least (\d+)x\1", str(caught.value))[1])
    assert trace(network, 3, smallest)[-1].outgoing == (2, 1, 1, 1)
    for height, width in ((smallest - 1, smallest), (smallest, smallest - 1)):
        with pytest.raises(ValueError, match="too small"):
            trace(network, 3, height, width)


def test_imagegan_refuses_other_sizes_than_its_own():
    with pytest.raises(ValueError, match="at least 8"):
        ImageGAN(3, image_size=7)
    network = on_meta(ImageGAN, 3, image_size=64, width=2)
    with pytest.raises(ValueError, match=r"64x64 pixels, not 64x32"):
        trace(network, 3, 64, 32)


@pytest.mark.parametrize("build", [PixelGAN, PatchGAN, ImageGAN])
def test_discriminators_refuse_a_width_of_zero(build):
    with pytest.raises(ValueError, match="width must be above 0"):
        build(3, width=0)


def test_patchgan_refuses_no_layers():
    with pytest.raises(ValueError, match="layers must be above 0"):
        PatchGAN(3, layers=0)


# Initial weights


@pytest.mark.parametrize(
    "build",
    [
        lambda: UNet(3, 3, image_size=64, width=16),
        lambda: EncoderDecoder(3, 3, image_size=64, width=16),
        lambda: PatchGAN70(6, width=24),
        lambda: ImageGAN(6, image_size=64, width=24),
    ],
)
def test_initial_weights_are_normal(build):
    torch.manual_seed(0)
    network = build()
    weights, scales = [], []
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            weights.append(module.weight.detach().flatten())
            assert module.bias is None or not module.bias.any()
            if module.weight.numel() > 5000:
                # Layer by layer, because an initialisation by fan-in would differ between them.
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
        elif isinstance(module, nn.BatchNorm2d):
            scales.append(module.weight.detach())
            assert not module.bias.any()
    drawn = torch.cat(weights).double()
    assert drawn.numel() > 100_000
    assert abs(drawn.mean()) < 5 * 0.02 / drawn.numel() ** 0.5
    # 3 for a normal distribution, 1.8 for a uniform one.
    kurtosis = (drawn**4).mean() / (drawn**2).mean() ** 2
    assert kurtosis.item() == pytest.approx(3, abs=0.1)
    scale = torch.cat(scales)
    assert scale.mean().item() == pytest.approx(1, abs=0.01)
    assert scale.std().item() == pytest.approx(0.02, rel=0.2)


# Residual


def test_residual_begins_near_the_source():
    torch.manual_seed(0)
    network = UNet(3, 3, image_size=32, width=4, residual=True).eval()
    source = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        assert (network(source) - source).abs().max() < 0.05
        plain = UNet(3, 3, image_size=32, width=4).eval()
        plain.load_state_dict(network.state_dict())
        assert torch.allclose(network(source), (source + plain(source)).clamp(-1, 1))


def test_residual_stays_in_the_range():
    torch.manual_seed(0)
    network = UNet(3, 3, image_size=32, width=4, residual=True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(40)
    assert network(torch.rand(2, 3, 32, 32) * 2 - 1).abs().max() <= 1


@pytest.mark.parametrize(("channels", "activation"), [((1, 3), "tanh"), ((3, 3), "softmax")])
def test_residual_wants_images_of_one_kind(channels, activation):
    with pytest.raises(ValueError, match="residual adds the source"):
        UNet(*channels, image_size=32, activation=activation, residual=True)
