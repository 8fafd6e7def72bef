"""What a step's losses are to the rest of the loop: one vector, however many there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


class StepLosses(Mapping[str, Tensor]):
    """A step's losses by name, which lie in one vector.

    So whoever takes note of them starts one operation, not one for each loss: beside a recorded
    step, starting many small ones would take the host as long as the step itself.

    Args:
        names: of the losses.
        vector: their values (N,) in float32, on the device.
    """

    def __init__(self, names: tuple[str, ...], vector: Tensor) -> None:
        self.names, self.vector = names, vector

    @classmethod
    def of(cls, losses: Mapping[str, Tensor], device: torch.device) -> StepLosses:
        """A copy of a method's losses, each a single number; without their gradients."""
        if not losses:
            return cls((), torch.empty(0, device=device))
        with torch.no_grad():
            values = [value.to(device, torch.float32).reshape(()) for value in losses.values()]
            return cls(tuple(losses), torch.stack(values))

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.vector[self.names.index(name)]
        except ValueError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
