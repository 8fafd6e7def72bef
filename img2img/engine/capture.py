"""A whole training step as one CUDA graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from img2img.engine.losses import StepLosses
from img2img.methods import Method


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


@dataclass(frozen=True)
class Memory:
    """Bytes of a device that torch has reserved, and how many of these nothing lies in."""

    reserved: int
    idle: int

    @classmethod
    def of(cls, device: torch.device) -> Memory:
        """What it is by now."""
        reserved = torch.cuda.memory_reserved(device)
        return cls(reserved, reserved - torch.cuda.memory_allocated(device))

    def __sub__(self, before: Memory) -> Memory:
        return Memory(self.reserved - before.reserved, self.idle - before.idle)


class Recording:
    """A step recorded on tensors of its own; a replay repeats it on what is copied into them.

    It keeps the memory of a whole step, which no other step can use, until it is closed.
    """

    def __init__(
        self,
        graph: torch.cuda.CUDAGraph,
        source: Tensor,
        target: Tensor,
        losses: StepLosses,
        parameters: list[nn.Parameter],
        memory: Memory,
    ) -> None:
        self._graph, self._source, self._target, self._losses = graph, source, target, losses
        self._gradients = [(parameter, parameter.grad) for parameter in parameters]
        self._memory, self._device = memory, source.device
        # Gradients, and as much again for what is made of weights: casts, an optimizer's updates.
        weights = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
        self._whatever_batch = min(2 * weights, memory.reserved)

    @classmethod
    def of(
        cls, method: Method, source: Tensor, target: Tensor, stream: torch.cuda.Stream
    ) -> tuple[Recording | None, str | None]:
        """The method's step on batches like these; or None and the reason.

        Recording runs nothing, so it leaves weights as they are.
        """
        source, target = source.clone(), target.clone()
        parameters = [p for network in method.networks.values() for p in network.parameters()]
        trained = [parameter.requires_grad for parameter in parameters]
        # Gradients are made anew inside, in memory that belongs to the recording.
        for parameter in parameters:
            parameter.grad = None
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        current = torch.cuda.current_stream(stream.device)
        try:
            # Other threads, such as NCCL's watchdog, may ask the device something meanwhile, which
            # the default mode would not allow.
            with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
                start = Memory.of(stream.device)
                # As one vector in here, so that a replay leaves it ready.
                losses = StepLosses.of(method.step(source, target), source.device)
                taken = Memory.of(stream.device) - start
        # CUDA tells what it will not record in many ways, and then the step simply runs as it is.
        except Exception as error:
            _recover(current, pool)
            # What a step that broke off in its middle left behind, gradients never computed too.
            for parameter, before in zip(parameters, trained, strict=True):
                parameter.requires_grad_(before)
                parameter.grad = None
            first_line = str(error).strip().split("\n")[0]  # CUDA's texts go on for many
            return None, f"cannot be recorded ({type(error).__name__}: {first_line})"
        return cls(graph, source, target, losses, parameters, taken), None

    def fits(self, source: Tensor, target: Tensor) -> bool:
        """Whether batches have the shapes that were recorded."""
        return source.shape == self._source.shape and target.shape == self._target.shape

    def replay(self, source: Tensor, target: Tensor) -> StepLosses:
        """The step on these batches (B, C, H, W); its losses, overwritten by the next replay."""
        self._source.copy_(source, non_blocking=True)
        self._target.copy_(target, non_blocking=True)
        self._graph.replay()
        return self._losses

    def leaves_room(self, source: Tensor, target: Tensor) -> bool:
        """Whether a step on these batches, not recorded, has memory beside it.

        By what this one took: activations grow with a batch, what belongs to weights does not.
        """
        share = (source.numel() + target.numel()) / (self._source.numel() + self._target.numel())
        by_batch = share * (self._memory.reserved - self._whatever_batch)
        free, _ = torch.cuda.mem_get_info(self._device)
        idle = Memory.of(self._device).idle - self._memory.idle
        return self._whatever_batch + by_batch <= free + idle

    def restore_gradients(self) -> None:
        """Make parameters' gradients those that a replay fills; others give their memory back."""
        for parameter, gradient in self._gradients:
            parameter.grad = gradient

    def close(self) -> None:
        """Give the recording's memory back. NCCL does not end while collectives are recorded."""
        self._graph.reset()
        for parameter, gradient in self._gradients:
            if parameter.grad is gradient:
                parameter.grad = None
        self._gradients.clear()


def _recover(stream: torch.cuda.Stream, pool: tuple[int, int]) -> None:
    """Undo what torch before 2.13 leaves behind where CUDA ends a recording.

    There the recording's stream stays the current one; the next dropout fails, because random
    numbers count as being recorded; and neither memory that two streams used nor that of the
    recording is ever given back.
    """
    torch.cuda.set_stream(stream)
    device = stream.device.index
    # Later versions have done all of it, and say so by an error.
    with contextlib.suppress(Exception):
        torch._C._cuda_endAllocateToPool(device, pool)
        torch._C._cuda_releasePool(device, pool)
    with contextlib.suppress(Exception):
        generator = torch.cuda.default_generators[device]
        generator.graphsafe_set_state(generator.clone_state())
