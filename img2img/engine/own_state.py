"""What each process of a run keeps for itself: random states, sums of losses, states of losses."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class OwnState:
    """Random states, the losses since the last log line, and what losses keep from step to step.

    Attributes:
        sums: of the losses, by name.
        cpu, cuda: torch's random states; no `cuda` where the run uses none.
        python: of `random`.
        numpy: of numpy's global generator.
        losses: what `LossState` gives: each process's losses saw other pairs.
    """

    sums: dict[str, Tensor]
    cpu: Tensor
    cuda: Tensor | None
    python: list[Any]
    numpy: list[Any]
    losses: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def take(
        cls, sums: dict[str, Tensor], losses: dict[str, Tensor], device: torch.device
    ) -> OwnState:
        """This process's, on the CPU. Waits for the device."""
        version, internal, gauss = random.getstate()
        kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
        return cls(
            {name: total.cpu() for name, total in sums.items()},
            torch.get_rng_state(),
            torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            [version, list(internal), gauss],
            [kind, np.asarray(keys).tolist(), position, has_gauss, cached],
            losses,
        )

    def restore(self, device: torch.device) -> None:
        """Go on drawing random numbers where this was taken."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None and device.type == "cuda":
            torch.cuda.set_rng_state(self.cuda, device)
        version, internal, gauss = self.python
        random.setstate((version, tuple(internal), gauss))
        kind, keys, position, has_gauss, cached = self.numpy
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Its tensors by name, for a file."""
        found = {f"{prefix}window.{name}": total for name, total in self.sums.items()}
        found |= {f"{prefix}loss.{name}": value for name, value in self.losses.items()}
        found[f"{prefix}random.cpu"] = self.cpu
        if self.cuda is not None:
            found[f"{prefix}random.cuda"] = self.cuda
        return found

    def values(self) -> dict[str, Any]:
        """The rest, as JSON values."""
        return {"python_random": self.python, "numpy_random": self.numpy}

    @classmethod
    def read(
        cls, names: Sequence[str], tensors: dict[str, Tensor], values: Any, prefix: str = ""
    ) -> OwnState:
        """What `tensors` and `values` gave; `names` are those of the losses, in their order.

        Raises:
            KeyError, ValueError: something is missing, or a sum is no single number.
        """
        for name in names:
            total = tensors[f"{prefix}window.{name}"]
            if total.ndim or not total.is_floating_point():
                raise ValueError(f"{prefix}window.{name} is no single number")
        return cls(
            {name: tensors[f"{prefix}window.{name}"] for name in names},
            tensors[f"{prefix}random.cpu"],
            tensors.get(f"{prefix}random.cuda"),
            values["python_random"],
            values["numpy_random"],
            {
                key.removeprefix(f"{prefix}loss."): value
                for key, value in tensors.items()
                if key.startswith(f"{prefix}loss.")
            },
        )


def seed_all(*numbers: int) -> None:
    """Seed torch's, Python's and numpy's generators from several numbers.

    The seeds are unlike those of any neighbour.
    """
    seeds = np.random.SeedSequence(numbers).generate_state(3)
    torch.manual_seed(int(seeds[0]))
    random.seed(int(seeds[1]))
    np.random.seed(int(seeds[2]))
