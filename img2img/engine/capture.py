"""A whole training step as one CUDA graph, and what keeps a method from being recorded."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Iterator
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from img2img.methods import Method

# What of an object is looked at for a change; anything else is left to whoever made it.
PLAIN = (int, float, str, bytes, bool, type(None), torch.dtype)


def make_capturable(optimizers: Iterable[Optimizer], device: torch.device) -> str | None:
    """Let optimizers keep on the device what a recorded step reads: learning rate and step count.

    A learning rate becomes a tensor, which a schedule fills instead of replacing it. Gives the
    reason where an optimizer cannot, and changes none then.
    """
    optimizers = list(optimizers)
    for optimizer in optimizers:
        if not all("capturable" in group for group in optimizer.param_groups):
            return f"trains with {type(optimizer).__name__}, which cannot be recorded"
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["capturable"] = True
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
        for state in optimizer.state.values():
            step = state.get("step")
            if isinstance(step, Tensor):
                state["step"] = step.to(device)
    return None


class Recording:
    """A step recorded on tensors of its own; a replay repeats it on what is copied into them."""

    def __init__(
        self,
        graph: torch.cuda.CUDAGraph,
        source: Tensor,
        target: Tensor,
        losses: dict[str, Tensor],
    ) -> None:
        self._graph, self._source, self._target, self._losses = graph, source, target, losses

    @classmethod
    def of(
        cls, method: Method, source: Tensor, target: Tensor, stream: torch.cuda.Stream
    ) -> tuple[Recording | None, str | None]:
        """The method's step on batches like these; or None and the reason.

        Recording runs nothing, so it leaves weights as they are.
        """
        source, target = source.clone(), target.clone()
        # Gradients are made anew inside, in memory that belongs to the recording.
        for network in method.networks.values():
            network.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        try:
            # The loader's thread pins memory meanwhile, which the default mode would not allow.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                losses = method.step(source, target)
        # CUDA tells what it will not record in many ways, and then the step simply runs as it is.
        except Exception as error:
            return None, f"cannot be recorded ({type(error).__name__}: {first_line(error)})"
        return cls(graph, source, target, losses), None

    def fits(self, source: Tensor, target: Tensor) -> bool:
        """Whether batches have the shapes that were recorded."""
        return source.shape == self._source.shape and target.shape == self._target.shape

    def replay(self, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The step on these batches (B, C, H, W); its losses, overwritten by the next replay."""
        self._source.copy_(source, non_blocking=True)
        self._target.copy_(target, non_blocking=True)
        self._graph.replay()
        return self._losses


class StillValues:
    """Watches one step for what a recording would freeze or could not hold.

    A replay runs no Python: a counter, a schedule or a random number of the host's would stay as
    it was when it was recorded, and nobody would notice. After the context `changed` says what was
    found, or is None.

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
            self._before = dict(_plain_values(self._method, self._device))
            self._random = _host_random()
            if torch.cuda.is_available():
                # The step is real training and has to end well, so this only tells.
                self._mode = torch.cuda.get_sync_debug_mode()
                torch.cuda.set_sync_debug_mode("warn")
            self._warnings = warnings.catch_warnings(record=True)
            self._told = self._warnings.__enter__()
            warnings.simplefilter("always")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if not self._watch:
            return
        self._warnings.__exit__(kind, error, at)
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode(self._mode)
        synchronizes = [w for w in self._told if "synchronizing" in str(w.message)]
        for other in self._told:
            if other not in synchronizes:
                warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
        after = dict(_plain_values(self._method, self._device))
        moved = [name for name in {**self._before, **after} if self._changed(name, after)]
        if synchronizes:
            where = synchronizes[0]
            self.changed = f"waits for the device ({where.filename}, line {where.lineno})"
        elif moved:
            self.changed = f"keeps count in Python ({moved[0]} changes from step to step)"
        elif _differ(self._random, _host_random()):
            self.changed = "draws random numbers on the host"

    def _changed(self, name: str, after: dict[str, Any]) -> bool:
        if name not in self._before or name not in after:
            return True
        return bool(self._before[name] != after[name])


def _plain_values(method: Method, device: torch.device) -> Iterator[tuple[str, Any]]:
    """What the method, its losses, optimizers and modules keep on the host: numbers and texts."""
    objects: list[tuple[str, Any]] = [(type(method).__name__, method)]
    seen: set[int] = set()
    while objects:
        name, item = objects.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, PLAIN):
            yield name, item
        elif isinstance(item, Tensor):
            if item.device.type != device.type:
                yield name, item._version
        elif isinstance(item, Optimizer):
            objects += [(f"{name}.param_groups", item.param_groups)]
        elif isinstance(item, dict):
            objects += [(f"{name}[{key!r}]", value) for key, value in item.items()]
        elif isinstance(item, (list, tuple)):
            objects += [(f"{name}[{i}]", value) for i, value in enumerate(item)]
        elif hasattr(item, "__dict__") and _is_part(item):
            objects += [(f"{name}.{key}", value) for key, value in vars(item).items()]


def _is_part(item: Any) -> bool:
    if isinstance(item, (type, ModuleType)):
        return False
    return isinstance(item, nn.Module) or not type(item).__module__.startswith("torch")


def _host_random() -> tuple[Any, ...]:
    kind, keys, position, *_ = np.random.get_state(legacy=True)
    return random.getstate(), (kind, np.asarray(keys).tobytes(), position), torch.get_rng_state()


def _differ(before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    return before[:2] != after[:2] or not torch.equal(before[2], after[2])


def first_line(error: Exception) -> str:
    """The first line of an error's text; CUDA's go on for many."""
    return str(error).strip().split("\n")[0]
