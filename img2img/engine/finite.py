"""Numbers that are no numbers: noticed before anything is saved that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isfinite

import torch
from torch import Tensor

from img2img.data.loading import Part, StepSampler
from img2img.data.order import Order
from img2img.engine.checkpoint import find_checkpoints, step_of
from img2img.engine.health import Health
from img2img.engine.losses import StepLosses
from img2img.engine.run import Run
from img2img.engine.state import TrainState
from img2img.errors import ImageError, Img2ImgError, SaidElsewhere
from img2img.names import printable
from img2img.report.page import write_report

# Pairs that a message names; of a large batch the first few are enough to begin with.
NAMED = 4
# Pairs whose values are looked at once something went wrong.
LOOKED_AT = 64
# Steps whose losses are kept unread; log lines mostly come sooner.
KEPT_STEPS = 1024


class FirstBad:
    """Finds the first step with a loss that was not finite; reading waits for the device.

    A step's losses are copied into the next row of a table there, which is one operation; what
    they are is looked at when they are read.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # By name, since a method may give other losses in some steps than in others.
        self._rows: dict[tuple[str, ...], Tensor] = {}
        self._steps: dict[tuple[str, ...], list[int]] = {}
        self._found: tuple[int, str] | None = None

    def note(self, losses: StepLosses, step: int) -> None:
        """Take in the losses of a step; waits for the device once in `KEPT_STEPS` unread ones."""
        if not losses:
            return
        names = losses.names
        if names not in self._rows:
            self._rows[names] = torch.empty(KEPT_STEPS, len(names), device=self._device)
            self._steps[names] = []
        steps = self._steps[names]
        if len(steps) == KEPT_STEPS:
            self.read()
        self._rows[names][len(steps)].copy_(losses.vector)
        steps.append(step)

    def read(self) -> tuple[int, str] | None:
        """The earliest such step and the first of its losses; waits for the device."""
        for names, steps in self._steps.items():
            if not steps:
                continue
            for step, row in zip(steps, self._rows[names][: len(steps)].tolist(), strict=True):
                bad = [name for name, value in zip(names, row, strict=True) if not isfinite(value)]
                if bad and (self._found is None or step < self._found[0]):
                    self._found = step, bad[0]
            steps.clear()
        return self._found


class FiniteGuard:
    """Ends a run whose losses or weights are no numbers, before a file is made of them.

    One process on the CPU looks at losses after each step. Elsewhere, and where several processes
    must end together, they are at the steps that log or save something; none of the steps between
    has left anything behind.

    Args:
        run: what is trained.
        state: its state.
        health: tells why it ended; None in all processes but the main one.
        settle: waits for what is being written.
    """

    def __init__(
        self,
        run: Run,
        state: TrainState,
        health: Health | None,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self._run, self._state, self._health, self._settle = run, state, health, settle
        self._losses = FirstBad(run.device)
        self._each_step = run.device.type == "cpu" and not run.processes.several

    def note(self, losses: StepLosses) -> None:
        """Take in the losses of the step that is counted last."""
        self._losses.note(losses, self._state.step)

    def check(self, *, reading: bool, saving: bool) -> None:
        """Look at what was noted; called by all processes with the same arguments.

        Args:
            reading: whether this is a step that waits for the device anyway.
            saving: whether something will be made of the weights, which are looked at then.

        Raises:
            Img2ImgError: a loss or a weight is not finite; in all processes but the main one
                SaidElsewhere.
        """
        if not (reading or saving or self._each_step):
            return
        processes = self._run.processes
        losses = processes.gather(self._losses.read())
        if found := [item for item in losses if item is not None]:
            step, name = min(found, key=lambda item: item[0])
            self._stop(step, f"the loss {name!r} is not finite at step {step}")
        if saving:
            weights = processes.gather(first_not_finite(self._state))
            if found_weights := [item for item in weights if item is not None]:
                step = self._state.step
                text = f"{found_weights[0]} holds values that are not finite after step {step}"
                self._stop(step, f"{text}, though every loss was finite until then")

    def _stop(self, step: int, what: str) -> None:
        run = self._run
        names, bad = _pairs_of(run, step)
        told = run.processes.gather((names, bad))
        if not run.processes.main:
            raise SaidElsewhere(1)
        names, bad = [n for names, _ in told for n in names], [b for _, bad in told for b in bad]
        failed: Exception | None = None
        try:
            self._settle()
        except Exception as error:  # of a file before, which is not why the run ends
            failed = error
        saved = find_checkpoints(run.directory)
        if saved:
            goes_on = f"the last good checkpoint is that of step {step_of(saved[-1])}"
        else:
            goes_on = "there is no checkpoint yet"
        message = f"{what}; nothing was saved after it, and {goes_on}."
        if bad:
            message += (
                f" Its cause: {_some(bad)}, with values that are not finite in the image. Mend it "
                f"or take it out, then use {'--resume' if saved else '--fresh'}"
            )
        else:
            message += (
                f" Its batch: {_some(names)}. --resume takes the same steps again and would meet "
                f"the same, unless it helps to compute in more digits (--precision float32, which "
                f"may change on --resume). What usually helps: a lower method.learning_rate or "
                f"smaller weights of the losses (which may not: start again with --fresh or another"
                f" --out), and a look at these images (`img2img check`)"
            )
        if failed is not None:
            message += f". And a file was not written: {failed}"
        if self._health is not None:
            self._health.warn(step, "not_finite", message, aloud=False)
            write_report(run.directory.path)
        raise Img2ImgError(message) from failed


def first_not_finite(state: TrainState) -> str | None:
    """Name of the first weight, or optimizer's mean of its gradients, that is not finite.

    Waits for the device. Buffers are left out: a network may hold infinities there on purpose.
    """
    names: dict[torch.device, list[str]] = {}
    finite: dict[torch.device, list[Tensor]] = {}
    for name, tensor in _tensors(state):
        # A sum is not finite if one of its terms is not, and takes one pass without a copy.
        kind = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        names.setdefault(tensor.device, []).append(name)
        finite.setdefault(tensor.device, []).append(torch.isfinite(tensor.sum(dtype=kind)))
    for device, flags in finite.items():
        for name, good in zip(names[device], torch.stack(flags).tolist(), strict=True):
            if not good:
                return name
    return None


def _tensors(state: TrainState) -> Iterator[tuple[str, Tensor]]:
    networks = dict(state.method.networks)
    if state.average is not None:
        networks["average"] = state.average.network
    known: dict[int, str] = {}
    for network, module in networks.items():
        for name, parameter in module.named_parameters():
            if parameter.is_floating_point():
                known[id(parameter)] = name
                yield f"{name!r} of the network {network!r}", parameter.detach()
    for owner, optimizer in state.method.optimizers.items():
        for owned, values in optimizer.state.items():
            for key, value in values.items():
                if isinstance(value, Tensor) and value.is_floating_point():
                    name = known.get(id(owned), "a parameter")
                    yield f"{key!r} of {name!r} in the optimizer {owner!r}", value


def _pairs_of(run: Run, step: int) -> tuple[list[str], list[str]]:
    """Names of this process's pairs of a step, and of those whose tensors are not finite."""
    part = _part_of(run, step)
    if part.share == 0:
        return [], []
    dataset, bad = run.train_pairs, []
    names = [dataset.pairs.name(index) for index in part.indices]
    for name, index in list(zip(names, part.indices, strict=True))[:LOOKED_AT]:
        try:
            images = dict(
                zip(("source", "target"), dataset.tensors(index, part.epoch), strict=True)
            )
        except (ImageError, OSError):
            continue  # it was replaced by the next, or is gone by now
        wrong = [which for which, image in images.items() if not bool(image.isfinite().all())]
        if wrong:
            bad.append(f"{' and '.join(wrong)} of {name}")
    return names, bad


def _part_of(run: Run, step: int) -> Part:
    dataset, processes = run.train_pairs, run.processes
    order = Order(len(dataset), dataset.seed, getattr(dataset.pairs, "shards", None))
    sampler = StepSampler(
        order,
        run.plan.batch_size,
        step - 1,
        step,
        rank=processes.rank,
        world_size=processes.world_size,
    )
    return next(iter(sampler))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(printable(name) for name in names[:NAMED]) + more
