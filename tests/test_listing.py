"""Lists of many files: found once, kept on disk, and never wrong."""

import mmap
import os
import random
import subprocess
import sys
import time
import zlib
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from img2img.data import SideBySide, TwoFolders, kept_files, listing
from img2img.data.images import SUFFIXES, find_images, hold_out
from img2img.data.sequences import SplitOf, Texts, Zipped
from img2img.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Everything is many files, and what is kept is kept here."""
    monkeypatch.setattr(listing, "KEPT_FROM", 4)
    monkeypatch.setenv("IMG2IMG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lists"


def put(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def age(root, seconds=10):
    """Give folders an older time, so that the list of them is trusted; each another."""
    now = time.time_ns() - seconds * 10**9
    for number, (parent, _, _) in enumerate(os.walk(root)):
        os.utime(parent, ns=(now, now - number))


NAMES = ["b.png", "a-b/1.JPG", "a/2.png", "a/b/3.webp", "a b.png", "a.png", ".hid.png", ".c/d.png"]


@pytest.fixture
def folder(tmp_path):
    put(tmp_path / "data", *NAMES, "notes.txt", "png", "png.", "e/.x/f.png")
    age(tmp_path / "data")
    return tmp_path / "data"


def refuse(*arguments, **others):
    raise AssertionError("the folder was listed")


def plainly(folder):
    """The images as they were found before there were kept lists."""
    paths = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    visible = (p for p in paths if not any(x[0] == "." for x in p.relative_to(folder).parts))
    return sorted(visible)


def test_a_list_is_kept_and_used(folder, cache, monkeypatch):
    expected = plainly(folder)
    assert len(expected) == 6
    assert find_images(folder) == expected
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(listing, "_find", refuse)
    again = find_images(folder)
    assert list(again) == expected
    assert [again[i] for i in range(-6, 6)] == expected * 2
    assert again[1:5:2] == expected[1:5:2]
    for index in (6, -7):
        with pytest.raises(IndexError):
            again[index]
    # The same folder by another name: its files are called by that.
    monkeypatch.chdir(folder.parent)
    assert find_images(Path("data"))[0] == Path("data", expected[0].relative_to(folder))


def test_few_files_leave_nothing(folder, cache, monkeypatch):
    monkeypatch.setattr(listing, "KEPT_FROM", 7)
    assert find_images(folder) == plainly(folder)
    assert not cache.exists()


def test_nothing_is_written_below_the_data(folder):
    before = sorted(folder.rglob("*"))
    find_images(folder)
    assert sorted(folder.rglob("*")) == before


def add(root):
    put(root, "a/b/4.png")


def remove(root):
    (root / "a/2.png").unlink()


def rename(root):
    (root / "b.png").rename(root / "c.png")


def add_folder(root):
    put(root, "e/f/g.png")


def remove_folder(root):
    (root / "a/b/3.webp").unlink()
    (root / "a/b").rmdir()


@pytest.mark.parametrize("change", [add, remove, rename, add_folder, remove_folder])
def test_a_change_is_seen(folder, change):
    before = list(find_images(folder))
    change(folder)
    after = plainly(folder)
    assert before != after
    assert find_images(folder) == after


@pytest.mark.parametrize("seconds", [0, 1, -100])
def test_what_just_changed_is_not_trusted(folder, cache, seconds):
    """Nor what has a time to come: a file may be added without a trace in both."""
    age(folder / "a", seconds)
    stamps = (folder / "a").stat()
    assert len(find_images(folder)) == 6
    add(folder)
    remove(folder)
    for parent in ("a", "a/b"):
        os.utime(folder / parent, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
    assert find_images(folder) == plainly(folder)
    assert not cache.exists()


def test_what_cannot_be_read_is_not_kept(folder, cache, monkeypatch):
    real = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("a-b"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", scandir)
        assert len(find_images(folder)) == 5
    assert len(find_images(folder)) == 6


def sealed(data):
    """With the checksum that such a file has."""
    return data[:16] + zlib.crc32(data[24:]).to_bytes(8, "little") + data[24:]


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def swapped(data, size):
    """Two words behind each other have changed places: of where names begin, not the last."""
    at = len(data) - 40
    return (
        data[:at] + data[at + size : at + 2 * size] + data[at : at + size] + data[at + 2 * size :]
    )


DAMAGE = {
    "empty": lambda data: b"",
    "short": lambda data: data[:30],
    "shorter": lambda data: data[:10],
    "cut off": lambda data: sealed(data[:-8]),
    "longer": lambda data: data + bytes(8),
    "another version": lambda data: data.replace(b"kept 3", b"kept 2"),
    "no JSON": lambda data: sealed(data[:32] + b"}" + data[33:]),
    "no table": lambda data: sealed(data[:24] + (2).to_bytes(8, "little") + b"[]"),
    "huge header": lambda data: sealed(data[:24] + b"\xff" * 8 + data[32:]),
    "other types": lambda data: sealed(data.replace(b'"int64"', b'"float"')),
    "more than there is": lambda data: sealed(data.replace(b'int64", 7', b'int64", 9')),
    "other names": lambda data: sealed(data.replace(b"column0", b"column9")),
    "other ends": lambda data: sealed(data.replace((0).to_bytes(8, "little"), b"\1" * 8)),
    "zeros": lambda data: bytes(len(data)),
    "zeros in the middle": lambda data: data[:200] + bytes(80) + data[280:],
    "a bit of the sum": lambda data: flipped(data, 20),
    "a bit of the header": lambda data: flipped(data, data.index(b'"int64"') - 9),
    "a bit of a name": lambda data: flipped(data, data.rindex(b".png")),
    "words of 8 bytes swapped": lambda data: swapped(data, 8),
    "words of 4 bytes swapped": lambda data: swapped(data, 4),
    "a bit of the end": lambda data: flipped(data, len(data) - 1),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_list_is_made_again(folder, cache, damage):
    find_images(folder)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    assert damage(whole) != whole
    file.unlink()
    file.write_bytes(damage(whole))
    assert find_images(folder) == plainly(folder)
    assert file.read_bytes() == whole


def test_a_list_of_another_folder_is_not_taken(cache, tmp_path):
    """Even where it lies in its place, and the folders have changed at one time."""
    time_ns = time.time_ns() - 10**10
    for name in ("one", "other"):
        put(tmp_path / name, *(f"{name}{number}.png" for number in range(4)))
        os.utime(tmp_path / name, ns=(time_ns, time_ns))
    find_images(tmp_path / "one")
    (file,) = cache.iterdir()
    find_images(tmp_path / "other")
    (other,) = set(cache.iterdir()) - {file}
    other.replace(file)
    assert find_images(tmp_path / "one") == plainly(tmp_path / "one")


def test_where_nothing_can_be_kept_it_is_found_again(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("IMG2IMG_CACHE", str(tmp_path / "file"))
    assert find_images(folder) == find_images(folder) == plainly(folder)
    monkeypatch.setattr(kept_files, "cache_folder", lambda: None)
    assert find_images(folder) == plainly(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
def test_any_name_survives(tmp_path, cache, monkeypatch):
    raw = [b"line\nbreak.png", b"tab\t.png", b"\xff\xfe.png", "\u00e9\U0001f600.png".encode()]
    raw += [b'quote".jpg', b" .png", b"d\xff/\n\n.png"]
    paths = [tmp_path / "odd" / os.fsdecode(name) for name in raw]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    age(tmp_path / "odd")
    find_images(tmp_path / "odd")
    monkeypatch.setattr(listing, "_find", refuse)
    found = find_images(tmp_path / "odd")
    assert sorted(found) == sorted(paths)
    assert all(path.is_file() for path in found)


def _list(folder, barrier, queue):
    barrier.wait()
    queue.put([str(path) for path in find_images(folder)])


@pytest.mark.skipif(sys.platform == "win32", reason="what is patched here is not, there")
def test_processes_that_list_at_once(folder, cache):
    context = get_context("fork")
    barrier, queue = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_list, args=(folder, barrier, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=30) for _ in processes]
    for process in processes:
        process.join(30)
    assert results == [[str(path) for path in plainly(folder)]] * 4
    assert len(list(cache.iterdir())) == 1


def test_a_kept_list_is_mapped_not_read(folder):
    find_images(folder)
    names = find_images(folder).names
    for array in (names.joined, names.starts):
        assert isinstance(memoryview(array.base).obj, mmap.mmap)
        assert not array.flags.writeable


# Where it is kept


def test_where_it_is_kept(tmp_path, monkeypatch):
    assert kept_files.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("IMG2IMG_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert kept_files.cache_folder() == tmp_path / "xdg" / "img2img"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert kept_files.cache_folder() == tmp_path / "home" / ".cache" / "img2img"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert kept_files.cache_folder() == tmp_path / "home" / "Library" / "Caches" / "img2img"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert kept_files.cache_folder() == tmp_path / "local" / "img2img"

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "home", homeless)
    assert kept_files.cache_folder() is None


# Parts


@pytest.mark.parametrize("count", [2, 3, 8, 9, 10, 11, 19, 20, 21, 99, 100, 101, 1234])
def test_parts_are_every_tenth_and_the_others(count):
    held = list(range(count))[9::10] or [count - 1]
    others = [i for i in range(count) if i not in held]
    for split, expected in (("val", held), ("train", others)):
        part = hold_out(range(count), split)
        assert list(part) == expected
        assert part[-1] == expected[-1]
        before = [sum(i < end for i in expected) for end in range(count + 1)]
        assert [part.before(end) for end in range(count + 1)] == before


def test_a_part_of_very_many_is_made_at_once():
    part = SplitOf(range(10**15), "train")
    assert len(part) == 9 * 10**14
    assert part[8] == 8
    assert part[9] == 10
    assert part[-1] == 10**15 - 2


def test_texts():
    texts = ["", "a", "\n", "\udcff", "\u00e9" * 100, ""]
    found = Texts.of(texts)
    assert found == texts
    assert found != texts[:-1]
    assert len(Texts.of([])) == 0
    with pytest.raises(ValueError, match="end elsewhere"):
        Texts(found.joined[:-1], found.starts)
    assert Zipped([1, 2], "ab") == [(1, "a"), (2, "b")]


# The sources


def put_pairs(root, count, seed=0):
    random_ = np.random.default_rng(seed)
    order = list(range(count))
    random.Random(seed).shuffle(order)
    for i in order:
        # Such that the order by names differs from that by paths.
        name = f"{'a' if i % 2 else 'a-b'}/{i:02}"
        for folder, suffix in (("A", ".png"), ("B", ".bmp")):
            path = root / folder / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = random_.integers(0, 256, (4, 6, 3), dtype=np.uint8)
            Image.fromarray(image).save(path)
    age(root)


def content(source):
    pairs = [source.pair(i) for i in range(len(source))]
    return [(source.name(i), a.tobytes(), b.tobytes()) for i, (a, b) in enumerate(pairs)]


@pytest.mark.parametrize("build", [TwoFolders, SideBySide])
def test_sources_are_the_same_with_a_kept_list(tmp_path, cache, monkeypatch, build):
    put_pairs(tmp_path / "data", 23)

    def both():
        return [content(build(tmp_path / "data", split)) for split in ("train", "val")]

    with monkeypatch.context() as patched:
        patched.setattr(listing, "KEPT_FROM", 1000)
        plain = both()
        assert not cache.exists()
    assert both() == plain
    monkeypatch.setattr(listing, "_find", refuse)
    assert both() == plain
    names = [name for split in plain for name, _, _ in split]
    assert len(set(names)) == len(names) == (23 if build is TwoFolders else 46)
    assert [len(split) for split in plain] == ([21, 2] if build is TwoFolders else [42, 4])
    if build is TwoFolders:
        # The order is that of the names as text, every tenth of which is held out.
        keys = sorted(str(Path(n).relative_to(tmp_path / "data/A").with_suffix("")) for n in names)
        held = [
            str(Path(n).relative_to(tmp_path / "data/A").with_suffix("")) for n, _, _ in plain[1]
        ]
        assert held == keys[9::10]


def test_a_missing_partner_is_said_each_time(tmp_path, cache):
    put_pairs(tmp_path, 6)
    TwoFolders(tmp_path, "train")
    (tmp_path / "B/a/03.bmp").unlink()
    for _ in range(2):
        with pytest.raises(DataError, match=r"no partner of the same name for .*A/a/03\.png; each"):
            TwoFolders(tmp_path, "train")
        age(tmp_path)


def test_partners_and_images_are_kept_apart(tmp_path, cache):
    put_pairs(tmp_path, 6)
    (tmp_path / "A/alone.png").touch()
    age(tmp_path)
    assert len(find_images(tmp_path / "A")) == 7
    with pytest.raises(DataError, match="alone"):
        TwoFolders(tmp_path, "train")


def test_a_second_start_does_not_grow_with_the_number_of_files(tmp_path):
    """In a fresh process: the list itself, of a megabyte, is not in its memory."""
    root = tmp_path / "many"
    root.mkdir()
    put(root, "0.png")
    stem = "x" * 200
    for i in range(5000):
        os.link(root / "0.png", root / f"{i:05}{stem}.png")
    age(root)
    assert len(find_images(root)) == 5001
    script = (
        "import sys, tracemalloc\n"
        "from pathlib import Path\n"
        "from img2img.data import images, listing\n"
        "listing._find = None\n"
        "tracemalloc.start()\n"
        "found = images.split_images(Path(sys.argv[1]), 'train')\n"
        "assert found[-1].name.startswith('0499'), found[-1]\n"
        "print(len(found), tracemalloc.get_traced_memory()[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(root)], capture_output=True, text=True, check=True
    )
    count, most = map(int, done.stdout.split())
    assert count == 4501
    assert most < 100_000
