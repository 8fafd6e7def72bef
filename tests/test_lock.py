"""Two runs, one directory: the second is refused."""

import contextlib
import errno
import os
import select
import signal
import subprocess
import sys
import threading

import pytest

import img2img
from img2img.engine import lock
from img2img.engine.directory import RunDirectory
from img2img.engine.lock import RunLock
from img2img.errors import Img2ImgError, RequestError

# Seconds, where a fault would wait without end.
LIMIT_S = 120
HOLD = """
import os, sys, time
from pathlib import Path
from img2img.engine.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.take()
# A loader worker that has not noticed yet says so: by then it has let go of what it inherited.
if len(sys.argv) == 2 or not os.fork():
    print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts processes that hold a run directory, and ends them."""
    started = []

    def hold(folder, *more):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder), *more],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        assert select.select([process.stdout], [], [], LIMIT_S)[0], "it holds nothing yet"
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        # Its children too, some of which outlive it here.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(LIMIT_S)
        process.stdout.close()


@pytest.fixture
def recipe(tmp_path, pairs_folder, tiny_tables):
    path = tmp_path / "tiny.toml"
    text = tiny_tables.replace('root = "pairs"', f'root = "{pairs_folder}"')
    path.write_text(text + "steps = 2\nlog_every = 1\n")
    return path


def run(recipe, out, **options):
    return img2img.train(recipe, out=out, device="cpu", **options)


def test_another_process_is_named(tmp_path, holder):
    process = holder(tmp_path)
    pattern = rf"written to by another run \(process {process.pid} on .*, since 20..-.*--out"
    with pytest.raises(RequestError, match=pattern) as caught:
        RunLock(tmp_path).take()
    assert caught.value.exit_code == 2


def test_it_holds_whatever_path_leads_there_and_wherever_it_moves(tmp_path, holder):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    holder(tmp_path / "run")
    with pytest.raises(RequestError, match="another run"):
        RunLock(tmp_path / "link").take()
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(RequestError, match="another run"):
        RunLock(tmp_path / "moved").take()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
@pytest.mark.parametrize("more", [(), ("child",)])
def test_it_goes_with_its_process(tmp_path, holder, more):
    """Whatever the file says, and though loader workers live on for a while."""
    process = holder(tmp_path, *more)
    process.kill()
    process.wait(LIMIT_S)
    assert str(process.pid) in (tmp_path / ".lock").read_text()
    lock = RunLock(tmp_path)
    assert lock.take()
    lock.release()
    assert not (tmp_path / ".lock").exists()


def test_taken_once_and_again(tmp_path):
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    assert first.take()
    assert not first.take()
    with pytest.raises(RequestError, match="another run of this very process"):
        second.take()
    first.release()
    first.release()
    assert second.take()
    second.release()


def test_one_that_its_owner_took_along(tmp_path, monkeypatch):
    """Between opening the file and locking it, the owner before has removed it."""
    taken, real = [], lock.try_lock

    def late(handle):
        if not taken:
            (tmp_path / ".lock").unlink()
        taken.append(handle)
        return real(handle)

    monkeypatch.setattr(lock, "try_lock", late)
    mine = RunLock(tmp_path)
    mine.take()
    with pytest.raises(RequestError):
        RunLock(tmp_path).take()
    mine.release()


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, recipe):
    def none(handle):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock, "try_lock", none)
    with pytest.warns(UserWarning, match="has no locks .*: nothing stops a second run") as told:
        run(recipe, tmp_path / "run")
    assert sum("has no locks" in str(warning.message) for warning in told) == 1
    assert (tmp_path / "run/model.safetensors").is_file()
    assert not (tmp_path / "run/.lock").exists()


@pytest.mark.parametrize("what", ["link", "folder", "pipe"])
def test_what_is_no_lock_file_is_left_alone(tmp_path, what):
    (tmp_path / "run").mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    path = tmp_path / "run/.lock"
    if what == "link":
        path.symlink_to("../mine.txt")
    elif what == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(RequestError, match=r"\.lock"):
        RunLock(tmp_path / "run").take()
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"fresh": True}])
def test_a_run_is_refused_where_one_writes(tmp_path, holder, recipe, options):
    run(recipe, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    holder(tmp_path / "run")
    with pytest.raises(RequestError, match="already holds" if not options else "another run"):
        run(recipe, tmp_path / "run", **options)
    held = tmp_path / "run/.lock"
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert after.pop(held)
    assert after == before
    # Reading is nobody's business.
    assert img2img.load(tmp_path / "run", device="cpu")


def test_an_empty_folder_that_is_held_is_refused(tmp_path, holder, recipe):
    (tmp_path / "run").mkdir()
    holder(tmp_path / "run")
    with pytest.raises(RequestError, match="another run"):
        run(recipe, tmp_path / "run")


def test_two_threads_of_one_process(tmp_path, recipe):
    """Which begin together, where nothing is yet: one trains, the other is refused."""
    outcomes, start = [], threading.Barrier(2, timeout=LIMIT_S)

    def train():
        start.wait()
        try:
            outcomes.append(run(recipe, tmp_path / "run"))
        except RequestError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=train, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()
    refused = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert len(outcomes) == 2
    assert len(refused) == 1
    assert "another run" in refused[0] or "already holds" in refused[0]
    run(recipe, tmp_path / "run", fresh=True)
    run(recipe, tmp_path / "run", resume=True)
    assert not (tmp_path / "run/.lock").exists()


def test_one_that_began_between_looking_and_writing(tmp_path, recipe, monkeypatch):
    """Where there was no folder to lock, another makes it and ends before this one writes."""
    from img2img import training

    def slow(*args, _real=training.assemble, **options):
        assembled = _real(*args, **options)
        RunDirectory(tmp_path / "run").make()
        (tmp_path / "run/recipe.toml").write_text("another's")
        return assembled

    monkeypatch.setattr(training, "assemble", slow)
    with pytest.raises(RequestError, match="has just begun"):
        run(recipe, tmp_path / "run")
    assert (tmp_path / "run/recipe.toml").read_text() == "another's"


def test_a_wrong_request_writes_nothing(tmp_path, recipe):
    with pytest.raises(Img2ImgError):
        run(recipe, tmp_path / "run", overrides={"generator.width": "wide"})
    with pytest.raises(Img2ImgError):
        run(recipe, tmp_path / "run", overrides={"data.root": str(tmp_path / "no")})
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    with pytest.raises(Img2ImgError):
        run(recipe, tmp_path / "run", overrides={"data.root": str(tmp_path / "no")})
    assert list((tmp_path / "run").iterdir()) == []


def test_a_failed_run_lets_go(tmp_path, recipe):
    def stop(step):
        raise KeyError("a fault")

    from img2img.plugins import load_plugins
    from img2img.training import train_recipe

    with pytest.raises(KeyError):
        train_recipe(
            str(recipe),
            load_plugins(entry_points=False),
            out=tmp_path / "run",
            device="cpu",
            on_step=stop,
        )
    assert not (tmp_path / "run/.lock").exists()
    run(recipe, tmp_path / "run", resume=True)


def test_the_file_is_no_reason_to_call_a_folder_foreign(tmp_path, recipe):
    """A run that is killed at its very start leaves nothing else."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock").write_text("{}")
    run(recipe, tmp_path / "run")


def test_a_link_to_another_disk_is_refused_with_a_way_out(tmp_path, recipe):
    """A link to all of a run directory is fine; one from within it could lead anywhere."""
    disk, out = tmp_path / "disk", tmp_path / "run"
    disk.mkdir()
    out.mkdir()
    (out / "checkpoints").symlink_to(disk)
    with pytest.raises(RequestError, match=r"(?s)checkpoints is a link .*another disk.*--out"):
        run(recipe, out)
    assert not list(disk.iterdir())
    (out / "checkpoints").unlink()
    out.rmdir()
    out.symlink_to(disk)
    run(recipe, out)
    assert (disk / "checkpoints").is_dir()
