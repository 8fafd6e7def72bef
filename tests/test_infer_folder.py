"""Folders: which file becomes which, work side by side, interruptions, links, reports, workers."""

import errno
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import typer
from PIL import Image

from img2img.cli.infer import _agree
from img2img.errors import Img2ImgError, RequestError
from img2img.inference import folder as folder_module
from img2img.inference.destination import Destination
from img2img.inference.folder import translate_files
from img2img.inference.naming import Naming
from img2img.inference.pipeline import Closed, WriteBehind, batches, read_ahead
from img2img.inference.planning import Plan, Share
from img2img.inference.recording import Recorder
from img2img.inference.report import Report, check_report, join_parts, part_of
from img2img.inference.samples import Samples
from img2img.inference.spread import picture_of_spread
from img2img.inference.walking import OPEN_FOLDERS, walk_images
from img2img.inference.workers import LETTER, Place, Workers, find_place
from img2img.names import printable
from img2img.picture import Picture


class Negative:
    """Stands in for a model: gives negatives, and notes what went through it together."""

    palette = None
    image_channels = (3, 3)
    noisy = True
    device = torch.device("cpu")

    def __init__(self, fails=lambda pictures: None, seconds=0.0):
        self.fails, self.seconds = fails, seconds
        self.seen = []

    def translate_pictures(self, pictures, *, sample=0):
        self.fails(pictures)
        if self.seconds:
            time.sleep(self.seconds * len(pictures))
        assert len({(p.pixels.shape, p.pixels.dtype) for p in pictures}) == 1
        self.seen.append(len(pictures))
        return [Picture(255 - p.pixels, p.alpha, p.dtype, p.profiled) for p in pictures]

    def sample(self, picture, count):
        self.fails([picture])
        pictures = [Picture((picture.pixels // 2 + i).astype(np.uint8)) for i in range(count)]
        spread = np.linspace(0, 0.5, picture.pixels[..., 0].size, dtype=np.float32)
        return Samples(pictures, Picture(picture.pixels), spread.reshape(picture.pixels.shape[:2]))

    def is_large(self, size):
        return max(size) > 100

    def batch_size(self, size):
        return 4


def save(path, size=(8, 8), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def fill(folder, names, **options):
    for seed, name in enumerate(names):
        save(folder / name, seed=seed, **options)


def files_below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


def translate(tmp_path, model=None, naming=Naming(), **options):
    plan = Plan(tmp_path / "in", tmp_path / "out", naming)
    plan.survey(overwrite=True)
    return translate_files(model or Negative(), plan, **options)


def lines_of(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def working_threads():
    return [t for t in threading.enumerate() if t.name.startswith(("read", "write"))]


# Names


@pytest.mark.parametrize(
    ("naming", "name", "becomes"),
    [
        (Naming(), "a.png", "a.png"),
        (Naming(), "deep.er/a.JPG", "deep.er/a.JPG"),
        (Naming(), "a.bmp", "a.png"),
        (Naming(), "a.b.ppm", "a.b.png"),
        (Naming(), "a.npy", "a.npy"),
        (Naming(), "a..png", "a..png"),
        (Naming(".npy"), "a.png", "a.npy"),
        (Naming(".jpg"), "a.jpeg", "a.jpeg"),
        (Naming(), "a.JFIF", "a.JFIF"),
        (Naming(".jpg"), "a.jfif", "a.jfif"),
        (Naming(channels=4), "a.jfif", "a.png"),
        (Naming(".tiff"), "a.TIF", "a.TIF"),
        (Naming(".png"), "new\nline.gif", "new\nline.png"),
        (Naming(indexed=True), "a.jpg", "a.png"),
        (Naming(indexed=True), "a.npy", "a.png"),
        (Naming(indexed=True), "a.tif", "a.tif"),
        (Naming(channels=4), "a.jpg", "a.png"),
        (Naming(channels=4), "a.webp", "a.webp"),
        (Naming(channels=5), "a.png", "a.tiff"),
        (Naming(channels=5), "a.npy", "a.npy"),
        (Naming(channels=1), "a.jpg", "a.jpg"),
    ],
)
def test_names_of_results(naming, name, becomes):
    assert naming.rename(name) == becomes


@pytest.mark.parametrize(
    ("naming", "said"),
    [
        (Naming(".jpg", indexed=True), "classes, and --format jpg cannot hold them exactly"),
        (Naming(".npy", indexed=True), "use --format png or tiff, or leave it out"),
        (Naming(".png", channels=5), "gives 5 channels, and --format png cannot hold them"),
        (Naming(".webp", channels=5), "use --format tiff or npy"),
        (Naming(".jpg", channels=2), "use --format png or webp or tiff or npy"),
    ],
)
def test_formats_that_cannot_hold_the_results(tmp_path, naming, said):
    fill(tmp_path / "in", ["a.png"])
    with pytest.raises(RequestError, match=said):
        Plan(tmp_path / "in", tmp_path / "out", naming)


def test_samples_of_two_images_never_share_a_name():
    naming = Naming(samples=12, extras=("mean", "spread"))
    stems = ["a", "a-1", "a-11", "a-1-1", "a-mean", "a-mean-1", "a-", "a--1"]
    names = [path for stem in stems for path in naming.files(Path(f"{stem}.png"))]
    assert len(set(names)) == len(names) == 14 * len(stems)
    assert names[0].name == "a-1.png"
    assert [path.name for path in names[11:14]] == ["a-12.png", "a-mean.png", "a-spread.png"]


# Planning


def test_walking_finds_what_is_there(tmp_path):
    names = ["a.png", "B.JPG", "x/b.tiff", "x/y/c.npy", "x.png/d.bmp", "ä/ö.webp"]
    passed_over = [".hidden.png", ".git/a.png", "x/.cache/y/a.png", "notes.txt", "x/png", "png."]
    for name in names + passed_over:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    # Deeper than folders are kept open.
    deep = "/".join(["d"] * (OPEN_FOLDERS + 20)) + "/deep.png"
    (tmp_path / deep).parent.mkdir(parents=True)
    (tmp_path / deep).write_bytes(b"")
    found = list(walk_images(tmp_path))
    assert sorted(f.name for f in found) == sorted([*names, deep])
    assert all(f.problem is None and f.path == tmp_path / f.name for f in found)


def open_files():
    """How many files this process has open, where the system says so."""
    return len(list(Path("/proc/self/fd").glob("*")))


def test_walking_keeps_few_folders_open(tmp_path):
    (tmp_path / "/".join(["d"] * 150)).mkdir(parents=True)
    folder = tmp_path
    for _ in range(150):
        folder = folder / "d"
        (folder / "a.png").write_bytes(b"")
    most = 0
    for _ in walk_images(tmp_path):
        most = max(most, open_files())
    assert most <= open_files() + OPEN_FOLDERS + 2


def test_links_are_read_but_folders_are_not_followed(tmp_path):
    fill(tmp_path / "elsewhere", ["b.png"])
    fill(tmp_path / "in", ["a.png"])
    (tmp_path / "in" / "linked.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    (tmp_path / "in" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "up.png").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "nowhere.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "in" / "loop.png").symlink_to(tmp_path / "in" / "loop.png")
    (tmp_path / "in" / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "in" / "pipe.png")
    reasons = {}
    outcome = translate(
        tmp_path, on_done=lambda job, status, reason: reasons.update({job.name: reason})
    )
    assert files_below(tmp_path / "out") == ["a.png", "linked.png"]
    assert (outcome.written, outcome.skipped) == (2, 4)
    assert reasons.pop("a.png") is reasons.pop("linked.png") is None
    assert reasons.pop("nowhere.png") == "a link that leads nowhere"
    assert "loop.png" in reasons
    assert reasons.pop("pipe.png") == "not a regular file"


def test_a_folder_that_cannot_be_listed_is_not_passed_over_in_silence(tmp_path, monkeypatch):
    fill(tmp_path / "in", ["a.png", "closed/b.png"])
    real = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    told = []
    # Within the test alone: pytest removes the test's folders with it.
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        outcome = translate(tmp_path, on_done=lambda job, status, reason: told.append(reason))
    assert (outcome.written, outcome.skipped) == (1, 1)
    assert "the folder cannot be listed (Permission denied)" in told


COLLISIONS = [
    (["a.png", "a.jpg"], Naming(".png"), "both become"),
    (["a.png", "a.bmp"], Naming(), "both become"),
    (["x/a.gif", "x/a.bmp", "a.png"], Naming(), "both become"),
    (["a.png", "a.bMp"], Naming(), "both become"),
    (["a.jpg", "a.npy"], Naming(indexed=True), "both become"),
    (["a.png", "a-1.png"], Naming(samples=2), "both have"),
    (["a.png", "a-2.png"], Naming(samples=2), "both have"),
    (["a.bmp", "a-1.png"], Naming(samples=2), "both have"),
    (["a.png", "a-mean.png"], Naming(samples=2, extras=("mean",)), "both have"),
]
NO_COLLISIONS = [
    (["a.png", "a.jpg"], Naming()),
    (["a.png", "a.PNG"], Naming(".png")),
    (["a.jpg", "a.jpeg"], Naming(".jpg")),
    (["a.png", "x/a.bmp", "b.bmp"], Naming()),
    (["a.png", "a-3.png", "a-0.png", "a-01.png", "b-1.png"], Naming(samples=2)),
    (["a.png", "a-mean.png", "a-spread.png"], Naming(samples=2)),
    (["a.png", "a-1.jpg"], Naming(samples=2)),
    (["a.png", "x-1.png", "x/a-1.png", "a/-1.png"], Naming(samples=2)),
]


@pytest.mark.parametrize(("names", "naming", "said"), COLLISIONS)
def test_collisions_are_found_before_anything_is_written(tmp_path, names, naming, said):
    fill(tmp_path / "in", (name.replace(".npy", ".png") for name in names))
    for name in names:
        (tmp_path / "in" / name).touch()
    plan = Plan(tmp_path / "in", tmp_path / "out", naming)
    with pytest.raises(RequestError, match=said):
        plan.survey(overwrite=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("names", "naming"), NO_COLLISIONS)
def test_what_does_not_collide(tmp_path, names, naming):
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    plan = Plan(tmp_path / "in", tmp_path / "out", naming)
    assert plan.survey(overwrite=False) == len(names)
    made = [path for job in plan.jobs() for path in job.files]
    assert len(set(made)) == len(made)


def test_what_is_asked_for_is_refused_early(tmp_path):
    fill(tmp_path / "in", ["a.png"])
    (tmp_path / "file").write_text("")
    inside, out = tmp_path / "in", tmp_path / "out"
    for source, output, said in (
        (inside, inside, "same folder"),
        (inside, tmp_path / "in" / ".." / "in", "same folder"),
        (inside, tmp_path / "file", "is a file; the results of a folder need a folder"),
        (inside, tmp_path / "file" / "out", "cannot write .*file/out: Not a directory"),
        (tmp_path / "nowhere", out, "there is no file or folder"),
        (Path("/dev/null"), out, "neither a file nor a folder"),
        (tmp_path / ("a" * 300), out, "File name too long"),
        (inside / "a.png", tmp_path / "b.xyz", "cannot be written as .xyz"),
    ):
        with pytest.raises(RequestError, match=said):
            Plan(source, output, Naming())
    with pytest.raises(RequestError, match="replace the input"):
        Plan(inside / "a.png", inside, Naming()).survey(overwrite=True)
    with pytest.raises(RequestError, match="already there"):
        Plan(inside / "a.png", inside, Naming()).survey(overwrite=False)
    with pytest.raises(RequestError, match="disagree"):
        Plan(inside / "a.png", tmp_path / "a.jpg", Naming(".png"))
    (tmp_path / "empty" / ".hidden.png").mkdir(parents=True)
    with pytest.raises(RequestError, match="no images below"):
        Plan(tmp_path / "empty", out, Naming()).survey(overwrite=False)
    assert not out.exists()


def test_results_inside_the_input_folder_are_not_inputs(tmp_path):
    fill(tmp_path / "in", ["a.png", "b.png", "x/results/c.png"])
    for overwrite in (False, True):
        plan = Plan(tmp_path / "in", tmp_path / "in" / "x" / "results" / "new", Naming())
        assert plan.survey(overwrite=True) == 3
        outcome = translate_files(Negative(), plan, overwrite=overwrite)
        assert outcome.written == 3
    assert len(files_below(tmp_path / "in")) == 6


def test_results_never_land_among_the_inputs(tmp_path):
    fill(tmp_path / "out" / "raw", ["a.png"])
    plan = Plan(tmp_path / "out" / "raw", tmp_path / "out", Naming())
    assert plan.survey(overwrite=True) == 1
    fill(tmp_path / "out" / "raw", ["raw/a.png"])
    with pytest.raises(RequestError, match="land among the inputs"):
        plan.survey(overwrite=True)


# Side by side


def test_reading_ahead_is_in_order_and_bounded():
    weights = random.Random(0).choices([1, 2, 5, 9, 30], k=200)
    lock = threading.Lock()
    inside, most = 0, 0

    def begin(item):
        time.sleep(random.Random(item).random() / 1000)

        def load():
            nonlocal inside, most
            with lock:
                inside += weights[item]
                most = max(most, inside - (weights[item] if weights[item] > 10 else 0))
                if weights[item] > 10:
                    assert inside == weights[item], "what is too heavy comes in alone"
            return item * 10

        return weights[item], load

    drawn = 0

    def items():
        nonlocal drawn
        for item in range(len(weights)):
            drawn += 1
            yield item

    got = []
    for item, loaded in read_ahead(items(), begin, threads=5, count=8, weight=10):
        with lock:
            inside -= weights[item]
        assert drawn <= len(got) + 9
        got.append((item, loaded))
    assert got == [(i, i * 10) for i in range(len(weights))]
    assert 5 < most <= 10
    assert not working_threads()


@pytest.mark.parametrize("where", ["begin", "load"])
def test_reading_ahead_passes_on_faults_and_ends(where):
    def begin(item):
        if item == 5 and where == "begin":
            raise KeyError(item)

        def load():
            if item == 5:
                raise KeyError(item)
            return item

        return 1, load

    got = []
    with pytest.raises(KeyError):
        for item, _ in read_ahead(range(100), begin, threads=3, count=20, weight=3):
            got.append(item)
    assert got == [0, 1, 2, 3, 4]
    assert not working_threads()


def test_leaving_early_ends_the_readers_at_once():
    started = []

    def load(item):
        started.append(item)
        time.sleep(0.01)
        return item

    ahead = read_ahead(
        itertools.count(), lambda item: (1, lambda: load(item)), threads=4, count=50, weight=4
    )
    next(ahead)
    began = time.perf_counter()
    ahead.close()
    assert time.perf_counter() - began < 0.5
    assert len(started) < 20
    assert not working_threads()
    assert issubclass(Closed, Exception)


@pytest.mark.parametrize("seed", range(4))
def test_batches_are_of_one_kind_and_full_where_they_can_be(seed):
    rng = random.Random(seed)
    kinds = {"a": 4, "b": 3, "c": 1, "d": 8}
    items = [(rng.choice("aaabbcd"), rng.choice([1, 1, 1, 7]), number) for number in range(300)]
    taken = 0

    def count():
        nonlocal taken
        for item in items:
            taken += 1
            yield item

    def options(count, weight):
        return {
            "kind": lambda item: item[0],
            "most": lambda item: kinds[item[0]],
            "weigh": lambda item: item[1],
            "count": count,
            "weight": weight,
        }

    given = set()
    made = []
    for batch in batches(count(), **options(12, 30)):
        assert len({kind for kind, _, _ in batch}) == 1
        assert len(batch) <= kinds[batch[0][0]]
        given |= {number for *_, number in batch}
        waiting = [item for item in items[:taken] if item[2] not in given]
        assert len(waiting) <= 12
        assert sum(weight for _, weight, _ in waiting) <= 30
        made.append(batch)
    assert sorted(item for batch in made for item in batch) == sorted(items)
    assert made == list(batches(items, **options(12, 30)))
    wide = list(batches(items, **options(1000, 10_000)))
    short = [batch for batch in wide if len(batch) < kinds[batch[0][0]]]
    assert len(short) <= len(kinds)


def test_writing_behind_is_bounded_and_does_all():
    lock = threading.Lock()
    done, held, most = [], 0, 0

    def task(weight, number):
        nonlocal held
        time.sleep(0.001)
        with lock:
            held -= weight
            done.append(number)

    with WriteBehind(threads=3, count=6, weight=10) as behind:
        for number in range(100):
            weight = (1, 4, 20)[number % 3]
            behind.submit(weight, lambda weight=weight, number=number: task(weight, number))
            with lock:
                held += weight
                most = max(most, held)
    assert sorted(done) == list(range(100))
    assert most <= 20 + 1
    assert not working_threads()


def test_writing_behind_passes_on_faults():
    done = []

    def fail():
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"), WriteBehind(threads=1, count=4, weight=9) as behind:
        behind.submit(1, fail)
        for _ in range(100):
            behind.submit(1, lambda: done.append(1))
    assert len(done) == 0
    with pytest.raises(OSError, match="full"), WriteBehind(threads=1, count=4, weight=9) as behind:
        behind.submit(1, fail)
    assert not working_threads()


def test_leaving_with_an_error_finishes_what_is_being_written_and_no_more():
    begun, done = [], []

    def task():
        begun.append(1)
        time.sleep(0.05)
        done.append(1)

    with (
        pytest.raises(KeyboardInterrupt),
        WriteBehind(threads=2, count=50, weight=99) as behind,
    ):
        for _ in range(50):
            behind.submit(1, task)
        raise KeyboardInterrupt
    assert len(begun) == len(done) <= 4
    assert not working_threads()


def test_an_interruption_while_the_last_are_written_leaves_no_thread_behind():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    begun, done = [], []
    leaving, once = threading.Event(), threading.Lock()

    def task():
        begun.append(1)
        leaving.wait()
        if once.acquire(blocking=False):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.1)
        done.append(1)

    try:
        with (
            pytest.raises(KeyboardInterrupt),
            WriteBehind(threads=2, count=50, weight=99) as behind,
        ):
            for _ in range(50):
                behind.submit(1, task)
            threading.Timer(0.1, leaving.set).start()
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(begun) == len(done) <= 6
    assert not working_threads()


def test_reading_the_network_and_writing_overlap(tmp_path, monkeypatch):
    fill(tmp_path / "in", [f"{i}.png" for i in range(40)])
    slow = 0.02

    def read(*_):
        time.sleep(slow)
        return Picture(np.zeros((8, 8, 3), np.uint8))

    monkeypatch.setattr(folder_module, "read_picture", read)
    monkeypatch.setattr(folder_module, "write_picture", lambda *_: time.sleep(slow))
    began = time.perf_counter()
    translate(tmp_path, Negative(seconds=slow), threads=1)
    took = time.perf_counter() - began
    # One after the other would take three times 0.8 s.
    assert 40 * slow <= took < 2 * 40 * slow


def test_memory_does_not_grow_with_the_number_of_files(tmp_path, monkeypatch):
    # Decoders and encoders, which only take time here.
    picture = Picture(np.zeros((4, 4, 3), np.uint8))
    monkeypatch.setattr(folder_module, "read_picture", lambda *_: replace(picture))
    monkeypatch.setattr(folder_module, "decoded_bytes", lambda path: 48)
    monkeypatch.setattr(folder_module, "write_picture", lambda path, *_: path.touch())
    one = save(tmp_path / "one.png", (4, 4))
    # It interns parts of paths, in a table of Python's own that is doubled at any time.
    others = tracemalloc.Filter(False, pathlib.__file__)

    def held(count):
        """Bytes held near the end of a folder, when all threads still have work."""
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            os.link(one, folder / f"{number}.png")
        plan = Plan(folder, tmp_path / f"out{count}", Naming())
        snapshots = []
        left = itertools.count(count - 1, -1)

        def on_done(job, status, reason):
            if next(left) == 50:
                snapshots.append(tracemalloc.take_snapshot().filter_traces([others]))

        tracemalloc.start()
        try:
            plan.survey(overwrite=False)
            with Report(tmp_path / "r.jsonl") as report:
                translate_files(Negative(), plan, threads=2, on_done=on_done, report=report)
        finally:
            tracemalloc.stop()
        return sum(trace.size for trace in snapshots[0].traces)

    held(100)
    few, many = held(200), held(1700)
    # The 1500 jobs alone would be more than a megabyte, their names 100 kB.
    assert many - few < 80_000


# Folders


def test_a_folder_keeps_paths_and_names(tmp_path):
    fill(tmp_path / "in", ["a.png", "deep/er/b.tif", "c.bmp"])
    told = []
    outcome = translate(tmp_path, on_done=lambda job, *rest: told.append((job.name, *rest)))
    assert files_below(tmp_path / "out") == ["a.png", "c.png", "deep/er/b.tif"]
    assert (outcome.written, outcome.kept, outcome.skipped) == (3, 0, 0)
    for name, made in (("a.png", "a.png"), ("deep/er/b.tif", "deep/er/b.tif"), ("c.bmp", "c.png")):
        before, after = (
            np.asarray(Image.open(p)) for p in (tmp_path / "in" / name, tmp_path / "out" / made)
        )
        assert np.array_equal(after, 255 - before)
    assert sorted(told) == [(name, "written", None) for name in ("a.png", "c.bmp", "deep/er/b.tif")]
    again = translate(tmp_path)
    assert (again.written, again.kept) == (0, 3)


def test_kept_unless_overwritten(tmp_path):
    fill(tmp_path / "in", ["a.png", "b.png"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_text("mine")
    outcome = translate(tmp_path)
    assert (outcome.written, outcome.kept) == (1, 1)
    assert (tmp_path / "out" / "a.png").read_text() == "mine"
    outcome = translate(tmp_path, overwrite=True)
    assert (outcome.written, outcome.kept) == (2, 0)
    assert Image.open(tmp_path / "out" / "a.png").size == (8, 8)


def test_an_empty_file_is_no_result(tmp_path):
    fill(tmp_path / "in", ["a.png"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").touch()
    single = Plan(tmp_path / "in" / "a.png", tmp_path / "out" / "a.png", Naming())
    assert single.survey(overwrite=False) == 1
    assert translate(tmp_path).written == 1
    assert Image.open(tmp_path / "out" / "a.png").size == (8, 8)
    assert translate(tmp_path).kept == 1


def test_unreadable_files_are_told_and_the_rest_goes_on(tmp_path):
    fill(tmp_path / "in", ["a.png", "c.png"])
    (tmp_path / "in" / "b.png").write_bytes(b"no image")
    told = []
    outcome = translate(tmp_path, on_done=lambda job, *rest: told.append((job.name, *rest)))
    assert (outcome.written, outcome.skipped) == (2, 1)
    (reason,) = [reason for name, status, reason in told if status == "skipped"]
    assert "not an image" in reason
    assert files_below(tmp_path / "out") == ["a.png", "c.png"]


def test_images_of_one_size_go_together_however_they_are_mixed(tmp_path):
    for number in range(24):
        save(tmp_path / "in" / f"{number}.png", [(8, 8), (9, 8), (8, 9)][number % 3], number)
    model = Negative()
    translate(tmp_path, model)
    assert model.seen == [4] * 6
    for size, seen in ((1, [1] * 24), (5, [3, 3, 3, 5, 5, 5]), (100, [8, 8, 8])):
        model = Negative()
        translate(tmp_path, model, batch_size=size, overwrite=True)
        assert sorted(model.seen) == seen
    large = Negative()
    for number in range(3):
        save(tmp_path / "in" / f"large{number}.png", (101, 4))
    translate(tmp_path, large, batch_size=24)
    assert sorted(large.seen) == [1, 1, 1]


def test_large_images_are_not_decoded_many_at_once(tmp_path, monkeypatch):
    fill(tmp_path / "in", [f"{i}.png" for i in range(12)], size=(40, 40))
    monkeypatch.setattr(folder_module, "AHEAD", 2 * 2000)
    lock = threading.Lock()
    held, most = 0, 0
    real = folder_module.read_picture

    def read(*args):
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return real(*args)

    class Counting(Negative):
        def translate_pictures(self, pictures, *, sample=0):
            nonlocal held
            time.sleep(0.02)
            with lock:
                held -= len(pictures)
            return super().translate_pictures(pictures)

    monkeypatch.setattr(folder_module, "read_picture", read)
    translate(tmp_path, Counting(), threads=8, batch_size=1)
    # Two ahead, and one in the network.
    assert most == 3


def test_halves_keep_their_alpha(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 4), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png")
    Image.fromarray(pixels[:, :7]).save(tmp_path / "in" / "odd.png")
    reasons = {}
    outcome = translate(
        tmp_path,
        half="right",
        on_done=lambda job, status, reason: reasons.update({job.name: reason}),
    )
    assert (outcome.written, outcome.skipped) == (1, 1)
    assert "7 pixels wide" in reasons["odd.png"]
    made = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert made.shape == (6, 4, 4)
    assert np.array_equal(made[..., 3], pixels[:, 4:, 3])


# What goes wrong


class Stop(BaseException):
    """As Ctrl-C is: no Exception."""


def test_interrupted_work_goes_on_where_it_stopped(tmp_path):
    names = [f"{i:02}.png" for i in range(40)]
    fill(tmp_path / "in", names)
    calls = itertools.count()

    def stop(pictures):
        if next(calls) == 4:
            raise Stop

    with pytest.raises(Stop):
        translate(tmp_path, Negative(stop), threads=2)
    assert not working_threads()
    there = files_below(tmp_path / "out")
    assert set(there) < set(names)
    for name in there:
        Image.open(tmp_path / "out" / name).load()
    times = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in there}
    outcome = translate(tmp_path)
    assert (outcome.kept, outcome.written) == (len(there), 40 - len(there))
    assert files_below(tmp_path / "out") == names
    assert times == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in there}


def test_what_killed_runs_left_half_written_is_removed(tmp_path):
    fill(tmp_path / "in", ["a.png", "x/b.png"])
    old = [f".partial-{'0a' * 8}.png", f"x/.partial-{'f' * 16}.tiff", f"z/.partial-{'1' * 16}.png"]
    others = [
        *("x/.partial", "x/b.partial-", ".partial-abc.png", ".partial-notes", "x/.partial-x.png"),
        *(f".partial-{'1' * 17}.png", f".partial-{'1' * 16}", f"x/.partial-{'A' * 16}.png"),
        *(f"x/.partial-{'1' * 16}.png.bak", f"a.partial-{'1' * 16}.png"),
    ]
    young = [f".partial-{'2' * 16}.png", *others]
    for name in old + young:
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    for name in [*old, *others]:
        os.utime(tmp_path / "out" / name, times=(time.time() - 4000,) * 2)
    translate(tmp_path)
    # Nothing is written to the third folder, so nobody looks there.
    assert files_below(tmp_path / "out") == sorted(["a.png", "x/b.png", old[2], *young])


def test_nothing_is_written_through_links(tmp_path):
    fill(tmp_path / "in", ["a.png", "away/b.png", "home/c.png", "away/deep/d.png", "back/e.png"])
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.png").write_text("mine")
    out = tmp_path / "out"
    (out / "real").mkdir(parents=True)
    (out / "away").symlink_to(outside)
    (out / "home").symlink_to(out / "real")
    (out / "back").symlink_to(tmp_path / "in" / "away")
    (out / "a.png").symlink_to(outside / "mine.png")
    reasons = {}
    outcome = translate(
        tmp_path,
        overwrite=True,
        on_done=lambda job, status, reason: reasons.update({job.name: reason}),
    )
    assert (outcome.written, outcome.skipped) == (2, 3)
    assert [p.name for p in outside.iterdir()] == ["mine.png"]
    assert (outside / "mine.png").read_text() == "mine"
    assert not (out / "a.png").is_symlink()
    assert (out / "real" / "c.png").is_file()
    for name in ("away/b.png", "away/deep/d.png", "back/e.png"):
        assert "leads out of the output folder" in reasons[name]
    assert files_below(tmp_path / "in" / "away") == ["b.png", "deep/d.png"]


def test_an_output_folder_that_is_a_link_itself_is_fine(tmp_path):
    fill(tmp_path / "in", ["x/a.png"])
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    assert translate(tmp_path).written == 1
    assert files_below(tmp_path / "real") == ["x/a.png"]


def test_links_from_the_output_to_the_input(tmp_path):
    """OUTPUT holds INPUT, so such a link does not even lead out of it."""
    source = tmp_path / "out" / "in"
    fill(source, ["x/a.png"])
    (tmp_path / "out" / "x").symlink_to(source / "x")
    before = (source / "x" / "a.png").read_bytes()
    reason = Destination(tmp_path / "out", source).problem(tmp_path / "out" / "x")
    assert "leads into the input folder" in reason
    outcome = translate_files(Negative(), Plan(source, tmp_path / "out", Naming()), overwrite=True)
    assert (outcome.written, outcome.skipped) == (0, 1)
    assert (source / "x" / "a.png").read_bytes() == before


def test_names_that_cannot_be_written_are_skipped(tmp_path):
    long = "a" * 251
    fill(tmp_path / "in", [f"{long}.jpg", "b.jpg", "c.jpg", "d/e.jpg"])
    (tmp_path / "out" / "c.tiff").mkdir(parents=True)
    (tmp_path / "out" / "d").write_text("a file where a folder should be")
    reasons = {}
    outcome = translate(
        tmp_path,
        naming=Naming(".tiff"),
        on_done=lambda job, status, reason: reasons.update({job.name: reason}),
    )
    assert (outcome.written, outcome.skipped) == (1, 3)
    assert "File name too long" in reasons[f"{long}.jpg"]
    assert "directory" in reasons["c.jpg"]
    assert "cannot write" in reasons["d/e.jpg"]
    assert files_below(tmp_path / "out") == ["b.tiff", "d"]


@pytest.mark.parametrize(
    ("error", "kind"), [(errno.ENOSPC, Img2ImgError), (errno.EROFS, Img2ImgError)]
)
def test_what_befalls_all_files_ends_the_job(tmp_path, monkeypatch, error, kind):
    fill(tmp_path / "in", [f"{i}.png" for i in range(60)])
    tried = []

    def write(path, *rest):
        tried.append(path)
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(folder_module, "write_picture", write)
    told = []
    with pytest.raises(kind, match=f"cannot write .*: {os.strerror(error)}") as caught:
        translate(tmp_path, batch_size=1, on_done=lambda job, *rest: told.append(rest))
    assert "the same command goes on" in str(caught.value)
    assert caught.value.exit_code == 1
    assert len(tried) < 10
    assert told == []
    assert not working_threads()


def test_a_forbidden_output_folder_is_a_wrong_request(tmp_path, monkeypatch):
    fill(tmp_path / "in", ["a.png", "b.png"])

    def write(path, *rest):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(folder_module, "write_picture", write)
    # One folder that is closed leaves the others.
    assert translate(tmp_path).skipped == 2
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RequestError, match="Permission denied"):
        Plan(tmp_path / "in", tmp_path / "out", Naming())
    monkeypatch.undo()
    monkeypatch.setattr(folder_module, "write_picture", write)
    plan = Plan(tmp_path / "in", tmp_path / "out", Naming())
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    said = r"cannot write .*out/[ab]\.png: Permission denied"
    with pytest.raises(Img2ImgError, match=said) as caught:
        translate_files(Negative(), plan)
    # It was under way, so the request may have been right.
    assert caught.value.exit_code == 1


def test_out_of_memory(tmp_path):
    """Fewer at once is tried; then the image is left out, with the way out."""
    fill(tmp_path / "in", [f"{i}.png" for i in range(8)])
    save(tmp_path / "in" / "wide.png", (90, 8))

    def fails(pictures):
        if len(pictures) > 1 or pictures[0].size[0] > 8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    reasons = {}
    model = Negative(fails)
    outcome = translate(
        tmp_path,
        model,
        on_done=lambda job, status, reason: reasons.update({job.name: reason}),
    )
    assert (outcome.written, outcome.skipped) == (8, 1)
    assert "out of memory at 90 x 8 pixels; a smaller --tile" in reasons["wide.png"]
    assert model.seen == [1] * 8


def test_an_image_the_model_refuses_leaves_its_batch(tmp_path):
    fill(tmp_path / "in", [f"{i}.png" for i in range(4)])
    refused = np.asarray(Image.open(tmp_path / "in" / "2.png"))

    def fails(pictures):
        if any(np.array_equal(p.pixels, refused) for p in pictures):
            raise ValueError("not\nthis one")

    reasons = {}
    outcome = translate(
        tmp_path,
        Negative(fails),
        on_done=lambda job, status, reason: reasons.update({job.name: reason}),
    )
    assert (outcome.written, outcome.skipped) == (3, 1)
    assert reasons["2.png"] == "not this one"

    def broken(pictures):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    shutil.rmtree(tmp_path / "out")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        translate(tmp_path, Negative(broken))
    assert not (tmp_path / "out").exists()


CANNOT = [
    (
        RuntimeError("sizes differ\nException raised from foo.cpp:1"),
        "the network fails: sizes differ",
    ),
    (RuntimeError(), "the network fails: RuntimeError"),
    (ValueError("is too small. Use larger ones."), "is too small. Use larger ones."),
    (cv2.error("of resizing"), "the network fails: of resizing"),
]


@pytest.mark.parametrize(("error", "said"), CANNOT)
@pytest.mark.parametrize("naming", [Naming(), Naming(samples=2)])
def test_one_image_that_the_network_cannot_take_ends_nothing(tmp_path, error, said, naming):
    fill(tmp_path / "in", [f"{i}.png" for i in range(30)])
    refused = [np.asarray(Image.open(tmp_path / "in" / f"{i}.png")) for i in range(12)]

    def fails(pictures):
        if any(np.array_equal(p.pixels, one) for p in pictures for one in refused):
            raise error

    # Once one has come through, no number of failures ends it.
    model = Negative(fails)
    plan = Plan(tmp_path / "in", tmp_path / "out", naming)
    jobs = sorted(plan.jobs(), key=lambda job: -int(job.name.removesuffix(".png")))
    plan.jobs = lambda share: iter(jobs)
    reasons = {}
    outcome = translate_files(
        model, plan, on_done=lambda job, status, reason: reasons.update({job.name: reason})
    )
    assert (outcome.written, outcome.skipped) == (18, 12)
    assert {name for name, reason in reasons.items() if reason == said} == {
        f"{i}.png" for i in range(12)
    }


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_network_that_fails_on_every_image_is_not_run_over_them_all(tmp_path, batch_size):
    fill(tmp_path / "in", [f"{i}.png" for i in range(40)])
    alone = []

    def fails(pictures):
        if len(pictures) == 1:
            alone.append(1)
        raise RuntimeError(f"expected 3 channels, not {len(alone)}")

    with pytest.raises(Img2ImgError, match=r"every image, 10 so far: .* expected") as caught:
        translate(tmp_path, Negative(fails), batch_size=batch_size)
    assert caught.value.exit_code == 1
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert len(alone) == 10
    assert not working_threads()
    # Few of them may be what is wrong, and so may images that fail in different ways.
    for number in range(9, 40):
        (tmp_path / "in" / f"{number}.png").unlink()
    assert translate(tmp_path, Negative(fails)).skipped == 9
    fill(tmp_path / "in", [f"{i}.png" for i in range(40)])

    calls = itertools.count()

    def differently(pictures):
        raise RuntimeError("odd" if next(calls) % 2 else "even")

    assert translate(tmp_path, Negative(differently), batch_size=1).skipped == 40


def test_strange_names_stay_inside_and_are_shown_harmlessly(tmp_path, capsys):
    names = [
        b"new\nline.png",
        b"\x1b[31mred.png",
        b"a..png",
        b"caf\xe9.png",
        b"x\\..\\..\\up.png",
        b" .png",
        "\u202egnp.exe.png".encode(),
        "日本\u3000語.png".encode(),
        b"%s{0}.png",
        b"a" * 251 + b".png",
        b"[bold].png",
    ]
    (tmp_path / "in").mkdir()
    one = save(tmp_path / "one.png")
    for name in names:
        shutil.copy(one, tmp_path / "in" / os.fsdecode(name))
    report = tmp_path / "report.jsonl"
    with Report(report) as lines:
        outcome = translate(tmp_path, report=lines)
    assert outcome.written == len(names)
    assert files_below(tmp_path / "out") == sorted(map(os.fsdecode, names))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "one.png", "out", "report.jsonl"]
    found = lines_of(report)
    told = [bytes.fromhex(line.get("input_hex", "")) or line["input"].encode() for line in found]
    assert sorted(told) == sorted(names)
    (latin,) = [line for line in found if "input_hex" in line]
    assert latin["input"] == latin["output"] == "caf\ufffd.png"
    assert bytes.fromhex(latin["output_hex"]) == b"caf\xe9.png"
    assert report.read_bytes().count(b"\n") == len(names)


def test_printable():
    assert printable("a\nb\x1b[0m\x7f\x85\u2028\u202e") == r"a\nb\x1b[0m\x7f\x85\u2028\u202e"
    assert printable(os.fsdecode(b"caf\xe9")) == r"caf\xe9"
    assert printable("ä 日本\u3000語\u00a0é.png") == "ä 日本\u3000語\u00a0é.png"
    assert printable(Path("x/y.png")) == "x/y.png"


# Reports


def test_a_report_has_a_line_an_image(tmp_path):
    fill(tmp_path / "in", ["a.bmp", "x/b.png", "kept.png"], size=(7, 5))
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept.png").write_text("mine")
    rgba = np.zeros((3, 4, 4), np.uint8)
    Image.fromarray(rgba).save(tmp_path / "in" / "clear.png")
    with Report(tmp_path / "out" / "sub" / "report.jsonl") as report:
        translate(tmp_path, report=report)
    lines = {line["input"]: line for line in lines_of(tmp_path / "out" / "sub" / "report.jsonl")}
    assert sorted(lines) == ["a.bmp", "bad.png", "clear.png", "kept.png", "x/b.png"]
    line = lines["a.bmp"]
    assert 0 <= line.pop("seconds") < 5
    assert line == {
        "input": "a.bmp",
        "output": "a.png",
        "status": "written",
        "reason": None,
        "width": 7,
        "height": 5,
        "channels": 3,
        "depth": "uint8",
    }
    assert lines["x/b.png"]["output"] == "x/b.png"
    assert lines["clear.png"]["channels"] == 4
    assert (lines["kept.png"]["status"], lines["kept.png"]["output"]) == ("kept", "kept.png")
    assert (lines["bad.png"]["status"], lines["bad.png"]["output"]) == ("skipped", None)
    assert "not an image" in lines["bad.png"]["reason"]
    assert all(
        line.keys() == lines["bad.png"].keys() for line in lines.values() if line != lines["a.bmp"]
    )


@pytest.mark.parametrize(("own", "counted"), [(1, 2), (2, 2), (3, 4), (4, 4), (5, 6)])
def test_alpha_is_counted_once(tmp_path, own, counted):
    """As files have it: of 2 and 4 channels the last is it already."""
    fill(tmp_path / "in", ["a.png"])
    clear = Picture(np.zeros((5, 7, own), np.uint8), alpha=np.zeros((5, 7), np.uint8))
    plan = Plan(tmp_path / "in", tmp_path / "out", Naming())
    (job,) = plan.jobs()
    with Report(tmp_path / "r.jsonl") as report:
        Recorder(plan.folder, report, lambda *_: None).written(job, clear, 0.0)
        Recorder(plan.folder, report, lambda *_: None).written(job, replace(clear, alpha=None), 0)
    assert [line["channels"] for line in lines_of(tmp_path / "r.jsonl")] == [counted, own]


def test_a_report_is_complete_whenever_somebody_looks(tmp_path):
    fill(tmp_path / "in", [f"{i}.png" for i in range(9)])
    path = tmp_path / "r.jsonl"
    seen = []

    def on_done(job, status, reason):
        names = [line["input"] for line in lines_of(path)]
        assert job.name in names
        seen.append(len(names))

    with Report(path) as report:
        translate(tmp_path, report=report, on_done=on_done, threads=3)
    assert len(seen) == 9


LINE = b'{"input": "a", "status": "kept"}'
TORN = [b"", b"{", b'{"inp', b'{"input": ', b'{"input": "b', b'{"input": "' + b"x" * 200_000, LINE]


@pytest.mark.parametrize("torn", TORN)
def test_a_torn_last_line_is_cut_off(tmp_path, torn):
    path = tmp_path / "r.jsonl"
    path.write_bytes(LINE + b"\n" + torn)
    check_report(path)
    with Report(path) as report:
        report.add({"input": "c\n\u00e4"})
    assert lines_of(path) == [json.loads(LINE), {"input": "c\n\u00e4"}]
    path.write_bytes(torn)
    with Report(path) as report:
        report.add({"input": "c"})
    assert lines_of(path) == [{"input": "c"}]


FOREIGN = [
    b'{"width": 3}',
    b'{"width": 3}\n',
    b'{\n  "input": "a",\n  "status": "kept"\n}\n',
    b'{\n  "input": "a"\n}',
    b'{"input": "a.png", "threshold": 0.5}',
    b'{"input": "a.png", "threshold": 0.5}\n',
    b'["input", "status"]\n',
    b'"input status"\n',
    LINE + b"\n" + b'{"width": 3}',
    LINE + b"\n" + b'{"width": 3}\n',
    LINE + b"\n\n",
    LINE + b"\nnotes",
    LINE + b"\n" + b"\0" * 9,
    b"notes\n" + LINE + b"\n",
    b'{"width": 3}\n' + (LINE + b"\n") * 9,
    b"\n",
    b"[" * 100_000 + b"\n",
    (LINE + b"\n") * 5000 + b"{" + b"x" * 200_000,
    (LINE + b"\n") * 5000 + b'{"note": "' + b"x" * 200_000 + b'"}\n',
]


@pytest.mark.parametrize("content", FOREIGN, ids=range(len(FOREIGN)))
def test_what_is_no_report_stays_as_it_is(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(RequestError, match="is there and is no report; choose another name"):
        check_report(path)
    with pytest.raises(RequestError, match="is no report"):
        Report(path)
    part_of(path, 0).write_bytes(LINE + b"\n")
    with pytest.raises(RequestError, match="is no report"):
        join_parts(path)
    assert path.read_bytes() == content
    assert part_of(path, 0).read_bytes() == LINE + b"\n"


def test_a_report_may_be_long(tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    samples = LINE[:-1] + b', "samples": ["' + b"x" * 300_000 + b'"]}\n'
    path.write_bytes(samples + (LINE + b"\n") * 200_000 + samples + b'{"in')
    tracemalloc.start()
    check_report(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 3_000_000 < path.stat().st_size
    Report(path).__exit__(None, None, None)
    assert path.read_bytes().endswith(LINE + b"\n" + samples)


def test_a_report_replaces_nothing_else(tmp_path):
    (tmp_path / "notes.jsonl").write_text("dear diary")
    with pytest.raises(RequestError, match="is there and is no report"):
        check_report(tmp_path / "notes.jsonl")
    with pytest.raises(RequestError, match="name of an image"):
        check_report(tmp_path / "new.png")
    for other in (tmp_path, Path("/dev/null")):
        with pytest.raises(RequestError, match="is no file"):
            check_report(other)
    (tmp_path / "empty.jsonl").touch()
    for name in ("empty.jsonl", "new.jsonl", "no/folder/new.jsonl"):
        check_report(tmp_path / name)
    assert not (tmp_path / "new.jsonl").exists()


def test_a_continued_report_reads_as_the_documentation_says(tmp_path, monkeypatch):
    page = Path(__file__).parents[1] / "docs" / "inference.md"
    snippet, *_ = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    fill(tmp_path / "in", ["a.png", "b.png"])
    (tmp_path / "in" / "c.png").write_bytes(b"no image")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.png").write_text("earlier")
    for seed in (None, 0, 1):
        if seed is not None:
            save(tmp_path / "in" / "c.png", seed=seed)
        with Report(tmp_path / "report.jsonl") as report:
            translate(tmp_path, report=report)
    monkeypatch.chdir(tmp_path)
    known = {}
    exec(snippet, known)
    statuses = {name: line["status"] for name, line in known["lines"].items()}
    assert statuses == {"a.png": "written", "b.png": "kept", "c.png": "written"}
    assert len(lines_of(tmp_path / "report.jsonl")) == 9


def test_a_full_disk_under_the_report_ends_the_job(tmp_path, monkeypatch):
    fill(tmp_path / "in", [f"{i}.png" for i in range(20)])

    def full(self, line):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Report, "add", full)
    with (
        pytest.raises(Img2ImgError, match="cannot write the report: No space left"),
        Report(tmp_path / "r.jsonl") as report,
    ):
        translate(tmp_path, report=report)


def test_parts_of_several_workers_are_joined(tmp_path):
    path = tmp_path / "r.jsonl"

    def line(number):
        return b'{"input": "a", "status": "kept", "n": %d}\n' % number

    path.write_bytes(line(0) + b'{"inp')
    for rank, content in (
        (0, line(1)),
        (1, line(2) + line(3) + b'{"input": "to'),
        (10, line(4)),
        (12, b""),
    ):
        part_of(path, rank).write_bytes(content)
    assert part_of(path, 12).name == "r.jsonl.part-12"
    others = ["r.jsonl.bak", "r.jsonl.1", "r.jsonl.part-1x", "xr.jsonl.part-1", "r.jsonl.part-7"]
    others += ["r.jsonl.part-"]
    for name in others:
        (tmp_path / name).write_bytes(line(9) if name != "r.jsonl.part-7" else b'{"n": 1}\n')
    join_parts(path)
    assert [line["n"] for line in lines_of(path)] == [0, 1, 2, 3, 4]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["r.jsonl", *others])
    join_parts(path)
    join_parts(tmp_path / "nowhere" / "r.jsonl")
    assert len(lines_of(path)) == 5


# Samples


def test_samples_their_mean_and_their_spread(tmp_path):
    fill(tmp_path / "in", ["x/a.png", "b.bmp"])
    naming = Naming(samples=3, extras=("mean", "spread"))
    with Report(tmp_path / "r.jsonl") as report:
        outcome = translate(tmp_path, naming=naming, report=report)
    assert outcome.written == 2
    kinds = ["1", "2", "3", "mean", "spread"]
    made = [f"b-{kind}.png" for kind in kinds] + [f"x/a-{kind}.png" for kind in kinds]
    assert files_below(tmp_path / "out") == made
    source = np.asarray(Image.open(tmp_path / "in" / "x" / "a.png"))
    for number in range(3):
        found = np.asarray(Image.open(tmp_path / "out" / "x" / f"a-{number + 1}.png"))
        assert np.array_equal(found, source // 2 + number)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "x" / "a-mean.png")), source)
    lines = {line["input"]: line for line in lines_of(tmp_path / "r.jsonl")}
    assert lines["b.bmp"]["samples"] == made[:5]
    assert lines["b.bmp"]["output"] == "b-1.png"


def test_samples_of_several_runs_are_never_mixed(tmp_path, monkeypatch):
    """Neither of other numbers, nor of a run that was stopped between two files of an image."""

    class Numbered(Negative):
        def sample(self, picture, count):
            made = super().sample(picture, count)
            pictures = [Picture(np.full_like(p.pixels, count)) for p in made.pictures]
            return Samples(pictures, Picture(np.full_like(picture.pixels, count)), made.spread)

    def levels():
        return {
            path.name: int(np.asarray(Image.open(path)).max())
            for path in (tmp_path / "out").iterdir()
        }

    fill(tmp_path / "in", ["a.png"])
    two, four = (Naming(samples=n, extras=("mean",)) for n in (2, 4))
    translate(tmp_path, Numbered(), two)
    assert levels() == dict.fromkeys(["a-1.png", "a-2.png", "a-mean.png"], 2)
    real = folder_module.write_picture
    left = itertools.count(2, -1)

    def stopped(*args):
        if next(left) == 0:
            raise Stop
        real(*args)

    three = Naming(samples=3, extras=("mean",))
    with monkeypatch.context() as patched:
        patched.setattr(folder_module, "write_picture", stopped)
        with pytest.raises(Stop):
            translate(tmp_path, Numbered(), three)
    # With the number of before there is no mean now that would pass for theirs.
    assert "a-mean.png" not in levels()
    assert translate(tmp_path, Numbered(), two).written == 1
    assert translate(tmp_path, Numbered(), four).written == 1
    names = ["a-1.png", "a-2.png", "a-3.png", "a-4.png", "a-mean.png"]
    assert levels() == dict.fromkeys(names, 4)
    assert translate(tmp_path, Numbered(), four).kept == 1


def test_samples_that_are_not_all_there_are_made_again(tmp_path):
    fill(tmp_path / "in", ["a.png", "b.png"])
    naming = Naming(samples=2)
    translate(tmp_path, naming=naming)
    (tmp_path / "out" / "a-1.png").write_text("mine")
    (tmp_path / "out" / "a-2.png").unlink()
    outcome = translate(tmp_path, naming=naming)
    assert (outcome.written, outcome.kept) == (1, 1)
    assert Image.open(tmp_path / "out" / "a-1.png").size == (8, 8)
    assert (tmp_path / "out" / "a-2.png").is_file()
    assert translate(tmp_path, naming=naming, overwrite=True).written == 2
    assert Image.open(tmp_path / "out" / "a-1.png").size == (8, 8)


def test_the_spread_has_a_fixed_scale(tmp_path):
    spread = np.array([[0, 0.125, 0.25, 0.5]], np.float32)
    shown = picture_of_spread(spread, ".PNG")
    assert shown.pixels.dtype == np.uint8
    # The ends and the middle of viridis, as matplotlib publishes it.
    expected = [[68, 1, 84], [33, 145, 140], [253, 231, 37], [253, 231, 37]]
    assert np.abs(shown.pixels[0].astype(int) - expected).max() <= 1
    raw = picture_of_spread(spread, ".npy")
    assert raw.pixels.dtype == raw.dtype == np.float32
    assert np.array_equal(raw.pixels[..., 0], spread)
    fill(tmp_path / "in", ["a.png"])
    translate(tmp_path, naming=Naming(".npy", samples=2, extras=("spread",)))
    found = np.load(tmp_path / "out" / "a-spread.npy")
    assert found.dtype == np.float32
    assert np.allclose(found.ravel(), np.linspace(0, 0.5, 64))


def test_samples_of_one_file(tmp_path):
    save(tmp_path / "a.png")
    plan = Plan(tmp_path / "a.png", tmp_path / "b.webp", Naming(samples=2))
    assert plan.survey(overwrite=False) == 1
    translate_files(Negative(), plan)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b-1.webp", "b-2.webp"]
    with pytest.raises(RequestError, match=r"b-1\.webp is already there"):
        plan.survey(overwrite=False)


# Workers


def test_a_share_is_told_by_the_bytes_of_the_name():
    name = os.fsdecode(b"caf\xe9/a.png")
    for size in range(2, 6):
        ranks = [rank for rank in range(size) if Share(rank, size).takes(name)]
        assert ranks == [zlib.crc32(b"caf\xe9/a.png") % size]


@pytest.mark.parametrize("size", range(1, 8))
def test_no_file_is_taken_twice_and_none_is_left(tmp_path, size):
    names = [f"{i % 3}/{i}.png" for i in range(60)]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    plan = Plan(tmp_path / "in", tmp_path / "out", Naming())
    taken = [[job.name for job in plan.jobs(Share(rank, size))] for rank in range(size)]
    assert sorted(itertools.chain(*taken)) == sorted(names)
    counted = [plan.survey(Share(rank, size), overwrite=False) for rank in range(size)]
    assert counted == list(map(len, taken))
    # Names spread evenly enough that workers end at about the same time.
    assert min(counted) > 0


def test_places_come_from_torchrun():
    assert find_place({}) == find_place({"WORLD_SIZE": "3"}) == Place(0, 1, 0, 1)
    given = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"}
    place = find_place(given)
    assert (place.share, place.local_rank) == (Share(5, 8), 3)
    assert place.device("auto", 4) == place.device("cuda", 4) == "cuda:3"
    assert place.device("auto", 1) == "cuda:0"
    assert (place.device("auto", 0), place.device("cpu", 4)) == ("auto", "cpu")
    assert Place().device("auto", 4) == "auto"
    assert 1 <= place.threads <= Place().threads
    for wrong in ({"RANK": "x"}, {"RANK": "8"}, {"RANK": "-1"}, {"LOCAL_RANK": "4"}):
        with pytest.raises(RequestError, match="the environment has RANK="):
            find_place(given | wrong)


@pytest.mark.parametrize("length", [10, LETTER + 3])
def test_what_all_workers_refuse_is_told_once(monkeypatch, length):
    class Done:
        def is_completed(self):
            return True

        def wait(self):
            pass

    def all_gather(letters, mine, async_op):
        for letter in letters:
            letter.copy_(mine)
        return Done()

    monkeypatch.setattr(torch.distributed, "all_gather", all_gather)

    def prepare():
        raise RequestError("\u00e9" * length)

    with pytest.raises(RequestError):
        _agree(Workers(Place(0, 2, 0, 2)), prepare)
    with pytest.raises(typer.Exit) as caught:
        _agree(Workers(Place(1, 2, 1, 2)), prepare)
    assert caught.value.exit_code == 2


def test_two_processes_share_out_a_folder(tmp_path):
    """The whole way: torchrun, a model, a file that cannot be read, reports, and going on."""
    from img2img.bundle import BundleInfo, save_bundle
    from img2img.generators import UNet

    settings = {"width": 2}
    info = BundleInfo(
        name="x",
        task={"name": "paired", "settings": {}},
        generator={
            "name": "unet",
            "settings": settings,
            "in_channels": 3,
            "out_channels": 3,
            "image_size": 4,
            "origin": "img2img",
        },
        inference={"statistics": "image", "dropout": True},
    )
    save_bundle(tmp_path / "m.safetensors", UNet(3, 3, image_size=4, **settings).state_dict(), info)
    names = [f"{i}.png" for i in range(10)]
    fill(tmp_path / "in", names)
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    (tmp_path / "r.jsonl.part-1").write_text('{"input": "earlier", "status": "kept"}\n{"inpu')
    (tmp_path / "r.jsonl.1").write_text("somebody's")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = ["img2img", "infer", "m.safetensors", "in", "out", "--device", "cpu", "--json"]
    done = subprocess.run(
        [*torchrun, "-m", *command, "--report", "r.jsonl"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 1, done.stderr
    (line,) = done.stdout.splitlines()
    counts = json.loads(line)
    assert (counts["written"], counts["kept"], counts["skipped"]) == (10, 0, 1)
    assert files_below(tmp_path / "out") == names
    assert done.stderr.count("10 translated, 1 skipped: out") == 1
    assert done.stderr.count("skipped in/bad.png: not an image") == 1
    assert list(tmp_path.glob("r.jsonl.*")) == [tmp_path / "r.jsonl.1"]
    lines = [line["input"] for line in lines_of(tmp_path / "r.jsonl")]
    assert lines[0] == "earlier"
    assert sorted(lines[1:]) == sorted([*names, "bad.png"])
