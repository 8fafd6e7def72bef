"""What `img2img check` finds beyond unreadable files, each against images made for it."""

import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from img2img.__main__ import main
from img2img.data.checking import find_problems, look_through
from img2img.data.checks import duplicates, fingerprints
from img2img.data.checks.alignment import SIDE, outlines, shift_between
from img2img.data.checks.fingerprints import equal_pairs, look_hash, near_pairs, pixel_hash
from img2img.data.checks.problem import KINDS, SEVERITIES, Problem, in_order
from img2img.data.checks.seen import ROW
from img2img.data.derived import Derived
from img2img.data.side_by_side import SideBySide
from img2img.data.synthetic import Synthetic, draw_landscape
from img2img.data.two_folders import TwoFolders, UnmatchedError
from img2img.report.contact import Entry, draw_contact

SIZE = 96


def drawing(seed):
    """A drawing and the painting of it, which no other seed gives."""
    return draw_landscape(np.random.default_rng(seed), SIZE)


def put(path, first, second, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([first, second], axis=1)).save(path, **options)
    return path


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Side by side: 24 pairs to train on, 6 to validate on."""
    root = tmp_path_factory.mktemp("clean")
    for split, numbers in (("train", range(24)), ("val", range(24, 30))):
        for number in numbers:
            put(root / split / f"{number:03}.png", *drawing(number))
    return root


@pytest.fixture
def root(clean, tmp_path):
    return shutil.copytree(clean, tmp_path / "pairs")


def found(root, source=SideBySide, *, swap=False, plainer=0, **options):
    """All that is found, without notes on modes, as (kind, split, name of the file)."""
    sources = {split: source(root, split) for split in ("train", "val")}
    findings = {s: look_through(pairs, split=s, swap=swap) for s, pairs in sources.items()}
    return find_problems(findings, sources, swap=swap, plainer=plainer, **options)


def short(problems):
    return [(p.kind, p.split, Path(p.file).name) for p in problems if p.kind != "modes"]


def test_clean_data_is_clean(clean):
    assert found(clean) == []


def test_synthetic_pairs_are_clean():
    sources = {split: Synthetic(split, count=40, size=64) for split in ("train", "val")}
    findings = {s: look_through(pairs, split=s) for s, pairs in sources.items()}
    assert find_problems(findings, sources, plainer=0) == []


def test_photographs_alone_are_not_compared_with_what_is_made_from_them(clean, tmp_path):
    for split in ("train", "val"):
        for number, path in enumerate(sorted((clean / split).iterdir())):
            whole = np.array(Image.open(path))
            (tmp_path / split).mkdir(exist_ok=True)
            Image.fromarray(whole[:, SIZE:]).save(tmp_path / split / f"{number}.png")
    for how in ("copy", "grey", "edges"):
        assert found(tmp_path, lambda root, split, how=how: Derived(root, split, derive=how)) == []


# Duplicates


@pytest.mark.parametrize("how", ["copy", "format", "compressed", "resized"])
def test_pairs_in_both_splits(root, how):
    for number in (3, 17):
        first, second = drawing(number)
        path = root / "val" / f"again{number}.png"
        if how == "copy":
            shutil.copy(root / "train" / f"{number:03}.png", path)
        elif how == "format":
            put(path.with_suffix(".webp"), first, second, lossless=True)
        elif how == "compressed":
            put(path.with_suffix(".jpg"), first, second, quality=50)
        else:
            small = [cv2.resize(i, (64, 64), interpolation=cv2.INTER_AREA) for i in (first, second)]
            put(path, *small)
    problems = found(root)
    leaks = [problem for problem in problems if problem.kind == "leak"]
    assert [Path(p.file).stem for p in leaks] == ["again17", "again3"]
    assert leaks[0].twin == ("train", 17)
    assert leaks[0].reason == f"the same pair as {root / 'train' / '017.png'} in train"
    assert {problem.kind for problem in problems} <= {"leak", "modes"}


def test_pairs_that_repeat_in_a_split_are_a_note(root):
    shutil.copy(root / "train" / "003.png", root / "train" / "again.png")
    (problem,) = found(root)
    assert (problem.kind, problem.severity, problem.twin) == ("repeated", "note", ("train", 3))


def test_a_source_that_repeats_is_no_leak(root):
    """As label maps may; the picture drawn from it is another."""
    first = drawing(3)[0]
    put(root / "val" / "other.png", first, 255 - drawing(40)[1])
    kinds = [(p.kind, p.reason.split(" as ")[0]) for p in found(root) if p.kind != "modes"]
    assert ("shared", "the same source") in kinds
    assert "leak" not in dict(kinds)


def test_a_thousand_copies_are_each_told_once(tmp_path):
    first, second = drawing(0)
    for number in range(12):
        put(tmp_path / "train" / f"{number:02}.png", first, second)
        put(tmp_path / "val" / f"{number:02}.png", first, second)
    counts = Counter(problem.kind for problem in found(tmp_path))
    assert counts == {"leak": 12, "repeated": 11}


def test_near_pairs_are_those_of_few_bits(monkeypatch):
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 2**63, (300, 2), dtype=np.uint64)
    # Six bits of one, in both halves, are others.
    looks[299] = looks[5] ^ np.array([0b1011 << 20, 0b111 << 50], np.uint64)
    looks[298] = looks[6] ^ np.array([(1 << 40) - 1, 0], np.uint64)
    assert near_pairs(looks).tolist() == [[5, 299]]
    assert near_pairs(looks, near=5).tolist() == []
    assert near_pairs(looks[:1]).shape == (0, 2)
    # Against comparing all with all.
    close = rng.integers(0, 2, (200, 128), dtype=np.uint8)
    close[100:] = close[:100] ^ (rng.random((100, 128)) < 0.02)
    packed = np.packbits(close, axis=1).view(">u8").astype(np.uint64)
    differ = (close[:, None] != close[None]).sum(axis=2)
    expected = np.argwhere(np.triu(differ <= fingerprints.NEAR, 1)).tolist()
    assert near_pairs(packed).tolist() == expected


def test_equal_pairs_name_the_first(monkeypatch):
    keys = np.array([7, 3, 7, 9, 3, 7], np.uint64)
    assert equal_pairs(keys).tolist() == [[0, 2], [1, 4], [0, 5]]
    both = np.stack([keys, np.array([1, 2, 1, 1, 2, 5], np.uint64)], axis=1)
    assert equal_pairs(both).tolist() == [[0, 2], [1, 4]]
    # The other way round is another pair.
    assert equal_pairs(np.array([[1, 2], [2, 1]], np.uint64)).tolist() == []


def test_hashes():
    image = drawing(1)[1]
    assert pixel_hash(image) == pixel_hash(np.asfortranarray(image)) < 2**64
    assert pixel_hash(image) != pixel_hash(image.reshape(SIZE // 2, SIZE * 2, 3))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    assert look_hash(np.full((64, 64), 9, np.uint8)) == (0, 0)
    other = look_hash(cv2.resize(grey, (61, 61), interpolation=cv2.INTER_AREA))
    assert sum((a ^ b).bit_count() for a, b in zip(look_hash(grey), other, strict=True)) <= 4
    assert sum(a.bit_count() for a in look_hash(grey)) > 8


def test_only_so_many_are_read_again(root, monkeypatch):
    monkeypatch.setattr(duplicates, "COMPARED", 0)
    put(root / "val" / "again.jpg", *drawing(3), quality=50)
    assert short(found(root)) == []


# Single pairs


def test_blank_images(root):
    rng = np.random.default_rng(0)
    first, second = drawing(50)
    noisy = np.clip(rng.normal(100, 1, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
    put(root / "train" / "a.png", first, noisy)
    put(root / "train" / "b.png", np.full_like(first, 255), second)
    put(root / "train" / "c.png", np.zeros_like(first), np.zeros_like(first))
    problems = [p for p in found(root) if p.kind != "modes"]
    assert [p.reason.split(" of ")[0] for p in problems] == [
        "the target is",
        "the source is",
        "source and target are",
    ]
    assert {p.kind for p in problems} == {"blank"}


def test_pairs_of_the_same_image(root):
    second = drawing(50)[1]
    put(root / "train" / "same.png", second, second)
    second = drawing(51)[1]
    flicker = np.random.default_rng(0).integers(-2, 3, second.shape)
    nearly = np.clip(second + flicker, 0, 255).astype(np.uint8)
    put(root / "train" / "nearly.png", second, nearly)
    assert short(found(root)) == [
        ("identical", "train", "nearly.png"),
        ("identical", "train", "same.png"),
    ]
    assert short(found(root, compare=False)) == []


def test_data_of_nothing_but_identical_pairs_is_said_once(root):
    for path in (root / "train").iterdir():
        second = np.array(Image.open(path))[:, SIZE:]
        put(path, second, second)
    assert short(found(root)) == [("identical", "train", "train")]


def test_a_jpeg_that_was_cut_and_closed_again(root):
    path = put(root / "train" / "cut.jpg", *drawing(50), quality=90)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    # That it decodes without an error is why there is a check.
    assert Image.open(path).convert("RGB").getpixel((2 * SIZE - 1, SIZE - 1)) == (128, 128, 128)
    assert ("cut", "train", "cut.jpg") in short(found(root))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_files_are_unreadable(root, suffix):
    path = put(root / "train" / f"cut.{suffix}", *drawing(50))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * 0.9)])
    assert short(found(root)) == [("unreadable", "train", f"cut.{suffix}")]


def test_an_image_that_is_no_pair_has_another_shape(root):
    Image.fromarray(drawing(50)[1]).save(root / "train" / "single.png")
    assert ("shape", "train", "single.png") in short(found(root))


# Direction


def test_the_direction_is_judged_over_all_pairs(clean):
    # Of 6 to validate on nothing is concluded.
    (problem,) = found(clean, swap=True)
    assert (problem.kind, problem.split, problem.severity) == ("direction", "train", "warning")
    assert "100% of 24 pairs" in problem.reason
    assert found(clean, swap=True, plainer=1) == []
    assert [p.kind for p in found(clean, plainer=1)][:1] == ["direction"]
    # Where either may be, or the task makes the one from the other, nothing is said.
    assert found(clean, swap=True, plainer=None) == []
    assert found(clean, swap=True, compare=False) == []


def test_pairs_whose_images_changed_places(root):
    for number in (4, 9):
        put(root / "train" / f"{number:03}.png", *drawing(number)[::-1])
    assert short(found(root, plainer=None)) == [
        ("swapped", "train", "004.png"),
        ("swapped", "train", "009.png"),
    ]


# Register


def moved(image, right, below):
    matrix = np.array([[1, 0, right], [0, 1, below]], np.float32)
    return cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


def test_shift_between():
    grey = [cv2.cvtColor(cv2.resize(i, (SIDE, SIDE)), cv2.COLOR_RGB2GRAY) for i in drawing(2)]
    right, below, response, gain = shift_between(outlines(grey[0]), outlines(grey[1]))
    assert (abs(right), abs(below)) < (0.01, 0.01)
    assert abs(gain) < 0.05
    there = outlines(moved(grey[1], 9, -5))
    right, below, response, gain = shift_between(outlines(grey[0]), there)
    assert np.abs([right * SIDE - 9, below * SIDE + 5]).max() < 1.5
    assert response > 0.2
    assert gain > 0.2
    # Plain images tell nothing, and nothing is divided by zero.
    plain = outlines(np.full((SIDE, SIDE), 9, np.uint8))
    assert shift_between(plain, plain)[2:] == (0.0, 0.0)


def test_pairs_out_of_register(root):
    first, second = drawing(5)
    put(root / "train" / "005.png", first, moved(second, 8, -6))
    (problem,) = found(root)
    assert (problem.kind, Path(problem.file).name) == ("shifted", "005.png")
    said = re.fullmatch(
        r"the target lies (\d) pixels right and (\d) pixels above .*", problem.reason
    )
    assert abs(int(said[1]) - 8) <= 1
    assert abs(int(said[2]) - 6) <= 1


def test_a_set_that_is_shifted_alike_is_said_once(root):
    for number in range(24):
        first, second = drawing(number)
        put(root / "train" / f"{number:03}.png", first, moved(second, 5, 0))
    (problem,) = found(root)
    assert (problem.kind, problem.file) == ("shifted", "train")
    assert "5 pixels right of their sources" in problem.reason


# Modes


def test_modes_are_counted_not_listed(root):
    put(root / "train" / "alpha.png", *drawing(50))
    Image.open(root / "train" / "alpha.png").convert("RGBA").save(root / "train" / "alpha.png")
    Image.fromarray(np.concatenate(drawing(51), 1)).convert("L").save(root / "train" / "grey.png")
    problems = found(root)
    assert {(p.kind, p.severity, p.file) for p in problems} == {("modes", "note", "train")}
    targets = next(p.reason for p in problems if p.reason.startswith("targets"))
    assert targets.startswith("targets are 24 RGB, 1 ")
    assert "1 grey" in targets
    assert "1 RGB with alpha" in targets
    assert targets.endswith("all become RGB")


# Two folders


def two_folders(root, left=("0", "1", "2"), right=("0", "1", "2")):
    for side, names in (("A", left), ("B", right)):
        for name in names:
            image = drawing(int(name))[side == "B"]
            for split in ("train", "val"):
                path = root / split / side / f"{name}{split}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                # Not the same to validate on.
                Image.fromarray(255 - image if split == "val" else image).save(path)
    return root


def test_images_without_a_partner_leave_the_others_usable(tmp_path):
    two_folders(tmp_path, left=("0", "1", "2", "7"), right=("0", "2", "8"))
    with pytest.raises(UnmatchedError, match=r"no partner of the same name for .*1train\.png") as e:
        TwoFolders(tmp_path, "train")
    assert [path.name for path in e.value.alone] == ["1train.png", "7train.png", "8train.png"]
    assert [Path(e.value.matched.name(i)).name for i in range(2)] == ["0train.png", "2train.png"]
    assert (e.value.matched.pair(1)[1] == drawing(2)[1]).all()


def test_images_without_any_partner(tmp_path):
    two_folders(tmp_path, left=("0",), right=("1",))
    with pytest.raises(UnmatchedError) as e:
        TwoFolders(tmp_path, "train")
    assert e.value.matched is None


# What is made of it


def test_severe_problems_come_first():
    problems = [Problem(kind, "train", "x", "y") for kind in reversed(KINDS)]
    ordered = [problem.severity for problem in in_order(problems)]
    assert ordered == sorted(ordered, key=SEVERITIES.index)


def test_a_row_is_small():
    assert ROW.itemsize <= 110


def test_a_contact_sheet_shows_each():
    red, blue = (np.full((40, 20, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    names = ("a.png", "x" * 300 + "/\x1b[31mend.png", "c.png", "d.png", "e.png")
    entries = [Entry((red, None), ("source", "target"), "blank", "warning", n) for n in names]
    sheet = draw_contact(entries, "5 found")
    assert (sheet == (255, 0, 0)).all(axis=2).sum() == 5 * 20 * 40
    # Four in a row.
    assert sheet.shape[1] > 4 * 256
    taller = draw_contact([*entries[:4], *entries[:4], entries[0]], "")
    assert taller.shape[0] > sheet.shape[0]
    assert draw_contact([Entry((blue, blue), ("", ""), "k", "odd", "n")], "h").shape[1] > 256


@pytest.fixture
def call(monkeypatch, capsys, tiny_tables, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "tiny.toml").write_text(tiny_tables + "steps = 1\n")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["img2img", "check", "tiny.toml", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def test_the_command(root, call, tmp_path):
    assert call() == (0, call()[1], "")
    # Notes leave the exit code.
    shutil.copy(root / "train" / "003.png", root / "train" / "again.png")
    code, out, _ = call()
    assert code == 0
    assert "note" in out
    assert "pairs that repeat in their split" in out
    shutil.copy(root / "train" / "004.png", root / "val" / "again \x1b[31m.png")
    code, out, err = call("--sheet", "sheet.png")
    assert code == 1
    assert err.startswith("error: 1 thing looks wrong with the data")
    assert r"again \x1b[31m.png: the same pair as pairs/train/004.png in train" in out
    assert "scores flatter" in out
    assert "sheet.png: the suspects" in out
    assert Image.open("sheet.png").width > 300
    (root / "train" / "bad.png").write_text("no image")
    code, out, err = call("--json")
    assert code == 2
    assert "1 of 33 pairs cannot be used" in err
    problems = json.loads(out)["problems"]
    assert [set(each) for each in problems] == [{"file", "reason", "kind", "split", "severity"}] * 3
    assert [(p["kind"], p["split"], p["severity"]) for p in problems] == [
        ("unreadable", "train", "error"),
        ("leak", "val", "warning"),
        ("repeated", "train", "note"),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"pairs", "tiny.toml", "sheet.png"}


@pytest.mark.parametrize(
    ("place", "said"), [("sheet.txt", "ends in .png"), ("no/sheet.png", "no folder 'no'")]
)
def test_a_sheet_that_cannot_be_written_is_said_before_anything_is_read(call, place, said):
    code, out, err = call("--sheet", place)
    assert (code, out) == (2, "")
    assert said in err


def test_the_command_names_what_has_no_partner(call, tmp_path):
    two_folders(tmp_path / "two", left=("0", "1", "2", "7"))
    folders = ("--set", "data.source=two_folders", "--set", "data.root=two")
    code, out, err = call(*folders, "--sheet", "sheet.png")
    assert code == 2
    assert "train: 3 pairs" in out
    assert "two/val/A/7val.png" in out
    assert "no partner of the same name for two/train/A/7train.png" in err
    problems = json.loads(call(*folders, "--json")[1])["problems"]
    assert [(p["kind"], p["split"]) for p in problems][:2] == [
        ("unmatched", "train"),
        ("unmatched", "val"),
    ]
