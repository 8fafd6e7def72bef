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
from PIL import Image, ImageDraw, ImageFont

from img2img.cli import main
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
from img2img.report.contact import FRAME, Entry, _wrap, draw_contact

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


PARTS = """
import img2img
from img2img.data.side_by_side import SideBySide, split_halves
from img2img.data.reading import read_image
from img2img.tasks.base import Interpolation, to_image, to_tensor

class Inked:
    source_channels = target_channels = 3
    source_interpolation: Interpolation = "smooth"
    target_interpolation: Interpolation = "smooth"
    plainer = "source"
    encode_source = encode_target = staticmethod(to_tensor)
    decode_source = staticmethod(to_image)

    def decode_target(self, target, source):
        return to_image(target)

class Same(Inked):
    comparable = False

class Wrong(Inked):
    plainer = "left"

class Elsewhere:
    def __init__(self, root, split):
        self.found = sorted((root / split).iterdir())

    def __len__(self):
        return len(self.found)

    def name(self, index):
        return str(self.found[index])

    def pair(self, index):
        return split_halves(read_image(self.found[index]), self.found[index])

class Told(Elsewhere):
    def paths(self, index):
        return [self.found[index]]

@img2img.hookimpl
def register(registry):
    registry.task("inked", Inked)
    registry.task("same", Same)
    registry.task("wrong", Wrong)
    registry.source("elsewhere", Elsewhere)
    registry.source("told", Told)
"""


def test_a_plugins_components_say_what_the_built_in_ones_do(root, call, tmp_path):
    (tmp_path / "parts.py").write_text(PARTS)

    def problems(task, source="side_by_side", direction="BtoA"):
        settings = (f"task.name={task}", f"data.source={source}", f"data.direction={direction}")
        given = (part for setting in settings for part in ("--set", setting))
        code, out, err = call("--plugin", "parts.py", *given, "--json")
        found = json.loads(out)["problems"] if out else []
        return code, {each["kind"]: each["reason"] for each in found}, err

    # Of the task: which image has fewer colours, and whether the two may be the same.
    assert list(problems("inked")[1]) == ["direction"]
    assert problems("inked", direction="AtoB")[1] == {}
    assert problems("paired")[1] == {}
    assert problems("same")[1] == problems("colorization")[1] == {}
    code, _, err = problems("wrong")
    assert (code, err) == (2, "error: Wrong.plainer is 'left'; it must be 'source' or 'target'\n")
    # Of the source: its files, since pixels do not show what they were.
    path = root / "train" / "000.png"
    Image.open(path).quantize(256).save(path)
    assert "1 palette" in problems("paired", "told")[1]["modes"]
    assert problems("paired", "elsewhere")[1] == {}


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


# What the task cannot use


def only_drawings_first(first, second):
    """A task's judgement, on pairs of `drawing`: few colours come first."""
    counts = [len(np.unique(i.astype(np.uint32) @ [65536, 256, 1])) for i in (first, second)]
    if counts[0] < counts[1] and counts[0] > 1:
        return None
    return "the source is no drawing"


def judged(root, judge=only_drawings_first, *, swap=False):
    sources = {split: SideBySide(root, split) for split in ("train", "val")}
    findings = {s: look_through(p, judge=judge, split=s, swap=swap) for s, p in sources.items()}
    problems = find_problems(findings, sources, swap=swap)
    return findings, [p for p in problems if p.kind not in ("modes", "repeated")]


def test_the_clean_pairs_suit_the_judge(clean):
    findings, problems = judged(clean)
    assert problems == []
    assert [found.seen.misfits for found in findings.values()] == [{}, {}]


def test_what_the_task_cannot_use_is_told_by_what_it_is(root):
    train = root / "train"
    put(train / "a.png", np.full((SIZE, SIZE, 3), 255, np.uint8), drawing(50)[1])
    put(train / "b.png", drawing(51)[1], drawing(51)[1])
    put(train / "c.png", *drawing(52)[::-1])
    put(root / "val" / "c.png", *drawing(53)[::-1])
    # As many colours in either image, so that it fits neither way.
    rows = drawing(54)[1].copy()
    put(train / "e.png", rows, rows[..., ::-1])
    rows[60:] = 128
    put(train / "d.png", rows, rows[..., ::-1])
    findings, problems = judged(root)
    assert [(p.kind, p.split, Path(p.file).stem) for p in problems] == [
        ("unsuitable", "train", "e"),
        ("swapped", "train", "c"),
        ("swapped", "val", "c"),
        ("identical", "train", "b"),
        ("blank", "train", "a"),
        ("cut", "train", "d"),
    ]
    assert {p.severity for p in problems} == {"error"}
    reasons = {p.kind: p.reason for p in problems}
    place = "the two images of this pair are in each other's place"
    assert reasons["swapped"] == f"the source is no drawing: {place}"
    assert reasons["unsuitable"] == "the source is no drawing"
    assert reasons["blank"] == "the source is of one colour, or nearly; the task cannot use it"
    assert "differ by 0.0 of 255 levels" in reasons["identical"]
    assert (
        reasons["cut"]
        == "the last 36 rows of the source and target are grey; the task cannot use it"
    )
    # They stay out of the sizes and of what is compared.
    assert sum(findings["train"].sizes.values()) == 24


def test_the_direction_is_named_only_where_most_pairs_say_so(root):
    def kinds(problems):
        return Counter((p.kind, p.split) for p in problems if p.severity == "error")

    for number in range(12):
        put(root / "train" / f"{number:03}.png", *drawing(number)[::-1])
    # 12 of 30 in both splits.
    assert kinds(judged(root)[1]) == {("swapped", "train"): 12}
    for number in range(12, 16):
        put(root / "train" / f"{number:03}.png", *drawing(number)[::-1])
    put(root / "val" / "024.png", *drawing(24)[::-1])
    problems = judged(root)[1]
    assert kinds(problems) == {("direction", "train"): 16, ("direction", "val"): 1}
    assert problems[0].reason.endswith(": data.direction is the wrong way round")
    # Half is not most.
    put(root / "train" / "015.png", *drawing(15))
    put(root / "val" / "024.png", *drawing(24))
    assert set(kinds(judged(root)[1])) == {("swapped", "train")}


def test_a_border_of_grey_rows_is_not_what_is_wrong(root):
    for path in (root / "train").iterdir():
        pair = np.array(Image.open(path))
        pair[80:] = 128
        Image.fromarray(pair).save(path)
    problems = judged(root, lambda *_: "of no use")[1]
    assert {p.kind for p in problems} == {"unsuitable"}


def test_a_small_split_is_summed_up_like_the_large_one(root):
    for split in ("train", "val"):
        for path in (root / split).iterdir():
            second = np.array(Image.open(path))[:, SIZE:]
            put(path, second, second)
    assert short(found(root)) == [("identical", "train", "train"), ("identical", "val", "val")]


def test_a_small_split_alone_is_not_summed_up(root):
    for path in (root / "val").iterdir():
        second = np.array(Image.open(path))[:, SIZE:]
        put(path, second, second)
    assert [p.index for p in found(root)] == [0, 1, 2, 3, 4, 5]


# How it is shown


def shown(problems):
    from rich.console import Console

    from img2img.cli.suspects import print_problems

    console = Console(width=200, highlight=False, soft_wrap=True, markup=False)
    with console.capture() as captured:
        print_problems(in_order(problems), console)
    return captured.get()


def test_each_reason_has_an_example():
    files = [Problem("unreadable", "train", f"no{n:02}.png", "no image", n) for n in range(40)]
    cut = [
        Problem("unreadable", "train", f"cut{n}.png", f"{n + 7} bytes", n) for n in range(40, 45)
    ]
    pipe = [Problem("unreadable", "train", "pipe.png", "is a pipe", 45)]
    text = shown([*files, *cut, *pipe])
    assert "  40 files: no image\n" in text
    assert "cut40.png: 47 bytes" in text
    assert "and 4 more like this; --json lists all" in text
    assert "  pipe.png: is a pipe" in text
    assert text.count("    no") == 18
    assert "    and 22 more; --json lists all" in text
    # All of a screenful, whatever else there is.
    others = [Problem(kind, "train", f"{kind}.png", "odd", 0) for kind in KINDS if kind != "size"]
    text = shown([*others, *(Problem("size", "train", f"s{n}", f"{n} wide", n) for n in range(12))])
    assert text.count(" wide") == 10
    assert "and 2 more like this" in text


def test_a_thousand_reasons_have_an_end():
    names = [f"{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(50)]
    text = shown([Problem("unreadable", "train", n, f"is {n}", 0) for n in names])
    assert text.count(": is ") == 30
    assert "and 20 more for other reasons; --json lists all" in text


def test_what_holds_of_a_whole_split_is_not_counted_as_files():
    whole = [Problem("identical", split, split, "alike", 0) for split in ("train", "val")]
    text = shown(whole)
    assert "files" not in text
    assert text.count("as a whole") == 2
    assert "  train: alike\n  val: alike\n" in text


def test_things_are_counted_once(call, root):
    """What holds of both splits is one, and a pair with two faults is one."""
    for split in ("train", "val"):
        for path in (root / split).iterdir():
            second = np.array(Image.open(path))[:, SIZE:]
            put(path, second, second)
    assert "error: 1 thing looks wrong" in call()[2]
    # Blank, and of both splits.
    put(root / "train" / "z.png", np.full((SIZE, SIZE, 3), 9, np.uint8), drawing(70)[1])
    shutil.copy(root / "train" / "z.png", root / "val" / "z.png")
    out, err = call()[1:]
    assert "pairs to validate on that are trained on" in out
    assert "error: 3 things look wrong" in err


def entry(images, reason="", name="n.png"):
    return Entry(images, ("source", "target"), "blank", "warning", name, reason)


def test_white_images_have_a_frame():
    white = np.full((40, 40, 3), 255, np.uint8)
    sheet = draw_contact([entry((white, white))], "")
    square = np.full((128, 128, 3), 255, np.uint8)
    full = draw_contact([entry((square, square))], "")
    # The frame is outside of the 128 pixels, and closed.
    left = 15
    top = int((full[:, left] == FRAME).all(axis=1).argmax())
    assert (full[top, left : left + 130] == FRAME).all()
    assert (full[top + 129, left : left + 130] == FRAME).all()
    assert (full[top : top + 130, [left, left + 129]] == FRAME).all()
    assert (full[top + 1 : top + 129, left + 1 : left + 129] == 255).all()
    assert sheet.shape == full.shape


def test_captions_tell_cells_of_one_kind_apart():
    red = np.full((40, 40, 3), (255, 0, 0), np.uint8)
    sheets = [draw_contact([entry((red, red), reason)], "") for reason in ("one", "other", "")]
    assert len({sheet.tobytes() for sheet in sheets}) == 3
    # A long one is broken between words, and ends.
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    font = ImageFont.load_default(size=11)
    lines = _wrap(pen, "the source is no label map in the colours " * 9, 258, font)
    assert len(lines) == 2
    assert lines[0].startswith("the source is no label map")
    assert (lines[0] + " " + lines[1][:-1]) in "the source is no label map in the colours " * 9
    assert lines[1].endswith("…")
    assert max(pen.textlength(line, font) for line in lines) <= 258
    assert _wrap(pen, "x" * 100_000, 258, font)[1].endswith("…")
    assert _wrap(pen, "short", 258, font) == ["short"]
    assert _wrap(pen, "", 258, font) == []


def test_what_cannot_be_drawn_is_listed_below():
    red = np.full((128, 128, 3), (255, 0, 0), np.uint8)
    many = [entry((None, None), f"why {n}", f"{n}.png") for n in range(20)]
    sheet = draw_contact([entry((red, red)), *many], "")
    alone = draw_contact([entry((red, red))], "")
    # A line each, not a cell.
    assert sheet.shape[0] - alone.shape[0] == 22 * 16
    assert (sheet == (255, 0, 0)).all(axis=2).sum() == 2 * 128 * 128
    assert draw_contact(many, "").shape[0] < 26 * 16


def test_a_sheet_has_no_cell_for_notes_about_a_whole_split(root, tmp_path, monkeypatch):
    from img2img.cli import suspects

    drawn = []
    monkeypatch.setattr(
        suspects, "write_contact", lambda path, entries, head: drawn.extend(entries)
    )
    sources = {split: SideBySide(root, split) for split in ("train", "val")}
    whole = [Problem(k, "train", "train", "why", 3) for k in ("direction", "modes")]
    single = Problem("blank", "val", "x", "the target is", 1)
    suspects.write_sheet_of(tmp_path / "s.png", [*whole, single], sources, swap=False)
    assert [each.kind.split(": ")[1] for each in drawn] == [
        KINDS["direction"].title,
        KINDS["blank"].title,
    ]
    assert drawn[0].name == f"such as {root / 'train' / '003.png'}"
    assert (drawn[1].name, drawn[1].reason) == ("x", "the target is")
