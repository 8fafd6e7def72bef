"""The processes that train one model together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Processes:
    """Which of the processes of a run this one is; by default the only one.

    Attributes:
        rank: from 0, over all machines.
        world_size: how many there are.
        local_rank: from 0, on this machine; which of its devices is used.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether it is the one that writes and speaks."""
        return self.rank == 0
