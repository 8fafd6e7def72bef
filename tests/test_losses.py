"""Losses against formulas in numpy, and what a pix2pix step does with them."""

import numpy as np
import pytest
import torch
from torch import nn

from img2img.losses import L1, L2, Adversarial, AdversarialLoss, Charbonnier
from img2img.methods import Pix2Pix, WeightedLoss

MODES = ["vanilla", "lsgan", "hinge", "wgan-gp"]


def softplus(x):
    return np.log(1 + np.exp(x))


# Each from its paper: the real term, the fake term, and the generator's.
FORMULAS = {
    # -log sigmoid(x) = log(1 + exp(-x)); the generator's is the non-saturating one.
    "vanilla": (lambda r: softplus(-r), lambda f: softplus(f), lambda f: softplus(-f)),
    "lsgan": (lambda r: (r - 1) ** 2, lambda f: f**2, lambda f: (f - 1) ** 2),
    "hinge": (lambda r: np.maximum(0, 1 - r), lambda f: np.maximum(0, 1 + f), lambda f: -f),
    "wgan-gp": (lambda r: -r, lambda f: f, lambda f: -f),
}
REAL = np.array([[[[0.5, -1.5], [2.0, 0.0]]], [[[1.0, 3.0], [-0.25, 0.75]]]])
FAKE = np.array([[[[-0.5, 1.25], [-2.0, 0.0]]], [[[0.3, -3.0], [4.0, -1.0]]]])


def score(images, weight, bias):
    """w . x + b in numpy."""
    return (images * weight).sum((1, 2, 3)) + bias


class Affine(nn.Module):
    """A discriminator that gives one number an image: w . x + b."""

    def __init__(self, channels, size, weight=None):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, size, size, dtype=torch.float64))
        if weight is not None:
            self.weight.data.copy_(weight)
        self.bias = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, images):
        return ((images * self.weight).sum((1, 2, 3)) + self.bias).view(-1, 1, 1, 1)


class Tint(nn.Module):
    """A generator with one number: the output is that much of the source."""

    def __init__(self, share=0.5):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share, dtype=torch.float64))

    def forward(self, source):
        return source * self.share


# One by one


@pytest.mark.parametrize("mode", MODES)
def test_adversarial_terms_by_hand(mode):
    loss = Adversarial(mode=mode)
    real, fake = torch.from_numpy(REAL), torch.from_numpy(FAKE)
    # The images are the logits: the discriminator hands through what it is given.
    terms = loss.discriminator_loss(lambda x: x, real, fake)
    on_real, on_fake, generator = FORMULAS[mode]
    assert terms["real"].item() == pytest.approx(on_real(REAL).mean(), rel=1e-12)
    assert terms["fake"].item() == pytest.approx(on_fake(FAKE).mean(), rel=1e-12)
    assert set(terms) == {"real", "fake"} | ({"penalty"} if mode == "wgan-gp" else set())
    found = loss.generator_loss(lambda x: x, real, fake)
    assert found.item() == pytest.approx(generator(FAKE).mean(), rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_large_logits_stay_finite(mode):
    real, fake = torch.full((2, 1, 1, 1), -200.0), torch.full((2, 1, 1, 1), 200.0)
    terms = Adversarial(mode=mode).discriminator_loss(lambda x: x, real, fake)
    assert all(torch.isfinite(term) for term in terms.values())


@pytest.mark.parametrize("mode", MODES)
def test_each_side_wants_the_opposite_of_the_other(mode):
    loss = Adversarial(mode=mode)
    real = torch.zeros(1, 1, 2, 2)
    fake = torch.zeros(1, 1, 2, 2, requires_grad=True)
    (by_d,) = torch.autograd.grad(
        loss.discriminator_loss(lambda x: x, real, fake)["fake"], fake, allow_unused=True
    )
    (by_g,) = torch.autograd.grad(loss.generator_loss(lambda x: x, real, fake), fake)
    assert (by_g < 0).all()
    # lsgan's discriminator is content with a logit of exactly 0.
    assert (by_d == 0).all() if mode == "lsgan" else (by_d > 0).all()


def test_adversarial_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="'wgan' is not one of vanilla, lsgan, hinge, wgan-gp"):
        Adversarial(mode="wgan")
    with pytest.raises(ValueError, match="penalty must not be negative"):
        Adversarial(penalty=-1.0)


def test_adversarial_losses_are_told_from_the_others():
    assert isinstance(Adversarial(), AdversarialLoss)
    assert not any(isinstance(loss, AdversarialLoss) for loss in (L1(), L2(), Charbonnier()))


@pytest.mark.parametrize("norm", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("weight", [10.0, 0.5])
def test_gradient_penalty_of_a_linear_discriminator(norm, weight):
    """The gradient of w . x is w wherever it is taken, so the penalty is (||w|| - 1)**2."""
    direction = torch.randn(3, 4, 4, dtype=torch.float64)
    discriminator = Affine(3, 4, direction / direction.norm() * norm)
    real, fake = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    loss = Adversarial(mode="wgan-gp", penalty=weight)
    penalty = loss.discriminator_loss(discriminator, real, fake)["penalty"]
    assert penalty.item() == pytest.approx(weight * (norm - 1) ** 2, abs=1e-9)


def test_gradient_penalty_looks_between_real_and_fake():
    """D(x) = x**2 / 2 has gradient x: with one pixel, real 3 and fake 5, it lies in (3, 5)."""
    real, fake = torch.full((400, 1, 1, 1), 3.0), torch.full((400, 1, 1, 1), 5.0)
    torch.manual_seed(0)
    seen = []

    def discriminate(x):
        seen.append(x.detach())
        return x**2 / 2

    loss = Adversarial(mode="wgan-gp", penalty=1.0)
    penalty = loss.discriminator_loss(discriminate, real, fake)["penalty"]
    between = seen[-1].flatten()
    assert between.min() > 3
    assert between.max() < 5
    # Uniform: each image of the batch is a point of its own, spread over the whole way.
    assert between.mean().item() == pytest.approx(4, abs=0.15)
    assert between.std().item() == pytest.approx(2 / 12**0.5, rel=0.1)
    assert penalty.item() == pytest.approx(((between - 1) ** 2).mean().item(), rel=1e-5)


def test_gradient_penalty_is_taken_of_each_image():
    """The mean of (norm - 1)**2 over images, not of the batch's one norm."""
    weight = torch.tensor([[[1.0]]], dtype=torch.float64)

    def discriminate(x):
        # Slope 1 for the first image, 3 for the second.
        return x * weight * torch.tensor([1.0, 3.0], dtype=torch.float64).view(2, 1, 1, 1)

    images = torch.zeros(2, 1, 1, 1, dtype=torch.float64)
    loss = Adversarial(mode="wgan-gp", penalty=1.0)
    penalty = loss.discriminator_loss(discriminate, images, images)["penalty"]
    assert penalty.item() == pytest.approx((0 + 4) / 2, abs=1e-9)


def test_gradient_penalty_does_not_grow_with_the_number_of_patches():
    """Nine patches that all say w . x are together one score, whose gradient is w."""
    discriminator = Affine(3, 4)
    norm = discriminator.weight.norm().item()
    images = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    loss = Adversarial(mode="wgan-gp", penalty=1.0)
    terms = loss.discriminator_loss(lambda x: discriminator(x).expand(-1, 1, 3, 3), *images)
    assert terms["penalty"].item() == pytest.approx((norm - 1) ** 2, rel=1e-9)


def test_gradient_penalty_can_be_trained_on_where_the_gradient_is_zero():
    discriminator = Affine(1, 2, torch.zeros(1, 2, 2))
    images = torch.randn(2, 2, 1, 2, 2, dtype=torch.float64)
    terms = Adversarial(mode="wgan-gp").discriminator_loss(discriminator, *images)
    terms["penalty"].backward()
    assert torch.isfinite(discriminator.weight.grad).all()


@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        (L1(), lambda d: np.abs(d)),
        (L2(), lambda d: d**2),
        (Charbonnier(), lambda d: np.sqrt(d**2 + 1e-6)),
        (Charbonnier(epsilon=0.5), lambda d: np.sqrt(d**2 + 0.25)),
    ],
)
def test_pixel_losses_by_hand(loss, formula):
    rng = np.random.default_rng(0)
    output, target = rng.uniform(-1, 1, (2, 2, 3, 5, 7))
    found = loss(torch.from_numpy(output), torch.from_numpy(target))
    assert found.shape == ()
    assert found.item() == pytest.approx(formula(output - target).mean(), rel=1e-12)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan")])
def test_charbonnier_refuses_an_epsilon_of_zero(epsilon):
    with pytest.raises(ValueError, match="epsilon must be above 0"):
        Charbonnier(epsilon=epsilon)


# Within a step


def pix2pix(discriminator, losses, *, conditional=False, generator=None, **settings):
    return Pix2Pix(
        lambda i, o: generator or Tint(),
        None if discriminator is None else lambda i: discriminator,
        losses,
        1,
        1,
        conditional,
        **settings,
    )


def pair(batch=3):
    torch.manual_seed(7)
    return torch.randn(2, batch, 1, 4, 4, dtype=torch.float64)


@pytest.mark.parametrize("halve", [True, False])
@pytest.mark.parametrize("penalty", [0.0, 10.0])
def test_penalty_reaches_the_discriminators_update(halve, penalty):
    """Of w . x the gradient of the whole objective is known: worked out here without autograd."""
    source, target = pair()
    discriminator = Affine(1, 4)
    weight = discriminator.weight.detach().numpy().copy()
    method = pix2pix(
        discriminator,
        [WeightedLoss("adversarial", 1.0, Adversarial(mode="wgan-gp", penalty=penalty))],
        halve_discriminator=halve,
    )
    logged = method.step(source, target)
    norm = np.linalg.norm(weight)
    assert logged["d_penalty"].item() == pytest.approx(penalty * (norm - 1) ** 2, abs=1e-9)
    assert abs(norm - 1) > 0.5
    apart = (0.5 * source - target).numpy().mean(0)
    expected = apart + penalty * 2 * (norm - 1) * weight / norm
    # The generator's own step leaves the discriminator's gradient alone, so it is still there.
    found = discriminator.weight.grad.numpy()
    np.testing.assert_allclose(found, expected * (0.5 if halve else 1.0), rtol=1e-9, atol=1e-12)
    # Adam's first step is the learning rate times the gradient's sign.
    moved = discriminator.weight.detach().numpy() - weight
    np.testing.assert_allclose(moved, -2e-4 * np.sign(expected), rtol=1e-4)


def test_logged_losses_are_weighted_and_after_the_discriminators_step():
    source, target = pair()
    discriminator, generator = Affine(1, 4), Tint(0.25)
    method = pix2pix(
        discriminator,
        [
            WeightedLoss("adversarial", 3.0, Adversarial(mode="lsgan")),
            WeightedLoss("l1", 100.0, L1()),
        ],
        generator=generator,
        learning_rate=0.05,
    )
    w, x, y = (t.detach().numpy().copy() for t in (discriminator.weight, source, target))
    logged = {name: value.item() for name, value in method.step(source, target).items()}
    assert logged["d_real"] == pytest.approx(((score(y, w, 0) - 1) ** 2).mean(), rel=1e-9)
    assert logged["d_fake"] == pytest.approx((score(0.25 * x, w, 0) ** 2).mean(), rel=1e-9)
    after, bias = discriminator.weight.detach().numpy(), discriminator.bias.item()
    assert not np.allclose(w, after)
    expected = 3 * ((score(0.25 * x, after, bias) - 1) ** 2).mean()
    assert logged["adversarial"] == pytest.approx(expected, rel=1e-9)
    assert logged["l1"] == pytest.approx(100 * np.abs(0.25 * x - y).mean(), rel=1e-9)
    assert set(logged) == {"d_real", "d_fake", "adversarial", "l1"}
    # And the sum is what the generator's one number was moved by.
    slope = 3 * (2 * (score(0.25 * x, after, bias) - 1) * score(x, after, 0)).mean()
    slope += 100 * (np.sign(0.25 * x - y) * x).mean()
    assert generator.share.grad.item() == pytest.approx(slope, rel=1e-9)


@pytest.mark.parametrize("conditional", [True, False])
def test_what_the_discriminator_sees(conditional):
    source, target = pair()
    seen = []

    class Watching(Affine):
        def forward(self, images):
            seen.append(images.detach().clone())
            return super().forward(images)

    asked = []
    discriminator = Watching(2 if conditional else 1, 4)
    Pix2Pix(
        lambda i, o: Tint(),
        lambda channels: asked.append(channels) or discriminator,
        [WeightedLoss("adversarial", 1.0, Adversarial())],
        1,
        1,
        conditional,
    ).step(source, target)
    join = (lambda image: torch.cat([source, image], 1)) if conditional else (lambda image: image)
    assert asked == [2 if conditional else 1]
    fake, real, again = seen
    assert torch.equal(fake, join(source * 0.5))
    assert torch.equal(real, join(target))
    assert torch.equal(again, fake)


def test_a_step_leaves_gradients_where_they_belong():
    source, target = pair()
    discriminator, generator = Affine(1, 4), Tint()
    method = pix2pix(
        discriminator, [WeightedLoss("adversarial", 1.0, Adversarial())], generator=generator
    )
    logged = method.step(source, target)
    assert all(p.requires_grad for p in discriminator.parameters())
    assert not any(value.requires_grad for value in logged.values())
    assert generator.share.item() != 0.5


def test_without_a_discriminator_only_the_reconstruction_counts():
    source, target = pair()
    generator = Tint()
    method = pix2pix(
        None,
        [WeightedLoss("l2", 2.0, L2()), WeightedLoss("l1", 1.0, L1())],
        generator=generator,
    )
    assert set(method.networks) == set(method.optimizers) == {"generator"}
    assert set(method.step(source, target)) == {"l1", "l2"}
    difference = (0.5 * source - target).numpy()
    slope = 4 * (difference * source.numpy()).mean() + (np.sign(difference) * source.numpy()).mean()
    assert generator.share.grad.item() == pytest.approx(slope, rel=1e-9)


ADVERSARIAL, PIXEL = WeightedLoss("adversarial", 1.0, Adversarial()), WeightedLoss("l1", 1.0, L1())


@pytest.mark.parametrize(
    ("discriminator", "losses", "settings", "message"),
    [
        (False, [ADVERSARIAL], {}, "'adversarial' needs a discriminator"),
        (True, [PIXEL], {}, "only trained by an adversarial loss"),
        (False, [], {}, "nothing to train on"),
        (False, [PIXEL], {"learning_rate": 0.0}, "learning_rate must be above 0"),
        (False, [PIXEL], {"beta1": 1.0}, "beta1 must be"),
        (False, [PIXEL], {"beta2": -0.1}, "beta2 must be"),
    ],
)
def test_pix2pix_refuses_what_cannot_be_trained(discriminator, losses, settings, message):
    with pytest.raises(ValueError, match=message):
        pix2pix(Affine(1, 4) if discriminator else None, losses, **settings)
