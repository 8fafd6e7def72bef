"""Everything that changes while a run trains, as one object that can be saved and loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from img2img.engine.average import WeightAverage
from img2img.engine.loss_state import LossState
from img2img.engine.losses import StepLosses
from img2img.engine.optimizers import check_groups, load_optimizer, plain_groups, set_rate
from img2img.engine.own_state import OwnState
from img2img.engine.processes import Processes
from img2img.methods import Method, WeightedLoss


class LossWindow:
    """Sums of the losses since the last log line, on the device; reading them is what waits.

    Args:
        sums: what to go on from, scalars on the device.
        steps: how many are in them.
    """

    def __init__(self, sums: Mapping[str, Tensor] | None = None, steps: int = 0) -> None:
        self.steps = steps
        self._names = tuple(sums or ())
        self._totals = torch.stack([total.float() for total in sums.values()]) if sums else None

    @property
    def sums(self) -> dict[str, Tensor]:
        """The sums by name, in the order in which losses of that name first came."""
        return {} if self._totals is None else dict(zip(self._names, self._totals, strict=True))

    def add(self, losses: StepLosses, share: float = 1.0) -> None:
        """Take in a step; `share` weighs it where other processes had more or fewer pairs."""
        self.steps += 1
        if self._totals is None:
            self._names, self._totals = losses.names, losses.vector * share
        elif losses.names == self._names:
            self._totals.add_(losses.vector, alpha=share)
        else:
            self._add_by_name(losses, self._totals, share)

    def _add_by_name(self, losses: StepLosses, totals: Tensor, share: float) -> None:
        """As a method needs that gives other losses in some steps than in others."""
        known = dict(zip(self._names, totals, strict=True))
        new = [name for name in losses if name not in known]
        for name, value in losses.items():
            if name in known:
                known[name].add_(value, alpha=share)
        if new:
            self._names += tuple(new)
            self._totals = torch.cat([totals, torch.stack([losses[name] for name in new]) * share])

    def means(self, processes: Processes | None = None) -> dict[str, float]:
        """Mean of each loss over the window and all processes; starts a new window.

        Waits for the device, and for the other processes.
        """
        values: dict[str, float] = {}
        if self._totals is not None and self._names:
            totals = self._totals if processes is None else processes.mean(self._totals)
            sums = zip(self._names, totals.tolist(), strict=True)
            values = {name: total / self.steps for name, total in sums}
        self._names, self._totals, self.steps = (), None, 0
        return values


@dataclass
class TrainState:
    """Networks, optimizers, step, random states, and what the next log line needs.

    Data order and augmentation are functions of the step, so they need no state.

    Attributes:
        method: owns networks and optimizers.
        step: steps done.
        images: pairs seen.
        elapsed_s: seconds of training, over all sessions.
        window: losses since the last log line.
        window_images: pairs since then.
        window_s: seconds since then, before this session.
        base_rates: each optimizer's learning rates before the schedule.
        average: of the generator's weights, where the run keeps one.
        losses: as they were built; what modules among them keep is part of the state.
    """

    method: Method
    step: int = 0
    images: int = 0
    elapsed_s: float = 0.0
    window: LossWindow = field(default_factory=LossWindow)
    window_images: int = 0
    window_s: float = 0.0
    base_rates: dict[str, list[float]] = field(default_factory=dict)
    average: WeightAverage | None = None
    losses: Sequence[WeightedLoss] = ()
    # By optimizer and group, the rate that a tensor was last filled with: the tensor, its version
    # after that, and the rate.
    _filled: dict[tuple[str, int], tuple[Tensor, int, float]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        self._loss_state = LossState(self.losses, self.method.networks.values())
        if not self.base_rates:
            self.base_rates = {
                name: [float(group["lr"]) for group in optimizer.param_groups]
                for name, optimizer in self.method.optimizers.items()
            }

    @property
    def shown(self) -> nn.Module:
        """The generator as it is saved and judged: averaged, where the run averages."""
        return self.method.generator if self.average is None else self.average.network

    def networks(self) -> list[nn.Module]:
        """All that have weights or statistics, the average included."""
        own = [] if self.average is None else [self.average.network]
        return [*self.method.networks.values(), *own]

    def count_step(self, pairs: int) -> None:
        """Note that a step on that many pairs is done."""
        self.step += 1
        self.images += pairs
        self.window_images += pairs
        if self.average is not None:
            self.average.update(self.method.generator, self.step)

    def scale_rates(self, factor: float) -> None:
        """Set every learning rate to `factor` times what it began with.

        One on the device is filled only where it is another already, which its version tells of
        all but what a recorded step does.
        """
        for name, optimizer in self.method.optimizers.items():
            groups = zip(optimizer.param_groups, self.base_rates[name], strict=True)
            for index, (group, base) in enumerate(groups):
                rate, kept = base * factor, group["lr"]
                if not isinstance(kept, Tensor):
                    set_rate(group, rate)
                    continue
                tensor, version, before = self._filled.get((name, index), (None, -1, 0.0))
                if tensor is not kept or (version, before) != (kept._version, rate):
                    set_rate(group, rate)
                    self._filled[name, index] = kept, kept._version, rate

    def own(self) -> OwnState:
        """What only this process has of the state. Waits for the device."""
        return OwnState.take(self.window.sums, self._loss_state.tensors(), self._device())

    def tensors(self, own: Sequence[OwnState]) -> dict[str, dict[str, Tensor]]:
        """Tensors by file: networks, optimizers, and what each process had for itself."""
        optimizers: dict[str, Tensor] = {}
        for name, optimizer in self.method.optimizers.items():
            for index, values in optimizer.state_dict()["state"].items():
                for key, value in values.items():
                    if isinstance(value, Tensor):
                        optimizers[f"{name}.{index}.{key}"] = value
        networks = {
            f"{name}.{key}": value
            for name, network in self.method.networks.items()
            for key, value in network.state_dict().items()
        }
        loose = own[0].tensors()
        for rank, state in enumerate(own[1:], 1):
            loose |= state.tensors(f"process{rank}.")
        if self.average is not None:
            weights = self.average.network.state_dict()
            loose |= {f"average.{name}": value for name, value in weights.items()}
        return {"networks": networks, "optimizers": optimizers, "loose": loose}

    def values(self, own: Sequence[OwnState]) -> dict[str, Any]:
        """Everything else, as JSON values."""
        optimizers = {}
        for name, optimizer in self.method.optimizers.items():
            state = optimizer.state_dict()
            optimizers[name] = {
                "groups": plain_groups(optimizer),
                "state": {
                    str(index): {k: v for k, v in values.items() if not isinstance(v, Tensor)}
                    for index, values in state["state"].items()
                },
            }
        return {
            "step": self.step,
            "images": self.images,
            "elapsed_s": self.elapsed_s,
            "window": {
                "steps": self.window.steps,
                "images": self.window_images,
                "seconds": self.window_s,
                "names": list(self.window.sums),
            },
            "base_rates": self.base_rates,
            "optimizers": optimizers,
            **own[0].values(),
            "other_processes": [state.values() for state in own[1:]],
        }

    def load(
        self,
        tensors: dict[str, dict[str, Tensor]],
        values: dict[str, Any],
        processes: Processes | None = None,
    ) -> bool:
        """Take over what `tensors` and `values` gave, on whatever device this state is.

        Returns:
            Whether it is this process's own state: not where another number of processes gave it.
            Then losses go on from their mean over those, and random states stay as they are.

        Raises:
            KeyError, ValueError, RuntimeError: they belong to other networks or optimizers.
        """
        self._check(values)
        for name, network in self.method.networks.items():
            prefix = f"{name}."
            network.load_state_dict(
                {
                    key.removeprefix(prefix): value
                    for key, value in tensors["networks"].items()
                    if key.startswith(prefix)
                }
            )
        if self.average is not None:
            self.average.network.load_state_dict(
                {
                    key.removeprefix("average."): value
                    for key, value in tensors["loose"].items()
                    if key.startswith("average.")
                }
            )
        for name, optimizer in self.method.optimizers.items():
            saved = values["optimizers"][name]
            state: dict[int, dict[str, Any]] = {
                int(index): dict(inner) for index, inner in saved["state"].items()
            }
            for key, value in tensors["optimizers"].items():
                owner, index, field_name = key.split(".", 2)
                if owner == name:
                    state[int(index)][field_name] = value
            load_optimizer(optimizer, state, saved["groups"])
        self.step, self.images = values["step"], values["images"]
        self.elapsed_s = values["elapsed_s"]
        window = values["window"]
        device = self._device()
        # In their own order, which is that of the keys in metrics.jsonl.
        names = window["names"]
        own = [OwnState.read(names, tensors["loose"], values)] + [
            OwnState.read(names, tensors["loose"], other, f"process{rank}.")
            for rank, other in enumerate(values.get("other_processes", ()), 1)
        ]
        processes = processes or Processes()
        same = len(own) == processes.world_size
        sums = {name: torch.stack([state.sums[name] for state in own]).mean(0) for name in names}
        if same:
            own[processes.rank].restore(device)
            sums = own[processes.rank].sums
        self._loss_state.load(own[processes.rank if same else 0].losses, device)
        # A copy, because on the CPU it would be the file's.
        sums = {name: total.to(device, copy=True) for name, total in sums.items()}
        self.window = LossWindow(sums, window["steps"])
        self.window_images, self.window_s = window["images"], window["seconds"]
        self.base_rates = values["base_rates"]
        return same

    def _check(self, values: dict[str, Any]) -> None:
        """Raise a ValueError unless values are such as this state would write."""
        own = self.values([self.own()])
        for key in ("step", "images", "elapsed_s", "window", "base_rates"):
            check_alike(values[key], own[key], key)
        if not all(isinstance(name, str) for name in values["window"]["names"]):
            raise ValueError("window.names should be texts")
        for name, optimizer in self.method.optimizers.items():
            saved = values["optimizers"][name]
            check_groups(saved["groups"], optimizer, f"optimizers.{name}.groups")

    def _device(self) -> torch.device:
        return next(next(iter(self.method.networks.values())).parameters()).device


def check_alike(found: Any, own: Any, place: str) -> None:
    """Raise a ValueError unless plain values have the keys and types that a state's own have.

    Numbers are finite and, where whole, not below 0; lists are as long, but for `names`.
    """
    if isinstance(own, dict):
        if not isinstance(found, dict) or found.keys() != own.keys():
            raise ValueError(f"{place} should have the keys {', '.join(map(str, own))}")
        for key, value in own.items():
            check_alike(found[key], value, f"{place}.{key}")
    elif isinstance(own, (list, tuple)):
        alike = isinstance(found, (list, tuple))
        if not alike or (len(found) != len(own) and not place.endswith(".names")):
            raise ValueError(f"{place} should be a list of {len(own)} values")
        for one, other in zip(found, own, strict=False):
            check_alike(one, other, place)
    elif isinstance(own, float):
        if type(found) not in (int, float) or not math.isfinite(found):
            raise ValueError(f"{place} should be a number")
    elif type(found) is not type(own) or (type(own) is int and not 0 <= found < 2**63):
        raise ValueError(f"{place} should be a value such as {own!r}")
