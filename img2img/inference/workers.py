"""Several processes for one folder, as torchrun starts them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType

import torch
import torch.distributed as dist
from torch import Tensor

from img2img.errors import Img2ImgError, RequestError
from img2img.inference.planning import Share

# How long one waits for another. Shares of a large folder may end days apart.
PATIENCE = timedelta(days=365)
# Bytes of what workers tell each other: a message, or a few numbers.
LETTER = 4096


@dataclass(frozen=True)
class Place:
    """Which of the processes this one is.

    Attributes:
        rank: among all, from 0 on.
        size: how many there are.
        local_rank: among those on this machine.
        local_size: how many there are on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def share(self) -> Share:
        """The files this process takes."""
        return Share(self.rank, self.size)

    def device(self, name: str, count: int) -> str:
        """The device of `--device auto` and `cuda`: a GPU for each process of a machine.

        Args:
            name: what was asked for.
            count: GPUs of this machine.
        """
        if self.size == 1 or name not in ("auto", "cuda") or not count:
            return name
        return f"cuda:{self.local_rank % count}"

    @property
    def threads(self) -> int:
        """This process's part of the cores that it may use."""
        has_affinity = hasattr(os, "sched_getaffinity")
        cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
        return max(1, min(16, cores // self.local_size))


def find_place(environment: Mapping[str, str]) -> Place:
    """The place that torchrun gave this process; the only one where it did not.

    Raises:
        RequestError: the variables contradict each other.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return Place()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    said = {name: environment.get(name, "1" if name.endswith("SIZE") else "0") for name in names}
    shown = ", ".join(f"{name}={value!r}" for name, value in said.items())
    try:
        place = Place(*map(int, said.values()))
    except ValueError:
        raise RequestError(f"the environment has {shown}: whole numbers are expected") from None
    if not (0 <= place.rank < place.size and 0 <= place.local_rank < place.local_size):
        raise RequestError(f"the environment has {shown}: a rank must be below its size")
    return place


class Workers:
    """The processes as a context: what they tell each other, and how they end together.

    torchrun stops all of them as soon as one has failed, so none may leave before all are done.

    Args:
        place: which one this is. One alone needs no others and no network.
    """

    def __init__(self, place: Place) -> None:
        self.place = place

    def __enter__(self) -> Workers:
        if self.place.size > 1:
            try:
                dist.init_process_group("gloo", timeout=PATIENCE)
            # Sockets, stores and missing variables have different ones.
            except Exception as error:
                raise RequestError(
                    f"the workers cannot reach each other ({' '.join(str(error).split())}); start "
                    f"them with torchrun"
                ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        # After an error the others may wait for this one, and must learn that it has gone.
        if self.place.size > 1:
            dist.destroy_process_group()

    def gather(self, text: str = "") -> list[str]:
        """What each process says, by rank; waits until all have come here.

        Raises:
            Img2ImgError: one of them has ended before.
        """
        if self.place.size == 1:
            return [text]
        said = text.encode("utf-8", "backslashreplace")[:LETTER].ljust(LETTER, b"\0")
        mine = torch.frombuffer(bytearray(said), dtype=torch.uint8)
        letters = [torch.empty_like(mine) for _ in range(self.place.size)]
        try:
            work = dist.all_gather(letters, mine, async_op=True)
            # Waiting in torch would leave Ctrl-C and SIGTERM unheard.
            while not work.is_completed():
                time.sleep(0.02)
            work.wait()
        except RuntimeError as error:
            raise Img2ImgError(
                "another worker ended before its share was done; the same command goes on where "
                "they stopped, with any number of workers"
            ) from error
        return [_read(letter) for letter in letters]


def _read(letter: Tensor) -> str:
    return bytes(letter.tolist()).rstrip(b"\0").decode("utf-8", "replace")
