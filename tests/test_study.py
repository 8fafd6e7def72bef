"""The real-or-fake study without a browser: what is on the page, and what answers come to."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from PIL import Image

import img2img
from img2img.cli import main
from img2img.data.side_by_side import SideBySide
from img2img.errors import RequestError
from img2img.registry import Registry
from img2img.study.answers import read_all, read_answers
from img2img.study.images import Inputs, alike, fakes_in_folder
from img2img.study.making import Settings, make_study
from img2img.study.page import page_of
from img2img.study.pairing import plan_trials
from img2img.study.scoring import bootstrap, score
from img2img.study.sealing import seal, unseal

HOSTILE = "</script><script>document.title = 1</script><!--"


# Trials


@pytest.mark.parametrize("count", [50, 51, 99, 100, 130])
def test_no_image_is_seen_twice_and_no_pair_meets_itself(count: int) -> None:
    plan = plan_trials(range(7, 7 + count), 40, 10, seed=3, same_input=False)

    assert len(plan) == 50
    assert len({trial.real for trial in plan}) == len({trial.fake for trial in plan}) == 50
    assert all(trial.real != trial.fake for trial in plan)
    assert {trial.real for trial in plan} | {trial.fake for trial in plan} <= {*range(7, 7 + count)}
    shared = {trial.real for trial in plan} & {trial.fake for trial in plan}
    assert not shared or count < 100
    for part in (plan[:10], plan[10:]):
        assert Counter(trial.fake_at for trial in part) == {0: len(part) / 2, 1: len(part) / 2}


def test_of_the_same_input_both_are_of_one_pair() -> None:
    plan = plan_trials(range(50), 40, 10, seed=0, same_input=True)
    assert sorted(trial.real for trial in plan) == list(range(50))
    assert all(trial.real == trial.fake for trial in plan)


def test_a_seed_is_an_order() -> None:
    first, again, other = (
        plan_trials(range(60), 40, 10, seed=seed, same_input=False) for seed in (1, 1, 2)
    )
    assert first == again
    same = sum(a == b for a, b in zip(first, other, strict=True))
    assert same < 10


def test_too_few_pairs_are_counted_and_told_what_to_do() -> None:
    with pytest.raises(RequestError, match="there are 30 usable pairs, and 40 trials with 10") as e:
        plan_trials(range(30), 40, 10, seed=0, same_input=True)
    told = re.search(r"add --trials (\d+) --practice (\d+)", str(e.value))
    assert told
    assert len(plan_trials(range(30), int(told[1]), int(told[2]), seed=0, same_input=True)) == 30
    with pytest.raises(RequestError, match="needs two: add --inputs same"):
        plan_trials([4], 1, 0, seed=0, same_input=False)
    assert plan_trials([4], 1, 0, seed=0, same_input=True)[0].real == 4


def test_the_key_comes_back_and_is_not_in_sight() -> None:
    key = [0] * 20 + [1] * 20
    sealed = seal(key, "0123456789abcdef", "trials")
    assert unseal(sealed, "0123456789abcdef", "trials") == key
    assert sealed != seal(key, "0123456789abcdef", "practice")
    # Equal positions look unlike, and no single bit of the digits is the position.
    by_byte = list(bytes.fromhex(sealed))
    assert len(set(by_byte)) > 30
    for bit in range(8):
        agree = sum((byte >> bit & 1) == side for byte, side in zip(by_byte, key, strict=True))
        assert 8 <= agree <= 32


# The page


def write_pairs(root: Path, count: int, mode: str = "RGB") -> Path:
    """Left grey, right red with the number in green; in val/ and train/."""
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for number in range(count):
            both = np.full((24, 48, 3), 128, np.uint8)
            both[:, 24:] = (250, 9 * number, 0)
            Image.fromarray(both).convert(mode).save(root / split / f"{number}.png")
    return root


def write_outputs(folder: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), (0, 9 * number, 250)).save(path)
    return folder


def study_in(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="study">(.*?)</script>', page, re.DOTALL)
    assert found
    study: dict[str, Any] = json.loads(found[1])
    return study


def images_of(study: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    images = []
    for text in study["images"]:
        with Image.open(io.BytesIO(base64.b64decode(text))) as image:
            assert image.format == "WEBP"
            assert not image.getexif()
            images.append(np.asarray(image.convert("RGB")))
    return images


def whole_key(study: dict[str, Any]) -> list[int]:
    return unseal(study["practice_key"], study["id"], "practice") + unseal(
        study["key"], study["id"], "trials"
    )


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["img2img", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.fixture
def made(tmp_path: Path, registry: Registry) -> dict[str, Any]:
    """A study of 5 trials after 2 for practice, out of 9 pairs and a folder of outputs."""
    pairs = SideBySide(write_pairs(tmp_path / "data", 9), "val")
    fake, indices = fakes_in_folder(
        write_outputs(tmp_path / "outputs", [str(n) for n in range(9)]), pairs
    )
    inputs = Inputs(pairs, registry.get("task", "paired").build({}), swap=False)
    settings = Settings(trials=5, practice=2, seed=4, size=24)
    return make_study(inputs.real, fake, indices, settings, {"model": HOSTILE})


def test_the_key_says_which_image_is_generated(made: dict[str, Any]) -> None:
    images, key = images_of(made), whole_key(made)
    assert sorted(place for both in made["order"] for place in both) == list(range(14))
    for both, fake_at in zip(made["order"], key, strict=True):
        fake, real = images[both[fake_at]], images[both[1 - fake_at]]
        assert tuple(fake[0, 0, [0, 2]]) == (0, 250)
        assert tuple(real[0, 0, [0, 2]]) == (250, 0)
        assert fake[0, 0, 1] != real[0, 0, 1], "different inputs, unless asked for the same"
    # Neither does the place of an image among all of them.
    reals = [both[1 - at] for both, at in zip(made["order"], key, strict=True)]
    assert sum(reals) not in (sum(range(7)), sum(range(7, 14)))
    assert len({place % 2 for place in reals}) == 2


def test_nothing_on_the_page_names_or_loads_anything(made: dict[str, Any]) -> None:
    page = page_of(made)
    assert study_in(page) == made
    assert page.count("<script") == 2
    assert "<!--" not in page
    assert not re.findall(r"\w+://", page)
    assert "default-src 'none'" in page
    assert ".png" not in page
    visible = re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    assert "script>document.title" not in visible
    assert "pix2pix" not in visible.lower() and "img2img" not in visible


def test_sizes_and_grey(tmp_path: Path, registry: Registry) -> None:
    pairs = SideBySide(write_pairs(tmp_path / "data", 4, "L"), "val")
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    for number in range(4):
        Image.new("L", (48, 24), 10 * number).save(outputs / f"{number}.tif")
    fake, indices = fakes_in_folder(outputs, pairs)
    inputs = Inputs(pairs, registry.get("task", "paired").build({}), swap=False)
    study = make_study(inputs.real, fake, indices, Settings(trials=2, practice=0, size=36), {})
    assert Counter(image.shape for image in images_of(study)) == {(36, 36, 3): 2, (18, 36, 3): 2}
    assert all((image[..., 0] == image[..., 2]).all() for image in images_of(study))


def test_classes_are_drawn_in_their_colours(tmp_path: Path, registry: Registry) -> None:
    root = tmp_path / "data"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        both = np.zeros((16, 32, 3), np.uint8)
        both[:8, 16:], both[8:, 16:] = (250, 6, 3), (2, 4, 251)  # as JPEG would smear them
        for name in "ab":
            Image.fromarray(both).save(root / split / f"{name}.png")
    palette = [[255, 0, 0], [0, 0, 255]]
    task = registry.get("task", "photo2labels").build({"palette": palette})
    pairs = SideBySide(root, "val")
    drawn = Inputs(pairs, task, swap=False).real(0)
    assert {tuple(colour) for colour in drawn.reshape(-1, 3).tolist()} == {*map(tuple, palette)}
    study = make_study(
        Inputs(pairs, task, swap=False).real,
        lambda index: drawn,
        [0, 1],
        Settings(1, 0, size=40),
        {},
        task.target_interpolation,
    )
    for image in images_of(study):
        colours = {tuple(colour) for colour in image.reshape(-1, 3).tolist()}
        assert colours == {*map(tuple, palette)}, "resized without mixing"


class Pair:
    """One pair of images that no file holds."""

    def __init__(self, source: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> None:
        self._both = source, target

    def __len__(self) -> int:
        return 1

    def pair(self, index: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        return self._both

    def name(self, index: int) -> str:
        return str(index)


def stripes(side: int, width: int) -> np.ndarray[Any, Any]:
    """Black and white, upright."""
    row = np.arange(side) // width % 2 * 255
    return np.broadcast_to(row[None, :, None], (side, side, 3)).astype(np.uint8)


def test_real_images_have_no_more_detail_than_the_model_can_give(registry: Registry) -> None:
    task = registry.get("task", "paired").build({})

    def real(target: np.ndarray[Any, Any], side: int, scale: Any) -> np.ndarray[Any, Any]:
        pair = Pair(np.zeros((side, side, 3), np.uint8), target)
        return Inputs(pair, task, swap=False, scale=scale).real(0)

    fine, coarse = stripes(64, 1), stripes(64, 8)
    for scale in (None, (1.0, 1.0), (2.0, 2.0)):
        assert np.array_equal(real(fine, 64, scale), fine)
    halved = real(fine, 64, (0.5, 0.5))
    assert halved.shape == fine.shape
    assert np.ptp(halved.astype(int)) <= 2, "stripes of one pixel are grey at half the size"
    assert abs(halved.mean() - 127.5) < 2
    # Width and height by factors of their own.
    assert np.ptp(real(fine, 64, (0.5, 1.0)).astype(int)) <= 2
    assert np.ptp(real(fine, 64, (1.0, 0.5)).astype(int)) > 250
    kept = real(coarse, 64, (0.5, 0.5))
    middles = kept[:, 4::8, 0].astype(int)
    assert (np.abs(middles - coarse[:, 4::8, 0]) < 40).all(), "wide ones stay"
    # The model gives outputs of its source's size.
    assert np.ptp(real(fine, 32, (1.0, 1.0)).astype(int)) <= 2
    assert real(fine, 32, (1.0, 1.0)).shape == (32, 32, 3)
    assert real(fine, 128, (1.0, 1.0)).shape == (128, 128, 3)
    assert real(fine, 32, None).shape == (64, 64, 3)


def test_classes_at_the_size_of_the_model_stay_classes(registry: Registry) -> None:
    palette = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    task = registry.get("task", "photo2labels").build({"palette": palette.tolist()})
    target = palette[np.arange(60) // 10 % 2][None].repeat(60, axis=0)
    pair = Pair(np.zeros((60, 60, 3), np.uint8), target)
    drawn = Inputs(pair, task, swap=False, scale=(0.5, 0.5)).real(0)
    assert drawn.shape == target.shape
    assert {tuple(colour) for colour in drawn.reshape(-1, 3).tolist()} == {*map(tuple, palette)}


def test_a_grey_source_keeps_its_detail_in_both(registry: Registry) -> None:
    """Colorization takes lightness from the source, whatever size the network sees."""
    task = registry.get("task", "colorization").build({})
    fine = stripes(64, 1)
    drawn = Inputs(Pair(fine, fine), task, swap=False, scale=(0.5, 0.5)).real(0)
    assert np.abs(drawn.astype(int) - fine).max() <= 2


def test_both_images_of_a_pair_get_one_size() -> None:
    sizes = [((64, 48), (32, 32)), ((20, 20), (40, 30)), ((16, 16), (16, 16))]
    images = [
        [np.full((*size, 3), 10 * which, np.uint8) for size, _ in zip(both, "ab", strict=True)]
        for which, both in enumerate(sizes)
    ]
    real, fake = alike(lambda i: images[i][0], lambda i: images[i][1], "smooth")
    assert [real(i).shape for i in range(3)] == [(32, 32, 3), (20, 20, 3), (16, 16, 3)]
    assert [fake(i).shape for i in range(3)] == [real(i).shape for i in range(3)]
    assert [int(real(i).mean()) for i in range(3)] == [0, 10, 20]
    sharp, _ = alike(lambda i: stripes(64, 1), lambda i: images[0][1], "smooth")
    assert np.ptp(sharp(0)[:, 1:-1].astype(int)) <= 2


def test_outputs_of_another_shape_do_not_stand_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_pairs(tmp_path / "data", 4)
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    for number in range(4):
        Image.new("RGB", (24, 12), (0, 9 * number, 250)).save(outputs / f"{number}.png")
    page = tmp_path / "a.html"
    options = ("--trials", 2, "--practice", 0, "--direction", "AtoB", "--quiet")
    assert run_command(monkeypatch, "study", outputs, data, "--out", page, *options) == 0
    assert {image.shape for image in images_of(study_in(page.read_text()))} == {(128, 256, 3)}


def test_outputs_are_found_by_name(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("x/1", "x/2", "y/1"):
        (root / "val" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "train").mkdir(exist_ok=True)
        for path in (root / "val" / f"{name}.png", root / "train" / "0.png"):
            Image.new("RGB", (8, 4)).save(path)
    pairs = SideBySide(root, "val")
    nested = write_outputs(tmp_path / "nested", ["x/1", "y/1", "z/9"])
    fake, indices = fakes_in_folder(nested, pairs)
    assert [Path(pairs.name(i)).relative_to(root / "val") for i in indices] == [
        Path("x/1.png"),
        Path("y/1.png"),
    ]
    assert [int(fake(index)[0, 0, 1]) for index in indices] == [0, 9]
    with pytest.raises(RequestError, match=r"could belong to .*x/1.png and to .*y/1.png"):
        fakes_in_folder(write_outputs(tmp_path / "flat", ["1"]), pairs)
    with pytest.raises(RequestError, match=r"none of the 1 images .* has the name of a pair"):
        fakes_in_folder(write_outputs(tmp_path / "other", ["q"]), pairs)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="no images in it, nor a trained model"):
        fakes_in_folder(tmp_path / "empty", pairs)


def test_others_take_the_place_of_pairs_that_cannot_be_read(
    tmp_path: Path, registry: Registry
) -> None:
    root = write_pairs(tmp_path / "data", 6)
    for name in "24":
        (root / "val" / f"{name}.png").write_bytes(b"no image")
    pairs = SideBySide(root, "val")
    inputs = Inputs(pairs, registry.get("task", "paired").build({}), swap=False)
    fake = np.zeros((24, 24, 3), np.uint8)
    with pytest.warns(RuntimeWarning, match=r"left out: .*[24]\.png") as told:
        study = make_study(inputs.real, lambda i: fake, [*range(6)], Settings(3, 1, size=24), {})
    assert 1 <= len(told) <= 2
    greens = {int(image[0, 0, 1]) for image in images_of(study) if image.any()}
    assert greens == {9 * number for number in (0, 1, 3, 5)}
    with (
        pytest.warns(RuntimeWarning, match="left out"),
        pytest.raises(RequestError, match="there are 4 usable pairs"),
    ):
        make_study(inputs.real, lambda i: fake, [*range(6)], Settings(4, 1, size=24), {})


def test_of_a_run(
    tmp_path: Path,
    pairs_folder: Path,
    tiny_tables: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(tiny_tables + "steps = 1\n")
    run = img2img.train("tiny.toml", out="run", device="cpu", precision="float32")
    options = ("--trials", 1, "--practice", 1, "--size", 32, "--quiet", "--device", "cpu")

    assert run_command(monkeypatch, "study", "run", "--out", "a.html", *options) == 0
    assert (
        run_command(monkeypatch, "study", "make", "run", "pairs", "--out", "b.html", *options) == 0
    )

    study = study_in(Path("a.html").read_text())
    again = study_in(Path("b.html").read_text())
    assert [again[key] for key in ("images", "order")] == [study["images"], study["order"]]
    assert (study["seconds"], study["inputs"]) == (1, "different")
    assert study["about"]["model"] == "tiny"
    assert study["about"]["step"] == 1
    translator = run.load(device="cpu")
    halves = []
    for path in sorted((pairs_folder / "val").iterdir()):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        halves.append((np.ascontiguousarray(pixels[:, :32]), pixels[:, 32:]))
    images = images_of(study)
    for both, at in zip(study["order"], whole_key(study), strict=True):
        fakes = [np.array_equal(images[both[at]], translator(source)) for source, _ in halves]
        reals = [np.array_equal(images[both[1 - at]], target) for _, target in halves]
        assert sum(fakes) == sum(reals) == 1
        assert fakes != reals

    capsys.readouterr()
    assert run_command(monkeypatch, "study", "run", "--out", "a.html", *options) == 2
    assert "use --overwrite" in capsys.readouterr().err
    assert run_command(monkeypatch, "study", "run", "--out", "c.html") == 2
    assert "there are 2 usable pairs, and 40 trials with 10" in capsys.readouterr().err
    for arguments, told in (
        (("run", "--out", "c.pdf"), "ends in .html"),
        (("run", "--out", "no/c.html"), "there is no folder 'no'"),
        (("nothing", "--out", "c.html"), "there is no model 'nothing'"),
        (("run", "--out", "c.html", "--inputs", "sane"), "did you mean 'same'"),
        (("run", "pairs", "--out", "c.html", "--set", "train.seed=1"), "DATA is a folder"),
        (("pairs/val", "--out", "c.html"), "say which to take"),
    ):
        assert run_command(monkeypatch, "study", *arguments) == 2
        assert told in capsys.readouterr().err
    assert not Path("c.html").exists()


# The score


def answers_of(
    study: dict[str, Any], participant: str, fooled: set[int], trials: range | None = None
) -> dict[str, Any]:
    """What the page would save of a participant who is fooled in these of the trials that count."""
    key, practice = whole_key(study), int(study["practice"])
    answered = [*range(practice), *(practice + n for n in trials or range(study["trials"]))]
    return {
        "format": "img2img-study-answers",
        "version": 1,
        "study": study["id"],
        "key": study["key"],
        "participant": participant,
        "trials": study["trials"],
        "practice": practice,
        "seconds": study["seconds"],
        "about": study["about"],
        "browser": "a script",
        "answers": [
            {
                "trial": number,
                # In practice always wrong, which counts for nothing.
                "chosen": 1 - key[number]
                if number < practice or number - practice in fooled
                else key[number],
                "shown_ms": [1000.0, 1100.0 if number == practice else 1016.7],
                "response_ms": 100.0 * number,
                "by": "key",
            }
            for number in answered
        ],
    }


@pytest.fixture
def study40() -> dict[str, Any]:
    """As much of a study of 40 trials after 10 as its answers need."""
    sides = np.random.default_rng(0).integers(0, 2, 50).tolist()
    name = "feedfacefeedface"
    return {
        "id": name,
        "trials": 40,
        "practice": 10,
        "seconds": 1.0,
        "about": {"model": "tiny"},
        "practice_key": seal(sides[:10], name, "practice"),
        "key": seal(sides[10:], name, "trials"),
    }


def write(path: Path, answers: object) -> Path:
    path.write_text(json.dumps(answers))
    return path


def test_the_share_is_that_of_the_script(tmp_path: Path, study40: dict[str, Any]) -> None:
    scripts = {"ann": {0, 5, 39}, "bob": set(range(10)), "eve": set()}
    files = [
        write(tmp_path / f"{who}.json", answers_of(study40, who, fooled))
        for who, fooled in scripts.items()
    ]
    result = score(read_all(files), files, seed=1)
    assert [one.fooled for one in result.participants] == [3, 10, 0]
    assert (result.fooled, result.trials, result.planned) == (13, 120, 40)
    assert result.share == 13 / 120
    assert result.resampled == "participants"
    assert (result.low, result.high) == (0, 0.25)  # of 3 participants 1 in 27 is all one of them
    assert [one.mistimed for one in result.participants] == [1, 1, 1]
    assert result.participants[0].median_response_ms == 2950  # of 1000, 1100, ... 4900
    assert score(read_all(files), files, seed=1) == result


def test_the_interval_is_that_of_scipy() -> None:
    random = np.random.default_rng(5)
    counts = random.integers(20, 41, 25)
    fooled = random.binomial(counts, 0.2)
    reference = scipy.stats.bootstrap(
        (fooled, counts),
        lambda f, c, axis: f.sum(axis) / c.sum(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        random_state=random,
    ).confidence_interval
    low, high = bootstrap(fooled, counts, seed=0)
    assert low == pytest.approx(reference.low, abs=0.004)
    assert high == pytest.approx(reference.high, abs=0.004)
    assert bootstrap(fooled, counts, seed=0) == (low, high)
    assert bootstrap(fooled, counts, seed=1) != (low, high)


def test_of_one_participant_trials_are_drawn(tmp_path: Path, study40: dict[str, Any]) -> None:
    """40 draws from 12 of 40 are binomial, of which the quantiles are known."""
    file = write(tmp_path / "a.json", answers_of(study40, "ann", set(range(12))))
    result = score(read_all([file]), [file])
    assert (result.resampled, result.share) == ("trials", 0.3)
    expected = scipy.stats.binom(40, 0.3).ppf([0.025, 0.975]) / 40
    assert abs(result.low - expected[0]) <= 1 / 40
    assert abs(result.high - expected[1]) <= 1 / 40


def test_the_score_on_the_terminal_and_as_json(
    tmp_path: Path,
    study40: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = [
        write(tmp_path / "1.json", answers_of(study40, "\x1b[31mann", {1, 2})),
        write(tmp_path / "2.json", answers_of(study40, "bob", {1}, range(4))),
    ]
    assert run_command(monkeypatch, "study", "score", *files) == 0
    shown = capsys.readouterr().out
    assert "fooled in 3 of 44 trials: 6.8%" in shown
    assert "bootstrap over participants" in shown
    assert "bob answered 4 of 40 trials" in shown
    assert "in 1 of 40 trials an image was on the screen more than 40 ms" in shown
    assert "\x1b" not in shown and r"\x1b[31mann" in shown
    assert run_command(monkeypatch, "study", "score", *files, "--json", "--seed", 3) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["share"], told["seed"]) == (3 / 44, 3)
    assert told["participants"][1]["trials"] == 4


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a: a.pop("key"), "damaged: key"),
        (lambda a: a.update(format="other"), "not the answers to a study"),
        (lambda a: a.update(version=2), "another version"),
        (lambda a: a.update(key="zz"), "its key is not that of 40 trials"),
        (lambda a: a.update(key=a["key"][2:]), "its key is not that of 40 trials"),
        (lambda a: a["answers"][3].update(chosen=2), r"damaged: answers.3.chosen"),
        (lambda a: a["answers"][3].update(response_ms=float("inf")), r"answers.3.response_ms"),
        (lambda a: a["answers"][3].update(shown_ms=[1.0, float("nan")]), r"answers.3.shown_ms"),
        (lambda a: a.update(seconds=float("inf")), r"damaged: seconds"),
        (lambda a: a["answers"][3].update(trial=4), "answers a trial twice"),
        (lambda a: a["answers"][3].update(trial=50), "trials that the study does not have"),
        (lambda a: a.update(answers=a["answers"][:10]), "none of the trials that count"),
    ],
)
def test_what_is_no_file_of_answers(
    change: Any, told: str, tmp_path: Path, study40: dict[str, Any]
) -> None:
    answers = answers_of(study40, "ann", set())
    change(answers)
    file = write(tmp_path / "a.json", answers)
    with pytest.raises(RequestError, match=rf"a\.json.*{told}"):
        score(read_all([file]), [file])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_answers_that_were_pasted_into_a_file(
    encoding: str, tmp_path: Path, study40: dict[str, Any]
) -> None:
    answers = answers_of(study40, "Zoë", {1, 2})
    (tmp_path / "a.json").write_text(json.dumps(answers, ensure_ascii=False), encoding=encoding)
    assert read_answers(tmp_path / "a.json").participant == "Zoë"
    assert sum(read_answers(tmp_path / "a.json").fooled()) == 2


def test_who_was_never_fooled_is_no_certainty(
    tmp_path: Path,
    study40: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write(tmp_path / "a.json", answers_of(study40, "ann", set()))
    assert run_command(monkeypatch, "study", "score", file) == 0
    assert "that the interval has no width is no certainty" in capsys.readouterr().out
    file = write(tmp_path / "a.json", answers_of(study40, "ann", {1}))
    assert run_command(monkeypatch, "study", "score", file) == 0
    assert "no width" not in capsys.readouterr().out


def test_files_that_are_none_and_files_that_do_not_go_together(
    tmp_path: Path,
    study40: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = write(tmp_path / "good.json", answers_of(study40, "ann", set()))
    cut = tmp_path / "cut.json"
    cut.write_bytes(good.read_bytes()[:-20])
    image = tmp_path / "image.json"
    image.write_bytes(b"\x89PNG\xff\xfe")
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000)
    for file in (cut, image, deep):
        with pytest.raises(RequestError, match="damaged or no JSON"):
            read_answers(file)
    with pytest.raises(RequestError, match="not the answers to a study"):
        read_answers(write(tmp_path / "list.json", [1]))
    with pytest.raises(RequestError, match="cannot be read: No such file"):
        read_answers(tmp_path / "missing.json")
    twice = write(tmp_path / "twice.json", answers_of(study40, "ann", {1}))
    with pytest.raises(RequestError, match=r"of the participant 'ann'.* two people gave one name"):
        read_all([good, twice])
    with pytest.raises(RequestError, match="of the participant 'ann' and hold the same answers"):
        read_all([good, good])
    name = "0123012301230123"
    other = study40 | {"id": name, "key": seal([0] * 40, name, "trials")}
    other["practice_key"] = seal([0] * 10, name, "practice")
    mixed = write(tmp_path / "mixed.json", answers_of(other, "bob", set()))
    capsys.readouterr()
    assert run_command(monkeypatch, "study", "score", good, mixed) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "answers to different studies" in shown
    assert "mixed.json" in shown
    changed = answers_of(study40, "bob", set())
    changed["key"] = seal([0] * 40, study40["id"], "trials")
    with pytest.raises(RequestError, match="do not agree on its trials"):
        read_all([good, write(tmp_path / "changed.json", changed)])
