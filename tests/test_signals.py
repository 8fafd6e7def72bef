"""Ctrl-C and SIGTERM: never within an import, never lost, whatever reads what is said of them."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path

import pytest

from img2img import signals
from img2img.cli import main
from img2img.engine.interrupt import StopRequest
from img2img.signals import NUMBERS, heard

WITHIN = """
    import sys
    from img2img.signals import answer_signals

    answer_signals()
    try:
        import asked_within
        for _ in range(200):
            asked_within.time.sleep(0.05)
        print("not heard")
    except KeyboardInterrupt:
        print("whole" if sys.modules["asked_within"].whole else "half")
"""
ASKED = """
    import os, signal, time

    def ask():
        os.kill(os.getpid(), signal.{name})
        time.sleep(0.02)

    ask()
    try:
        ask()
        time.sleep(0.2)  # while it is asked again
    except KeyboardInterrupt:
        raise SystemExit("raised within an import")
    whole = True
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there a process cannot signal itself")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_import_is_not_broken_off(tmp_path, name):
    """Modules loaded by half fail later, in ways that blame the user or end in an abort."""
    (tmp_path / "asked_within.py").write_text(textwrap.dedent(ASKED.format(name=name)))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WITHIN)],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("whole\n", "")


def test_signals_that_are_heard_raise_nothing():
    before = [signal.getsignal(number) for number in NUMBERS]
    with heard() as numbers:
        for number in NUMBERS:
            signal.raise_signal(number)
    assert numbers == list(NUMBERS)
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_outside_the_main_thread_nobody_hears():
    found = []

    def hear():
        with heard() as numbers:
            found.append((numbers, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=hear)
    thread.start()
    thread.join()
    assert found == [([], signal.getsignal(signal.SIGINT))]


def test_a_request_counts_though_nobody_can_be_told(monkeypatch):
    """As in `img2img run ... | tee log`, where Ctrl-C ends the reader too."""

    def gone(*given):
        raise BrokenPipeError

    monkeypatch.setattr(warnings, "showwarning", gone)
    before = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings(), StopRequest() as stop:
        warnings.simplefilter("always")
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_that_waits_for_an_import_goes_to_who_handles_it_then(monkeypatch):
    """Such as a run that has begun meanwhile, which saves first."""
    monkeypatch.setattr(signals, "_within_import", lambda frame: True)
    signals.interrupt(signal.SIGINT, sys._getframe())
    signals.interrupt(signal.SIGINT, sys._getframe())  # once is enough
    with heard() as numbers:
        until = time.monotonic() + 20
        while not numbers and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(3 * signals.AGAIN)
    assert numbers == [signal.SIGINT]


@pytest.mark.parametrize(
    ("asked", "code", "said"), [(True, 130, "interrupted"), (False, 2, "error")]
)
def test_what_goes_wrong_once_it_was_asked_is_no_fault_of_anybody(
    monkeypatch, capsys, asked, code, said
):
    """A KeyboardInterrupt within C code comes out as whatever that makes of it."""
    monkeypatch.setattr(signals, "_asked", asked)
    monkeypatch.setattr(sys, "argv", ["img2img", "run", "no such recipe"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == code
    assert capsys.readouterr().err.startswith(said)
