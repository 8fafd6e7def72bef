"""What a run writes, written beside the training: steps do not wait for the disk."""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from img2img.signals import heard

Tensors = dict[str, Tensor]

# Files that may wait to be written; what is in them takes memory.
MOST_WAITING = 4
# In seconds, between two looks at whether a signal has come.
POLL = 0.05


@dataclass(frozen=True)
class _Given:
    """A job, which gives whether it was done, what follows then, and whether it is kept."""

    done: Future[bool]
    then: Callable[[], None] | None
    kept: bool


class Writer:
    """Does jobs in a thread of its own, in the order in which they are given.

    So the run directory of a process that is killed is one that it would have left somewhat
    earlier. Whoever gives jobs hears of them in `collect`, in the thread that calls it: a job that
    fails raises there, and none is done after it.

    As a context it waits for its jobs and collects them, also where an error ends the run: they are
    of steps before it. That error is what the context ends with, whatever happens meanwhile.
    Ctrl-C, which wants an end, waits for the job that is being done and drops the others. Where it
    comes while an error ends the run, it may be torchrun, which ends all because of that error: it
    drops what comes after the last of the jobs to be kept, and a second one drops these as well.
    """

    def __init__(self) -> None:
        # Its thread starts with the first job: processes that load data are forked before.
        self._pool = ThreadPoolExecutor(1, "img2img-writer")
        self._given: deque[_Given] = deque()
        self._failed = threading.Event()
        self._ended = False

    def submit(
        self,
        job: Callable[[], None],
        then: Callable[[], None] | None = None,
        *,
        kept: bool = False,
    ) -> None:
        """Have a job done; `then` is called by `collect` once it is. Waits while many are waiting.

        A job that follows from another, when all end, is done no more.

        Args:
            job: called in the thread.
            then: called by whoever collects.
            kept: it, and what was given before it, is done although a signal came after an error.

        Raises:
            Exception: what an earlier job raised.
        """
        if self._ended:
            return
        self.make_room(MOST_WAITING - 1)
        self._given.append(_Given(self._pool.submit(self._do, job), then, kept))

    def collect(self) -> None:
        """Take note of jobs that are done; waits for none.

        Raises:
            Exception: what a job raised.
        """
        while self._given and self._given[0].done.done():
            self._collect_first()

    def wait(self) -> None:
        """Wait until all jobs are done.

        Raises:
            Exception: what a job raised.
        """
        self.make_room(0)

    def make_room(self, most: int) -> None:
        """Wait until at most so many jobs are not done.

        Raises:
            Exception: what a job raised.
        """
        while len(self._given) > most:
            # Not forgotten before it is done: a signal may come meanwhile.
            wait([self._given[0].done])
            self._collect_first()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        in_error = isinstance(error, Exception)
        if error is not None and not in_error:
            self._drop(but_kept=False)
        try:
            with heard() as signals:
                failed = self._finish(signals, in_error)
        finally:
            # It must not write into a directory that is another run's by then.
            self._ended = True
            self._pool.shutdown(wait=True, cancel_futures=True)
        if error is None and failed is not None:
            raise failed
        if error is None and signals:
            raise KeyboardInterrupt
        if failed is not None:
            warnings.warn(f"a file was not written: {failed}", RuntimeWarning, stacklevel=2)

    def _finish(self, signals: list[int], in_error: bool) -> Exception | None:
        """Wait for jobs and collect them, but for those that signals drop.

        Gives what the first that failed raised.
        """
        known = 0
        failed = None
        while self._given and not self._given[0].done.cancelled():
            wait([self._given[0].done], timeout=POLL)
            if len(signals) > known:
                known = len(signals)
                self._drop(but_kept=in_error and known == 1)
            if self._given[0].done.done() and not self._given[0].done.cancelled():
                try:
                    self._collect_first()
                # A job may raise anything.
                except Exception as of_job:
                    failed = failed or of_job
        return failed

    def _drop(self, *, but_kept: bool) -> None:
        """Let jobs that have not begun be, from the last one on until one that is to be kept."""
        self._ended = True
        for given in reversed(self._given):
            if but_kept and given.kept:
                break
            given.done.cancel()

    def _do(self, job: Callable[[], None]) -> bool:
        if self._failed.is_set():
            return False
        try:
            job()
        # Whatever it is, the future hands it on to whoever collects.
        except BaseException:
            self._failed.set()
            raise
        return True

    def _collect_first(self) -> None:
        first = self._given.popleft()
        if first.done.result() and first.then is not None:
            first.then()


def to_host(groups: Mapping[str, Tensors]) -> dict[str, Tensors]:
    """Copies of tensors on the CPU, which stay as they are while training goes on.

    A tensor that occurs twice is copied once. Waits for the device.
    """
    known: dict[tuple[object, ...], Tensor] = {}

    def copied(tensor: Tensor) -> Tensor:
        about = (tensor.device, tensor.dtype, tensor.data_ptr(), tensor.shape, tensor.stride())
        if about not in known:
            known[about] = _copy(tensor.detach())
        return known[about]

    copies = {
        group: {name: copied(tensor) for name, tensor in tensors.items()}
        for group, tensors in groups.items()
    }
    for device in {about[0] for about in known}:
        if isinstance(device, torch.device) and device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
    return copies


def _copy(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor.to("cpu", copy=True)
    try:
        # Many times as fast as into other memory, and torch keeps it for the next time.
        host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    except RuntimeError:  # the system allows no more of it
        return tensor.cpu()
    return host.copy_(tensor, non_blocking=True)
