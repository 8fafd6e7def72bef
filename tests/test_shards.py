"""Tar files of pairs: where the images lie in them, and reading them from there."""

import io
import os
import re
import subprocess
import sys
import tarfile
import time
import tracemalloc
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import img2img
from img2img.cli.new import recipe_text
from img2img.data import (
    Shards,
    SideBySide,
    TwoFolders,
    kept_files,
    make_shards,
    shard_index,
    shards,
)
from img2img.data.checking import look_through
from img2img.data.survey import survey
from img2img.data.tars import members
from img2img.document import Document
from img2img.errors import DataError, ImageError, Note
from img2img.plugins import load_plugins
from img2img.recipe_parser import parse_recipe


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_index, "KEPT_FROM", 1)
    monkeypatch.setenv("IMG2IMG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lists"


def noise(seed, height=4, width=6):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def add(tar, name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(data))


def write(path, files, seconds=10, **options):
    """A tar file of names and contents, last changed some time ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, data in files:
            add(tar, name, data)
    old = time.time_ns() - seconds * 10**9
    os.utime(path, ns=(old, old))
    return path


def pair_files(numbers, first="source.png", second="target.png"):
    for number in numbers:
        yield f"{number:06}.{first}", png(noise(2 * number))
        yield f"{number:06}.{second}", png(noise(2 * number + 1))


def check(source, numbers):
    assert len(source) == len(numbers)
    for index, number in enumerate(numbers):
        first, second = source.pair(index)
        assert (first == noise(2 * number)).all()
        assert (second == noise(2 * number + 1)).all()
        assert source.name(index).lower().endswith(f".tar:{number:06}")


@pytest.fixture
def root(tmp_path):
    """Three shards of 5, 7 and 1 pairs, none to validate on."""
    for name, numbers in (("000", range(5)), ("001", range(5, 12)), ("002", range(12, 13))):
        write(tmp_path / "data" / f"{name}.tar", pair_files(numbers))
    return tmp_path / "data"


# The source


def test_every_tenth_pair_is_held_out(root):
    train, val = (Shards(root, split) for split in ("train", "val"))
    check(val, [9])
    check(train, [i for i in range(13) if i != 9])
    assert (list(train.shards), list(val.shards)) == ([5, 6, 1], [1])
    check(Shards(root / "000.tar", "train"), range(4))


@pytest.mark.parametrize(
    ("names", "train", "val"),
    [
        (["train/0.tar", "val/0.tar", "test/0.tar"], [0], [1]),
        (["train/x/0.tar", "train/y.tar", "test/a/0.tar"], [0, 1], [2]),
        (["train-000.tar", "train-001.tar", "validation-000.tar"], [0, 1], [2]),
        (["set-train-000.tar", "set-val-000.tar", ".hidden.tar", ".x/y.tar"], [0], [1]),
        (["train/test-0.TAR", "val/train-0.tar"], [0], [1]),
        (["train/0.tar", "train/1.tar"], list(range(9)) + list(range(10, 12)), [9]),
    ],
)
def test_layouts(tmp_path, names, train, val):
    several = 6 if len(train) > 3 else 1
    for number, name in enumerate(names):
        numbers = range(number * several, (number + 1) * several)
        write(tmp_path / name, pair_files(numbers))
    check(Shards(tmp_path, "train"), train)
    check(Shards(tmp_path, "val"), val)
    assert sum(Shards(tmp_path, "train").shards) == len(train)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"no \.tar files below"),
        (["val/0.tar"], "none to train on"),
        (["train/0.tar", "more.tar"], r"more\.tar belongs to no split"),
        (["train/0.tar", "train/1.tar.gz"], r"1\.tar\.gz is compressed.*unpack it"),
        (["a.tgz"], "unpack it"),
        (["a.tar.zst"], "unpack it"),
    ],
)
def test_layouts_that_are_refused(tmp_path, names, message):
    for number, name in enumerate(names):
        write(tmp_path / "data" / name, pair_files([number]))
    (tmp_path / "data").mkdir(exist_ok=True)
    with pytest.raises(DataError, match=message):
        Shards(tmp_path / "data", "train")
    for name, advice in (
        ("missing", "paths start at the working directory"),
        ("train-{000..009}.tar", "give the folder"),
        ("*.tar", "give the folder"),
    ):
        with pytest.raises(DataError, match=f"there is no file or folder .*; {advice}"):
            Shards(tmp_path / name, "train")
    with pytest.raises(DataError, match="give the folder, on a disk"):
        Shards(Path("https://host/train.tar"), "train")


@pytest.mark.parametrize(
    ("settings", "suffixes"),
    [
        ({}, ("source.png", "target.PNG")),
        ({"first": "source.jpg", "second": "target.x"}, ("source.jpg", "target.x")),
        ({"first": "png", "second": "bmp"}, ("png", "bmp")),
        ({"first": "", "second": "seg"}, ("png", "seg.png")),
        ({"first": "A.b", "second": "C"}, ("a.b.png", "c.png")),
    ],
)
def test_what_images_are_called(tmp_path, settings, suffixes):
    files = [*pair_files(range(3), *suffixes), ("000001.json", b"{}"), ("README.md", b"")]
    files += [("x/._000001.source.png", b"Apple"), ("x/.source.png", b""), ("source.png/y", b"")]
    write(tmp_path / "train.tar", files)
    write(tmp_path / "val.tar", pair_files([4], *suffixes))
    check(Shards(tmp_path, "train", **settings), range(3))


def test_keys_hold_folders_and_members_any_order(tmp_path):
    files = list(pair_files(range(2)))
    files = [(f"{folder}/{name}", data) for folder in ("a", "b.c") for name, data in files]
    files = files[::2] + files[::-2]
    write(tmp_path / "train.tar", files)
    write(tmp_path / "val.tar", pair_files([4]))
    source = Shards(tmp_path, "train")
    names = [source.name(i).rpartition(":")[2] for i in range(4)]
    assert names == ["a/000000", "a/000001", "b.c/000000", "b.c/000001"]
    for index in range(4):
        assert (source.pair(index)[1] == noise(2 * (index % 2) + 1)).all()


def test_one_image_holds_both(tmp_path):
    for split, seeds in (("train", range(3)), ("val", [3])):
        files = [(f"{seed}.jpg", png(noise(seed, 4, 8))) for seed in seeds]
        write(tmp_path / f"{split}.tar", [*files, ("9.txt", b"")])
    source = Shards(tmp_path, "train", first="", second="")
    assert len(source) == 3
    first, second = source.pair(2)
    assert (np.hstack([first, second]) == noise(2, 4, 8)).all()
    grey = Shards(tmp_path, "train", (3, 1), first="jpg", second="").pair(2)
    assert (grey[0] == first).all()
    assert grey[1].shape == (4, 4, 1)


def test_pairs_that_do_not_fit(tmp_path):
    files = [*pair_files(range(2))]
    files += [("a.source.png", png(noise(0, 4, 4))), ("a.target.png", png(noise(0, 4, 5)))]
    files += [("b.source.png", b"no image"), ("b.target.png", b"")]
    files += [("c.source.png", png(noise(0))), ("c.target.png", b"")]
    write(tmp_path / "train.tar", files)
    write(tmp_path / "val.tar", pair_files([1]))
    source = Shards(tmp_path, "train")
    for index, reason in ((2, "4x4 pixels, but its partner has 5x4"), (3, "not an"), (4, "empty")):
        with pytest.raises(ImageError, match=reason) as caught:
            source.pair(index)
        assert str(caught.value.path) == source.name(index)
    assert len(look_through(source).problems) == 3


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        (["1.source.png"], {}, r"train\.tar has no 1\.target to go with .* '1'"),
        (["1.target.png", "2.source.png", "2.target.png"], {}, r"no 1\.source to go"),
        (["1.png", "2.png"], {}, r"no pairs in .*train\.tar: looked .* NAME\.source\.png and NAME"),
        ([], {}, "no pairs in .*; it holds no images"),
        (["1.source.png", "1.source.jpg", "1.target.png"], {}, r"'1\.source\.png' and '1\.source"),
        (["1.source.png", "1.target.png", "1.source.png"], {}, "two images for one place"),
        (["1.a.png"], {"first": "a", "second": "a"}, r"data\.second: 'a' is what the first"),
    ],
)
def test_samples_that_are_not_whole(tmp_path, files, settings, message):
    write(tmp_path / "train.tar", [(name, png(noise(0))) for name in files])
    write(tmp_path / "val.tar", pair_files([1]))
    with pytest.raises(DataError, match=message):
        Shards(tmp_path, "train", **settings)


def test_one_read_a_pair_and_nothing_else(root, monkeypatch):
    reads = []
    real = os.pread

    def pread(descriptor, size, at):
        reads.append((size, at))
        return real(descriptor, size, at)

    train = Shards(root, "train")
    monkeypatch.setattr(os, "pread", pread)
    train.pair(1)
    (size, _), *others = reads
    assert not others
    images = sum(len(data) for _, data in list(pair_files(range(5)))[2:4])
    assert images < size <= images + 512 + 511
    # Far apart they are two.
    far = [
        ("0.source.png", png(noise(0))),
        ("0.json", bytes(200_000)),
        ("0.target.png", png(noise(1))),
    ]
    write(root / "train.tar", far)
    write(root / "val.tar", pair_files([1]))
    for file in root.glob("00*.tar"):
        file.unlink()
    source = Shards(root, "train")
    reads.clear()
    assert (source.pair(0)[1] == noise(1)).all()
    assert len(reads) == 2
    assert sum(size for size, _ in reads) < 1000


def test_few_files_are_open_at_once(tmp_path):
    count = shards.OPEN_FILES + 20
    for number in range(count):
        write(tmp_path / f"train-{number:03}.tar", pair_files([number]))
    write(tmp_path / "val.tar", pair_files([1]))
    source = Shards(tmp_path, "train")
    opened = Path("/proc/self/fd")
    before = len(list(opened.iterdir())) if opened.exists() else 0
    # In threads, which take files from each other.
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(source.pair, [i * 7 % count for i in range(5 * count)]))
    for i, (first, _) in enumerate(found):
        assert (first == noise(2 * (i * 7 % count))).all()
    if before:
        assert len(list(opened.iterdir())) <= before + shards.OPEN_FILES


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read(root, method):
    if sys.platform == "win32" and method == "fork":
        pytest.skip("there is none")
    source = Shards(root, "train")
    source.pair(0)
    # A method of the source: another process may not find a function of this file.
    with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
        found = list(pool.map(source.pair, range(2), timeout=120))
    assert [first.tobytes() for first, _ in found] == [noise(0).tobytes(), noise(2).tobytes()]


# The kept index


def refuse(*arguments):
    raise AssertionError("the tar files were looked through")


def test_the_index_is_kept(root, cache, monkeypatch):
    names = [Shards(root, "train").name(i) for i in range(12)]
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(shard_index, "members", refuse)
    train = Shards(root, "train")
    check(train, [i for i in range(13) if i != 9])
    assert [train.name(i) for i in range(12)] == names
    assert train.shards == [5, 6, 1]
    # Other names are another index.
    with pytest.raises(AssertionError):
        Shards(root, "train", second="other")


def test_a_changed_shard_is_looked_through_again(root, cache):
    Shards(root, "train")
    write(root / "001.tar", pair_files(range(20, 22)), seconds=5)
    check(Shards(root, "train"), [*range(5), 20, 21])
    # Of the same size, and another time.
    files = list(pair_files(range(20, 22)))
    write(root / "001.tar", [*files[2:], *files[:2]], seconds=4)
    check(Shards(root, "train"), [*range(5), 21, 20])
    assert len(list(cache.iterdir())) == 1


def test_what_was_just_written_is_not_trusted(root, cache):
    write(root / "001.tar", pair_files(range(5, 12)), seconds=1)
    Shards(root, "train")
    assert not cache.exists()


def test_a_damaged_index_is_made_again(root, cache, monkeypatch):
    Shards(root, "train")
    (file,) = cache.iterdir()
    key = None

    def keep(found, arrays):
        nonlocal key
        key = found

    monkeypatch.setattr(shard_index, "keep", keep)
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    check(Shards(root, "val"), [9])
    good = shard_index.find_pairs(*_states(root), "source", "target")
    for damage in (
        {"rows": good["rows"][:-5]},
        {"counts": good["counts"][1:]},
        {"endings": good["endings"][1:]},
        {"keys.starts": None},
    ):
        arrays = {name: array for name, array in {**good, **damage}.items() if array is not None}
        kept_files.keep(key, arrays)
        assert kept_files.load(key) is not None
        check(Shards(root, "val"), [9])


def _states(root):
    files = sorted(root.glob("*.tar"))
    return files, [shards._state(file) for file in files]


def test_a_shard_that_changes_during_a_run(root):
    source = Shards(root, "train")
    check(source, [i for i in range(13) if i != 9])
    shards._opened.cache_clear()
    write(root / "000.tar", pair_files(range(30, 35)), seconds=5)
    with pytest.raises(ImageError, match="has changed since"):
        source.pair(0)
    (root / "001.tar").unlink()
    with pytest.raises(ImageError, match="No such file"):
        source.pair(6)


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be cut there")
def test_a_shard_that_is_cut_during_a_run(root):
    source = Shards(root, "train")
    source.pair(0)
    os.truncate(root / "000.tar", 600)
    with pytest.raises(ImageError, match="has become shorter"):
        source.pair(1)


def test_an_image_larger_than_any_is_not_read(root, monkeypatch):
    source = Shards(root, "train")
    monkeypatch.setattr(shards, "BESIDE", 10)
    monkeypatch.setattr(shards, "BYTES_PER_PIXEL", 0)
    with pytest.raises(ImageError, match=r"bytes, .* more than the limit"):
        source.pair(0)


# What shows that they are others


def test_other_shards_with_as_many_pairs_have_another_fingerprint(root, tmp_path, monkeypatch):
    before = Shards(root, "train").fingerprint()
    assert re.fullmatch("[0-9a-f]{8}", before)
    # The same with the index that was kept, and a few rows at a time.
    monkeypatch.setattr(shards, "_ROWS", 2)
    assert Shards(root, "train").fingerprint() == before
    moved = (root / "001.tar").rename(root / "001-b.tar")
    os.utime(moved)
    root = root.rename(tmp_path / "moved")
    assert Shards(root, "train").fingerprint() == before
    found = {before}

    def seen():
        found.add(Shards(root, "train").fingerprint())
        return len(found)

    # Swapped; another image on one side, and on the other; other keys; a pair in the next file.
    (root / "000.tar").rename(root / "001-c.tar")
    assert seen() == 2
    for number, seconds in ((0, 6), (1, 5)):
        files = list(pair_files(range(5, 12)))
        files[number] = files[number][0], files[number][1] + b"x"
        write(root / "001-b.tar", files, seconds)
        assert seen() == 3 + number
    write(root / "001-b.tar", pair_files(range(15, 22)), seconds=4)
    assert seen() == 5
    write(root / "001-b.tar", pair_files(range(15, 21)), seconds=3)
    write(root / "001-c.tar", [*pair_files([21]), *pair_files(range(5))], seconds=3)
    assert seen() == 6


RECIPE = """
name = "tiny"
[data]
source = "shards"
root = "ROOT"
load_size = 32
crop_size = 32
workers = 0
[generator]
width = 4
[[losses]]
name = "l1"
[train]
steps = 1
batch_size = 1
sample_every = 9
"""


def test_a_run_says_that_it_goes_on_with_other_shards(tmp_path):
    root = tmp_path / "data"
    for number in range(2):
        write(root / f"train-{number}.tar", pair_files([number, number + 5]))
    write(root / "val.tar", pair_files([9]))
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.replace("ROOT", root.as_posix()))
    img2img.train(recipe, out=tmp_path / "run", device="cpu")
    files = [(name, data + bytes(9)) for name, data in pair_files([0, 5])]
    write(root / "train-0.tar", files, seconds=5)
    with pytest.warns(Note, match=r"fingerprint of the train pairs \w+ \(before: \w+\): the pairs"):
        img2img.train(
            recipe, out=tmp_path / "run", device="cpu", resume=True, overrides={"train.steps": 2}
        )


# Where members lie


def plain(path):
    """By tarfile: the files, with their contents."""
    with tarfile.open(path, "r:") as tar:
        return [(m.name, m.offset_data, m.size) for m in tar if m.isreg() and not m.issparse()]


LONG = "deep/" * 50 + "n" * 120 + ".source.png"
CONTENTS = [
    ("a.source.png", b"x" * 1000),
    ("empty", b""),
    (LONG, b"y" * 512),
    ("\u00e9\U0001f600" * 40 + ".png", b"z" * 513),
    ("d" * 90 + "/" + "e" * 90, b"prefix"),
    ("last", b"w"),
]


@pytest.mark.parametrize(
    "form",
    [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT],
    ids=["ustar", "gnu", "pax"],
)
def test_members_are_those_of_tarfile(tmp_path, form):
    contents = [
        c for c in CONTENTS if form != tarfile.USTAR_FORMAT or len(c[0]) < 20 or c[0][:2] == "dd"
    ]
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=form, pax_headers={"comment": "of all"}) as tar:
        for name, data in contents:
            add(tar, f"folder-{len(name)}", type=tarfile.DIRTYPE)
            pax = {"comment": "\u00e9" * 600, "mtime": "1.5"} if form == tarfile.PAX_FORMAT else {}
            add(tar, name, data, pax_headers=pax)
            add(tar, f"link-{len(name)}", type=tarfile.SYMTYPE, linkname="l" * 90)
            add(tar, f"hard-{len(name)}", type=tarfile.LNKTYPE, linkname=name[:90])
            add(tar, f"device-{len(name)}", type=tarfile.CHRTYPE)
            add(tar, f"new-{len(name)}", b"content", type=b"7")
    found = list(members(path))
    assert [(m.name, m.offset, m.size) for m in found if not m.odd] == plain(path)
    whole = path.read_bytes()
    inside = {m.name: whole[m.offset : m.offset + m.size] for m in found}
    assert {name: inside[name] for name, _ in contents} == dict(contents)
    assert {m.odd.split(";")[0] for m in found if m.name[:4] in ("link", "hard")} == {"a link"}
    assert {m.odd for m in found if m.name[:6] == "device"} == {"not a file"}


def test_a_member_may_be_called_as_compressed_files_begin(tmp_path):
    write(tmp_path / "a.tar", [("BZh.png", b"content")])
    assert [member.name for member in members(tmp_path / "a.tar")] == ["BZh.png"]


@pytest.mark.skipif(not Path("/bin/tar").exists(), reason="no tar program")
@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax", "ustar", "v7"])
def test_members_of_the_tar_program(tmp_path, form):
    folder = tmp_path / "in"
    (folder / ("sub" * 10)).mkdir(parents=True)
    for number in range(3):
        (folder / ("sub" * 10) / f"{number}.png").write_bytes(bytes([number]) * 700 * number)
    if form in ("gnu", "oldgnu", "pax"):
        (folder / ("n" * 200)).write_bytes(b"long name")
        with (folder / "hole").open("wb") as file:
            for part in range(40):
                file.seek(part * 100_000)
                file.write(b"x")
    subprocess.run(
        [
            "tar",
            "-cS" if form in ("gnu", "oldgnu", "pax") else "-c",
            f"--format={form}",
            "-f",
            tmp_path / "a.tar",
            "-C",
            folder,
            ".",
        ],
        check=True,
    )
    found = list(members(tmp_path / "a.tar"))
    assert [(m.name, m.offset, m.size) for m in found if not m.odd] == plain(tmp_path / "a.tar")
    sparse = [m for m in found if m.odd]
    assert len(sparse) == (form in ("gnu", "oldgnu", "pax"))
    assert all("sparse" in m.odd for m in sparse)


def header(**changes):
    """A header of a member, changed, and with a right checksum."""
    info = tarfile.TarInfo("0.source.png")
    info.size = 600
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for at, data in changes.items():
        at = int(at[1:])
        block[at : at + len(data)] = data
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


END = bytes(1024)
BODY = bytes(1024)
SPARSE = header(_156=b"S", _482=b"\1")
HOSTILE = {
    "empty": (b"", "is empty"),
    "no tar": (b"x" * 2000, "is no tar file"),
    "gzip": (b"\x1f\x8b" + bytes(2000), r"compressed \(gzip\).*unpack"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(2000), r"compressed \(zstd\).*unpack"),
    "short": (header()[:300], "ends within a header"),
    "cut off in a member": (header() + bytes(599), r"ends within its member '0\.source\.png'"),
    "cut off in a header": (header() + BODY + header()[:100], "ends within a header"),
    "garbage later": (header() + BODY + b"x" * 512, "no header at byte 1,536"),
    "size beyond the file": (header(_124=b"77777777777\0") + BODY + END, "ends within its member"),
    "size beyond all": (header(_124=b"\x80" + b"\xff" * 11) + BODY + END, "ends within its member"),
    "negative size": (header(_124=b"\xff" * 11 + b"\x00") + BODY + END, "size below 0"),
    "wrong checksum": (header()[:148] + b"000000\0 " + header()[156:] + BODY, "is no tar file"),
    "size that is no number": (header(_124=b"hello world\0") + BODY + END, "is no tar file"),
    "huge name": (header(_156=b"L", _124=b"00100000000\0") + BODY + END, "header of 16,777,216"),
    "huge pax": (header(_156=b"x", _124=b"77777777777\0") + BODY + END, "header of 8,589,934,591"),
    "name cut off": (header(_156=b"L", _124=b"00000003000\0") + BODY, "ends within a header"),
    "name of nothing": (header(_156=b"L") + BODY + END, "announces another"),
    "sparse without end": (SPARSE + b"\1" * 512 * 50, "ends within a header"),
}
RECORDS = {
    "pax of no length": b"0 path=x\n",
    "pax of another length": b"99 path=x\n",
    "pax of a huge length": b"9" * 30 + b" path=x\n",
    "pax without a value": b"7 path\n",
    "pax of a negative size": b"11 size=-5\n",
    "pax of no number": b"12 size=1e3\n",
}
for _name, _data in RECORDS.items():
    _size = b"%011o\0" % len(_data)
    HOSTILE[_name] = (
        header(_156=b"x", _124=_size) + _data.ljust(512, b"\0") + header() + BODY + END,
        "damaged pax header",
    )
_size = b"%011o\0" % 21
HOSTILE["pax of a size beyond the file"] = (
    header(_156=b"x", _124=_size) + b"21 size=999999999999\n".ljust(512, b"\0") + header() + BODY,
    "ends within its member",
)


def test_a_link_has_a_size_and_no_content(tmp_path):
    """As hard links in files of some programs; of an unknown kind the content is passed over."""
    blocks = [header(_156=b"1"), header(_0=b"1"), BODY, header(_0=b"?", _156=b"Q"), BODY]
    path = tmp_path / "a.tar"
    path.write_bytes(b"".join([*blocks, header(_0=b"2"), BODY, END]))
    found = list(members(path))
    assert [(m.name, m.offset, m.size) for m in found if not m.odd] == plain(path)
    assert [bool(m.odd) for m in found] == [True, False, True, False]


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_tars_are_data_errors(tmp_path, data, message):
    (tmp_path / "train-0.tar").write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        Shards(tmp_path, "train")
    assert "train-0.tar" in str(caught.value)


def test_many_empty_headers_end(tmp_path):
    """Of which each might say something of the next."""
    records = b"".join(b"12 k%04d=v\n\n" % n for n in range(40))[:512]
    block = header(_156=b"g", _124=b"%011o\0" % 480) + records[:480].ljust(512, b"\0")
    (tmp_path / "train.tar").write_bytes(block * 2000 + END)
    began = time.monotonic()
    with pytest.raises(DataError, match=r"no pairs|damaged pax"):
        Shards(tmp_path, "train")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "is a link; pack with --deref"),
        ({"type": tarfile.LNKTYPE, "linkname": "0.source.png"}, "is a link"),
        ({"type": tarfile.FIFOTYPE}, "is not a file"),
        ({"type": tarfile.CHRTYPE}, "is not a file"),
    ],
)
def test_images_that_are_no_files(tmp_path, fields, message):
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        add(tar, "0.source.png", png(noise(0)))
        add(tar, "0.target.png", **fields)
        add(tar, "beside", type=tarfile.SYMTYPE, linkname="x")
    with pytest.raises(DataError, match=rf"'0\.target\.png' {message}"):
        Shards(tmp_path, "train")


@pytest.mark.parametrize("folder", ["../../x/", "/etc/", "a/../../"])
def test_names_are_no_paths(tmp_path, folder):
    files = [(folder + name, data) for name, data in pair_files(range(2))]
    write(tmp_path / "data/train.tar", files)
    write(tmp_path / "data/val.tar", pair_files([1]))
    before = sorted(tmp_path.rglob("*"))
    source = Shards(tmp_path / "data", "train")
    assert (source.pair(1)[0] == noise(2)).all()
    assert source.name(1).endswith(f"{folder}000001")
    new = set(tmp_path.rglob("*")) - set(before)
    assert all("cache" in path.parts for path in new)


def test_headers_that_lie_together_are_read_together(tmp_path, monkeypatch):
    """A disk that turns would move its arm for each."""
    write(tmp_path / "a.tar", [(f"{number}.png", bytes(3000)) for number in range(400)])
    reads = []

    class Counting(io.FileIO):
        def readinto(self, buffer):
            reads.append(len(buffer))
            return super().readinto(buffer)

        def read(self, size=-1):
            reads.append(size)
            return super().read(size)

    def opened(path, mode, buffering):
        raw = Counting(path)
        return io.BufferedReader(raw, buffering) if buffering else raw

    monkeypatch.setattr(Path, "open", opened)
    assert len(list(members(tmp_path / "a.tar"))) == 400
    assert len(reads) < 20


@pytest.mark.skipif(sys.platform != "linux", reason="measured in units of this system")
def test_a_large_member_is_not_read_for_the_index(tmp_path):
    """A file of 3 GB, of holes."""
    import resource

    size = 3 << 30
    with (tmp_path / "train.tar").open("wb") as file:
        info = tarfile.TarInfo("0.source.png")
        info.size = size
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.seek(size, os.SEEK_CUR)
        info = tarfile.TarInfo("0.target.png")
        file.write(info.tobuf(tarfile.GNU_FORMAT) + END)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source = Shards(tmp_path, "train")
    assert source.rows[0].tolist() == [0, 512, size, 1024 + size, 0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


# Packing


def put_two(root, split, numbers):
    for number in numbers:
        for folder, seed, suffix in (("A", 2 * number, "png"), ("B", 2 * number + 1, "BMP")):
            path = root / split / folder / f"{number:02}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise(seed)).save(path)


@pytest.mark.parametrize("splits", [{"train": range(7), "val": range(7, 9)}, {"": range(12)}])
def test_packed_pairs_are_the_same(tmp_path, splits, capsys):
    for split, numbers in splits.items():
        put_two(tmp_path / "in", split, numbers)
    make_shards.main([str(tmp_path / "in"), str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert 'source = "shards"' in printed
    for split in ("train", "val"):
        ours, theirs = Shards(tmp_path / "out", split), TwoFolders(tmp_path / "in", split)
        pairs = "1 pair" if len(theirs) == 1 else f"{len(theirs)} pairs"
        assert f"{split}: {pairs} in 1 tar file\n" in printed
        assert len(ours) == len(theirs) > 0
        for index in range(len(ours)):
            for one, other in zip(ours.pair(index), theirs.pair(index), strict=True):
                assert (one == other).all()
    with tarfile.open(tmp_path / "out/train-000000.tar") as tar:
        member = tar.getmember("00000001.target.bmp")
        source = TwoFolders(tmp_path / "in", "train").files[1][1]
        assert tar.extractfile(member).read() == source.read_bytes()
        assert (member.uid, member.mtime, member.uname) == (0, 0, "")


def test_packed_files_of_two_halves(pairs_folder, tmp_path, capsys):
    make_shards.main([str(pairs_folder), str(tmp_path / "out")])
    assert 'first = ""' in capsys.readouterr().out
    ours = Shards(tmp_path / "out", "train", first="", second="")
    theirs = SideBySide(pairs_folder, "train")
    assert len(ours) == len(theirs) == 6
    for index in range(6):
        assert (ours.pair(index)[1] == theirs.pair(index)[1]).all()


def test_shards_are_no_larger_than_asked(tmp_path):
    put_two(tmp_path / "in", "train", range(9))
    source = TwoFolders(tmp_path / "in", "train")
    # Two of the pairs, with their headers, and no third.
    one = sum(512 + -(-file.stat().st_size // 512) * 512 for file in source.files[0])
    counts = make_shards.make_shards({"train": source}, tmp_path / "out", 2 * one + 100)
    assert counts == {"train": 4}
    packed = Shards(tmp_path / "out", "train")
    assert (len(packed), packed.shards) == (7, [2, 2, 2, 1])
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"train-{number:06}.tar" for number in range(4)]
    # One pair is more than this.
    assert make_shards.make_shards({"train": source}, tmp_path / "more", 10) == {"train": 8}


def test_packing_that_fails_leaves_nothing(tmp_path, capsys):
    put_two(tmp_path / "in", "train", range(3))
    source = TwoFolders(tmp_path / "in", "train")
    source.files[1][1].unlink()
    with pytest.raises(DataError, match=r"01\.BMP: No such file"):
        make_shards.make_shards({"train": source}, tmp_path / "out", 10**6)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(DataError, match="is there already"):
        make_shards.make_shards({"train": source}, tmp_path / "out", 10**6)
    (tmp_path / "single").mkdir()
    Image.fromarray(noise(0)).save(tmp_path / "single/0.png")
    for arguments, message in (
        ([tmp_path / "missing", tmp_path / "new"], "error: there is no folder"),
        ([tmp_path / "single", tmp_path / "new"], "two with --first and --second"),
        ([tmp_path / "in", tmp_path / "new", "--first", "A"], "go together"),
        ([tmp_path / "in", tmp_path / "new", "--megabytes", "0"], "at least 1"),
    ):
        with pytest.raises(SystemExit) as caught:
            make_shards.main([str(argument) for argument in arguments])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err


# What is said of them


def without_end(path, more=b""):
    """Cut off exactly behind the last of some members."""
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    os.truncate(path, last.offset_data + -(-last.size // 512) * 512)
    with path.open("ab") as file:
        file.write(more)
    old = time.time_ns() - 10**10
    os.utime(path, ns=(old, old))


def test_a_shard_without_an_end_is_said(root, cache):
    """Also where its index was kept, and again when it was looked through anew."""
    without_end(root / "001.tar")
    for source in range(3):
        if source == 2:
            next(cache.iterdir()).unlink()
        with pytest.warns(RuntimeWarning, match=r"001\.tar has no end mark.*copy it again") as told:
            assert len(Shards(root, "train")) == 12
        assert len(told) == 1
        assert len(list(cache.iterdir())) == 1
    # What it says helps.
    without_end(root / "001.tar", bytes(1024))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(Shards(root, "train")) == 12


def test_it_is_said_once_for_both_splits(root):
    without_end(root / "001.tar")
    without_end(root / "002.tar")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for split in ("train", "val"):
            Shards(root, split)
    assert [str(each.message).split(" has ")[0][-7:] for each in told] == ["001.tar", "002.tar"]


def told_of(root, split="train"):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        source = Shards(root, split)
    return len(source), [str(each.message) for each in told]


def put_bytes(path, data):
    path.write_bytes(data)
    old = time.time_ns() - 10**10
    os.utime(path, ns=(old, old))


def interrupted(path):
    """As large as it should be, with the first pair in it."""
    with tarfile.open(path) as tar:
        end = tar.getmembers()[2].offset
    put_bytes(path, path.read_bytes()[:end] + bytes(3 << 20))


def joined(path):
    put_bytes(path, path.read_bytes() + path.read_bytes())


SILENT = {
    "zeros only": (lambda path: put_bytes(path, bytes(20_000)), 0, "no pairs in PATH, though .* i"),
    "many zeros only": (lambda path: put_bytes(path, bytes(2 << 20)), 0, "no pairs in PATH, thou"),
    "called otherwise": (
        lambda path: write(path, pair_files(range(5, 12), "photo.png", "map.png")),
        0,
        r"no pairs in PATH, though other tar files have .* copy it again, .*data\.first",
    ),
    "interrupted": (interrupted, 1, "more than 1 MiB of zeros at the end of PATH, .* copy it"),
    "joined": (joined, 7, "more behind the end mark of PATH, where .*GNU tar.*--ignore-zeros"),
}


@pytest.mark.parametrize(("damage", "left", "message"), SILENT.values(), ids=SILENT)
def test_shards_damaged_in_silence_are_said(root, cache, monkeypatch, damage, left, message):
    """Once each time, also where the index was kept."""
    damage(root / "001.tar")
    message = message.replace("PATH", str(root / "001.tar"))
    for start in range(2):
        if start:
            monkeypatch.setattr(shard_index, "members", refuse)
        pairs, (told,) = told_of(root)
        # One of them is held out.
        assert pairs == 5 + left
        assert re.match(f"data.root: {message}", told)
        assert "\n" not in told


def test_of_many_damaged_shards_the_first_are_named(tmp_path):
    for number in range(9):
        write(tmp_path / f"train-{number}.tar", pair_files([number]))
    write(tmp_path / "val.tar", pair_files([1]))
    for number in range(1, 6):
        put_bytes(tmp_path / f"train-{number}.tar", bytes(10_240))
    interrupted_ = write(tmp_path / "train-7.tar", pair_files(range(3)))
    interrupted(interrupted_)
    pairs, (empty, zeros) = told_of(tmp_path)
    assert pairs == 4
    named = ", ".join(str(tmp_path / f"train-{number}.tar") for number in (1, 2, 3))
    assert f"no pairs in {named} and 2 more, though" in empty
    assert f"the end of {interrupted_}, as" in zeros
    assert told_of(tmp_path, "val") == (1, [])


def test_padding_is_nothing_to_say(root):
    """`tar -b` fills up with zeros to the end of its record."""
    with tarfile.open(root / "001.tar") as tar:
        last = tar.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    data = (root / "001.tar").read_bytes()[:end]
    for more, is_said in ((512, False), (512 + (1 << 20), False), (1024 + (1 << 20), True)):
        put_bytes(root / "001.tar", data + bytes(more))
        pairs, told = told_of(root)
        assert (pairs, bool(told)) == (12, is_said)


def test_of_what_follows_the_end_little_is_read(root):
    """Some gigabytes of zeros."""
    os.truncate(root / "001.tar", 3 << 30)
    tracemalloc.start()
    try:
        assert "1 MiB of zeros" in told_of(root)[1][0]
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()


def test_a_shard_cut_off_within_a_pair(root):
    """The recipe is named only where no pair is whole."""
    with tarfile.open(root / "001.tar") as tar:
        places = [member.offset for member in tar]
    whole = (root / "001.tar").read_bytes()
    for members_left, end, cause, is_recipe in (
        (5, b"", "it has no end mark", False),
        (5, bytes(2 << 20), "it ends in more than 1 MiB of zeros", False),
        (1, b"", "it has no end mark", True),
    ):
        put_bytes(root / "001.tar", whole[: places[members_left]] + end)
        lacking = f"{5 + members_left // 2:06}"
        message = f"has no {lacking}.target .*; {cause}, so it may have been copied in part"
        with pytest.raises(DataError, match=message) as caught:
            Shards(root, "train")
        assert ("data.second" in str(caught.value)) == is_recipe


def test_one_pair_is_told_as_one(root):
    without_end(root / "002.tar")
    (told,) = told_of(root)[1]
    assert "cut off after the only pair in it; copy" in told
    without_end(write(root / "001.tar", [("readme.txt", b"x")]))
    told = told_of(root)[1]
    assert "cut off; copy it again" in told[0]
    assert len(told) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"first": "a", "second": "b"},
            r"called NAME\.a\.png and NAME\.b\.png \(or .*data\.first and .*are called "
            r"NAME\.source\.jpg, NAME\.target\.png",
        ),
        ({"first": "", "second": ""}, r"members called NAME\.png \(or"),
        (
            {"second": "label"},
            r"no 000000\.label to .*NAME\.source\.jpg, NAME\.target\.png: see",
        ),
    ],
)
def test_names_that_are_not_there(tmp_path, settings, message):
    write(tmp_path / "train.tar", [*pair_files(range(3), "source.jpg"), ("0.json", b"{}")])
    with pytest.raises(DataError, match=message):
        Shards(tmp_path, "train", **settings)
    write(tmp_path / "train.tar", [("0.json", b"{}")])
    with pytest.raises(DataError, match="holds no images"):
        Shards(tmp_path, "train", **settings)


# A recipe for them


@pytest.mark.parametrize(
    ("suffixes", "folders"),
    [
        (("source.png", "target.png"), ("source", "target")),
        (("photo.jpg", "map.png"), ("photo", "map")),
        (("jpg", "png"), ("jpg", "png")),
        (("jpg", "seg.png"), ("", "seg")),
    ],
)
def test_survey_of_shards(tmp_path, suffixes, folders):
    write(tmp_path / "train-0.tar", [*pair_files(range(4), *suffixes), ("000001.json", b"{}")])
    seen = survey(tmp_path)
    assert (seen.source, seen.folders, seen.pairs, seen.size) == ("shards", folders, 3, 4)
    text = recipe_text("it", tmp_path, seen)
    recipe = parse_recipe(Document(text, "it.toml"), load_plugins(entry_points=False).registry)
    given = recipe.to_dict()["data"]
    assert (given["source"], given["first"], given["second"]) == ("shards", *folders)


def test_survey_of_shards_of_halves(tmp_path):
    files = [
        (f"{seed}.{'png' if seed % 2 else 'jpg'}", png(noise(seed, 4, 8))) for seed in range(4)
    ]
    write(tmp_path / "train.tar", files)
    seen = survey(tmp_path)
    assert (seen.source, seen.folders, seen.pairs) == ("shards", ("", ""), 3)


@pytest.mark.parametrize(
    "files",
    [
        [*pair_files(range(3)), ("000001.mask.png", png(noise(0)))],
        [(f"{seed}.png", png(noise(seed))) for seed in range(3)],
        list(pair_files(range(3)))[1:],
        list(pair_files(range(3), "so\nurce.png")),
    ],
    ids=["three", "single", "one lacks", "line break"],
)
def test_survey_of_shards_it_cannot_tell(tmp_path, files):
    write(tmp_path / "train.tar", files)
    with pytest.raises(DataError, match=r'but tar files: .*data\.source = "shards"') as caught:
        survey(tmp_path)
    assert "data.first and data.second" in str(caught.value)
    assert "images there are called NAME." in str(caught.value)
