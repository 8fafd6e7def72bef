"""SSIM, total variation, feature matching and cross-entropy, each against another's reckoning."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import structural_similarity
from torch import nn

from img2img.discriminators import ImageGAN, PatchGAN, PatchGAN16, PatchGAN70, PatchGAN286, PixelGAN
from img2img.engine.precision import set_precision
from img2img.losses import (
    L1,
    SSIM,
    Adversarial,
    AdversarialLoss,
    CrossEntropy,
    FeatureMatching,
    JudgedLoss,
    TotalVariation,
)
from img2img.methods import Pix2Pix, WeightedLoss


def smooth_pair(height=40, width=28, channels=3, batch=2):
    """Two similar images with large flat and dark parts, where SSIM's constants matter."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(-1, 1, (batch, channels, -(-height // 8), -(-width // 8)))
    one = coarse.repeat(8, 2).repeat(8, 3)[..., :height, :width].clip(-1, 0.8)
    other = (one * 0.8 + rng.normal(0, 0.1, one.shape)).clip(-1, 1)
    return torch.from_numpy(one), torch.from_numpy(other)


# SSIM


@pytest.mark.parametrize(("window", "sigma"), [(11, 1.5), (7, 0.9)])
def test_ssim_as_scikit_image_has_it(window, sigma):
    output, target = smooth_pair()
    found = SSIM(window=window, sigma=sigma)(output, target)
    assert found.shape == ()
    expected = [
        structural_similarity(
            (a.numpy() + 1) / 2,
            (b.numpy() + 1) / 2,
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=sigma,
            use_sample_covariance=False,
            # scikit-image's window follows from sigma alone.
            truncate=(window // 2) / sigma,
        )
        for a, b in zip(output, target, strict=True)
    ]
    assert 0.2 < np.mean(expected) < 0.9
    assert found.item() == pytest.approx(1 - np.mean(expected), abs=1e-9)
    assert SSIM(window=window, sigma=sigma)(output.float(), target.float()).item() == (
        pytest.approx(found.item(), abs=1e-5)
    )


def test_ssim_of_constant_images_is_the_luminance_term():
    black, white = torch.full((1, 1, 11, 11), -1.0), torch.full((1, 1, 11, 11), 1.0)
    assert SSIM()(black, white).item() == pytest.approx(1 - 1e-4 / (1 + 1e-4), abs=1e-6)
    assert SSIM()(white, white).item() == pytest.approx(0, abs=1e-6)


def test_ssim_has_the_gradient_of_its_value():
    output, target = smooth_pair(12, 13, 1, 1)
    output.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: SSIM()(x, target), output)


def test_ssim_under_autocast():
    output, target = (image.float() for image in smooth_pair())
    exact = SSIM()(output, target)
    with torch.autocast("cpu", torch.bfloat16):
        assert SSIM()(output, target).item() == exact.item()
        rounded = SSIM()(output.bfloat16(), target.bfloat16())
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), abs=0.02)


def test_ssim_refuses_crops_smaller_than_its_window():
    images = torch.zeros(1, 3, 10, 32)
    with pytest.raises(ValueError, match=r"10x32 pixels are smaller than the window of 11: use"):
        SSIM()(images, images)
    assert SSIM(window=9)(images, images).item() == 0
    with pytest.raises(ValueError, match="window must be odd"):
        SSIM(window=8)
    with pytest.raises(ValueError, match="sigma must be above 0"):
        SSIM(sigma=0.0)


# Total variation


@pytest.mark.parametrize("isotropic", [False, True])
def test_total_variation_by_hand(isotropic):
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, 5, 7))
    down, across = np.diff(images, axis=2), np.diff(images, axis=3)
    expected = np.abs(down).mean() + np.abs(across).mean()
    if isotropic:
        expected = np.hypot(down[..., :-1], across[..., :-1, :]).mean()
    output = torch.from_numpy(images)
    loss = TotalVariation(isotropic=isotropic)
    assert loss(output, torch.zeros(2, 3, 5, 7)).item() == pytest.approx(expected, rel=1e-9)
    # The target does not matter, not even its shape.
    assert loss(output, None).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("isotropic", [False, True])
def test_total_variation_of_a_step_and_of_nothing(isotropic):
    image = torch.zeros(1, 1, 4, 4)
    image[..., 2:] = 1
    image.requires_grad_()
    loss = TotalVariation(isotropic=isotropic)
    assert loss(image, image).item() == pytest.approx(1 / 3, abs=1e-5)
    loss(image, image).backward()
    assert torch.isfinite(image.grad).all()
    with pytest.raises(ValueError, match="1x9 pixels have no neighbours"):
        loss(torch.zeros(1, 1, 1, 9), None)


# Feature matching

BUILT_IN = {
    PixelGAN: 2,
    PatchGAN16: 2,
    PatchGAN70: 4,
    PatchGAN286: 6,
    PatchGAN: 4,
    ImageGAN: 4,
}


def real_and_fake(channels=6, size=96):
    torch.manual_seed(2)
    real, fake = torch.rand(2, 2, channels, size, size) * 2 - 1
    return real, fake


@pytest.mark.parametrize("build", BUILT_IN, ids=lambda b: b.__name__)
def test_feature_matching_by_hand(build):
    torch.manual_seed(0)
    settings = {"image_size": 96} if build is ImageGAN else {}
    discriminator = build(6, width=4, **settings)
    real, fake = real_and_fake()
    loss = FeatureMatching()
    loss.check_discriminator(discriminator)
    found = loss.generator_loss(discriminator, real, fake)
    expected, layers = 0.0, 0
    with torch.no_grad():
        for layer in discriminator.layers:
            real, fake = layer(real), layer(fake)
            if isinstance(layer, nn.LeakyReLU):
                expected += np.abs(real.numpy() - fake.numpy()).mean(dtype=np.float64)
                layers += 1
    assert layers == BUILT_IN[build]
    assert expected > 1e-3
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_feature_matching_leaves_nothing_behind():
    discriminator = PatchGAN16(3, width=4)
    real, fake = real_and_fake(3, 16)
    real.requires_grad_(), fake.requires_grad_()
    FeatureMatching().generator_loss(discriminator, real, fake).backward()
    assert fake.grad.any()
    assert real.grad is None
    assert not any(module._forward_hooks for module in discriminator.modules())
    with pytest.raises(ValueError, match="too small"):
        FeatureMatching().generator_loss(discriminator, real[..., :2], fake[..., :2])
    assert not any(module._forward_hooks for module in discriminator.modules())


class Shared(nn.Module):
    """A plugin's: one activation module for two layers, and one that is never used."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.activation, self.spare = nn.ELU(), nn.ReLU()

    def forward(self, x):
        return self.last(self.activation(self.second(self.activation(self.first(x)))))


class Bare(nn.Module):
    """Its activation is a function."""

    def __init__(self, channels=3):
        super().__init__()
        self.layer = nn.Conv2d(channels, 1, 1)
        self.softmax = nn.Softmax(dim=1)

    def forward(self, x):
        return F.relu(self.layer(x))


def test_feature_matching_of_strangers():
    real, fake = real_and_fake(3, 8)
    network = Shared()
    ones = F.elu(network.first(real)), F.elu(network.first(fake))
    twos = [F.elu(network.second(one)) for one in ones]
    expected = (ones[0] - ones[1]).abs().mean() + (twos[0] - twos[1]).abs().mean()
    found = FeatureMatching().generator_loss(network, real, fake)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    message = "activation modules give, and Bare has none: use another discriminator"
    with pytest.raises(ValueError, match=message):
        FeatureMatching().check_discriminator(Bare())
    with pytest.raises(ValueError, match=message):
        FeatureMatching().generator_loss(Bare(), real, fake)
    with pytest.raises(ValueError, match="made of modules"):
        FeatureMatching().generator_loss(lambda x: x, real, fake)


def test_feature_matching_in_bfloat16():
    discriminator = PatchGAN16(3, width=4)
    real, fake = real_and_fake(3, 16)
    exact = FeatureMatching().generator_loss(discriminator, real, fake)
    found = FeatureMatching().generator_loss(set_precision(discriminator, "bfloat16"), real, fake)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=0.02)


def method_with(discriminator):
    losses = [
        WeightedLoss("adversarial", 1.0, Adversarial()),
        WeightedLoss("feature_matching", 10.0, FeatureMatching()),
        WeightedLoss("l1", 100.0, L1()),
    ]
    return Pix2Pix(lambda i, o: nn.Conv2d(i, o, 1), discriminator, losses, 3, 3, True)


def test_feature_matching_under_torch_compile():
    """What is compiled runs no hooks that come later; the loss must not depend on that."""
    torch.manual_seed(0)
    network = PatchGAN16(3, width=2)
    real, fake = torch.randn(2, 1, 3, 32, 32)
    loss = FeatureMatching()
    before = loss.generator_loss(network, real, fake)
    network.compile(backend="eager")
    network(real)
    torch.testing.assert_close(loss.generator_loss(network, real, fake), before, rtol=0, atol=0)


def test_a_step_with_feature_matching():
    torch.manual_seed(0)
    method = method_with(lambda channels: PatchGAN16(channels, width=4))
    source, target = real_and_fake(3, 16)
    before = [p.detach().clone() for p in method.discriminator.parameters()]
    logged = method.step(source, target)
    assert set(logged) == {"d_real", "d_fake", "adversarial", "feature_matching", "l1"}
    # It is no game: the discriminator's own step is that of the adversarial loss alone.
    assert isinstance(FeatureMatching(), JudgedLoss)
    assert not isinstance(FeatureMatching(), AdversarialLoss)
    parameters = method.discriminator.parameters()
    moved = [(p - b).abs().max() for p, b in zip(parameters, before, strict=True)]
    assert all(0 < m < 3e-4 for m in moved)
    with torch.no_grad():
        fake = method.generator(source)
    joined = [torch.cat([source, image], 1) for image in (target, fake)]
    after = FeatureMatching().generator_loss(method.discriminator, *joined)
    assert logged["feature_matching"].item() == pytest.approx(10 * after.item(), rel=0.05)


def test_a_discriminator_without_layers_is_refused_before_training():
    with pytest.raises(ValueError, match="Bare has none"):
        method_with(Bare)


# Cross-entropy


def logits_and_classes(classes=5):
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, 6, 4, generator=rng, dtype=torch.float64) * 3
    return logits, torch.randint(0, classes, (2, 6, 4), generator=rng)


def one_hot(numbers, classes=5):
    return F.one_hot(numbers, classes).movedim(-1, 1).double()


@pytest.mark.parametrize("weights", [(), (1.0, 0.5, 3.0, 0.0, 2.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("left_out", [False, True])
def test_cross_entropy_as_torch_has_it(weights, smoothing, left_out):
    logits, numbers = logits_and_classes()
    target = one_hot(numbers)
    if left_out:
        numbers[0, :3] = -100
        target[0, :, :3] = 0
    logits.requires_grad_()
    expected = F.cross_entropy(
        logits,
        numbers,
        weight=torch.tensor(weights).double() if weights else None,
        label_smoothing=smoothing,
    )
    loss = CrossEntropy(class_weights=weights, label_smoothing=smoothing)
    found = loss(logits.softmax(1), target)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    wanted, given = (torch.autograd.grad(value, logits)[0] for value in (expected, found))
    assert (wanted - given).abs().max() < 1e-9


def test_cross_entropy_of_what_a_softmax_made_zero():
    """As far off as float32 can say: finite, and where it can be said at all, with a way back."""
    logits = torch.tensor([[-50.0, 50.0], [-500.0, 500.0]]).view(2, 2, 1, 1).requires_grad_()
    target = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(2, 2, 1, 1)
    loss = CrossEntropy()(logits.softmax(1), target)
    assert torch.isfinite(loss)
    loss.backward()
    assert torch.isfinite(logits.grad).all()
    assert 87 < CrossEntropy()(logits[1:].softmax(1), target[1:]).item() < 88
    mild = torch.tensor([-30.0, 30.0]).view(1, 2, 1, 1).requires_grad_()
    CrossEntropy()(mild.softmax(1), target[:1]).backward()
    assert mild.grad.flatten().tolist() == pytest.approx([-1, 1], rel=1e-5)


def test_cross_entropy_in_half_precision_and_of_nothing():
    logits, numbers = logits_and_classes()
    exact = CrossEntropy()(logits.softmax(1), one_hot(numbers))
    with torch.autocast("cpu", torch.bfloat16):
        found = CrossEntropy()(logits.softmax(1).bfloat16(), one_hot(numbers).float())
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=0.02)
    blank = torch.zeros(2, 5, 4, 4)
    # The assembly tries losses out on zeros.
    assert CrossEntropy()(blank, blank).item() == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weights": (1.0, -1.0)}, r"class_weights must be at least 0"),
        ({"class_weights": (0.0, 0.0)}, r"not all of them 0"),
        ({"class_weights": (float("nan"), 1.0)}, r"class_weights must be at least 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be at least 0 and below 1"),
        ({"label_smoothing": -0.1}, r"label_smoothing must be at least 0 and below 1"),
    ],
)
def test_cross_entropy_refuses_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        CrossEntropy(**settings)


def test_cross_entropy_refuses_what_are_no_classes():
    grey = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match="targets have one channel: use l1, or a task whose"):
        CrossEntropy()(grey, grey)
    three = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match="class_weights has 2 numbers, and this task has 3 cl"):
        CrossEntropy(class_weights=(1.0, 2.0))(three, three)
