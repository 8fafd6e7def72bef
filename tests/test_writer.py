"""Files are written beside the steps that follow, in order, and hold what was then."""

import _thread
import errno
import math
import signal
import threading
import time
import warnings

import pytest
import torch

import img2img
from img2img.bundle import load_bundle, saved_step
from img2img.engine import records
from img2img.engine.checkpoint import find_checkpoints, flaw
from img2img.engine.directory import RunDirectory
from img2img.engine.processes import Processes
from img2img.engine.writing import MOST_WAITING, POLL, Writer, to_host
from img2img.errors import Img2ImgError
from img2img.inference import Translator
from img2img.methods import Pix2Pix
from img2img.plugins import load_plugins
from img2img.signals import NUMBERS, answer_signals
from img2img.training import train_recipe

PATIENCE_S = 20


class Gate:
    """A job that waits until it is let go."""

    def __init__(self):
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self):
        self.begun.set()
        assert self.open.wait(PATIENCE_S)


def test_jobs_are_done_in_order_and_told_of_where_they_are_collected():
    done, told, here = [], [], threading.get_ident()
    gate = Gate()
    with Writer() as writer:
        writer.submit(gate)
        for n in range(3):
            writer.submit(
                lambda n=n: done.append((n, threading.get_ident() != here)),
                lambda n=n: told.append((n, threading.get_ident() == here)),
            )
        writer.collect()
        assert not done and not told
        gate.open.set()
        writer.wait()
    assert done == told == [(0, True), (1, True), (2, True)]


def test_a_failure_raises_where_it_is_collected_and_ends_all_that_follows():
    done, told, gate = [], [], Gate()
    with pytest.raises(OSError, match="no room"), Writer() as writer:
        writer.submit(gate)
        writer.submit(lambda: done.append(1))
        writer.submit(fail, lambda: told.append("failed"))
        writer.submit(lambda: done.append(2), lambda: told.append(2))
        gate.open.set()
        writer.wait()
    assert done == [1] and told == []


def test_a_failure_raises_at_the_end_too():
    with pytest.raises(OSError, match="no room"), Writer() as writer:
        writer.submit(fail)


def fail():
    raise OSError("no room")


def test_few_wait():
    """Whoever gives one more waits for the first."""
    gate, given = Gate(), []
    with Writer() as writer:
        for n in range(MOST_WAITING):
            writer.submit(gate if n == 0 else lambda: None)
        other = threading.Thread(target=lambda: (writer.submit(lambda: None), given.append(1)))
        other.start()
        other.join(0.2)
        assert not given
        gate.open.set()
        other.join(PATIENCE_S)
        assert given


@pytest.mark.parametrize(("error", "rest"), [(ValueError, ["rest"]), (KeyboardInterrupt, [])])
def test_an_error_lets_jobs_be_done_and_ctrl_c_drops_all_but_the_one_in_hand(error, rest):
    gate, done, told = Gate(), [], []

    def first():
        gate()
        done.append("first")

    with pytest.raises(error), Writer() as writer:
        writer.submit(first, lambda: told.append("first"))
        writer.submit(lambda: done.append("rest"))
        assert gate.begun.wait(PATIENCE_S)
        threading.Timer(0.1, gate.open.set).start()
        raise error
    assert done == ["first", *rest]
    assert told == ["first"]
    writer.submit(lambda: done.append("late"))
    assert "late" not in done  # it has ended


def test_no_signal_leaves_the_thread_behind():
    """It would write into a directory that is another run's by then."""
    gate, done = Gate(), []

    def job():
        gate()
        done.append(1)

    def ask():
        for _ in range(3):
            time.sleep(0.1)
            _thread.interrupt_main(signal.SIGINT)
        gate.open.set()

    with pytest.raises(KeyboardInterrupt), Writer() as writer:
        writer.submit(job)
        assert gate.begun.wait(PATIENCE_S)
        threading.Thread(target=ask).start()
        writer.wait()
    assert done == [1]


def ask_when_heard(then, times=1):
    """Signals, from another thread, once a writer hears them at its end; `then` is called after."""
    usual = signal.getsignal(signal.SIGINT)

    def ask():
        until = time.monotonic() + PATIENCE_S
        while signal.getsignal(signal.SIGINT) is usual and time.monotonic() < until:
            time.sleep(0.01)
        for _ in range(times):
            _thread.interrupt_main(signal.SIGINT)
            time.sleep(4 * POLL)
        then()

    threading.Thread(target=ask).start()


@pytest.mark.parametrize(("signals", "kept"), [(1, ["sheet", "checkpoint"]), (2, [])])
def test_a_signal_takes_nothing_from_an_error_but_what_follows_the_last_checkpoint(signals, kept):
    """As torchrun's, which ends all processes when one of them does, because of that error."""
    gate, done, told = Gate(), [], []
    with pytest.raises(ValueError, match="the reason"), Writer() as writer:
        writer.submit(gate)
        writer.submit(lambda: done.append("sheet"))
        writer.submit(
            lambda: done.append("checkpoint"), lambda: told.append("checkpoint"), kept=True
        )
        writer.submit(lambda: done.append("later"), lambda: told.append("later"))
        assert gate.begun.wait(PATIENCE_S)
        ask_when_heard(gate.open.set, signals)
        raise ValueError("the reason")
    assert done == kept
    assert told == kept[1:]


@pytest.mark.parametrize("error", [None, ValueError("the reason"), KeyboardInterrupt("first")])
def test_a_signal_does_not_break_off_what_follows_a_job(error):
    """Such as naming a checkpoint that is whole, and telling of it."""
    told, asked = [], threading.Event()

    def follow():
        told.append("begun")
        assert asked.wait(PATIENCE_S)
        told.append("done")

    with pytest.raises(type(error or KeyboardInterrupt())) as ended, Writer() as writer:
        gate = Gate()
        writer.submit(gate, follow, kept=True)
        assert gate.begun.wait(PATIENCE_S)
        gate.open.set()
        ask_when_heard(asked.set)
        if error is not None:
            raise error
    assert told == ["begun", "done"]
    assert error is None or ended.value is error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_was_not_written_is_told_beside_what_ended_the_run(error):
    gate = Gate()

    def job():
        gate()
        fail()

    with (
        pytest.warns(RuntimeWarning, match="a file was not written: no room"),
        pytest.raises(error, match="the reason"),
        Writer() as writer,
    ):
        writer.submit(job)
        assert gate.begun.wait(PATIENCE_S)
        threading.Timer(0.1, gate.open.set).start()
        raise error("the reason")


@pytest.mark.filterwarnings("error")
def test_what_was_not_written_is_told_once():
    gate = Gate()
    gate.open.set()
    for cause in (None, ValueError("the reason")):
        with pytest.raises((OSError, ValueError)), Writer() as writer:
            writer.submit(fail)
            try:
                writer.wait()
            except OSError as failed:
                if cause is None:
                    raise
                raise cause from failed


def test_copies_stay_as_they_were():
    weights = torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last)
    view, empty = weights[:, 1:], torch.zeros(0)
    copies = to_host({"a": {"x": weights, "y": view}, "b": {"x": weights, "z": empty}})
    before = weights.clone()
    weights.zero_()
    assert torch.equal(copies["a"]["x"], before)
    assert torch.equal(copies["a"]["y"], before[:, 1:])
    assert copies["b"]["x"] is copies["a"]["x"]  # copied once
    assert copies["b"]["z"].shape == (0,)


def test_copies_of_one_memory_seen_in_two_ways():
    square = torch.arange(9.0).view(3, 3)
    copies = to_host({"a": {"x": square, "y": square.t(), "z": square.view(torch.int32)}})["a"]
    assert torch.equal(copies["x"].t(), copies["y"]) and not torch.equal(copies["x"], copies["y"])
    assert copies["z"].dtype == torch.int32


TRAIN = """
steps = 6
batch_size = 2
log_every = 1
sample_every = 2
checkpoint_every = 2
keep_checkpoints = 9
validate_every = 2
"""


@pytest.fixture
def recipe(tmp_path, pairs_folder, tiny_tables):
    path = tmp_path / "tiny.toml"
    path.write_text(tiny_tables.replace('"pairs"', f'"{pairs_folder}"') + TRAIN)
    return path


def run(recipe, out, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return img2img.train(recipe, out=out, device="cpu", **options)


class Held:
    """Holds what writes sheets, models, or checkpoints until a later step has been done."""

    def __init__(self, monkeypatch, name, until):
        write, self.steps, self.waited = getattr(records, name), threading.Semaphore(0), []

        def held(*arguments):
            if not self.waited:
                for _ in range(until):
                    self.waited.append(self.steps.acquire(timeout=PATIENCE_S))
            return write(*arguments)

        monkeypatch.setattr(records, name, held)
        step = Pix2Pix.step

        def counted(method, source, target):
            losses = step(method, source, target)
            self.steps.release()
            return losses

        monkeypatch.setattr(Pix2Pix, "step", counted)


@pytest.mark.parametrize("ema_decay", [0, 0.5])
def test_a_checkpoint_holds_its_step_however_late_it_is_written(
    tmp_path, recipe, monkeypatch, ema_decay
):
    overrides = {"train.ema_decay": ema_decay}
    run(recipe, tmp_path / "short", overrides=overrides | {"train.steps": 2})
    held = Held(monkeypatch, "write_checkpoint", until=4)
    run(recipe, tmp_path / "run", overrides=overrides)
    assert held.waited == [True] * 4
    steps = [path.name for path in find_checkpoints(RunDirectory(tmp_path / "run"))]
    assert steps == ["step-00000002", "step-00000004", "step-00000006"]
    for file in ("networks", "optimizers", "loose"):
        late, alone = (
            (tmp_path / name / "checkpoints/step-00000002" / f"{file}.safetensors").read_bytes()
            for name in ("run", "short")
        )
        assert late == alone


@pytest.mark.parametrize(
    ("name", "until"), [("write_sheet", 2), ("save_bundle", 3), ("write_report", 3)]
)
def test_files_written_late_are_those_of_a_run_that_waits(
    tmp_path, recipe, monkeypatch, name, until
):
    run(recipe, tmp_path / "prompt", overrides={"train.steps": 4})
    held = Held(monkeypatch, name, until)
    run(recipe, tmp_path / "late", overrides={"train.steps": 4})
    assert all(held.waited)
    for path in ("samples/step-00000002.png", "model.safetensors", "best.safetensors"):
        assert (tmp_path / "late" / path).read_bytes() == (tmp_path / "prompt" / path).read_bytes()


def test_the_best_model_is_that_of_its_step(tmp_path, recipe, monkeypatch):
    """Its first file, written when another step has been done, against that of a run that waits."""
    overrides = {"train.steps": 4, "train.checkpoint_every": 100}
    monkeypatch.setattr(records, "write_report", lambda path: None)
    run(recipe, tmp_path / "prompt", overrides={**overrides, "train.steps": 2})
    held, first = Held(monkeypatch, "save_bundle", until=3), []
    save = records.save_bundle

    def kept(path, weights, info):
        save(path, weights, info)
        first.append((path.name, load_bundle(path)[0]))

    monkeypatch.setattr(records, "save_bundle", kept)
    run(recipe, tmp_path / "late", overrides=overrides)
    assert all(held.waited) and first[0][0] == "best.safetensors"
    prompt = load_bundle(tmp_path / "prompt/best.safetensors")[0]
    assert all(torch.equal(first[0][1][name], value) for name, value in prompt.items())


def test_few_copies_of_the_state_are_in_memory(tmp_path, recipe, monkeypatch):
    """However often a run saves, and however slowly."""
    taken, written, most = [], [], []
    take, write = records.take_snapshot, records.write_checkpoint

    def slowly(*arguments):
        time.sleep(0.2)
        most.append(len(taken) - len(written))
        write(*arguments)
        written.append(1)

    monkeypatch.setattr(records, "take_snapshot", lambda *given: (taken.append(1), take(*given))[1])
    monkeypatch.setattr(records, "write_checkpoint", slowly)
    every = {"train.checkpoint_every": 1, "train.validate_every": 0, "train.sample_every": 100}
    run(recipe, tmp_path / "run", overrides=every)
    assert max(most) == 2


def test_a_restart_is_told_of_what_is_written(tmp_path, recipe, monkeypatch):
    noted, directory = [], RunDirectory(tmp_path / "run")

    def note(processes, step):
        noted.append((step, step in directory.saved_steps()))

    monkeypatch.setattr(Processes, "note_saved", note)
    Held(monkeypatch, "write_checkpoint", until=3)
    run(recipe, tmp_path / "run")
    assert noted == [(None, False), (2, True), (4, True), (6, True)]


def test_one_signal_after_the_last_step_loses_nothing(tmp_path, recipe, monkeypatch):
    """It asks for an end that is there: files still wait to be written."""
    save = records.save_bundle

    def slowly(*arguments):
        time.sleep(0.3)
        save(*arguments)

    monkeypatch.setattr(records, "save_bundle", slowly)
    late = records.Records.save

    def asked(self, *, last):
        late(self, last=last)
        if last:
            threading.Timer(0.1, _thread.interrupt_main, [signal.SIGTERM]).start()

    monkeypatch.setattr(records.Records, "save", asked)
    before = {number: signal.getsignal(number) for number in NUMBERS}
    answer_signals()
    try:
        run(recipe, tmp_path / "run")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert max(RunDirectory(tmp_path / "run").saved_steps()) == 6
    assert saved_step(tmp_path / "run/model.safetensors") == 6


def test_a_checkpoint_has_its_name_before_a_long_validation_ends(tmp_path, recipe, monkeypatch):
    """A kill in the midst of it would otherwise lose what is whole on the disk."""
    directory, steps, named = RunDirectory(tmp_path / "run"), [], []
    scoring, written = threading.Event(), threading.Event()
    step, translate, write = Pix2Pix.step, Translator.translate, records.write_checkpoint

    def held(*arguments):
        assert scoring.wait(PATIENCE_S)
        write(*arguments)
        written.set()

    def slowly(translator, images):
        if len(steps) == 3:
            scoring.set()
            assert written.wait(PATIENCE_S)
            time.sleep(0.1)  # for the thread to say so
            named.append(2 in directory.saved_steps())
        return translate(translator, images)

    monkeypatch.setattr(Pix2Pix, "step", lambda *given: (steps.append(1), step(*given))[1])
    monkeypatch.setattr(Translator, "translate", slowly)
    monkeypatch.setattr(records, "write_checkpoint", held)
    every = {"train.sample_every": 100, "train.validate_every": 3, "train.steps": 4}
    run(recipe, tmp_path / "run", overrides=every)
    assert named[0] is False and named[-1] is True


def test_a_checkpoint_taken_before_an_error_is_written_though_a_signal_comes(
    tmp_path, recipe, monkeypatch
):
    step, sheet, gate, steps = Pix2Pix.step, records.write_sheet, Gate(), []

    def failing(*given):
        steps.append(1)
        if len(steps) == 3:
            assert gate.begun.wait(PATIENCE_S)
            ask_when_heard(gate.open.set)
            raise ValueError("the reason")
        return step(*given)

    def held(path, rows):
        if path.stem == "step-00000002":  # which the checkpoint of that step comes after
            gate()
        sheet(path, rows)

    monkeypatch.setattr(Pix2Pix, "step", failing)
    monkeypatch.setattr(records, "write_sheet", held)
    with pytest.raises(Img2ImgError, match="the reason"):
        run(recipe, tmp_path / "run", overrides={"train.validate_every": 0})
    assert list(RunDirectory(tmp_path / "run").saved_steps()) == [2]


def train_watched(recipe, *sets, plugins=None, on_step=lambda step: None):
    """A run beside its recipe, each step of which is told."""
    train_recipe(
        str(recipe),
        plugins or load_plugins(),
        out=recipe.parent / "run",
        device="cpu",
        on_step=on_step,
        overrides=sets,
    )


def test_no_checkpoint_is_there_before_what_came_before_it_was_told(tmp_path, recipe, monkeypatch):
    """A run that goes on from it would never tell of the sheet of its step."""
    directory, seen = RunDirectory(tmp_path / "run"), []
    monkeypatch.setattr(Writer, "collect", lambda self: None)  # as in a step that takes long

    def on_step(step):
        if step == 3:
            partial = directory.checkpoints / ".partial-step-00000002"
            for _ in range(100):
                if (partial / "manifest.json").is_file():
                    break
                time.sleep(0.05)
            seen.append(((partial / "manifest.json").is_file(), list(directory.saved_steps())))

    train_watched(recipe, "train.sample_every=2", "train.steps=4", on_step=on_step)
    assert seen == [(True, [])]
    assert list(directory.saved_steps()) == [2, 4]


def test_a_checkpoint_that_is_told_of_is_there(tmp_path, recipe, monkeypatch):
    """However slowly it is written, and though only one is kept."""
    watcher, plugins, write = Watcher(), load_plugins(), records.write_checkpoint

    def slowly(*arguments):
        time.sleep(0.1)
        write(*arguments)

    monkeypatch.setattr(records, "write_checkpoint", slowly)
    plugins.manager.register(watcher)
    sets = ["train.checkpoint_every=1", "train.keep_checkpoints=1", "train.validate_every=0"]
    train_watched(recipe, *sets, plugins=plugins)
    told = [(step, flawed) for kind, step, flawed, _ in watcher.told if kind == "checkpoint"]
    assert told == [(step, None) for step in range(1, 7)]
    assert list(RunDirectory(tmp_path / "run").saved_steps()) == [6]


def test_a_file_that_fails_is_told_beside_losses_that_are_not_finite(tmp_path, recipe, monkeypatch):
    step, steps = Pix2Pix.step, []

    def lost(*given):
        steps.append(1)
        losses = step(*given)
        return {name: value * math.nan for name, value in losses.items()} if steps[2:] else losses

    monkeypatch.setattr(Pix2Pix, "step", lost)
    monkeypatch.setattr(records, "write_checkpoint", lambda *given: fail())
    monkeypatch.setattr(Writer, "collect", lambda self: None)  # as in a step that takes long
    overrides = {"train.validate_every": 0}
    with pytest.raises(
        Img2ImgError, match=r"not finite at step 3.*a file was not written: no room"
    ):
        run(recipe, tmp_path / "run", overrides=overrides)


def test_a_file_that_fails_ends_the_run_soon(tmp_path, recipe, monkeypatch):
    """Not at the next checkpoint, which may be hours away."""
    steps = []

    def fails(path, rows):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def on_step(step):
        steps.append(step)
        time.sleep(0.01)

    monkeypatch.setattr(records, "write_sheet", fails)
    sets = ["train.steps=300", "train.checkpoint_every=1000", "train.validate_every=0"]
    with pytest.raises(Img2ImgError, match=r"step-00000000\.png.*No space left"):
        train_watched(recipe, *sets, "train.sample_every=1000", on_step=on_step)
    assert len(steps) < 50


class Watcher:
    """Notes what is told, in which thread, and whether the file is there and whole by then."""

    def __init__(self):
        self.told = []

    @img2img.hookimpl
    def on_checkpoint(self, step, path):
        self.told.append(("checkpoint", step, flaw(path), threading.current_thread()))

    @img2img.hookimpl
    def on_samples(self, step, path):
        flawed = None if path.is_file() else "gone"
        self.told.append(("samples", step, flawed, threading.current_thread()))


def test_plugins_are_told_in_the_training_thread_once_a_file_is_there(tmp_path, recipe):
    watcher, plugins = Watcher(), load_plugins()
    plugins.manager.register(watcher)
    sets = ["train.steps=4"]
    train_watched(recipe, *sets, plugins=plugins)
    here = threading.current_thread()
    assert watcher.told == [
        ("samples", 0, None, here),
        ("samples", 2, None, here),
        ("checkpoint", 2, None, here),
        ("samples", 4, None, here),
        ("checkpoint", 4, None, here),
    ]


def test_a_run_that_ends_with_an_error_has_what_came_before_it(tmp_path, recipe, monkeypatch):
    """The loss of step 3 is no number while the checkpoint of step 2 is still being written."""
    held, step = Held(monkeypatch, "write_checkpoint", until=3), Pix2Pix.step
    calls = []

    def sick(method, source, target):
        losses = step(method, source, target)
        calls.append(1)
        return losses if len(calls) < 3 else {n: v * float("nan") for n, v in losses.items()}

    monkeypatch.setattr(Pix2Pix, "step", sick)
    with pytest.raises(Img2ImgError, match=r"step 3.*last good checkpoint is that of step 2"):
        run(recipe, tmp_path / "run")
    assert all(held.waited)
    (checkpoint,) = find_checkpoints(RunDirectory(tmp_path / "run"))
    assert flaw(checkpoint) is None
    assert not [t for t in threading.enumerate() if t.name.startswith("img2img-writer")]


def test_a_plugins_error_later_on_loses_nothing_either(tmp_path, recipe, monkeypatch):
    held = Held(monkeypatch, "write_checkpoint", until=3)

    def on_step(step):
        if step == 3:
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        train_watched(recipe, on_step=on_step)
    assert all(held.waited)
    (checkpoint,) = find_checkpoints(RunDirectory(tmp_path / "run"))
    assert flaw(checkpoint) is None
