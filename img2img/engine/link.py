"""What ties the processes of a run together, and what becomes of one when another ends."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import torch.distributed as dist

from img2img.errors import Img2ImgError, SaidElsewhere

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store  # torch.distributed's own, which has no types

# How long one waits for another: for the main process's samples, scores and files, which is all
# that ever makes them wait. Without it a process that hangs would be waited for without end.
TIMEOUT = timedelta(minutes=30)
# In seconds: how often a process looks for a roll call, how long it has to answer, and how much
# longer the main one has to speak first.
LISTENING, ROLL_CALL, PRECEDENCE = 0.5, 2.0, 0.5
# In seconds: how long the process that holds the notes waits for the others to have read them. Some
# hear of the end only when it closes its connections, by ending.
LEAVING = 4.0
# How long a process may go on after one was lost, in seconds: saving, or held by NCCL, which waits
# for the lost one inside the device and hears of nothing.
LAST_WORK = 60.0


class Link:
    """The connection to the other processes.

    Tensors on a GPU travel through NCCL; what the host wants to know, through gloo, which never
    waits for the device.

    Args:
        store: where processes leave short notes, also when they no longer answer.
        host: the gloo group.
        rank: of this process.
        world_size: how many there are.
    """

    def __init__(self, store: Store, host: dist.ProcessGroup, rank: int, world_size: int):
        self.host = host
        self._store, self._rank, self._world_size = store, rank, world_size
        self._over, self._called = threading.Event(), threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def note_saved(self, step: int | None) -> None:
        """Leave word of the step that a restart would go on from; None where there is none yet."""
        with contextlib.suppress(RuntimeError):  # torchrun is gone: training goes on without it
            self._store.set("saved", json.dumps(step))

    def explain(self, error: BaseException) -> BaseException:
        """What this process ends with, so that each thing is said once. The link is cut.

        One that broke off because another did says which one was lost, unless that one has told
        why it ended. One with a fault of its own tells the others. `error` itself if it should be
        shown.
        """
        if isinstance(error, SaidElsewhere):
            self.cut(failed=True)
            self._linger()
            return error
        if not _by_another(error) and not self._asked_for_another(error):
            code = 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
            # Before the others notice that this one is gone; where the store lived in it, after.
            with contextlib.suppress(RuntimeError):
                self._store.set("ended", json.dumps(code))
            self.cut(failed=True)
            return error if self._first_to_say(f"{type(error)} {error}") else SaidElsewhere(code)
        self.cut(failed=True)
        if self._rank:
            time.sleep(PRECEDENCE)  # the main one knows best what is saved
        try:
            first = self._ended() is None and self._store.add("roll call", 1) == 1
        except RuntimeError:
            first = not self._called.is_set()  # the store is gone, with the process that held it
        lost = Img2ImgError(self._account(error)) if first else None
        ended = self._ended()
        self._linger()
        if lost is None or ended is not None:
            return SaidElsewhere(1 if ended is None else ended)
        return lost

    def cut(self, *, failed: bool = False) -> None:
        """Leave the others; after a failure without waiting for them."""
        self._over.set()
        # Within torch's code while Python ends, it would end the process with an abort.
        self._listener.join(ROLL_CALL)
        if not dist.is_initialized():
            return
        try:
            if failed and dist.get_backend() == "nccl" and dist.group.WORLD is not None:
                dist.group.WORLD.abort()  # or it would wait for the process that is gone
            dist.destroy_process_group()
        except RuntimeError:
            if not failed:
                raise

    def _account(self, error: BaseException) -> str:
        """Roll call among those that are left, and what to do now."""
        missing = self._missing()
        if missing:
            names = ", ".join(str(rank) for rank in missing)
            who = f"process {names} was" if len(missing) == 1 else f"processes {names} were"
            what = f"{who} lost: killed, out of memory, or on a machine that is gone"
        else:
            root = _chain(error)[-1]
            what = f"the processes lost each other ({' '.join(str(root).split())[:200]})"
        restarts, most = (
            int(os.environ.get(f"TORCHELASTIC_{name}", "0"))
            for name in ("RESTART_COUNT", "MAX_RESTARTS")
        )
        by_itself = "torchrun --max-restarts N does so by itself"
        if restarts < most:
            by_itself = f"torchrun does so by itself now (restart {restarts + 1} of {most})"
        goes_on = self._goes_on(writing=self._rank != 0 and 0 not in missing)
        return f"{what}; {goes_on}, and {by_itself}"

    def _goes_on(self, *, writing: bool) -> str:
        """From where, as far as is known while the main process may still be `writing`."""
        try:
            if not self._store.check(["saved"]):
                return "training had not begun, the same command starts again"
            step = json.loads(self._store.get("saved"))
        except RuntimeError:
            return "--resume goes on from the last checkpoint"
        if step is None and writing:
            return "--resume goes on from what the main process may still save, or begins anew"
        if step is None:
            return "nothing was saved yet, the same command with --resume begins anew"
        later = ", or a later one that the main process still saves" if writing else ""
        return f"--resume goes on from step {step}{later}"

    def _asked_for_another(self, error: BaseException) -> bool:
        """Whether a signal came from torchrun because another was lost, and not from a user."""
        if not any(isinstance(part, KeyboardInterrupt) for part in _chain(error)):
            return False
        with contextlib.suppress(RuntimeError):
            self._store.add("roll call", 0)  # calls, and leaves it to others to speak first
            return bool(self._missing()) and self._ended() is None
        return False

    def _missing(self) -> list[int]:
        """Ranks that do not answer."""
        others = [rank for rank in range(self._world_size) if rank != self._rank]
        until = time.monotonic() + ROLL_CALL
        try:
            while time.monotonic() < until and self._ended() is None:
                others = [rank for rank in others if not self._store.check([f"here/{rank}"])]
                if not others:
                    break
                time.sleep(0.05)
        except RuntimeError:
            return [0]  # the store lives with it where torchrun keeps none
        return others

    def _listen(self) -> None:
        """Answer a roll call, in a thread: the main one may be waiting for who is gone."""
        try:
            while not self._over.wait(LISTENING):
                if self._store.check(["roll call"]):
                    self._called.set()
                    break
            self._store.set(f"here/{self._rank}", "")
        except RuntimeError:
            return  # the process that held the store has ended, and the others will
        if not self._over.wait(LAST_WORK):
            os._exit(1)

    def _linger(self) -> None:
        """Leave word that this process has read all it wanted; who holds the store waits for it."""
        own = self._rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        with contextlib.suppress(RuntimeError):
            self._store.set(f"left/{self._rank}", "")
            if not own:
                return
            # The store ends with this process, and on a busy machine the others take their time.
            self._store.add("roll call", 0)
            staying, began = list(range(1, self._world_size)), time.monotonic()
            while staying and (waited := time.monotonic() - began) < LEAVING:
                staying = [rank for rank in staying if not self._store.check([f"left/{rank}"])]
                if waited > ROLL_CALL + 2 * PRECEDENCE:  # those that are lost leave no word
                    staying = [rank for rank in staying if self._store.check([f"here/{rank}"])]
                time.sleep(0.05)

    def _ended(self) -> int | None:
        """The exit code of one that told why it ended."""
        with contextlib.suppress(RuntimeError):
            if self._store.check(["ended"]):
                return int(json.loads(self._store.get("ended")))
        return None

    def _first_to_say(self, text: str) -> bool:
        if self._rank:
            time.sleep(PRECEDENCE)
        key = hashlib.sha256(text.encode(errors="replace")).hexdigest()
        try:
            first = bool(self._store.add(f"said/{key}", 1) == 1)
        except RuntimeError:
            return True
        self._linger()
        return first


def _by_another(error: BaseException) -> bool:
    """Whether an error comes from a collective that another process did not complete."""
    return any(
        isinstance(part, dist.DistError)
        or (isinstance(part, RuntimeError) and ("gloo" in str(part) or "NCCL" in str(part)))
        for part in _chain(error)
    )


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    part: BaseException | None = error
    while part is not None and part not in chain:
        chain.append(part)
        part = part.__cause__ or part.__context__
    return chain
