"""The loss against the paper's formulas, written out, and the plugin as a user meets it."""

import cmath
import json
import math
from pathlib import Path

import pytest
import torch
from img2img_focal_frequency import FocalFrequency

import img2img
from img2img.plugins import load_plugins

RECIPE = Path(__file__).parents[1] / "recipes" / "focal_frequency.toml"


def by_hand(output, target, *, alpha=1.0, log=False):
    """Equations of arXiv 2012.12821, section 3, with loops; images are (B, C, H, W) lists."""
    terms = []
    for one, other in zip(output, target, strict=True):
        for f, g in zip(one, other, strict=True):
            distances = [abs(a - b) for a, b in zip(dft(f), dft(g), strict=True)]
            weights = [d**alpha for d in distances]
            if log:
                weights = [math.log(1 + w) for w in weights]
            largest = max(weights)
            terms += [w / largest * d**2 for w, d in zip(weights, distances, strict=True)]
    return sum(terms) / len(terms)


def dft(image):
    height, width = len(image), len(image[0])
    return [
        sum(
            image[x][y] * cmath.exp(-2j * math.pi * (u * x / height + v * y / width))
            for x in range(height)
            for y in range(width)
        )
        / math.sqrt(height * width)
        for u in range(height)
        for v in range(width)
    ]


def pair(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1 for _ in "ab")


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (2, 3, 4, 4), (1, 2, 4, 6)])
def test_value(alpha, log, shape):
    output, target = pair(*shape)
    expected = by_hand(output.tolist(), target.tolist(), alpha=alpha, log=log)
    loss = FocalFrequency(alpha=alpha, log_matrix=log)(output, target)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_patches_are_images_of_their_own():
    output, target = pair(2, 3, 8, 12)
    cut = [
        FocalFrequency()(output[..., y : y + 4, x : x + 6], target[..., y : y + 4, x : x + 6])
        for y in (0, 4)
        for x in (0, 6)
    ]
    loss = FocalFrequency(patch_factor=2)(output, target)
    torch.testing.assert_close(loss, torch.stack(cut).mean())


def test_alpha_zero_is_l2():
    """Parseval's theorem: an orthonormal transform keeps the sum of squares."""
    output, target = pair(2, 3, 16, 16)
    torch.testing.assert_close(
        FocalFrequency(alpha=0.0)(output, target), (output - target).square().mean()
    )


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
def test_zero_at_equality(alpha, log):
    image = pair(2, 3, 8, 8)[0].float().requires_grad_(True)
    loss = FocalFrequency(alpha=alpha, log_matrix=log)(image, image.detach().clone())
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(image.grad, torch.zeros_like(image))


def test_a_small_difference_keeps_its_gradient():
    output, target = (image.float() for image in pair(1, 1, 8, 8))
    output = (target + 1e-6 * output).requires_grad_(True)
    FocalFrequency(alpha=8.0)(output, target).backward()
    assert output.grad.abs().max() > 0


def test_the_weight_passes_no_gradient():
    """With w held fixed the loss is quadratic: along itself its gradient is twice its value."""
    output, target = pair(2, 3, 8, 8)
    output.requires_grad_(True)
    loss = FocalFrequency()(output, target)
    (gradient,) = torch.autograd.grad(loss, output)
    torch.testing.assert_close((gradient * (output - target)).sum(), 2 * loss)
    assert torch.isfinite(gradient).all()


def test_a_pair_does_not_depend_on_its_batch():
    output, target = pair(2, 3, 8, 8)
    alone = [FocalFrequency()(output[i : i + 1], target[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(FocalFrequency()(output, target), torch.stack(alone).mean())


def test_what_it_refuses():
    with pytest.raises(ValueError, match="alpha must be 0 or more, not -1"):
        FocalFrequency(alpha=-1.0)
    with pytest.raises(ValueError, match="patch_factor must be at least 1, not 0"):
        FocalFrequency(patch_factor=0)
    with pytest.raises(ValueError, match=r"8x8 pixels cannot be cut into 3x3 patches"):
        FocalFrequency(patch_factor=3)(*pair(1, 1, 8, 8))


def test_found_by_its_entry_point(distribution):
    plugins = load_plugins()
    component = plugins.registry.get("loss", "focal_frequency")
    assert component.origin == distribution == "img2img-focal-frequency"
    assert plugins.origins[distribution] == "0.1.0"
    assert distribution not in plugins.broken
    assert {s.name: s.default for s in component.settings} == {
        "alpha": 1.0,
        "patch_factor": 1,
        "log_matrix": False,
    }
    assert all(setting.help for setting in component.settings)


def test_its_recipe_trains(distribution, tmp_path):
    run = img2img.train(
        RECIPE,
        overrides={"train.steps": 2, "train.log_every": 1, "data.count": 16},
        out=tmp_path / "run",
        device="cpu",
        precision="float32",
    )
    first = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[0])
    assert first["losses"]["focal_frequency"] > 0
    assert distribution in json.loads((run.path / "environment.json").read_text())["plugins"]
