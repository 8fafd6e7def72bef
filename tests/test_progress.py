"""What the display of a run says when the run begins."""

import io

import pytest
from rich.console import Console

from img2img.report.progress import ProgressDisplay


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize(
    ("start", "said"),
    [(0, "training: 400 steps"), (50, "going on from step 50: 350 steps to go")],
)
def test_where_a_run_begins(is_terminal, start, said):
    file = io.StringIO()
    display = ProgressDisplay(Console(file=file, force_terminal=is_terminal, width=80))
    display.start()
    display.on_run_start(start, 400)
    display.stop()
    told = file.getvalue()
    # A terminal has a bar; of a new run it says all there is to say.
    assert (said in told) == (start > 0 or not is_terminal)
    assert (f"step {start}/400" in told) == is_terminal
    assert told.count("going on") == (start > 0)


def test_a_finished_run_does_not_go_on():
    file = io.StringIO()
    ProgressDisplay(Console(file=file)).on_run_start(400, 400)
    assert file.getvalue() == "training: 0 steps\n"
