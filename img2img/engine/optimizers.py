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
    _check(optimizer)
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            # A file keeps them row by row; fused steps take moments and weights for alike in
            # memory, and do not look.
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _check(optimizer: Optimizer) -> None:
    """Raise a ValueError where an optimizer has a state that its next step would fall over."""
    needed = {"step", "exp_avg", "exp_avg_sq"} if isinstance(optimizer, torch.optim.Adam) else set()
    for parameter, values in optimizer.state.items():
        if not isinstance(parameter, Tensor):
            raise ValueError("its state is of parameters that it does not have")
        if lacking := (needed - values.keys() if values else None):
            raise ValueError(f"its state lacks {', '.join(sorted(lacking))}")
        for key, value in values.items():
            if key in needed and not isinstance(value, Tensor):
                raise ValueError(f"{key} is no tensor")
            shapes = [torch.Size()] if key == "step" else [torch.Size(), parameter.shape]
            if isinstance(value, Tensor) and value.shape not in shapes:
                raise ValueError(f"{key} is of shape {tuple(value.shape)}, not its parameter's")
            if key in needed - {"step"} and value.shape != parameter.shape:
                raise ValueError(f"{key} is of shape {tuple(value.shape)}, not its parameter's")
