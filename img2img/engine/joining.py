"""Joining the other processes of a run, and leaving them, whatever happens between."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from img2img.engine.link import TIMEOUT, Link
from img2img.engine.processes import Processes, from_environment
from img2img.errors import Img2ImgError, RequestError, SaidElsewhere
from img2img.signals import interrupt

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store  # torch.distributed's own, which has no types


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """The processes that torchrun started, connected while the context lasts.

    Without torchrun, or with one process, nothing of `torch.distributed` is touched. What one of
    them raises ends all, with one message and the same exit code.

    Args:
        device: as `--device`; says how they talk to each other.

    Raises:
        RequestError: devices that are not there, or variables that contradict each other.
        Img2ImgError: they do not find each other, or one of them was lost.
    """
    processes = from_environment()
    if processes.world_size == 1:
        yield processes
        return
    try:
        chosen = processes.device(device)
    except RequestError as error:
        # The same in all processes of a machine.
        if processes.local_rank:
            raise SaidElsewhere(error.exit_code) from None
        raise
    link = _connect(processes, chosen)
    # As Ctrl-C: what goes on after any Exception, or explains it as a mistake, lets this pass.
    before = _on_signal(interrupt)
    try:
        connected = replace(processes, link=link)
        # Machines that joined later have restarted less often.
        yield replace(connected, restarts=max(connected.gather(processes.restarts)))
        dist.all_reduce(torch.zeros(1), group=link.host)  # the main process may still write
    except BaseException as error:
        # torchrun ends all as soon as it sees one end: not before they have said why. What ends
        # here was about to, so that nothing is lost by not listening any more.
        _on_signal(signal.SIG_IGN)
        explained = link.explain(error)
        if explained is error:
            raise
        raise explained from error
    link.cut()
    if before is not None:
        signal.signal(signal.SIGTERM, before)


def _connect(processes: Processes, device: torch.device) -> Link:
    rank, world_size = processes.rank, processes.world_size
    try:
        everyones, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
        everyones.set_timeout(TIMEOUT)
        store = PrefixStore(_this_start(everyones, rank, world_size), everyones)
        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.cuda.set_device(device)
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=TIMEOUT,
            device_id=device if on_gpu else None,
        )
        host = dist.new_group(backend="gloo", timeout=TIMEOUT)
        assert isinstance(host, dist.ProcessGroup)
        dist.all_reduce(torch.zeros(1), group=host)
    except (RuntimeError, ValueError) as error:
        raise Img2ImgError(
            f"process {rank} of {world_size} does not reach the others "
            f"({' '.join(str(error).split())[:300]}); see docs/distributed.md"
        ) from error
    return Link(store, host, rank, world_size)


def _this_start(store: Store, rank: int, world_size: int) -> str:
    """A name for this start of the processes, the same in all of them and never used before.

    torchrun's store outlives them and remembers where those of an earlier start listened. Nor does
    it say which start this is: machines that join later count their restarts from 0.
    """
    own = uuid.uuid4().hex
    if rank:
        store.set(f"img2img/hello/{rank}", own)
        store.wait([f"img2img/welcome/{own}"])
        start = store.get(f"img2img/welcome/{own}").decode()
        store.set(f"img2img/{start}/{rank}", "")
        return start
    missing = set(range(1, world_size))
    until = time.monotonic() + TIMEOUT.total_seconds()
    while missing:
        for other in sorted(missing):
            # Perhaps one that has ended; then its answer comes to nothing, and it says hello again.
            if store.check([f"img2img/hello/{other}"]):
                who = store.get(f"img2img/hello/{other}").decode()
                store.set(f"img2img/welcome/{who}", own)
            if store.check([f"img2img/{own}/{other}"]):
                missing.remove(other)
        if time.monotonic() > until:
            raise RuntimeError(f"nothing was heard of {sorted(missing)}")
        time.sleep(0.01)
    return own


def _on_signal(handler: Any) -> Any:
    # Python allows handlers in the main thread alone.
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, handler)
