"""For losses that bfloat16 would spoil."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def full_precision(images: Tensor) -> contextlib.AbstractContextManager[None]:
    """Computing on the images' device as if no autocast were on."""
    device = images.device.type
    if not torch.amp.is_autocast_available(device):
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)
