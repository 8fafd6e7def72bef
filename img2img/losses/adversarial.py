"""The game between generator and discriminator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Discriminate = Callable[[Tensor], Tensor]
Mode = Literal["vanilla", "lsgan", "hinge", "wgan-gp"]


@runtime_checkable
class JudgedLoss(Protocol):
    """A loss of the generator that is given the discriminator, such as feature matching."""

    def generator_loss(self, discriminate: Discriminate, real: Tensor, fake: Tensor) -> Tensor:
        """The generator's objective, a scalar; gradients reach the generator through `fake`."""


@runtime_checkable
class AdversarialLoss(JudgedLoss, Protocol):
    """A loss with two sides, which trains the discriminator as well.

    One may say with `mode` that its terms `real` and `fake`, and the generator's side, have the
    scale of that objective of `Adversarial`; a run then says when the discriminator has won.
    """

    def discriminator_loss(
        self, discriminate: Discriminate, real: Tensor, fake: Tensor
    ) -> dict[str, Tensor]:
        """The discriminator's objective as named scalars that add up to it.

        `real` and `fake` are what it judges, (B, C, H, W), detached from the generator.
        """


class Adversarial(nn.Module):
    """GAN objective: vanilla (arXiv 1406.2661), lsgan (1611.04076), hinge (1705.02894), wgan-gp.

    The generator's side of vanilla is the non-saturating one, as in arXiv 1611.07004, section 3.3.
    wgan-gp (arXiv 1704.00028, equation 3) penalises the norm of the discriminator's gradient at
    points between real and fake; its authors advise against batch norm there: give the
    discriminator `norm = "instance"`.

    Args:
        mode: which objective.
        penalty: weight of the gradient penalty; wgan-gp alone has one.
    """

    def __init__(self, *, mode: Mode = "vanilla", penalty: float = 10.0) -> None:
        super().__init__()
        if mode not in get_args(Mode):
            raise ValueError(f"mode {mode!r} is not one of {', '.join(get_args(Mode))}")
        if penalty < 0:
            raise ValueError(f"penalty must not be negative, and is {penalty}")
        self.mode = mode
        self.penalty = penalty

    def discriminator_loss(
        self, discriminate: Discriminate, real: Tensor, fake: Tensor
    ) -> dict[str, Tensor]:
        """Scalars `real`, `fake` and, for wgan-gp, `penalty`; their sum is the objective."""
        on_fake, on_real = discriminate(fake), discriminate(real)
        if self.mode == "hinge":
            return {"real": F.relu(1 - on_real).mean(), "fake": F.relu(1 + on_fake).mean()}
        terms = {"real": self._towards(on_real, True), "fake": self._towards(on_fake, False)}
        if self.mode == "wgan-gp":
            terms["penalty"] = self.penalty * gradient_penalty(discriminate, real, fake)
        return terms

    def generator_loss(self, discriminate: Discriminate, real: Tensor, fake: Tensor) -> Tensor:
        """How far the discriminator is from taking `fake` for real; a scalar."""
        return self._towards(discriminate(fake), True)

    def _towards(self, logits: Tensor, real: bool) -> Tensor:
        if self.mode == "vanilla":
            labels = torch.ones_like(logits) if real else torch.zeros_like(logits)
            return F.binary_cross_entropy_with_logits(logits, labels)
        if self.mode == "lsgan":
            labels = torch.ones_like(logits) if real else torch.zeros_like(logits)
            return F.mse_loss(logits, labels)
        return -logits.mean() if real else logits.mean()


def gradient_penalty(discriminate: Discriminate, real: Tensor, fake: Tensor) -> Tensor:
    """(||grad D(x)|| - 1)**2 at random points x between real and fake, averaged over the batch.

    Shape: real and fake (B, C, H, W) -> a scalar. The norm is taken over each sample; a patch
    discriminator's logits are averaged first, so that one number per image is differentiated.
    Source: arXiv 1704.00028, equation 3.
    """
    share = torch.rand(real.shape[0], 1, 1, 1, dtype=real.dtype, device=real.device)
    between = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    scores = discriminate(between).flatten(1).mean(1)
    (gradient,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
    # The small number keeps the norm's own derivative finite where the gradient is exactly zero.
    norm = (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()
    return (norm - 1).square().mean()
