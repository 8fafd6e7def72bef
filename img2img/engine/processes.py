"""The processes that train one model together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from img2img.engine.link import Link
from img2img.engine.precision import resolve_device
from img2img.errors import RequestError, SaidElsewhere

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """Which of the processes of a run this one is; by default the only one.

    Attributes:
        rank: from 0, over all machines.
        world_size: how many there are.
        local_rank: from 0, on this machine; which of its devices is used.
        local_size: how many there are on this machine.
        restarts: how often torchrun has started them anew.
        link: to the others; None in a process that is alone, which never asks for one.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0
    link: Link | None = field(default=None, repr=False, compare=False)

    @property
    def main(self) -> bool:
        """Whether it is the one that writes and speaks."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.link is not None

    def gather(self, value: Any) -> list[Any]:
        """What every process gives here, in order of rank; waits for the last of them."""
        if self.link is None:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.link.host)
        return values

    def wait(self) -> None:
        """Go on when every process has come this far."""
        if self.link is not None:
            dist.all_reduce(torch.zeros(1), group=self.link.host)

    @contextmanager
    def first_on_each_machine(self) -> Iterator[None]:
        """A context that one process of each machine leaves before the others enter it.

        All enter it together; where one raises, the others do not go on alone.
        """
        if self.local_rank:
            self.wait()
        yield
        if not self.local_rank:
            self.wait()

    def decide(self, work: Callable[[], T]) -> T:
        """What `work` gives in the main process, told to all; elsewhere it is not called.

        Raises:
            Exception: what `work` raised; in the others SaidElsewhere, with the same exit code.
        """
        if self.link is None:
            return work()
        told: list[Any] = [None, None]
        failure: Exception | None = None
        if self.main:
            try:
                told[0] = work()
            except Exception as error:
                failure, told[1] = error, getattr(error, "exit_code", 1)
        dist.broadcast_object_list(told, src=0, group=self.link.host)
        if failure is not None:
            raise failure
        if told[1] is not None:
            raise SaidElsewhere(told[1])
        outcome: T = told[0]
        return outcome

    def note_saved(self, step: int | None) -> None:
        """Tell all which step a restart would go on from, for when one of them is lost.

        What the main process says counts: the others may be ahead of what it has written.
        """
        if self.link is not None and self.main:
            self.link.note_saved(step)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over all processes of a tensor on the run's device."""
        if self.link is None:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.world_size

    def device(self, name: str) -> torch.device:
        """The device of this process, of those that `--device` allows.

        Raises:
            RequestError: it is not here, or the machine has fewer than processes.
        """
        if self.world_size == 1:
            return resolve_device(name)
        if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
            return torch.device("cpu")
        if name not in ("auto", "cuda"):
            raise RequestError(
                f"--device {name}: torchrun gives each process a device of its own; leave the "
                f"option out, or use cuda or cpu"
            )
        resolve_device("cuda")
        count = torch.cuda.device_count()
        if self.local_size > count:
            raise RequestError(
                f"{self.local_size} processes on a machine that shows them {count} CUDA "
                f"device{'' if count == 1 else 's'}: use torchrun --nproc-per-node {count}, or "
                f"--device cpu"
            )
        return torch.device("cuda", self.local_rank)


def from_environment() -> Processes:
    """What torchrun says of this process; without it, a process that is alone.

    Raises:
        RequestError: the variables contradict each other.
    """

    def number(name: str, default: int) -> int:
        try:
            return int(os.environ.get(name, default))
        except ValueError:
            raise RequestError(
                f"the environment variable {name} is {os.environ[name]!r} and should be a number; "
                f"torchrun sets it"
            ) from None

    rank, world_size = number("RANK", 0), number("WORLD_SIZE", 1)
    local_rank = number("LOCAL_RANK", 0)
    # Without torchrun's variable, all that is known is that this process is on this machine.
    local_size = number("LOCAL_WORLD_SIZE", local_rank + 1)
    if not (0 <= rank < world_size and 0 <= local_rank < local_size):
        raise RequestError(
            f"the environment says process {rank} of {world_size} (RANK, WORLD_SIZE), {local_rank} "
            f"of {local_size} on this machine (LOCAL_RANK, LOCAL_WORLD_SIZE), which cannot be; "
            f"unset them, or start with torchrun"
        )
    restarts = number("TORCHELASTIC_RESTART_COUNT", 0)
    if world_size == 1:
        return Processes(restarts=restarts)
    return Processes(rank, world_size, local_rank, local_size, restarts)
