"""Batches on the device before they are wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from img2img.data.loading import Batch


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches with their tensors on the device."""
    for batch in batches:
        yield replace(
            batch,
            source=batch.source.to(device, non_blocking=True),
            target=batch.target.to(device, non_blocking=True),
        )
