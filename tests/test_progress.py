"""What the display of a run says when the run begins."""

import io

import pytest
from rich.console import Console

from img2img.cli.run import _report
from img2img.registry import Registry
from img2img.report.progress import ProgressDisplay
from img2img.training import FinishedRun

RECIPE = {"train": {"batch_size": 3}}


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize(
    ("start", "said"),
    [(0, "training: 400 steps"), (50, "going on from step 50: 350 steps to go")],
)
def test_where_a_run_begins(is_terminal, start, said):
    file = io.StringIO()
    display = ProgressDisplay(Console(file=file, force_terminal=is_terminal, width=80))
    display.start()
    display.on_run_start(RECIPE, start, 400)
    display.stop()
    told = file.getvalue()
    # A terminal has a bar; of a new run it says all there is to say.
    assert (said in told) == (start > 0 or not is_terminal)
    assert (f"step {start}/400" in told) == is_terminal
    assert told.count("going on") == (start > 0)


def test_a_finished_run_does_not_go_on():
    file = io.StringIO()
    ProgressDisplay(Console(file=file), processes=2).on_run_start(RECIPE, 400, 400)
    assert file.getvalue() == "finished at step 400 before: nothing to train\n"


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize(
    ("start", "said"),
    [
        (0, "training: 400 steps, 12 pairs a step (4 processes with 3 each)\n"),
        (50, "350 steps to go, 12 pairs a step (4 processes with 3 each)\n"),
    ],
)
def test_several_processes_say_how_they_share_a_step(is_terminal, start, said):
    """On a terminal too: its bar does not tell that a batch size is that of each process."""
    file = io.StringIO()
    display = ProgressDisplay(Console(file=file, force_terminal=is_terminal, width=50), processes=4)
    display.on_run_start(RECIPE, start, 400)
    display.stop()
    assert said in file.getvalue()


@pytest.mark.parametrize(
    ("steps", "l1", "said"),
    [(20, 0.9, "train longer"), (500, 0.9, "gone astray"), (500, 0.3, "train longer")],
)
def test_the_end_of_a_run_gives_advice_that_suits_its_length(tmp_path, steps, l1, said):
    """A network that has hardly begun is far from everything, and not gone astray."""
    told = io.StringIO()
    scores = {"l1": l1, "l1_source": 0.25, "l1_mean_target": 0.2}
    finished = FinishedRun(tmp_path, steps, scores, Registry())
    _report(Console(file=told, width=200), finished, None, quiet=False)
    assert said in told.getvalue()
