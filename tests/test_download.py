"""Fetching a data set from a server that does everything wrong that a server can."""

import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import re
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from img2img.cli import main
from img2img.download import CATALOG, DataSet, Watcher, display, fetch, fetching, lock, transfer
from img2img.download import archive as archives
from img2img.download.archive import BadArchiveError, unpack
from img2img.download.partial import Partial, size_text
from img2img.errors import DataError, Img2ImgError, Interrupted, RequestError
from img2img.recipe_files import shipped_recipes

TINY = DataSet(
    name="tiny",
    summary="Noise.",
    url="http://127.0.0.1:1/tiny.tar.gz",
    pairs={"train": 5, "val": 2},
    left="noise",
    right="noise",
    direction="AtoB",
    task="noise to noise",
    terms="none",
    cite="nobody",
    recipes=("tiny",),
    file_size=(64, 32),
)


# Archives


def png(width=64, height=32, seed=0):
    """Noise, so that it does not shrink and the archive has a few chunks."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def members(top="tiny", pairs=None, size=(64, 32)):
    """The files of a good data set, name to content."""
    return {
        f"{top}/{split}/{index}.png": png(*size, seed=index)
        for split, count in (pairs or TINY.pairs).items()
        for index in range(count)
    }


def tar_of(files, extra=()):
    """A tar with files, and then members that are made by hand."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o6777
            tar.addfile(member, io.BytesIO(content))
        for member, content in extra:
            tar.addfile(member, io.BytesIO(content))
    return written.getvalue()


def archive_of(files=None, extra=()):
    return gzip.compress(tar_of(members() if files is None else files, extra), mtime=0)


GOOD = archive_of()


def member(name, kind=tarfile.REGTYPE, target="", size=0):
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, target, size
    return found


# The server


class Server:
    """Answers with `content`; a test changes what it does wrong.

    Attributes:
        content: the file.
        etag: its version, or "".
        ranges: whether it resumes.
        cuts: for each request, after how many bytes of the body the connection ends; then none.
        stalls: likewise, but it stays open and silent.
        announce: what Content-Length says instead, as a function of the truth; None sends none.
        answers: for each request a status, or a function of the handler, instead of the file.
        asked: the headers of each request.
        sent: bytes of body of each request.
    """

    def __init__(self):
        self.content = GOOD
        self.etag = '"one"'
        self.ranges = True
        self.cuts, self.stalls, self.answers = [], [], []
        self.announce = lambda length: length
        self.content_range = lambda start, total: f"bytes {start}-{total - 1}/{total}"
        self.kind = "application/x-gzip"
        self.asked, self.sent = [], []
        self.released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(dict(self.headers))
                outer.sent.append(0)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    outer.answer(self)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        # Not to wait for those that stall.
        self.http.block_on_close = False
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/tiny.tar.gz"

    def close(self):
        self.released.set()
        self.http.shutdown()
        self.http.server_close()

    def answer(self, handler):
        if self.answers:
            answer = self.answers.pop(0)
            if callable(answer):
                answer(handler)
                return
            if answer is not None:
                handler.send_error(answer)
                return
        self.serve(handler)

    def serve(self, handler):
        total, start = len(self.content), 0
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if wanted and self.ranges and handler.headers.get("If-Range", self.etag) == self.etag:
            start = int(wanted[1])
        if start >= total > 0:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{total}")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", self.content_range(start, total))
        if self.etag:
            handler.send_header("ETag", self.etag)
        length = self.announce(total - start)
        if length is not None:
            handler.send_header("Content-Length", str(length))
        handler.send_header("Content-Type", self.kind)
        handler.end_headers()
        cut = self.cuts.pop(0) if self.cuts else None
        stall = self.stalls.pop(0) if self.stalls else None
        stop = next((stop for stop in (cut, stall) if stop is not None), total)
        body = self.content[start : start + stop]
        handler.wfile.write(body)
        handler.wfile.flush()
        self.sent[-1] = len(body)
        if stall is not None:
            self.released.wait(20)


@pytest.fixture
def server(monkeypatch):
    # A proxy of this machine is not to be asked for 127.0.0.1.
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(transfer, "PAUSE", 0.01)
    monkeypatch.setattr(transfer, "LONGEST_PAUSE", 0.02)
    # Small, so that a cut falls between two.
    monkeypatch.setattr(transfer, "CHUNK", 1000)
    running = Server()
    yield running
    running.close()


class Notes(Watcher):
    def __init__(self):
        self.lines, self.steps = [], []

    def note(self, text):
        self.lines.append(text)

    def downloading(self, have, total):
        self.steps.append((have, total))


@pytest.fixture
def get(server, tmp_path):
    """Fetch the tiny set from the server; what it says, as `get.notes`."""
    notes = Notes()

    def get(folder=None, **options):
        options = {"url": server.url, "timeout": 5.0, "watch": notes, **options}
        return fetch(options.pop("data", TINY), folder or tmp_path / "data/tiny", **options)

    get.notes = notes
    return get


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


EXPECTED = {name.removeprefix("tiny/"): content for name, content in members().items()}


def is_whole(folder):
    return contents(folder) == EXPECTED and not [
        path for path in Path(folder).parent.iterdir() if path.name.startswith(".")
    ]


# What should happen


def test_fetch(get, server, tmp_path):
    fetched = get()
    assert is_whole(tmp_path / "data/tiny")
    assert fetched.pairs == {"train": 5, "val": 2}
    assert fetched.bytes == len(GOOD)
    assert fetched.sha256 == hashlib.sha256(GOOD).hexdigest()
    assert not fetched.already
    mark = json.loads((tmp_path / "data/tiny/.img2img.json").read_text())
    assert mark["url"] == server.url
    assert (mark["bytes"], mark["sha256"]) == (fetched.bytes, fetched.sha256)
    assert mark["pairs"] == fetched.pairs
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", mark["fetched"])
    assert get.notes.steps[0] == (0, len(GOOD))
    assert get.notes.steps[-1] == (len(GOOD), len(GOOD))
    assert len(server.asked) == 1


def test_modes_of_the_archive_are_not_taken(get, tmp_path):
    get()
    for path in (tmp_path / "data/tiny").rglob("*"):
        assert not path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH)
        if path.is_file():
            assert not path.stat().st_mode & 0o111


def test_a_second_time_asks_nobody(get, server, tmp_path):
    first = get()
    again = get(url="http://127.0.0.1:1/nobody")
    assert again == dataclasses.replace(first, already=True)
    assert len(server.asked) == 1


def test_force_fetches_again(get, server, tmp_path):
    get()
    (tmp_path / "data/tiny/train/0.png").unlink()
    with pytest.raises(DataError, match=r"missing now: 1 in train/; --out .* --force"):
        get()
    get(replace=True)
    assert is_whole(tmp_path / "data/tiny")
    assert len(server.asked) == 2


@pytest.mark.parametrize("top", ["night2day", "./tiny", "."])
def test_the_top_folder_may_have_any_name_or_none(get, server, tmp_path, top):
    server.content = archive_of({**members(top), f"{top}/.DS_Store": b"x", "._tiny": b"x"})
    get()
    assert is_whole(tmp_path / "data/tiny")


def test_a_link_to_another_disk_stays(get, tmp_path):
    (tmp_path / "disk/tiny").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/tiny").symlink_to(tmp_path / "disk/tiny")
    get()
    assert (tmp_path / "data/tiny").is_symlink()
    assert is_whole(tmp_path / "disk/tiny")


# Resuming


def test_a_cut_is_resumed(get, server, tmp_path):
    server.cuts = [5000, 3000]
    get()
    assert is_whole(tmp_path / "data/tiny")
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=5000-", "bytes=8000-"]
    assert server.asked[1]["If-Range"] == '"one"'
    assert server.sent == [5000, 3000, len(GOOD) - 8000]
    assert any("ended early" in line for line in get.notes.lines)
    assert any("going on at 5.0 kB of" in line for line in get.notes.lines)


def test_many_cuts_are_resumed_as_long_as_something_comes(get, server, tmp_path):
    server.cuts = [1000] * 12
    get()
    assert is_whole(tmp_path / "data/tiny")
    assert len(server.asked) == 13


def test_a_file_that_changes_each_time(get, server, tmp_path):
    """Nothing more than before comes, so this ends."""

    def change(handler):
        server.etag = f'"{len(server.asked)}"'
        server.serve(handler)

    server.cuts, server.answers = [1000] * 99, [change] * 99
    with pytest.raises(Img2ImgError, match="gave up after 5 attempts"):
        get()
    assert len(server.asked) == 5


def test_a_later_command_goes_on(get, server, tmp_path):
    server.cuts = [5000]
    server.answers = [None, 503, 503, 503, 503]
    with pytest.raises(Img2ImgError, match=r"5\.0 kB of .* are kept, and the same command goes on"):
        get()
    assert tree(tmp_path / "data") == [".tiny.tar.gz.partial", ".tiny.tar.gz.partial.json"]
    get()
    assert is_whole(tmp_path / "data/tiny")
    assert server.sent[-1] == len(GOOD) - 5000


def test_a_stall_is_given_up_and_resumed(get, server, tmp_path):
    server.stalls = [5000]
    begun = time.monotonic()
    get(timeout=0.3)
    assert time.monotonic() - begun < 5
    assert is_whole(tmp_path / "data/tiny")
    assert server.asked[1]["Range"] == "bytes=5000-"
    assert any("stalls" in line for line in get.notes.lines)


def test_a_server_that_stalls_for_ever(get, server, tmp_path):
    server.stalls = [0] * 9
    with pytest.raises(
        Img2ImgError, match=r"stalls: nothing has come for 0\.1 s; gave up after 5 attempts"
    ):
        get(timeout=0.1)
    assert not (tmp_path / "data/tiny").exists()


def test_a_server_that_does_not_answer(get, server, tmp_path):
    server.answers = [lambda handler: server.released.wait(20)] * 9
    with pytest.raises(Img2ImgError, match=r"no answer for 0\.1 s"):
        get(timeout=0.1)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("etag", ['"one"', ""])
def test_a_server_that_cannot_resume(get, server, tmp_path, etag):
    server.ranges, server.etag, server.cuts = False, etag, [5000]
    get()
    assert is_whole(tmp_path / "data/tiny")
    assert server.sent == [5000, len(GOOD)]
    assert "the server cannot resume: starting again" in get.notes.lines


def test_a_file_that_changed_meanwhile(get, server, tmp_path):
    server.cuts = [5000]

    def change(handler):
        server.content, server.etag = archive_of({**members(), "tiny/new.txt": b"new"}), '"two"'
        server.answer(handler)

    server.answers = [None, change]
    get()
    assert (tmp_path / "data/tiny/new.txt").read_bytes() == b"new"
    assert server.asked[1]["If-Range"] == '"one"'
    assert "the file on the server has changed: starting again" in get.notes.lines


@pytest.mark.parametrize(
    "changed",
    [
        {"etag": '"two"'},
        {"content": GOOD + b"\0"},
        {"content_range": lambda start, total: f"bytes {start - 1}-{total - 1}/{total}"},
        {"content_range": lambda start, total: f"bytes {start - 1}-{total - 2}/{total}"},
        {"content_range": lambda start, total: f"bytes {start}-{total - 2}/{total}"},
        {"content_range": lambda start, total: f"bytes {start}-{total}/{total}"},
        {
            "content_range": lambda start, total: f"bytes {start}-{total}/{total}",
            "announce": lambda length: None,
        },
        {"content_range": lambda start, total: "bytes"},
    ],
)
def test_a_rest_that_does_not_fit(get, server, tmp_path, changed):
    """Servers that ignore If-Range, or send another range than they were asked for."""
    server.cuts = [5000]
    before = {name: getattr(server, name) for name in changed}

    def answer(handler):
        for name, value in changed.items():
            setattr(server, name, value)
        if handler.headers.get("If-Range"):
            del handler.headers["If-Range"]
        server.answer(handler)
        for name, value in before.items():
            setattr(server, name, value)

    server.answers = [None, answer]
    get()
    assert is_whole(tmp_path / "data/tiny")
    assert "Range" in server.asked[1]
    assert "Range" not in server.asked[2]
    assert any("does not fit" in line for line in get.notes.lines)


def test_a_file_that_became_shorter(get, server, tmp_path):
    server.content, server.etag, server.cuts = GOOD + GOOD, "", [len(GOOD) + 10]
    server.answers = [
        None,
        lambda handler: (setattr(server, "content", GOOD), server.answer(handler)),
    ]
    get()
    assert is_whole(tmp_path / "data/tiny")
    assert "Range" not in server.asked[2]


def test_another_copy_goes_on_where_the_first_stopped(get, server, tmp_path):
    server.cuts, server.answers = [5000], [None, 503, 503, 503, 503]
    with pytest.raises(Img2ImgError):
        get()
    server.etag = '"a mirror has its own"'
    get(url=server.url.replace("tiny.tar.gz", "mirror/tiny.tar.gz"))
    assert is_whole(tmp_path / "data/tiny")
    assert server.sent[-1] == len(GOOD) - 5000
    assert "If-Range" not in server.asked[-1]


def test_another_copy_of_another_length_begins_anew(get, server, tmp_path):
    server.cuts, server.answers = [5000], [None, 503, 503, 503, 503]
    with pytest.raises(Img2ImgError):
        get()
    server.content = archive_of({**members(), "tiny/more.txt": b"more"})
    get(url=server.url.replace("tiny.tar.gz", "mirror/tiny.tar.gz"))
    assert (tmp_path / "data/tiny/more.txt").exists()
    assert server.sent[-1] == len(server.content)


@pytest.mark.parametrize("trouble", ["away", "page", "empty", "shorter"])
def test_another_copy_of_another_length_costs_nothing_until_it_comes(
    get, server, tmp_path, trouble
):
    server.cuts, server.answers = [5000], [None, 503, 503, 503, 503]
    with pytest.raises(Img2ImgError):
        get()
    server.content = GOOD[:4000] if trouble == "shorter" else GOOD + GOOD
    if trouble == "empty":
        server.answers = [None, *[empty] * 9]
    else:
        server.answers = [None, *[page if trouble == "page" else 503] * 9]
    with pytest.raises(Img2ImgError) as error:
        get(url=server.url.replace("tiny.tar.gz", "mirror/tiny.tar.gz"))
    if trouble != "page":
        assert "5.0 kB of" in str(error.value)
        assert "are kept, but this server does not go on there" in str(error.value)
    server.answers, server.content = [], GOOD
    get()
    assert is_whole(tmp_path / "data/tiny")
    assert server.sent[-1] == len(GOOD) - 5000


def empty(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def test_what_is_said_of_a_server_that_cannot_resume(get, server, tmp_path):
    server.ranges, server.cuts, server.answers = False, [5000, 3000], [None, None, *[503] * 9]
    said = r"3\.0 kB of .* are kept, but this server does not go on there: the same command starts"
    with pytest.raises(Img2ImgError, match=said):
        get()
    # The next command knows that as well,
    server.answers = [503] * 5
    with pytest.raises(Img2ImgError, match=said):
        get()
    # and nothing of another server.
    server.answers = [503] * 5
    with pytest.raises(Img2ImgError, match="and the same command goes on there"):
        get(url=server.url.replace("tiny.tar.gz", "mirror/tiny.tar.gz"))
    server.answers = []
    get()
    assert is_whole(tmp_path / "data/tiny")


def test_a_server_that_says_that_it_cannot_resume(get, server, tmp_path):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Accept-Ranges", "none")
        handler.send_header("Content-Length", str(len(GOOD)))
        handler.end_headers()
        handler.wfile.write(GOOD[:5000])

    server.answers = [answer, *[503] * 9]
    with pytest.raises(Img2ImgError, match=r"5\.0 kB of .* this server does not go on there"):
        get()


STALE = '{"url": "http://x", "etag": "", "modified": "", "total": %s}'


@pytest.mark.parametrize(
    "said",
    ["", "{}", "[1]", '{"url": 1}', "no json", STALE % '"9"', STALE.replace("http://x", "") % 9],
)
def test_leftovers_that_say_nothing_are_not_trusted(get, server, tmp_path, said):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/.tiny.tar.gz.partial").write_bytes(b"garbage")
    if said:
        (tmp_path / "data/.tiny.tar.gz.partial.json").write_text(said)
    get()
    assert is_whole(tmp_path / "data/tiny")
    assert "Range" not in server.asked[0]


def test_a_partial_file_longer_than_the_whole(tmp_path):
    path = tmp_path / "partial"
    Partial(path, "http://x", '"one"', "", 3).save()
    path.write_bytes(b"12345")
    assert Partial.at(path).have == 0
    assert not path.exists()


def test_a_weak_version_is_not_relied_on(get, server, tmp_path):
    server.etag, server.cuts = 'W/"one"', [5000]
    server.answers = [
        None,
        lambda handler: (handler.headers.__delitem__("If-Range"), server.answer(handler)),
    ]
    get()
    assert is_whole(tmp_path / "data/tiny")
    assert "If-Range" not in server.asked[1]


# Lengths


def test_a_length_that_is_too_long(get, server, tmp_path):
    server.announce = lambda length: length + 100
    with pytest.raises(Img2ImgError, match="gave up"):
        get()
    assert not (tmp_path / "data/tiny").exists()
    # The truth, next time.
    server.announce = lambda length: length
    get()
    assert is_whole(tmp_path / "data/tiny")


def test_a_length_that_is_too_short(get, server, tmp_path):
    server.announce = lambda length: length - 100
    with pytest.raises(BadArchiveError, match=r"not whole .*\n.*has been deleted"):
        get()
    assert tree(tmp_path) == []


def test_no_length(get, server, tmp_path):
    server.announce = lambda length: None
    get()
    assert is_whole(tmp_path / "data/tiny")
    assert get.notes.steps[0] == (0, None)


def test_no_length_and_a_cut(get, server, tmp_path):
    """Its end looks like any other, until the archive is read."""
    server.announce, server.cuts = (lambda length: None), [5000]
    with pytest.raises(BadArchiveError, match="ends too early"):
        get()
    assert tree(tmp_path) == []
    get()
    assert is_whole(tmp_path / "data/tiny")


def test_a_file_that_is_far_too_long(get, server, tmp_path, monkeypatch):
    monkeypatch.setattr(DataSet, "max_bytes", property(lambda self: 20_000))
    with pytest.raises(Img2ImgError, match="far more than this data set has"):
        get()
    server.announce = lambda length: None
    with pytest.raises(Img2ImgError, match=r"sends more than 20\.0 kB"):
        get()
    # It stops there, and does not wait for the end.
    assert get.notes.steps[-1][0] <= 21_000 < len(GOOD)
    assert tree(tmp_path) == []


def test_a_full_disk_is_told_before(get, server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=len(GOOD)))
    with pytest.raises(Img2ImgError, match=r"tiny needs .* are free; make room"):
        get()
    assert tree(tmp_path) == []


def test_a_disk_that_fills_up(get, server, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(archives, "_write", full)
        with pytest.raises(Img2ImgError, match="No space left on device; what has arrived is kept"):
            get()
    assert tree(tmp_path / "data") == [".tiny.tar.gz.partial", ".tiny.tar.gz.partial.json"]
    # All has arrived, so nobody is asked.
    get(url="http://127.0.0.1:1/nobody")
    assert is_whole(tmp_path / "data/tiny")
    assert len(server.asked) == 1


def test_a_folder_that_cannot_be_written(get, server, tmp_path, monkeypatch):
    def forbidden(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(tmp_path / "data"))

    monkeypatch.setattr(Path, "mkdir", forbidden)
    with pytest.raises(Img2ImgError, match=r"Permission denied; name another folder with --out$"):
        get()
    assert server.asked == []


# A file instead of an address


def test_an_archive_that_is_here(get, server, tmp_path, monkeypatch):
    server.cuts, server.answers = [5000], [None, 503, 503, 503, 503]
    with pytest.raises(Img2ImgError):
        get()
    asked = len(server.asked)
    (tmp_path / "stick").mkdir()
    own = tmp_path / "stick/tiny.tar.gz"
    own.write_bytes(GOOD)
    monkeypatch.chdir(tmp_path)
    fetched = get(url="stick/tiny.tar.gz")
    assert (fetched.url, fetched.bytes) == (str(own), len(GOOD))
    assert is_whole(tmp_path / "data/tiny")
    assert own.read_bytes() == GOOD
    assert len(server.asked) == asked
    assert get().already


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (GOOD[:-20], "ends too early"),
        (b"PK no gzip", "damaged"),
        (archive_of(extra=[(member("../evil", size=4), b"evil")]), "leads out"),
        (archive_of(members(pairs={"train": 5})), "0 images in val/"),
    ],
    ids=["cut", "zip", "hostile", "few"],
)
def test_an_archive_that_is_here_and_bad(get, tmp_path, content, said):
    own = tmp_path / "own.tar.gz"
    own.write_bytes(content)
    with pytest.raises(BadArchiveError, match=rf"{said}[^\0]*left as it is; nothing was unpacked$"):
        get(url=str(own))
    assert own.read_bytes() == content
    assert tree(tmp_path) == ["own.tar.gz"]


def test_an_archive_in_the_folder_that_is_replaced(get, tmp_path):
    get()
    own = tmp_path / "data/tiny/train/tiny.tar.gz"
    own.write_bytes(GOOD)
    with pytest.raises(RequestError, match="is in the folder that it would become"):
        get(url=str(own), replace=True)
    assert own.exists()


# Answers that are no file


def test_the_server_is_away(tmp_path, monkeypatch, get):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Img2ImgError) as refused:
        get(url=f"http://127.0.0.1:{port}/tiny.tar.gz")
    said = str(refused.value)
    assert "cannot be reached (Connection refused)" in said
    assert "gave up after 5 attempts" in said
    assert "the same command tries again" in said
    assert "--url names another copy" in said
    assert refused.value.exit_code == 1
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "said", "asked"),
    [
        (404, r"there is no such file \(404 Not Found\); --url", 1),
        (403, r"the server refuses \(403 Forbidden\); --url", 1),
        (500, "the server answers 500 Internal Server Error; gave up", 5),
        (503, "the server answers 503 Service Unavailable; gave up", 5),
    ],
)
def test_statuses(get, server, tmp_path, status, said, asked):
    server.answers = [status] * 9
    with pytest.raises(Img2ImgError, match=said):
        get()
    assert len(server.asked) == asked
    assert tree(tmp_path) == []


def test_a_server_in_trouble_for_a_while(get, server, tmp_path):
    server.answers = [503, 500, 429]
    get()
    assert is_whole(tmp_path / "data/tiny")


def page(handler):
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.end_headers()
    handler.wfile.write(b"\n<!DOCTYPE html><html>Please sign in</html>")


def test_a_web_page_instead(get, server, tmp_path):
    server.answers = [page]
    with pytest.raises(Img2ImgError, match="a web page instead of the archive"):
        get()
    assert tree(tmp_path) == []


def test_a_web_page_does_not_cost_what_has_arrived(get, server, tmp_path):
    server.cuts, server.answers = [5000], [None, page]
    with pytest.raises(Img2ImgError, match="a web page"):
        get()
    get()
    assert server.sent[-1] == len(GOOD) - 5000


@pytest.mark.parametrize(
    ("content", "said"), [(b"PK\3\4zip", "a zip file"), (b"something", "no gzip file")]
)
def test_another_kind_of_file(get, server, tmp_path, content, said):
    server.content = content
    with pytest.raises(Img2ImgError, match=said):
        get()
    assert tree(tmp_path) == []


def to(place, status=302):
    def answer(handler):
        handler.send_response(status)
        handler.send_header("Location", place)
        handler.end_headers()

    return answer


def test_redirects(get, server, tmp_path):
    server.answers = [to("/elsewhere.tar.gz")]
    get()
    assert is_whole(tmp_path / "data/tiny")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_redirects_to_other_kinds_of_addresses(get, server, tmp_path, place, status):
    server.answers = [to(place, status)]
    with pytest.raises(Img2ImgError, match=r"leads to .*, which is neither http nor https"):
        get()
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x/y", "x", "http://", "http://x:y/", "http://x/ä b"]
)
def test_addresses_that_are_none(get, url):
    with pytest.raises(RequestError, match="is not an address"):
        get(url=url)


# Archives that are damaged, or want to do harm


def refused(get, server, tmp_path, content, said):
    """Refused as a whole: nothing stays, and nothing is written elsewhere."""
    server.content = content
    (tmp_path / "sentinel").write_text("untouched")
    with pytest.raises(BadArchiveError, match=said) as error:
        get(tmp_path / "deep/data/tiny")
    assert "nothing was unpacked" in str(error.value)
    assert tree(tmp_path) in (["deep", "sentinel"], ["deep", "deep/data", "sentinel"])
    assert (tmp_path / "sentinel").read_text() == "untouched"


EVIL = b"evil"
HOSTILE = {
    "up": ([(member("tiny/../../evil", size=4), EVIL)], r"'tiny/\.\./\.\./evil' leads out"),
    "up first": ([(member("../evil", size=4), EVIL)], "leads out"),
    "absolute": ([(member("/evil", size=4), EVIL)], "'/evil' has an absolute path"),
    "windows": ([(member("tiny\\..\\evil", size=4), EVIL)], "has an odd name"),
    "drive": ([(member("C:evil", size=4), EVIL)], "has an odd name"),
    "control": ([(member("tiny/\x1b[2J", size=4), EVIL)], "has an odd name"),
    "link": (
        [
            (member("tiny/train/x", tarfile.SYMTYPE, "../../.."), b""),
            (member("tiny/train/x/evil", size=4), EVIL),
        ],
        r"'tiny/train/x' is a symbolic link to '\.\./\.\./\.\.'",
    ),
    "hidden link": ([(member("tiny/.x", tarfile.SYMTYPE, "/"), b"")], "is a symbolic link"),
    "hard link": (
        [(member("tiny/train/x", tarfile.LNKTYPE, "/etc/passwd"), b"")],
        "is a hard link to '/etc/passwd'",
    ),
    "pipe": ([(member("tiny/train/x", tarfile.FIFOTYPE), b"")], "is a pipe"),
    "device": ([(member("tiny/train/x", tarfile.CHRTYPE), b"")], "is a device"),
    "disk": ([(member("tiny/train/x", tarfile.BLKTYPE), b"")], "is a device"),
    "unknown": ([(member("tiny/train/x", b"Z"), b"")], "neither a plain file nor a folder"),
    "twice": ([(member("tiny/train/0.png", size=4), EVIL)], "is there twice"),
    "file and folder": ([(member("tiny/train/0.png/x", size=4), EVIL)], "is there twice"),
    "folder and file": ([(member("tiny/train", size=4), EVIL)], "is there twice"),
    "long": ([(member("tiny/" + "x" * 250, size=4), EVIL)], "a name that is too long"),
    "deep": ([(member("tiny/" + "x/" * 20, size=4), EVIL)], "a name that is too long"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(get, server, tmp_path, name):
    extra, said = HOSTILE[name]
    refused(get, server, tmp_path, archive_of(extra=extra), said)


def header(name, size, kind=tarfile.REGTYPE):
    """A member that claims to be larger than it is, or than anything."""
    return member(name, kind, size=size).tobuf(tarfile.GNU_FORMAT)


def test_a_bomb_that_says_so(get, server, tmp_path):
    content = gzip.compress(header("tiny/train/x.png", 1 << 40) + bytes(1 << 16))
    refused(get, server, tmp_path, content, "'tiny/train/x.png' makes it more than 1.1 GB")


def test_a_bomb_of_many_files(get, server, tmp_path):
    """Hidden ones count as well, though they are not unpacked."""
    names = {f"tiny/.{index}": b"" for index in range(TINY.max_files)}
    refused(get, server, tmp_path, archive_of({**names, **members()}), "more than 1014 files")


def test_a_bomb_after_the_end(get, server, tmp_path, monkeypatch):
    monkeypatch.setattr(DataSet, "max_bytes", property(lambda self: 3_000_000))
    content = gzip.compress(tar_of(members()) + bytes(5_000_000))
    refused(get, server, tmp_path, content, "goes on for ever")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_bomb_in_a_header(get, server, tmp_path, kind):
    """tarfile would read it into memory."""
    content = gzip.compress(header("x", 1 << 30, kind) + bytes(1 << 16))
    refused(get, server, tmp_path, content, "implausible length")


def test_headers_of_headers(get, server, tmp_path):
    content = gzip.compress(header("x", 0, tarfile.XHDTYPE) * 5000 + bytes(1024))
    refused(get, server, tmp_path, content, "headers that do not end")


def test_a_sparse_map_without_end(get, server, tmp_path):
    """tarfile would read all of it into memory before it shows the member."""
    block = bytearray(header("tiny/train/x", 0, tarfile.GNUTYPE_SPARSE))
    block[482] = 1  # more of the map follows
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    more = (b"00000000001\0" * 2 * 21 + b"\x01").ljust(512, b"\0")
    content = gzip.compress(bytes(block) + more * 1000)
    refused(get, server, tmp_path, content, "headers that do not end")


def test_a_negative_size(get, server, tmp_path):
    """tarfile would go back and forth for ever."""
    block = bytearray(header("tiny/train/x.png", 0))
    block[124:136] = b"\xff" * 11 + b"\x00"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    refused(get, server, tmp_path, gzip.compress(bytes(block) + bytes(2048)), "negative size")


def test_a_sparse_file(get, server, tmp_path):
    content = archive_of(extra=[(member("tiny/train/x", tarfile.GNUTYPE_SPARSE), b"")])
    refused(get, server, tmp_path, content, "neither a plain file nor a folder")


TAR = tar_of(members())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (GOOD[:-20], "ends too early"),
        (GOOD[:3000], "ends too early"),
        (GOOD[:5], "ends too early"),
        (GOOD[:-8] + b"12345678", "CRC"),
        (GOOD[:3000] + bytes(500) + GOOD[3500:], "damaged"),
        (GOOD + b"garbage", "not a gzipped file|Not a gzipped file"),
        (b"", "ends too early|empty"),
        (gzip.compress(b""), "empty|ends too early"),
        # Whole as gzip, but the tar in it is not.
        (gzip.compress(TAR[: 512 * 20]), "ends too early|unexpected end"),
        (gzip.compress(tar_of(members()).rstrip(b"\0") + b"\0" * 20), "ends too early|damaged"),
        (gzip.compress(TAR.rstrip(b"\0").ljust(512 * 999, b"x")), "damaged"),
        (gzip.compress(b"no tar at all" * 100), "damaged"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value.split()[0],
)
def test_damaged_archives(get, server, tmp_path, content, said):
    refused(get, server, tmp_path, content, said)


def test_a_tar_that_ends_between_two_files(get, server, tmp_path):
    """tarfile takes that for the end."""
    files = members()
    whole = tar_of(files)
    last = whole.index(list(files)[-1].encode())
    for cut in (whole[:last], whole[:last] + b"x" * 512):
        refused(get, server, tmp_path, gzip.compress(cut), "ends too early|in between")
        shutil.rmtree(tmp_path / "deep")


# Archives that are something else


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (members(pairs={"train": 4, "val": 2}), "4 images in train/, where 5 should be"),
        (members(pairs={"train": 5}), "0 images in val/, where 2 should be"),
        ({"tiny/readme.txt": b"hello"}, r"holds no train/ \(tiny instead\)"),
        ({}, r"holds no train/ \(nothing instead\)"),
        (members(size=(32, 32)), "has 32x32 pixels, where 64x32 should be"),
        ({**members(), "tiny/val/1.png": b"no image"}, r"val/1\.png is no image"),
    ],
    ids=["few", "no val", "no train", "empty", "size", "no image"],
)
def test_archives_of_something_else(get, server, tmp_path, files, said):
    refused(get, server, tmp_path, archive_of(files), said)


def test_pairs_whose_size_is_not_known(get, server, tmp_path):
    unknown = dataclasses.replace(TINY, file_size=None)
    get(data=unknown)
    server.content = archive_of(members(size=(64, 33)))
    with pytest.raises(BadArchiveError, match="64x33 pixels, where 66x33 should be"):
        get(tmp_path / "other", data=unknown)


# Nothing that looks whole


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_end_while_unpacking(get, server, tmp_path, monkeypatch, stop):
    done = []

    def write(*arguments):
        done.append(arguments)
        if len(done) == 4:
            raise stop
        return original(*arguments)

    original = archives._write
    with monkeypatch.context() as patched:
        patched.setattr(archives, "_write", write)
        with pytest.raises(Interrupted if stop is KeyboardInterrupt else stop):
            get()
    assert tree(tmp_path / "data") == [".tiny.tar.gz.partial", ".tiny.tar.gz.partial.json"]
    get()
    assert is_whole(tmp_path / "data/tiny")
    assert len(server.asked) == 1


def test_a_kill_while_unpacking(get, server, tmp_path, monkeypatch):
    """Nobody cleans up after a kill, so what lies there must not look whole."""
    with monkeypatch.context() as patched:
        patched.setattr(fetching, "check_contents", lambda *_: (_ for _ in ()).throw(SystemExit))
        patched.setattr(shutil, "rmtree", lambda *arguments, **options: None)
        with pytest.raises(SystemExit):
            get()
    assert (tmp_path / "data/.tiny.unpacking/tiny/train/0.png").exists()
    assert not (tmp_path / "data/tiny").exists()
    get()
    assert is_whole(tmp_path / "data/tiny")


def test_a_kill_while_replacing(get, server, tmp_path):
    get()
    (tmp_path / "data/tiny").rename(tmp_path / "data/.tiny.old")
    assert get().already
    assert len(server.asked) == 1
    assert is_whole(tmp_path / "data/tiny")


def test_an_interrupted_download(get, server, tmp_path, monkeypatch):
    server.cuts = [5000]
    monkeypatch.setattr(transfer.time, "sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(Interrupted, match=r"interrupted: 5\.0 kB of .* the same command goes on"):
        get()
    assert tree(tmp_path / "data") == [".tiny.tar.gz.partial", ".tiny.tar.gz.partial.json"]


def test_a_replacement_that_fails_leaves_the_old(get, server, tmp_path):
    get()
    server.content = GOOD[:-20]
    with pytest.raises(BadArchiveError):
        get(replace=True)
    assert is_whole(tmp_path / "data/tiny")


def test_two_at_once(get, server, tmp_path):
    server.stalls = [5000]
    failed = []

    def first():
        try:
            fetch(TINY, tmp_path / "data/tiny", url=server.url, timeout=3)
        except Img2ImgError as error:
            failed.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    partial = tmp_path / "data/.tiny.tar.gz.partial"
    while not (partial.exists() and partial.stat().st_size == 5000):
        time.sleep(0.01)
    with pytest.raises(Img2ImgError, match="another img2img is fetching"):
        get()
    server.released.set()
    thread.join(10)
    assert not failed
    assert is_whole(tmp_path / "data/tiny")


def test_a_lock_without_an_owner_is_no_lock(get, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/.tiny.lock").write_bytes(b"")
    get()
    assert is_whole(tmp_path / "data/tiny")


def test_a_lock_that_its_owner_took_along(tmp_path, monkeypatch):
    """Between opening the file and locking it, the owner before has removed it."""
    path = tmp_path / "lock"
    take, taken = lock.try_lock, []

    def late(file):
        if not taken:
            path.unlink()
        taken.append(file)
        return take(file)

    monkeypatch.setattr(lock, "try_lock", late)
    with lock.locked(path, "busy"):
        assert path.exists()
        with pytest.raises(Img2ImgError, match="busy"), lock.locked(path, "busy"):
            pass
    assert len(taken) == 3
    assert not path.exists()


# Folders that are something else


def test_folders_that_are_something_else(get, server, tmp_path, monkeypatch):
    own = tmp_path / "own"
    (own / "train").mkdir(parents=True)
    (own / "train/mine.png").write_bytes(png())
    with pytest.raises(RequestError, match=r"own is there, but .*--out .* --force replaces"):
        get(own)
    (own / "thesis.tex").write_text("years of work")
    with pytest.raises(RequestError, match=r"more than a data set \(thesis\.tex\)"):
        get(own, replace=True)
    assert tree(own) == ["thesis.tex", "train", "train/mine.png"]
    with pytest.raises(RequestError, match="is a file"):
        get(own / "thesis.tex")
    with pytest.raises(RequestError, match=r"thesis\.tex is not a folder"):
        get(own / "thesis.tex/tiny")
    monkeypatch.chdir(own)
    with pytest.raises(RequestError, match="the folder you are in"):
        get(Path(), replace=True)
    with pytest.raises(RequestError, match="the folder you are in, or above"):
        get(tmp_path, replace=True)
    assert server.asked == []
    (own / "thesis.tex").unlink()
    monkeypatch.chdir(tmp_path)
    get(own, replace=True)
    assert is_whole(own)


def test_another_data_set_is_there(get, tmp_path):
    get()
    with pytest.raises(RequestError, match="holds tiny, not other"):
        get(data=dataclasses.replace(TINY, name="other"))


# The catalog


def test_the_catalog_agrees_with_the_recipes():
    for data in CATALOG.values():
        assert data.url.startswith("http://")
        assert data.url.endswith(".tar.gz")
        assert data.pairs["train"] >= 1
        assert data.max_bytes >= 4 * (data.download_bytes or 0)
        for recipe in data.recipes:
            path = shipped_recipes().get(recipe)
            if path is not None:
                assert f'root = "data/{data.name}"' in path.read_text()


def test_size_text():
    sizes = [0, 999, 1000, 30_168_306, 999_949_999, 8 << 30]
    texts = ["0 bytes", "999 bytes", "1.0 kB", "30.2 MB", "999.9 MB", "8.6 GB"]
    assert [size_text(size) for size in sizes] == texts


# The command line


@pytest.fixture
def call(capfd, monkeypatch, tmp_path, server):
    """Run the program in this process, as its entry point would."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)

    def call(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["img2img", "data", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        assert (left.value.code or 0) == code, err
        assert "Traceback" not in out + err
        return out, err

    return call


@pytest.fixture
def facades(server):
    """As many pairs as the real one, as large, but flat."""
    flat = io.BytesIO()
    Image.new("L", (512, 256)).save(flat, "PNG")
    names = [f"facades/{s}/{i}.png" for s, n in CATALOG["facades"].pairs.items() for i in range(n)]
    server.content = gzip.compress(tar_of(dict.fromkeys(names, flat.getvalue())), 1)


def test_data_list(call):
    out, err = call("list")
    assert err == ""
    for name in CATALOG:
        assert re.search(rf"^{name} ", out, re.MULTILINE)
    assert "400 train" in out
    assert "non-commercial" in out
    listed = {row["name"]: row for row in json.loads(call("list", "--json")[0])}
    assert list(listed) == list(CATALOG)
    assert listed["maps"]["pairs"] == {"train": 1096, "val": 1098}
    assert listed["day2night"]["direction"] == "BtoA"
    assert listed["cityscapes"]["recipes"] == ["cityscapes_labels2photo", "cityscapes_photo2labels"]


def test_data_fetch(call, server, facades, tmp_path):
    server.cuts = [2000]
    out, err = call("fetch", "facades", "--url", server.url)
    assert out == ""
    assert "the connection ended early at 2.0 kB of" in err
    assert "going on at 2.0 kB of" in err
    assert "data/facades is there: 400 train, 100 val, 106 test" in err
    assert "terms: CMP Facade Database" in err
    assert err.endswith("next: img2img run facades\n")
    assert "is there already" in call("fetch", "facades")[1]
    assert call("fetch", "facades", "--quiet") == ("", "")
    assert len(server.asked) == 2


def test_data_fetch_json_elsewhere(call, server, facades, tmp_path):
    out, err = call("fetch", "facades", "--url", server.url, "--out", "x y", "--json", "--quiet")
    assert err == ""
    said = json.loads(out)
    assert said["pairs"] == {"train": 400, "val": 100, "test": 106}
    assert said["folder"] == "x y"
    assert said["next"] == ["img2img run facades --set 'data.root=x y'"]
    assert said["bytes"] == len(server.content)


def test_data_fetch_of_what_nobody_knows(call):
    _, err = call("fetch", "facade", code=2)
    assert "'facade' is not a known data set (did you mean 'facades'?); known: facades, " in err


def test_data_fetch_fails_with_a_message(call, server, tmp_path):
    server.answers = [404]
    _, err = call("fetch", "maps", "--url", server.url, code=1)
    assert err.startswith("error: http://127.0.0.1:")
    assert "there is no such file (404 Not Found); --url names another copy" in err
    _, err = call("fetch", "maps", "--url", "ftp://x/y", code=2)
    assert "is not an address" in err
    server.content = archive_of(extra=HOSTILE["up"][0])
    _, err = call("fetch", "maps", "--url", server.url, code=1)
    assert "refused: 'tiny/../../evil' leads out of its folder" in err
    Path("data/maps/train").mkdir(parents=True)
    _, err = call("fetch", "maps", "--url", server.url, code=2)
    assert "--out names another folder, --force replaces this one" in err


def test_data_fetch_interrupted(call, server, monkeypatch):
    server.cuts = [5000]
    monkeypatch.setattr(transfer.time, "sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    _, err = call("fetch", "maps", "--url", server.url, code=130)
    assert "interrupted: 5.0 kB of" in err
    assert "the same command goes on there" in err


def test_a_log_shows_progress_now_and_then(call, server, facades, monkeypatch):
    monkeypatch.setattr(display, "LOG_EVERY", 0)
    _, err = call("fetch", "facades", "--url", server.url)
    assert err.count(f" of {size_text(len(server.content))}\n") > 3


@pytest.mark.parametrize("arguments", [["--help"], ["fetch", "--help"], ["list"]])
def test_help_and_list_load_nothing_heavy(arguments):
    script = (
        f"import sys; sys.argv = ['img2img', 'data', *{arguments!r}]\n"
        "from img2img.cli import main\n"
        "try: main()\n"
        "except SystemExit as left: assert not left.code\n"
        "print('LOADED', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stdout.split("LOADED ")[1].split())
    assert "img2img.cli.data" in loaded
    assert not loaded & {"torch", "numpy", "cv2", "PIL", "datasets"}


def test_unpack_into_a_folder_alone(tmp_path):
    """The digest is of all bytes, and what is read is told."""
    (tmp_path / "a.tar.gz").write_bytes(GOOD)
    (tmp_path / "into").mkdir()
    seen = []
    digest = unpack(
        tmp_path / "a.tar.gz", tmp_path / "into", max_bytes=10**6, max_files=99, on_read=seen.append
    )
    assert digest == hashlib.sha256(GOOD).hexdigest()
    assert seen == sorted(seen)
    assert seen[-1] == len(GOOD)
    assert contents(tmp_path / "into/tiny") == EXPECTED
