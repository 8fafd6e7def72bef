"""What a run writes, written beside the training: steps do not wait for the disk."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

# Files that may wait to be written; what is in them takes memory.
MOST_WAITING = 4


class Writer:
    """Does jobs in a thread of its own, in the order in which they are given.

    So the run directory of a process that is killed is one that it would have left somewhat
    earlier. Whoever gives jobs hears of them in `collect`, in the thread that calls it: a job that
    fails raises there, and none is done after it.

    As a context it waits for its jobs and collects them, also where an error ends the run: they are
    of steps before it. Ctrl-C, which wants an end, waits for the one that is being done and drops
    the others.
    """

    def __init__(self) -> None:
        # Its thread starts with the first job: processes that load data are forked before.
        self._pool = ThreadPoolExecutor(1, "img2img-writer")
        self._given: deque[tuple[Future[None], Callable[[], None] | None]] = deque()
        self._failed = threading.Event()
        self._ended = False

    def submit(self, job: Callable[[], None], then: Callable[[], None] | None = None) -> None:
        """Have a job done; `then` is called by `collect` once it is. Waits while many are waiting.

        A job that follows from another, when all end, is done no more.

        Raises:
            Exception: what an earlier job raised.
        """
        if self._ended:
            return
        self.make_room(MOST_WAITING - 1)
        self._given.append((self._pool.submit(self._do, job), then))

    def collect(self) -> None:
        """Take note of jobs that are done; waits for none.

        Raises:
            Exception: what a job raised.
        """
        while self._given and self._given[0][0].done():
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
            self._collect_first()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        drop = kind is not None and not issubclass(kind, Exception)
        try:
            if not drop:
                self.wait()
        # A job may raise anything; where the run ends by an error, that one is to be told.
        except Exception:
            if kind is None:
                raise
        except KeyboardInterrupt:
            drop = True
            raise
        finally:
            self._end(drop)

    def _end(self, drop: bool) -> None:
        """End the thread, which must not write into a directory that is another run's by then."""
        self._ended = True
        while True:
            try:
                self._pool.shutdown(wait=True, cancel_futures=drop)
                break
            except KeyboardInterrupt:
                drop = True  # and no more: half of a file helps nobody
        # What was done counts, up to a job that failed or was dropped.
        with contextlib.suppress(Exception):
            while self._given and not self._given[0][0].cancelled():
                self._collect_first()

    def _do(self, job: Callable[[], None]) -> None:
        if self._failed.is_set():
            return
        try:
            job()
        # Whatever it is, the future hands it on to whoever collects.
        except BaseException:
            self._failed.set()
            raise

    def _collect_first(self) -> None:
        done, then = self._given[0]
        done.result()
        self._given.popleft()
        if then is not None:
            then()


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
