"""One training step of pix2pix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from img2img.layers import check_positive
from img2img.losses import AdversarialLoss, JudgedLoss
from img2img.methods.base import DiscriminatorBuilder, GeneratorBuilder, WeightedLoss

Sees = Literal["after", "before"]


class Pix2Pix:
    """One discriminator step and one generator step on the same batch.

    Source: arXiv 1611.07004, section 3.3 (Adam, learning rate 2e-4, betas 0.5 and 0.999, the
    discriminator's objective halved). Without a discriminator the generator is trained on the
    other losses alone.

    Args:
        build_generator: makes a generator from (in_channels, out_channels).
        build_discriminator: makes a discriminator from in_channels; None trains without one.
        losses: what the generator is trained on.
        source_channels: channels of the source.
        target_channels: channels of the target.
        conditional: the discriminator sees source and image joined, not the image alone.
        learning_rate: Adam's, for both networks.
        beta1: Adam's first beta.
        beta2: Adam's second beta.
        halve_discriminator: multiply the discriminator's objective by one half.
        generator_sees: the discriminator as it is `after` its own step, as in the common PyTorch
            port, or as it was `before`. The authors' code takes the output from before the step and
            differentiates it through the weights after; here both are from before.

    Raises:
        ValueError: a loss that needs a discriminator without one, or the other way round.
    """

    def __init__(
        self,
        build_generator: GeneratorBuilder,
        build_discriminator: DiscriminatorBuilder | None,
        losses: Sequence[WeightedLoss],
        source_channels: int,
        target_channels: int,
        conditional: bool,
        *,
        learning_rate: float = 2e-4,
        beta1: float = 0.5,
        beta2: float = 0.999,
        halve_discriminator: bool = True,
        generator_sees: Sees = "after",
    ) -> None:
        check_positive(learning_rate=learning_rate)
        if generator_sees not in get_args(Sees):
            raise ValueError(f"generator_sees is 'after' or 'before', not {generator_sees!r}")
        for name, beta in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= beta < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {beta}")
        judged = [loss for loss in losses if isinstance(loss.loss, JudgedLoss)]
        adversarial = [loss for loss in judged if isinstance(loss.loss, AdversarialLoss)]
        if judged and build_discriminator is None:
            raise ValueError(
                f"the loss {judged[0].name!r} needs a discriminator: add a [discriminator] "
                f'table, for example name = "patchgan70", or leave the loss out'
            )
        if build_discriminator is not None and not adversarial:
            raise ValueError(
                "a discriminator is only trained by an adversarial loss: add one to [[losses]], or "
                "leave the [discriminator] table out"
            )
        if not losses:
            raise ValueError("there is nothing to train on: add at least one entry to [[losses]]")
        self.adversarial = tuple(adversarial)
        self.judged = tuple(judged)
        self.reconstruction = tuple(loss for loss in losses if loss not in judged)
        self.generator_sees = generator_sees
        self.conditional = conditional
        self.discriminator_scale = 0.5 if halve_discriminator else 1.0

        def adam(network: nn.Module) -> torch.optim.Optimizer:
            # One pass over all weights instead of one per operation; the same arithmetic.
            return torch.optim.Adam(
                network.parameters(), lr=learning_rate, betas=(beta1, beta2), fused=True
            )

        self.generator = build_generator(source_channels, target_channels)
        self.networks: dict[str, nn.Module] = {"generator": self.generator}
        self.optimizers = {"generator": adam(self.generator)}
        self.discriminator: nn.Module | None = None
        # What is trained of it: a plugin's discriminator may keep some weights fixed.
        self.judging: list[nn.Parameter] = []
        if build_discriminator is not None:
            seen = target_channels + (source_channels if conditional else 0)
            self.discriminator = build_discriminator(seen)
            for entry in judged:
                if hasattr(entry.loss, "check_discriminator"):
                    entry.loss.check_discriminator(self.discriminator)
            self.judging = [p for p in self.discriminator.parameters() if p.requires_grad]
            self.networks["discriminator"] = self.discriminator
            self.optimizers["discriminator"] = adam(self.discriminator)

    def step(self, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Train on one batch, source and target (B, C, H, W) in [-1, 1]; losses by name.

        The generator's are already times their weight; the discriminator's (`d_real`, `d_fake`,
        and `d_penalty` for wgan-gp) are before the halving.
        """
        output = self.generator(source)
        if self.discriminator is None:
            return self._generator_step(source, target, output)
        shown = output.detach()
        if self.generator_sees == "before":
            # Neither step reads the other's weights, so the generator goes first instead of keeping
            # a copy of the discriminator.
            of_generator = self._generator_step(source, target, output)
            return self._discriminator_step(source, target, shown) | of_generator
        of_discriminator = self._discriminator_step(source, target, shown)
        return of_discriminator | self._generator_step(source, target, output)

    def _discriminator_step(
        self, source: Tensor, target: Tensor, output: Tensor
    ) -> dict[str, Tensor]:
        assert self.discriminator is not None
        real, fake = self._judged(source, target), self._judged(source, output)
        terms: dict[str, Tensor] = {}
        for entry in self.adversarial:
            for name, term in entry.loss.discriminator_loss(self.discriminator, real, fake).items():
                terms[f"d_{name}"] = terms[f"d_{name}"] + term if f"d_{name}" in terms else term
        objective = self.discriminator_scale * torch.stack(list(terms.values())).sum()
        optimizer = self.optimizers["discriminator"]
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(objective)
        optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    def _generator_step(self, source: Tensor, target: Tensor, output: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if self.discriminator is not None:
            # Its weights get no gradient from the generator's loss, so none is computed for them.
            for parameter in self.judging:
                parameter.requires_grad_(False)
            real, fake = self._judged(source, target), self._judged(source, output)
            for entry in self.judged:
                term = entry.loss.generator_loss(self.discriminator, real, fake)
                terms[entry.name] = entry.weight * term
        for entry in self.reconstruction:
            terms[entry.name] = entry.weight * entry.loss(output, target)
        optimizer = self.optimizers["generator"]
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        optimizer.step()
        for parameter in self.judging:
            parameter.requires_grad_(True)
        return {name: term.detach() for name, term in terms.items()}

    def _judged(self, source: Tensor, image: Tensor) -> Tensor:
        return torch.cat([source, image], dim=1) if self.conditional else image
