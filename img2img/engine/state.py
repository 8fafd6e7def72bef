"""Everything that changes while a run trains, as one object that can be saved and loaded."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from img2img.engine.average import WeightAverage
from img2img.methods import Method


@dataclass
class LossWindow:
    """Sums of the losses since the last log line, on the device; reading them is what waits."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        for name, value in losses.items():
            if name in self.sums:
                self.sums[name].add_(value)
            else:
                self.sums[name] = value.detach().float().clone()
        self.steps += 1

    def means(self) -> dict[str, float]:
        """Mean of each loss over the window; starts a new one. Waits for the device."""
        values = {name: total.item() / self.steps for name, total in self.sums.items()}
        self.sums, self.steps = {}, 0
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

    def __post_init__(self) -> None:
        if not self.base_rates:
            self.base_rates = {
                name: [float(group["lr"]) for group in optimizer.param_groups]
                for name, optimizer in self.method.optimizers.items()
            }

    @property
    def shown(self) -> nn.Module:
        """The generator as it is saved and judged: averaged, where the run averages."""
        return self.method.generator if self.average is None else self.average.network

    def count_step(self, pairs: int) -> None:
        """Note that a step on that many pairs is done."""
        self.step += 1
        self.images += pairs
        self.window_images += pairs
        if self.average is not None:
            self.average.update(self.method.generator, self.step)

    def scale_rates(self, factor: float) -> None:
        """Set every learning rate to `factor` times what it began with."""
        for name, optimizer in self.method.optimizers.items():
            for group, rate in zip(optimizer.param_groups, self.base_rates[name], strict=True):
                group["lr"] = rate * factor

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Tensors by file: networks, optimizers, random states and the loss window."""
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
        loose = {f"window.{name}": total for name, total in self.window.sums.items()}
        if self.average is not None:
            weights = self.average.network.state_dict()
            loose |= {f"average.{name}": value for name, value in weights.items()}
        loose["random.cpu"] = torch.get_rng_state()
        device = self._device()
        if device.type == "cuda":
            loose["random.cuda"] = torch.cuda.get_rng_state(device)
        return {"networks": networks, "optimizers": optimizers, "loose": loose}

    def values(self) -> dict[str, Any]:
        """Everything else, as JSON values."""
        optimizers = {}
        for name, optimizer in self.method.optimizers.items():
            state = optimizer.state_dict()
            optimizers[name] = {
                "groups": state["param_groups"],
                "state": {
                    str(index): {k: v for k, v in values.items() if not isinstance(v, Tensor)}
                    for index, values in state["state"].items()
                },
            }
        version, internal, gauss = random.getstate()
        kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
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
            "python_random": [version, list(internal), gauss],
            "numpy_random": [kind, np.asarray(keys).tolist(), position, has_gauss, cached],
        }

    def load(self, tensors: dict[str, dict[str, Tensor]], values: dict[str, Any]) -> None:
        """Take over what `tensors` and `values` gave, on whatever device this state is.

        Raises:
            KeyError, ValueError, RuntimeError: they belong to other networks or optimizers.
        """
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
            optimizer.load_state_dict({"state": state, "param_groups": saved["groups"]})
        self.step, self.images = values["step"], values["images"]
        self.elapsed_s = values["elapsed_s"]
        window = values["window"]
        device = self._device()
        # In their own order, which is that of the keys in metrics.jsonl.
        self.window = LossWindow(
            {name: tensors["loose"][f"window.{name}"].to(device) for name in window["names"]},
            window["steps"],
        )
        self.window_images, self.window_s = window["images"], window["seconds"]
        self.base_rates = values["base_rates"]
        torch.set_rng_state(tensors["loose"]["random.cpu"])
        if "random.cuda" in tensors["loose"] and device.type == "cuda":
            torch.cuda.set_rng_state(tensors["loose"]["random.cuda"], device)
        version, internal, gauss = values["python_random"]
        random.setstate((version, tuple(internal), gauss))
        kind, keys, position, has_gauss, cached = values["numpy_random"]
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))

    def _device(self) -> torch.device:
        return next(next(iter(self.method.networks.values())).parameters()).device
