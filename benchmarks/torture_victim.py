"""`img2img` in a process that ends itself at a place it is told; `torture.py` starts it.

`python torture_victim.py FATE ARGUMENTS...` is one. `python torture_victim.py --serve` imports what
a run needs, then makes a process of itself for each line of JSON that it reads, `[FATE, ARGUMENTS,
FILE]`, whose output goes to the file, and prints how it ended.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Modules of img2img and what a process is at that is in one of them, the first that fits.
PLACES = {
    "report/page": "report",
    "report/tensorboard": "TensorBoard",
    "report/sheet": "sample sheet",
    "evaluation/": "validation",
    "engine/checkpoint": "checkpoint",
    "bundle": "bundle",
    "engine/directory": "directory",
    "methods/": "step",
    "engine/records": "loop",
    "engine/loop": "loop",
}

# What a run imports, much of it late.
IMPORTED = (
    "img2img.training",
    "img2img.builtins",
    "img2img.cli.run",
    "img2img.data.augmentation",
    "img2img.report.progress",
    "imagecodecs.imagecodecs",
    "tensorboard.compat.proto.event_pb2",
    "tensorboard.summary.writer.record_writer",
    "torch._dynamo",
    "torchmetrics.functional.image",
)
LIMIT_S = 120  # for one life; far more than any takes
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")  # as Python's audit events have them


@dataclass
class Fate:
    """When and how a process ends.

    Attributes:
        run: the run directory.
        record: where it writes what was hit, as JSON.
        kind: `file`, before a call that changes a file in the run directory; `half`, in the midst
            of writing one; `step` and `look`, in a network that trains or is judged; `optimizer`,
            between optimizers; `never`.
        since: counts from the moment this step is done.
        count: of these calls, the one that it is.
        within: what a path in the run directory must hold to count, as a regular expression.
        main: only calls in the main thread count; another one writes files while steps go on.
        number: the signal.
        alone: the signal goes to this process, not to its group.
        late_s: how long after the call.
        steps: a file that gets a line per step and the time at which it was done.
    """

    run: str
    record: str
    kind: str = "never"
    since: int = -1
    count: int = 1
    within: str = ""
    main: bool = False
    number: int = int(signal.SIGKILL)
    alone: bool = False
    late_s: float = 0.0
    steps: str = ""


class Victim:
    """Counts calls in this process, and ends it at the one of its fate."""

    def __init__(self, fate: Fate) -> None:
        self.fate, self.step, self.calls = fate, -1, 0
        self.process, self.busy = os.getpid(), False
        self.about: dict[str, Any] = {}

    def watch(self) -> None:
        """Begin to count; loads what a run needs."""
        from torch.nn.modules.module import register_module_forward_pre_hook
        from torch.optim.optimizer import register_optimizer_step_post_hook

        from img2img.engine.state import TrainState

        counted = TrainState.count_step

        def count_step(state: TrainState, pairs: int) -> None:
            counted(state, pairs)
            self.done(state.step)

        TrainState.count_step = count_step  # type: ignore[method-assign]  # to be told of steps
        flush = os.fsync

        def fsync(file: int) -> None:
            self.syncing(file)
            flush(file)

        os.fsync = fsync
        sys.addaudithook(self.audited)
        if self.fate.kind in ("step", "look"):

            def called(module: Any, inputs: Any) -> None:
                if module.training == (self.fate.kind == "step"):
                    self.meet(type(module).__name__)

            register_module_forward_pre_hook(called)
        if self.fate.kind == "optimizer":
            register_optimizer_step_post_hook(lambda *_: self.meet("an optimizer's step"))

    def done(self, step: int) -> None:
        """A step is done."""
        self.step = step
        if self.fate.steps:
            with Path(self.fate.steps).open("a") as file:
                file.write(f"{step} {time.monotonic()}\n")

    def audited(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Python's audit hook: files are opened, renamed and removed."""
        if self.fate.kind not in ("file", "half") or self.busy or os.getpid() != self.process:
            return
        if event == "open":
            path, mode, flags = arguments
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
            if changes and isinstance(path, str | os.PathLike):
                name = os.fspath(path)
                if self.fate.kind == "file":
                    self.file_call(f"open to {'append' if mode == 'a' else 'write'}", str(name))
                elif mode == "a":
                    self.file_call("half of a line in", str(name), lambda: _half_a_line(str(name)))
        elif self.fate.kind == "file" and event in CHANGES:
            # Of a renaming, the new name.
            name = Path(os.fsdecode(arguments[1 if event == "os.rename" else 0]))
            folder = arguments[-1]
            if not name.is_absolute() and isinstance(folder, int) and folder >= 0:
                name = Path(f"/proc/self/fd/{folder}").readlink() / name
            self.file_call(event.removeprefix("os."), str(name))

    def syncing(self, file: int) -> None:
        """A file's content is asked to the disk: it has all been written."""
        if self.fate.kind not in ("file", "half") or os.getpid() != self.process:
            return
        name = str(Path(f"/proc/self/fd/{file}").readlink())
        if self.fate.kind == "file":
            self.file_call("fsync", name)
        elif stat.S_ISREG(os.fstat(file).st_mode):
            # As if it had come half as far. By name, because the file may be open to be read.
            half = os.fstat(file).st_size // 2
            self.file_call("half of", name, lambda: os.truncate(name, half))

    def file_call(self, what: str, name: str, first: Callable[[], object] | None = None) -> None:
        """Count a call if it is in the run directory."""
        path, run = Path(name).absolute(), Path(self.fate.run)
        if path.is_relative_to(run) and re.search(self.fate.within, str(path.relative_to(run))):
            self.meet(f"{what} {path.relative_to(run)}", first)

    def meet(self, what: str, first: Callable[[], object] | None = None) -> None:
        """Count a call, and end if it is the one."""
        if self.busy or self.step < self.fate.since or os.getpid() != self.process:
            return
        if self.fate.main and threading.current_thread() is not threading.main_thread():
            return
        self.calls += 1
        if self.calls != self.fate.count:
            return
        self.busy = True
        self.about = {"what": what, "place": _place(), "step": self.step}
        if first is not None:
            first()
        if self.fate.late_s:
            threading.Timer(self.fate.late_s, self.end).start()
        else:
            self.end()

    def end(self) -> None:
        """Note what was hit, and send the signal."""
        Path(self.fate.record).write_text(json.dumps({**self.about, "at": time.monotonic()}))
        if self.fate.alone:
            os.kill(self.process, self.fate.number)
        else:
            os.killpg(0, self.fate.number)


def _half_a_line(name: str) -> None:
    with Path(name).open("ab") as file:
        file.write(b'{"step": 7, "epoch": 1, "losses": {"gen')


def _place() -> str:
    """What the process is at, by the modules that the call comes from."""
    modules = []
    frame = sys._getframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if "/img2img/" in name:
            modules.append(name.rpartition("/img2img/")[2])
            if frame.f_code.co_name == "_draw":
                return "sample sheet"
        frame = frame.f_back  # type: ignore[assignment]  # typeshed: None at the outermost
    fitting = (it for part, it in PLACES.items() if any(m.startswith(part) for m in modules))
    found = next(fitting, "TensorBoard" if not modules else "start-up")
    return "start-up" if found == "directory" and "engine/loop.py" not in modules else found


def live(fate: Fate, arguments: list[str]) -> None:
    """Run `img2img` with these arguments until its end, or that of the fate."""
    from img2img.__main__ import main

    Victim(fate).watch()
    sys.argv = ["img2img", *arguments]
    main()


def serve() -> None:
    """Make processes as they are asked for."""
    for name in IMPORTED:
        importlib.import_module(name)
    # Of its formats most are imported when they are first asked for.
    importlib.import_module("PIL.Image").init()
    print("ready", flush=True)
    for line in sys.stdin:
        fate, arguments, output = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setsid()
            signal.alarm(LIMIT_S)  # which ends it, however it hangs
            file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for standard in (1, 2):
                os.dup2(file, standard)
            try:
                live(Fate(**fate), arguments)
            finally:
                code = sys.exc_info()[1]
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(code.code if isinstance(code, SystemExit) else 70)  # type: ignore[arg-type]  # ours is a number
        _, status = os.waitpid(child, 0)
        print(json.dumps([child, os.waitstatus_to_exitcode(status)]), flush=True)
    os._exit(0)  # taking apart all that was imported takes seconds


def start(fate: Fate) -> str:
    """The fate as an argument."""
    return json.dumps(asdict(fate))


def wait_for_group(leader: int, limit_s: float) -> bool:
    """Wait until no process of a group lives; whether that came to be in time."""
    until = time.monotonic() + limit_s
    while _group(leader):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _group(leader: int) -> list[int]:
    """Processes of a group that still live; what has ended and nobody has asked after does not."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(group) == leader and state != "Z":
                found.append(int(entry.name))
    return found


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve()
    else:
        live(Fate(**json.loads(sys.argv[1])), sys.argv[2:])
