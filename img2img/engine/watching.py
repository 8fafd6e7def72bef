"""What of a method's step is Python's work, and would stand still in a recording."""

from __future__ import annotations

import random
import warnings
from collections import deque
from collections.abc import Iterator
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from img2img.methods import Method

PLAIN = (int, float, str, bytes, bool, type(None), torch.dtype)
# What torch says of an operation that waits for the device.
WAITS = "called a synchronizing CUDA operation"


class StillValues:
    """Watches one step for what a recording would freeze or could not hold.

    A replay runs no Python: a counter, a schedule or a random number of the host's would stay as
    it was when it was recorded, and nobody would notice. Nor would a tensor that each step makes
    anew from the one before: it would be made from that of the recording for ever. After the
    context `changed` says what was found, or is None. It looks at attributes of the method, its
    losses, optimizers and modules: numbers, texts, arrays, tensors, generators of random numbers
    and containers of such.

    Args:
        method: whose step runs inside.
        device: where it trains; tensors elsewhere are the host's.
        watch: False looks at nothing.
    """

    def __init__(self, method: Method, device: torch.device, *, watch: bool = True) -> None:
        self.changed: str | None = None
        self._method, self._device, self._watch = method, device, watch

    def __enter__(self) -> StillValues:
        if self._watch:
            self._before = dict(_kept_values(self._method, self._device))
            self._random = _host_random()
            self._warnings = warnings.catch_warnings(record=True)
            self._told = self._warnings.__enter__()
            warnings.simplefilter("always")
            if torch.cuda.is_available():
                self._mode = torch.cuda.get_sync_debug_mode()
                # The step is real training and has to end well, so this only tells. That it is
                # new in torch, which this says as well, need not be told.
                torch.cuda.set_sync_debug_mode("warn")
                self._told.clear()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if not self._watch:
            return
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode(self._mode)
        self._warnings.__exit__(kind, error, at)
        waits = [warning for warning in self._told if WAITS in str(warning.message)]
        for other in self._told:
            if other not in waits:
                warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
        after = dict(_kept_values(self._method, self._device))
        missing = object()
        moved = [
            name
            for name in {**self._before, **after}
            if self._before.get(name, missing) != after.get(name, missing)
        ]
        if waits:
            where = f"{waits[0].filename}, line {waits[0].lineno}"
            self.changed = f"waits for the device ({where})"
        elif moved:
            name = moved[0]
            anew = isinstance(after.get(name, self._before.get(name)), _Itself)
            self.changed = (
                f"keeps a tensor that each step makes anew ({name}; change it in place)"
                if anew
                else f"keeps count in Python ({name} changes from step to step)"
            )
        elif self._random != _host_random():
            self.changed = "draws random numbers on the host"


class _Itself:
    """A tensor that equals itself alone, whatever is written into it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor  # or another one could come to lie where it was

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.tensor is self.tensor

    def __hash__(self) -> int:
        return id(self.tensor)


def _kept_values(method: Method, device: torch.device) -> Iterator[tuple[str, Any]]:
    """By name, what the method and its parts keep, as values that can be compared."""
    objects: list[tuple[str, Any]] = [(type(method).__name__, method)]
    seen: set[int] = set()
    while objects:
        name, item = objects.pop()
        # Small numbers are one object wherever they occur, so only containers are seen once.
        if isinstance(item, PLAIN):
            yield name, item
        elif isinstance(item, Tensor):
            if item.device.type != device.type:
                yield name, item._version
            # One with a history was computed in the step, as a normalised weight is, and goes.
            elif item.grad_fn is None:
                yield name, _Itself(item)
        elif (state := _state_of(item)) is not None:
            yield name, state
        elif id(item) not in seen:
            seen.add(id(item))
            objects += _parts_of(name, item)


def _state_of(item: Any) -> Any:
    """What tells whether an object without attributes has changed; None for all others."""
    if isinstance(item, (np.ndarray, np.generic)):
        return item.tobytes()
    if isinstance(item, np.random.Generator):
        return repr(item.bit_generator.state)
    if isinstance(item, random.Random):
        return item.getstate()
    if isinstance(item, torch.Generator) and item.device.type == "cpu":
        return item.get_state().numpy().tobytes()
    return repr(item) if type(item).__module__ == "itertools" else None


def _parts_of(name: str, item: Any) -> list[tuple[str, Any]]:
    if isinstance(item, Optimizer):
        states = enumerate(item.state.values())
        return [
            (f"{name}.param_groups", item.param_groups),
            *((f"{name}.state[{number}]", state) for number, state in states),
        ]
    if isinstance(item, dict):
        return [(f"{name}[{key!r}]", value) for key, value in item.items()]
    if isinstance(item, (list, tuple, deque)):
        return [(f"{name}[{i}]", value) for i, value in enumerate(item)]
    if isinstance(item, (set, frozenset)):
        return [(f"{name} with {value!r}", 1) for value in item]
    if isinstance(item, (type, ModuleType)) or not hasattr(item, "__dict__"):
        return []
    # Of torch's own, only what trains: its streams and handles change as they like.
    if type(item).__module__.startswith("torch") and not isinstance(item, (nn.Module, LRScheduler)):
        return []
    return [(f"{name}.{key}", value) for key, value in vars(item).items()]


def _host_random() -> tuple[Any, ...]:
    kind, keys, position, *_ = np.random.get_state(legacy=True)
    ours = torch.get_rng_state().numpy().tobytes()
    return random.getstate(), kind, np.asarray(keys).tobytes(), position, ours
