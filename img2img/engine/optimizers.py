"""Optimizers as plain values and tensors, whatever a device makes of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# What an optimizer is told about the device it works on; no part of its state.
OF_THE_DEVICE = ("capturable", "fused", "foreach")
# Optimizers whose state is known: another one, which a method may bring, keeps what it likes.
_ADAM = (torch.optim.Adam, torch.optim.AdamW)


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

    A setting that was not saved, as one that a later torch added, stays as it is.

    Raises:
        KeyError, ValueError: it belongs to another optimizer.
    """
    own = optimizer.param_groups
    saved = []
    for group, mine in zip(groups, own, strict=True):
        # JSON has no tuples, and an optimizer may tell them from lists.
        taken = {
            key: tuple(value) if isinstance(mine.get(key), tuple) else value
            for key, value in group.items()
            if key not in OF_THE_DEVICE
        }
        saved.append({**mine, **taken})
    optimizer.load_state_dict({"state": state, "param_groups": saved})
    _check(optimizer)
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            # A file keeps them row by row; fused steps take moments and weights for alike in
            # memory, and do not look.
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def check_groups(found: Any, optimizer: Optimizer, place: str) -> None:
    """Raise a ValueError unless saved settings are such as an optimizer's may have become.

    In its steps it may change numbers, to infinite ones too, and add settings of its own.
    """
    own = plain_groups(optimizer)
    if not isinstance(found, list) or len(found) != len(own):
        raise ValueError(f"{place} should be a list of {len(own)} tables")
    for saved, group in zip(found, own, strict=True):
        if not isinstance(saved, dict):
            raise ValueError(f"{place} should be a list of tables")
        if saved.get("params") != group["params"]:
            raise ValueError(f"{place} are of other parameters")
        if type(saved.get("lr")) not in (int, float) or not math.isfinite(saved["lr"]):
            raise ValueError(f"{place}.lr should be a number")
        for key, value in saved.items():
            if not _fits(value, group.get(key)):
                raise ValueError(f"{place}.{key} should be a value such as {group.get(key)!r}")
        if type(optimizer) in _ADAM:
            _check_adam(saved, group, place)


def _fits(found: Any, own: Any) -> bool:
    """Whether a JSON value is of a type that a setting of that value may come to have."""
    if own is None:
        return True
    if isinstance(own, (bool, str)):
        return type(found) is type(own)
    if isinstance(own, (int, float)):
        # Whole numbers beyond it are no numbers to torch.
        return type(found) is float or (type(found) is int and abs(found) < 2**63)
    if isinstance(own, tuple):
        same = isinstance(found, (list, tuple)) and len(found) == len(own)
        return same and all(map(_fits, found, own))
    return isinstance(found, (list, tuple) if isinstance(own, list) else type(own))


def _check_adam(saved: dict[str, Any], own: dict[str, Any], place: str) -> None:
    """Raise a ValueError where Adam's settings are such that its next step would end in an error.

    Those on or off decide what state it has, and none changes in a step.
    """
    for key, value in own.items():
        if isinstance(value, bool) and saved.get(key, value) is not value:
            raise ValueError(f"{place}.{key} should be {value}")
    if not all(0 <= beta < 1 for beta in saved.get("betas", ())):
        raise ValueError(f"{place}.betas should be at least 0 and below 1")


def _check(optimizer: Optimizer) -> None:
    """Raise a ValueError where an optimizer has a state that its next step would fall over."""
    for parameter, values in optimizer.state.items():
        if not isinstance(parameter, Tensor):
            raise ValueError("its state is of parameters that it does not have")
        if type(optimizer) not in _ADAM or not values:
            continue
        amsgrad = any(group["amsgrad"] for group in optimizer.param_groups)
        moments = {"exp_avg", "exp_avg_sq"} | ({"max_exp_avg_sq"} if amsgrad else set())
        if lacking := {"step", *moments} - values.keys():
            raise ValueError(f"its state lacks {', '.join(sorted(lacking))}")
        for key in sorted(moments):
            value = values[key]
            if not isinstance(value, Tensor):
                raise ValueError(f"{key} is no tensor")
            if value.shape != parameter.shape:
                raise ValueError(f"{key} is of shape {tuple(value.shape)}, not its parameter's")
        step = values["step"]
        if not isinstance(step, Tensor) or step.dtype not in (torch.float32, torch.float64):
            raise ValueError("step is no tensor of a number")
        if step.shape or not step.item() >= 0:
            raise ValueError("step is no single number of at least 0")
