"""Ctrl-C and SIGTERM ask a run to stop after the step it is in, in all of its processes."""

from __future__ import annotations

import signal
import threading
import warnings
from collections import deque
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from img2img.engine.processes import Processes
from img2img.errors import Note
from img2img.signals import NUMBERS, was_asked


class StopRequest:
    """A context in which SIGINT and SIGTERM only set `requested`, and say so; a second one acts.

    Of several processes all stop after the same step, whichever was asked; a second signal changes
    nothing there, because torchrun passes on what a cluster may have sent to everyone already.

    Args:
        processes: those that must agree.
        lag: after how many more steps they stop. What is asked of the others travels meanwhile, so
            that a GPU is never waited for: enough steps for the host to be ahead of it.
    """

    def __init__(self, processes: Processes | None = None, lag: int = 0) -> None:
        # Perhaps before training began, and what that raised got nowhere.
        self.requested = was_asked()
        self._link = processes.link if processes else None
        self._speaks = processes is None or processes.main
        self._lag = lag
        self._asked: deque[tuple[torch.Tensor, Any]] = deque()
        self._before: dict[int, Any] = {}

    def agreed(self) -> bool:
        """Whether the run stops after the step that was just done; called once a step by all.

        Raises:
            RuntimeError: one of the processes is gone.
        """
        if self._link is None:
            return self.requested
        flag = torch.tensor([float(self.requested)])
        work = dist.all_reduce(flag, group=self._link.host, async_op=True)
        self._asked.append((flag, work))
        return len(self._asked) > self._lag and self._oldest()

    def _oldest(self) -> bool:
        flag, work = self._asked.popleft()
        work.wait()
        return bool(flag)

    def __enter__(self) -> StopRequest:
        # Python allows handlers in the main thread alone; a run elsewhere goes without.
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                # `nohup`, and shells for what they put into the background, mean that.
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._restore()
        # Nothing of it may be on its way when the processes part.
        while self._asked and error is None:
            self._oldest()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        first, self.requested = not self.requested, True
        if self._link is None:
            self._restore()
        if self._speaks and first:
            again = "" if self._link else "; a second signal ends the run without that"
            # Python lets nobody write while a signal finds them writing, and what Ctrl-C ends may
            # be what reads it, as in `img2img run | tee`.
            with suppress(Exception):
                warnings.warn(
                    f"asked to stop: what is being done is finished and saved first{again}",
                    Note,
                    stacklevel=1,  # what it interrupts may be a library, whose warnings are hidden
                )

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
