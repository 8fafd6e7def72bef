"""The least time a training step can take: what it computes and moves, at the device's rates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from img2img.bench.hardware import Hardware
from img2img.engine.precision import Resolved
from img2img.methods import Method


@dataclass(frozen=True)
class StepWork:
    """What one training step does, whoever computes it.

    Attributes:
        flops: floating-point operations of convolutions and matrix products, forward and backward,
            for each pair of the batch; a multiplication and an addition are two.
        update_bytes: what the optimizers read and write, whatever the batch: for Adam in float32
            weight, gradient and two moments read, weight and two moments written, 28 bytes a
            parameter.
        parameters: that are trained.
        saved_bytes: what the forward pass keeps for the backward pass, for each pair.
    """

    flops: int
    update_bytes: int
    parameters: int
    saved_bytes: int

    def floor(self, hardware: Hardware, precision: Resolved, batch_size: int) -> float:
        """Seconds that a step of so many pairs takes at least.

        The two parts are added, because the weights are updated after all is computed. Left out is
        what depends on how the step is computed: reading and writing activations, norms and
        losses, starting kernels.
        """
        rate = matrix_rate(hardware, precision)
        return self.flops * batch_size / rate + self.update_bytes / hardware.bandwidth


def matrix_rate(hardware: Hardware, precision: Resolved) -> float:
    """Operations a second of the matrix products that a network in this precision is made of."""
    # torch lets cuDNN round float32 to TensorFloat-32 unless it is told not to.
    if precision == "float32" and torch.backends.cudnn.allow_tf32 and "tf32" in hardware.flops:
        return hardware.flops["tf32"]
    return hardware.flops[precision if precision in hardware.flops else "float32"]


def count_work(method: Method, source: Tensor, target: Tensor) -> StepWork:
    """Count while one step is trained for real; the method's networks change by it.

    Args:
        method: in float32, whose sizes are those of the weights.
        source: (B, C, H, W) in [-1, 1].
        target: the same.
    """
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # Weights are kept, too, and are there anyway.
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {
        parameter.untyped_storage().data_ptr()
        for network in method.networks.values()
        for parameter in network.parameters()
    }
    counter = FlopCounterMode(display=False)
    with counter, saved_tensors_hooks(note, lambda tensor: tensor):
        method.step(source, target)
    pairs = len(source)
    return StepWork(
        flops=counter.get_total_flops() // pairs,
        update_bytes=sum(_update_bytes(optimizer) for optimizer in method.optimizers.values()),
        parameters=sum(
            parameter.numel()
            for optimizer in method.optimizers.values()
            for group in optimizer.param_groups
            for parameter in group["params"]
        ),
        saved_bytes=sum(kept.values()) // pairs,
    )


def _update_bytes(optimizer: torch.optim.Optimizer) -> int:
    moved = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = [v for v in optimizer.state[parameter].values() if isinstance(v, Tensor)]
            if not state and parameter.grad is None:
                continue
            # Weight and gradient read, weight written; what is kept of each weight read and
            # written. The count of steps is one number.
            moved += 3 * parameter.nbytes
            moved += sum(2 * value.nbytes for value in state if value.shape == parameter.shape)
    return moved
