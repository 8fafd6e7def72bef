"""What one process sees in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor


class Skipped(NamedTuple):
    """A pair that could not be read: its index, the file and the reason."""

    pair: int
    path: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """What one process sees in one step.

    Attributes:
        source, target: (B, C, H, W) in [-1, 1].
        skipped: pairs that could not be read.
        pairs: how many the step has in all processes together.
        share: this process's part of them times the number of processes: what its gradients
            weigh. Not 1 only where the last batch of an epoch cannot be split evenly.
    """

    source: Tensor
    target: Tensor
    skipped: tuple[Skipped, ...] = ()
    pairs: int = 1
    share: float = 1.0


def join(parts: Sequence[Batch], pairs: int, share: float) -> Batch:
    """Batches of single pairs as the batch of a step; of one alone nothing is copied."""
    if len(parts) == 1:
        return replace(parts[0], pairs=pairs, share=share)
    return Batch(
        torch.cat([part.source for part in parts]),
        torch.cat([part.target for part in parts]),
        tuple(skip for part in parts for skip in part.skipped),
        pairs,
        share,
    )
