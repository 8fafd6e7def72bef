"""Optimizers as plain values and tensors, whatever a device makes of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# What an optimizer is told about the device it works on; no part of its state.
OF_THE_DEVICE = ("capturable", "fused", "foreach")


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Set a group's learning rate, also where a recorded step reads it from the device."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def plain_groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    """An optimizer's settings as JSON values, parameters by number."""
    groups: list[dict[str, Any]] = optimizer.state_dict()["param_groups"]
    return [
        {
            key: value.item() if isinstance(value, Tensor) else value
            for key, value in group.items()
            if key not in OF_THE_DEVICE
        }
        for group in groups
    ]


def load_optimizer(
    optimizer: Optimizer, state: dict[int, dict[str, Any]], groups: list[dict[str, Any]]
) -> None:
    """Take over what was saved, in the order in which the device keeps the weights.

    Raises:
        KeyError, ValueError: it belongs to another optimizer.
    """
    own = [
        {key: group[key] for key in OF_THE_DEVICE if key in group}
        for group in optimizer.param_groups
    ]
    saved = [{**group, **mine} for group, mine in zip(groups, own, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": saved})
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            # A file keeps them row by row; fused steps take moments and weights for alike in
            # memory, and do not look.
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
