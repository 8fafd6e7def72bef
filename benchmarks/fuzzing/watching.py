"""What a reader of strangers' files must not do, told as findings: the oracles of the fuzzer."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import img2img
from img2img.errors import Img2ImgError, RecipeError
from img2img.names import printable

PACKAGE = str(Path(img2img.__file__).parent)
# Seconds of the processor's time; a wait for something else is the watchdog's.
SECONDS = 5.0
LONGEST_MESSAGE = 20_000
# How lines of messages begin that are the program's own.
_OWN_LINES = ("Put a copy of one there", "Use --fresh")
_CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events (PEP 578) by what their names begin with, each an act that no reader needs.
_FORBIDDEN = (
    *("subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "pty."),
    *("socket.", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.", "os.kill", "syslog."),
    *("pickle.find_class", "ctypes.", "os.putenv", "os.setxattr", "mmap.__new__"),
    *("cpython.run", "sys.addaudithook", "sys.settrace", "os.add_dll_directory"),
)
_WRITING = (
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.chmod"),
    *("os.chown", "os.truncate", "os.utime", "shutil.", "tempfile.", "os.chflags", "sqlite3."),
)


class TooLong(BaseException):
    """A case took more of the processor's time than any may; no reader catches it."""


@dataclass
class Outcome:
    """What came of a case.

    Attributes:
        kind: "accepted", the name of the error that refused it, or "finding".
        text: the message; of a finding, what is wrong.
        where: of a finding, the place in the package, so that the same is told once.
        seconds: of the processor's time.
    """

    kind: str
    text: str = ""
    where: str = ""
    seconds: float = 0.0


class Watch:
    """Watches this process from now on: audit hooks cannot be taken out again.

    Args:
        folder: the only place where a case may write, if `may_write`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = os.path.realpath(folder) + os.sep
        self.may_write = self.on = False
        self.acts: list[str] = []
        self.warned: list[str] = []
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        act = None
        if event == "open":
            path, mode, flags = arguments
            writes = bool(mode and set(str(mode)) & set("wax+")) or bool((flags or 0) & _CHANGING)
            if writes and not self._allowed(path):
                act = f"opens {path!r} for writing"
        elif event == "exec":
            code = arguments[0]
            if isinstance(code, CodeType) and _is_foreign(code.co_filename, self.folder):
                act = f"runs code of {code.co_filename!r}"
        elif event == "import":
            if arguments[1] and str(arguments[1]).startswith(self.folder):
                act = f"imports {arguments[1]!r}"
        elif event.startswith(_WRITING):
            if not all(self._allowed(path) for path in arguments if isinstance(path, (str, bytes))):
                act = f"{event}{arguments!r}"
        elif event.startswith(_FORBIDDEN) and not _is_harmless(event, arguments):
            act = f"{event}{arguments!r}"
        if act is not None:
            self.acts.append(act[:300])

    def _allowed(self, path: Any) -> bool:
        if path == os.devnull:
            return True
        if not self.may_write or not isinstance(path, (str, bytes, os.PathLike)):
            return False
        return os.path.realpath(os.fsdecode(path)).startswith(self.folder)

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        self.acts.clear()
        self.warned.clear()
        signal.setitimer(signal.ITIMER_PROF, SECONDS, 1)
        self.on = True
        try:
            yield
        finally:
            self.on = False
            signal.setitimer(signal.ITIMER_PROF, 0)

    def case(self, run: Callable[[], None]) -> Outcome:
        """Run a case and judge what came of it."""
        began = time.process_time()
        try:
            with self._watching():
                run()
            outcome = Outcome("accepted")
        except Img2ImgError as error:
            outcome = Outcome(type(error).__name__, str(error))
            if fault := _fault_of(error):
                outcome = Outcome("finding", f"{fault}: {str(error)[:500]!r}", _where(error, fault))
        except TooLong as error:
            outcome = Outcome("finding", f"takes more than {SECONDS} s", _where(error, "too long"))
        except Exception as error:
            text = "".join(traceback.format_exception(error))[-3000:]
            outcome = Outcome("finding", text, _where(error, type(error).__name__))
        if self.acts:
            outcome = Outcome("finding", "; ".join(self.acts[:5]), self.acts[0].split("(")[0])
        for said in self.warned:
            if printable(said) != said:
                outcome = Outcome("finding", f"warns {said!r}", "a warning that is not printable")
        outcome.seconds = time.process_time() - began
        return outcome

    def set_limits(self, extra_memory: int) -> None:
        """Bound this process: memory beyond what it has now, time for each case, no core files."""
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + extra_memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGPROF, _end)
        warnings.resetwarnings()
        warnings.simplefilter("always")
        warnings.showwarning = self._warned

    def _warned(self, message: Warning | str, category: Any, filename: str, *rest: Any) -> None:
        if filename.startswith(PACKAGE):
            self.warned.append(str(message))


def _end(number: int, frame: FrameType | None) -> None:
    raise TooLong


def _is_foreign(filename: str, folder: str) -> bool:
    """Whether code is of no installed module: typed in, or from among the inputs."""
    if filename.startswith(folder):
        return True
    # What dataclasses, named tuples, enumerations and torch write for themselves have such names.
    return filename in ("<fuzz>", "<input>", "<stdin>")


def _is_harmless(event: str, arguments: tuple[Any, ...]) -> bool:
    # Anonymous memory, and how ctypes is used by numpy and torch to look at addresses.
    return event in ("mmap.__new__", "ctypes.addressof", "ctypes.cdata", "socket.__new__")


def _fault_of(error: Img2ImgError) -> str | None:
    """What is wrong with a message for people."""
    text = str(error)
    parts = list(error.problems) if isinstance(error, RecipeError) else [text]
    if not text.strip():
        return "an empty message"
    if len(text) > LONGEST_MESSAGE:
        return "a message without end"
    for part in parts:
        first, *more = part.split("\n")
        # Lists of mistakes are indented, so that no stranger's text begins a line of its own.
        if not all(printable(line) == line for line in (first, *more)):
            return "a message that is not printable"
        if not all(line.startswith(("  ", *_OWN_LINES)) for line in more):
            return "a message of several lines"
    if "out of memory" in text or isinstance(error.__cause__, MemoryError):
        return "memory without bounds"
    return None


def _where(error: BaseException, what: str) -> str:
    """The kind of a finding, and the last place in the package that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    cause = error.__cause__
    if what.startswith("memory") and cause is not None:
        frames = traceback.extract_tb(cause.__traceback__) or frames
    ours = [frame for frame in frames if frame.filename.startswith(PACKAGE)]
    last = ours[-1] if ours else frames[-1] if frames else None
    place = f"{Path(last.filename).name}:{last.lineno}" if last else "nowhere"
    return f"{what} at {place}"
