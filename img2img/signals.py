"""SIGTERM ends the program as Ctrl-C does, and neither of them is lost."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM)
# In seconds, between two looks at whether an import has ended.
AGAIN = 0.05

_asked = False
_asking_again = False
_main = -1


def answer_signals() -> None:
    """From now on SIGINT and SIGTERM raise KeyboardInterrupt in this process.

    Without it SIGTERM would end it at once, whatever is half done, and with no exit code of ours.
    A signal that whoever started it told it to ignore stays ignored.
    """
    global _main
    # Python allows handlers in the main thread alone.
    if threading.current_thread() is not threading.main_thread():
        return
    _main = os.getpid()
    for number in NUMBERS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _interrupt)


def interrupt(number: int, frame: FrameType | None) -> None:
    """A signal's handler: a KeyboardInterrupt, but within an import only when that has ended.

    There it would leave modules half loaded, or reach C++ that ends the process with an abort.
    Whoever handles the signal by then gets it.
    """
    global _asking_again
    if not _within_import(frame):
        raise KeyboardInterrupt
    if not _asking_again:
        _asking_again = True
        # No `threading.Thread`, whose locks the import may hold.
        _thread.start_new_thread(_ask_again, (number,))


@contextlib.contextmanager
def heard() -> Iterator[list[int]]:
    """A context in which SIGINT and SIGTERM raise nothing, and are listed.

    Outside the main thread, which alone hears of them, it changes nothing.
    """
    numbers: list[int] = []
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in NUMBERS:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, lambda got, _: numbers.append(got))
    try:
        yield numbers
    finally:
        for changed, handler in before.items():
            signal.signal(changed, handler)


def end_with_stdin() -> None:
    """From now on the end of standard input is answered as SIGTERM is.

    Whoever starts a process and holds the other end of a pipe can so ask it to stop on any system,
    and need not be there to do it: the pipe ends with them.
    """

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        _thread.interrupt_main(signal.SIGTERM)

    threading.Thread(target=wait, name="end with stdin", daemon=True).start()


def was_asked() -> bool:
    """Whether one of them came, even if what it raised got nowhere.

    Python can only print an exception that is raised while it calls back, as at the end of an
    import: the program goes on then, and has to ask.
    """
    return _asked


def ignore_signals() -> None:
    """Let no signal change the exit code of what is done, while Python takes itself down."""
    if threading.current_thread() is threading.main_thread() and _main == os.getpid():
        for number in NUMBERS:
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _asked
    if os.getpid() != _main and number == signal.SIGTERM:
        # A process that was forked and set nothing: it ends as it did before.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    _asked = True
    interrupt(number, frame)


def _within_import(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _ask_again(number: int) -> None:
    global _asking_again
    time.sleep(AGAIN)
    _asking_again = False
    _thread.interrupt_main(signal.Signals(number))
