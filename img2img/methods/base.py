"""What the training loop expects of a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

GeneratorBuilder = Callable[[int, int], nn.Module]
DiscriminatorBuilder = Callable[[int], nn.Module]


@dataclass(frozen=True)
class WeightedLoss:
    """One entry of a recipe's `[[losses]]`: what it is called, its weight and the loss itself.

    Attributes:
        name: its key in metrics; unique within a run.
        weight: the factor on the generator's side.
        loss: (output, target) -> scalar, or a `JudgedLoss`.
    """

    name: str
    weight: float
    loss: Any


class Method(Protocol):
    """A way of training. Constructed with what it names among the things the assembly supplies.

    Those are `build_generator(in_channels, out_channels)`, `build_discriminator(in_channels)` or
    None, `losses`, `source_channels`, `target_channels` and `conditional`; every other parameter
    is a setting of the recipe's `[method]`.

    Attributes:
        networks: everything that is trained, by name; saved in checkpoints.
        optimizers: by name; saved too. The loop scales their learning rates by the schedule.
        generator: the network that the finished bundle holds, source to output; in `networks`.

    A recipe is refused whose method has other optimizers, or trains what neither `networks` nor a
    loss that is a module holds.

    A method that trains a discriminator may have `adversarial`, a sequence of the `WeightedLoss`
    entries that do. If there is one, its loss has a known `mode` (see `AdversarialLoss`), and a
    step returns the discriminator's terms as `d_real` and `d_fake` and the generator's side, times
    its weight, under the entry's name, a run says when the discriminator has won.
    """

    networks: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    generator: nn.Module

    def step(self, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        """One training step on a batch (B, C, H, W); returns detached scalars on the device.

        It must not ask the host for a number: logging reads the scalars when it logs. On a GPU it
        is recorded and then replayed without Python: what it counts, it counts on the device.
        """
