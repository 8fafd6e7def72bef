"""Gradients, weights and running statistics that are those of all processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from img2img.data.loading import Batch
from img2img.engine.processes import Processes
from img2img.errors import Img2ImgError
from img2img.layers import SyncBatchNorm
from img2img.methods import Method

# Of gradients that travel together, as in torch's DistributedDataParallel: enough to make the cost
# of starting small, and little beside the gradients themselves, of which it is a copy.
BUCKET_BYTES = 25 * 2**20


class MeanGradients:
    """Before each optimizer's step, gradients become their mean over all processes' pairs.

    Works with any method: it hooks into the optimizers. torch's DistributedDataParallel is not
    used, because it wraps one network and wants each forward followed by one backward, while a
    method has several networks and optimizers, calls a discriminator three times in a step, and
    turns `requires_grad` off and on between.

    A parameter without a gradient is passed over; it must then have none in any process, which is
    so for every method that takes the same path whatever the images. It is looked at before each
    optimizer's first step, because processes that average different things end with an abort or
    never.

    Attributes:
        share: the weight of this process's gradients in the next step.
        even: whether all processes have as many pairs in the step. Where they have not, none may
            replay a recorded one, in which all gradients weigh the same.

    Args:
        method: what is trained.
        processes: those that train it; a single one changes nothing.
    """

    def __init__(self, method: Method, processes: Processes) -> None:
        self.share, self.even = 1.0, True
        self._processes, self._world_size = processes, processes.world_size
        self._unchecked = {id(optimizer): name for name, optimizer in method.optimizers.items()}
        self._norms: list[SyncBatchNorm] = []
        if not processes.several:
            return
        for network in method.networks.values():
            self._norms += [part for part in network.modules() if isinstance(part, SyncBatchNorm)]
        for optimizer in method.optimizers.values():
            optimizer.register_step_pre_hook(self._average)

    def weigh(self, batch: Batch) -> None:
        """Give this process's gradients the weight of its part of the step's pairs."""
        self.share, self.even = batch.share, batch.pairs % self._world_size == 0
        for norm in self._norms:
            norm.share = None if self.even else batch.share

    @torch.no_grad()
    def _average(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        name = self._unchecked.pop(id(optimizer), None)
        if name is not None:
            self._check(name, [*args[1:], *kwargs.values()], parameters)
        found = [_as_stored(p, p.grad) for p in parameters if p.grad is not None]
        # One travels while the one before it is unpacked and the next is packed.
        last: tuple[Tensor, list[Tensor], Any] | None = None
        for gradients in buckets(found, BUCKET_BYTES):
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            if self.share != 1:
                flat.mul_(self.share)
            before, last = last, (flat, gradients, dist.all_reduce(flat, async_op=True))
            self._unpack(before)
        self._unpack(last)

    def _unpack(self, arriving: tuple[Tensor, list[Tensor], Any] | None) -> None:
        if arriving is not None:
            flat, gradients, work = arriving
            work.wait()
            flat.div_(self._world_size)
            _copy_back(flat, gradients)

    def _check(self, name: str, arguments: list[Any], parameters: list[Tensor]) -> None:
        """Raise an Img2ImgError, in all processes, where gradients cannot be averaged."""
        closure = any(callable(argument) for argument in arguments)
        having = [parameter.grad is not None for parameter in parameters]
        told = self._processes.gather((name, closure, having))
        if any(closure for _, closure, _ in told):
            raise Img2ImgError(
                f"the method gives its optimizer {name!r} a closure, whose gradients come too late "
                f"to be averaged over processes; train it with one process"
            )
        if any(other != told[0] for other in told):
            raise Img2ImgError(
                f"processes differ in what they train at the first step of the optimizer {name!r}: "
                f"a method must call its optimizers in one order, and give the same parameters "
                f"gradients, whatever the images and the process"
            )


def make_alike(method: Method, processes: Processes) -> None:
    """Give all processes the weights and buffers of the main one."""
    if not processes.several:
        return
    with torch.no_grad():
        for network in method.networks.values():
            for tensor in (*network.parameters(), *network.buffers()):
                whole = tensor.detach().clone(memory_format=torch.contiguous_format)
                dist.broadcast(whole, src=0)
                tensor.copy_(whole)


@torch.no_grad()
def average_statistics(networks: Iterable[nn.Module], processes: Processes) -> None:
    """Give all processes the mean of their floating-point buffers, such as running statistics.

    Of plain batch norm, whose statistics are those of what each process saw; all else is equal
    anyway, and stays as it is to the last bit.
    """
    if not processes.several:
        return
    found = [b for network in networks for b in network.buffers() if b.is_floating_point()]
    for buffers in buckets(found, BUCKET_BYTES):
        flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
        first = flat.clone()
        dist.broadcast(first, src=0)
        # As differences, because the mean of three equal numbers need not be that number.
        flat.sub_(first)
        dist.all_reduce(flat)
        _copy_back(first.add_(flat.div_(processes.world_size)), buffers)


def buckets(tensors: Iterable[Tensor], most_bytes: int) -> list[list[Tensor]]:
    """Neighbours of one type and device, at most so many bytes together, or one that is larger."""
    groups: list[list[Tensor]] = []
    size, last = 0, None
    for tensor in tensors:
        kind, bytes_ = (tensor.dtype, tensor.device), tensor.numel() * tensor.element_size()
        if kind != last or size + bytes_ > most_bytes:
            groups.append([])
            size, last = 0, kind
        groups[-1].append(tensor)
        size += bytes_
    return groups


def _as_stored(parameter: Tensor, gradient: Tensor) -> Tensor:
    """A gradient in the order that memory has the weights in, the same in all processes.

    So it is copied as it lies, most often.
    """
    channels_last = parameter.dim() == 4 and not parameter.is_contiguous()
    return gradient.permute(0, 2, 3, 1) if channels_last else gradient


def _copy_back(flat: Tensor, tensors: list[Tensor]) -> None:
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    views = [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
    torch._foreach_copy_(tensors, views)
