"""Scoring a model: what is fed to metrics, the judge, and what is left out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from img2img.data.loading import PairDataset
from img2img.errors import DataError, ImageError, MetricError, RequestError
from img2img.evaluation.evaluating import ImageScores, evaluate
from img2img.evaluation.judge import Judge
from img2img.evaluation.sheet import draw_extremes, extremes
from img2img.generators import UNet
from img2img.held_out import AtScale
from img2img.inference import Policy, Translator
from img2img.metrics import L1, PSNR, SSIM, FCNScore
from img2img.tasks import Labels, Paired, PhotoToLabels

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
PALETTE = COLOURS.tolist()
# Shapes of what pointwise networks were given, which may be copied.
SEEN = []


class Pairs:
    """Given pairs of images; an exception in the place of one is raised."""

    def __init__(self, *pairs):
        self._pairs = pairs

    def __len__(self):
        return len(self._pairs)

    def name(self, index):
        return f"pair-{index}.png"

    def pair(self, index):
        if isinstance(self._pairs[index], Exception):
            raise self._pairs[index]
        return self._pairs[index]


class Pointwise(nn.Module):
    """A linear map of each pixel's channels."""

    def __init__(self, weight, bias=0.0):
        super().__init__()
        weight = torch.as_tensor(weight, dtype=torch.float32)
        self.conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
        self.conv.weight.data = weight[..., None, None]
        self.conv.bias.data = torch.full((len(weight),), float(bias))

    def forward(self, x):
        SEEN.append(tuple(x.shape))
        return self.conv(x)


def dataset(*pairs, task=None, scale=(1.0, 1.0), derive=None):
    task = task or Paired()
    return PairDataset(Pairs(*pairs), task, AtScale(scale, task, derive), swap=False, seed=0)


def model(weight=None, bias=0.0, task=None, scale=(1.0, 1.0)):
    network = Pointwise(torch.eye(3) if weight is None else weight, bias)
    return Translator(network, task or Paired(), Policy(scale=scale))


def noise(seed, height=16, width=16):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def scene(seed, size=16):
    """A label map of blocks, its classes, and a photograph whose reddest channel is the class."""
    classes = np.random.default_rng(seed).integers(0, 3, (size // 4, size // 4))
    classes = classes.repeat(4, 0).repeat(4, 1)
    return COLOURS[classes], classes, (COLOURS[classes] // 2 + 60).astype(np.uint8)


def judge(scale=(1.0, 1.0), weight=None):
    """It takes the strongest colour for the class, which is right of `scene`."""
    task = PhotoToLabels(palette=PALETTE)
    return Judge(model(weight, task=task, scale=scale))


# What metrics get


def test_scores_are_those_of_the_images_in_8_bits_worked_out_in_numpy():
    pairs = [(noise(i), noise(i + 10)) for i in range(3)]
    found = evaluate(model(), dataset(*pairs), {"l1": L1(), "psnr": PSNR()})
    off = [(a.astype(float) - b) / 255 for a, b in pairs]
    l1 = [np.abs(d).mean() for d in off]
    psnr = [-10 * math.log10(np.square(d).mean()) for d in off]
    assert found.scores == pytest.approx({"l1": np.mean(l1), "psnr": np.mean(psnr)}, rel=1e-5)
    assert [image.name for image in found.images] == ["pair-0.png", "pair-1.png", "pair-2.png"]
    assert [image.scores["l1"] for image in found.images] == pytest.approx(l1, rel=1e-5)
    assert [image.scores["psnr"] for image in found.images] == pytest.approx(psnr, rel=1e-5)
    assert found.higher_is_better == {"l1": False, "psnr": True}
    assert (found.ceiling, found.failed, found.skipped) == ({}, {}, [])


def test_outputs_are_rounded_to_what_a_file_would_hold():
    grey = np.full((16, 16, 3), 100, np.uint8)
    # A third of a level too bright, in [-1, 1].
    found = evaluate(model(bias=1 / 127.5 / 3), dataset((grey, grey)), {"l1": L1()})
    assert found.scores["l1"] == 0
    found = evaluate(model(bias=1 / 127.5), dataset((grey, grey)), {"l1": L1()})
    assert found.scores["l1"] == pytest.approx(1 / 255, rel=1e-4)


class Spy:
    """A metric that keeps what it is given."""

    of = "images"

    def __init__(self):
        self.scores = {"spy": True}
        self.given = []

    def update(self, output, target):
        self.given.append((output, target))
        return {}

    def compute(self):
        return {"spy": float(len(self.given))}


def test_grey_comes_as_rgb_and_other_channels_as_they_are():
    for channels, seen in ((1, 3), (3, 3), (5, 5)):
        image = np.random.default_rng(0).integers(0, 256, (16, 16, channels), np.uint8)
        task = Paired(source_channels=channels, target_channels=channels)
        spy = Spy()
        evaluate(
            model(torch.eye(channels), task=task), dataset((image, image), task=task), {"x": spy}
        )
        output, target = spy.given[0]
        assert output.shape == target.shape == (1, seen, 16, 16)
        assert output.dtype == torch.float32
        assert torch.equal((output * 255).round()[0, 0], torch.from_numpy(image[..., 0]).float())


@pytest.mark.parametrize("batch_size", [2, 4, 7])
def test_results_do_not_depend_on_the_batch(batch_size):
    """Also of images of several sizes, which go into batches of one size each."""
    torch.manual_seed(0)
    network = UNet(3, 3, width=4, depth=3)
    translator = Translator(network, Paired(), Policy(dropout=True))
    sizes = [(16, 16), (16, 16), (24, 16), (16, 16), (16, 32), (16, 32), (16, 32)]
    pairs = [(noise(i, *size), noise(i + 50, *size)) for i, size in enumerate(sizes)]
    told = []

    def score(batch_size):
        metrics = {"l1": L1(), "psnr": PSNR(), "ssim": SSIM()}
        return evaluate(
            translator,
            dataset(*pairs),
            metrics,
            batch_size=batch_size,
            on_output=lambda index, *tensors: told.append((index, tensors[1].shape)),
        )

    one, many = score(1), score(batch_size)
    assert many.scores == pytest.approx(one.scores, abs=1e-6)
    for a, b in zip(one.images, many.images, strict=True):
        assert (a.name, a.index) == (b.name, b.index)
        assert b.scores == pytest.approx(a.scores, abs=1e-6)
    assert told[:7] == told[7:] == [(i, (3, *size)) for i, size in enumerate(sizes)]


def test_batches_are_of_one_size_and_no_larger_than_asked(monkeypatch):
    sizes = [16, 16, 16, 24, 24, 16]
    pairs = [(noise(i, 16, size), noise(i, 16, size)) for i, size in enumerate(sizes)]
    translator, seen = model(), []
    translate = translator.translate

    def watched(sources):
        seen.append((sources.shape[0], sources.shape[3]))
        return translate(sources)

    monkeypatch.setattr(translator, "translate", watched)
    evaluate(translator, dataset(*pairs), {"l1": L1()}, batch_size=2)
    assert seen == [(2, 16), (1, 16), (2, 24), (1, 16)]


def test_chosen_pairs_alone_are_scored_in_their_order():
    pairs = [(noise(i), noise(i + 10)) for i in range(4)]
    ticks = []
    found = evaluate(
        model(),
        dataset(*pairs),
        {"l1": L1()},
        indices=[3, 1],
        on_pair=lambda: ticks.append(1),
    )
    assert [image.index for image in found.images] == [3, 1]
    assert len(ticks) == 2


# What cannot be scored


def test_unreadable_pairs_and_pairs_of_two_sizes_are_named_and_left_out(tmp_path):
    broken = ImageError(tmp_path / "b.png", "it is damaged")
    sizes = ImageError(tmp_path / "c.png", "16x16 pixels, but its partner has 8x8", "size")
    pairs = [(noise(0), noise(1)), broken, sizes, (noise(2), noise(3))]
    ticks = []
    found = evaluate(
        model(), dataset(*pairs), {"l1": L1()}, batch_size=4, on_pair=lambda: ticks.append(1)
    )
    assert found.skipped == [("pair-1.png", broken.reason), ("pair-2.png", sizes.reason)]
    assert [image.index for image in found.images] == [0, 3]
    assert len(ticks) == 4
    none = evaluate(model(), dataset(broken), {"l1": L1()})
    assert (none.scores, none.images, len(none.skipped)) == ({}, [], 1)
    assert none.failed == {}


class Failing:
    """A metric that gives each image a score and fails in the end, or at its second batch."""

    of = "images"

    def __init__(self, error, at="compute"):
        self.scores = {"failing": True}
        self._error, self._at, self._count = error, at, 0

    def update(self, output, target):
        self._count += 1
        if self._at == "update" and self._count == 2:
            raise self._error
        return {"failing": torch.ones(len(output))}

    def compute(self):
        if self._at == "compute":
            raise self._error
        return {"failing": self._error if isinstance(self._error, float) else 1.0}


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        (Failing(MetricError("needs 10 images, and there are 3")), "needs 10 images"),
        (Failing(MetricError("too small"), "update"), "too small"),
        (
            Failing(ZeroDivisionError("a plugin's\nfault"), "update"),
            "ZeroDivisionError: a plugin's",
        ),
        (Failing(math.nan, ""), "failing came out as no finite number"),
    ],
)
def test_a_metric_that_fails_lets_the_others_finish(metric, why):
    pairs = [(noise(i), noise(i + 10)) for i in range(3)]
    found = evaluate(model(), dataset(*pairs), {"bad": metric, "l1": L1()})
    assert set(found.scores) == {"l1"}
    assert list(found.failed) == ["bad"]
    assert why in found.failed["bad"]
    assert all(set(image.scores) == {"l1"} for image in found.images)
    assert "failing" in found.higher_is_better


def test_no_memory_is_no_matter_of_one_metric():
    with pytest.raises(MemoryError):
        evaluate(model(), dataset((noise(0), noise(1))), {"bad": Failing(MemoryError(), "compute")})


def test_metrics_of_the_wrong_sort_say_what_they_want():
    found = evaluate(model(), dataset((noise(0), noise(1))), {"fcn-score": FCNScore(3)})
    assert "--judge" in found.failed["fcn-score"]
    task = PhotoToLabels(palette=PALETTE)
    labels, _, photo = scene(0)
    found = evaluate(model(task=task), dataset((photo, labels), task=task), {"l1": L1()})
    assert "classes" in found.failed["l1"]


# The judge


def confusion(truth, seen):
    """Pixel accuracy, class accuracy and class IoU, in numpy."""
    right, union = [], []
    for k in range(3):
        here, there = truth == k, seen == k
        if here.any():
            right.append((here & there).sum() / here.sum())
        if (here | there).any():
            union.append((here & there).sum() / (here | there).sum())
    return {
        "pixel_accuracy": (truth == seen).mean(),
        "class_accuracy": np.mean(right),
        "class_iou": np.mean(union),
    }


def test_the_judge_sees_in_outputs_what_the_label_maps_say():
    """A model whose blue comes out green is right of two classes; the real photographs of all."""
    task = Labels()
    scenes = [scene(seed) for seed in range(3)]
    data = dataset(*[(labels, photo) for labels, _, photo in scenes], task=task)
    mixed = [[1, 0, 0], [0, 1, 1], [0.3, 0, 0]]
    found = evaluate(
        model(mixed, task=task),
        data,
        {"l1": L1(), "fcn-score": FCNScore(3)},
        judge=judge(),
        batch_size=2,
    )
    truth = np.stack([classes for _, classes, _ in scenes])
    seen = np.where(truth == 2, 1, truth)
    expected = confusion(truth, seen)
    assert {name: found.scores[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert found.ceiling == {"pixel_accuracy": 1, "class_accuracy": 1, "class_iou": 1}
    first = confusion(truth[0], seen[0])
    own = found.images[0].scores
    assert {name: own[name] for name in first} == pytest.approx(first, rel=1e-6)


def test_the_ceiling_is_what_the_judge_makes_of_the_targets():
    """A judge that takes blue for red is wrong of real photographs as well."""
    scenes = [scene(seed) for seed in range(2)]
    data = dataset(*[(labels, photo) for labels, _, photo in scenes], task=Labels())
    blind = judge(weight=[[1, 0, 1], [0, 1, 0], [0, 0.5, 0]])
    found = evaluate(model(task=Labels()), data, {"fcn-score": FCNScore(3)}, judge=blind)
    truth = np.stack([classes for _, classes, _ in scenes])
    expected = confusion(truth, np.where(truth == 2, 0, truth))
    assert found.ceiling == pytest.approx(expected, rel=1e-6)


def test_onehot_sources_are_label_maps_too():
    task = Labels(palette=PALETTE, encoding="onehot")
    labels, _, photo = scene(0)
    found = evaluate(
        model(task=task), dataset((labels, photo), task=task), {"x": FCNScore(3)}, judge=judge()
    )
    assert found.scores["pixel_accuracy"] == found.ceiling["pixel_accuracy"] == 1


@pytest.mark.parametrize(
    ("own", "of_files", "seen"), [(0.5, 0.25, 32), (1.0, 0.5, 32), (0.5, 1, 8)]
)
def test_the_judge_looks_at_the_scale_that_it_was_trained_at(own, of_files, seen):
    """Images, `of_files` as large as their files, are resized for it, and its classes back."""
    arbiter = judge((own, own))
    SEEN.clear()
    classes = arbiter.classes(torch.rand(2, 3, 16, 16), (of_files, of_files))
    assert classes.shape == (2, 16, 16)
    assert classes.dtype == torch.int64
    assert SEEN[-1][2:] == (seen, seen)


def test_the_scale_of_the_pairs_is_the_models():
    arbiter = judge((0.5, 0.5))
    labels, _, photo = scene(0, 32)
    data = dataset((labels, photo), task=Labels(), scale=(0.25, 0.25))
    evaluate(model(task=Labels(), scale=(0.25, 0.25)), data, {"x": FCNScore(3)}, judge=arbiter)
    # Outputs, then targets.
    assert [shape[2:] for shape in SEEN[-2:]] == [(16, 16), (16, 16)]


def test_a_judge_must_tell_classes_of_rgb():
    with pytest.raises(RequestError, match=r"no judge: its outputs are images.*facades"):
        Judge(model())
    task = PhotoToLabels(palette=PALETTE)
    task.image_channels = (5, 3)
    task.source_channels = 5
    with pytest.raises(RequestError, match="takes images of 5 channels"):
        Judge(model(torch.ones(3, 5), task=task))


def test_a_model_of_classes_needs_no_judge():
    task = PhotoToLabels(palette=PALETTE)
    labels, _, photo = scene(0)
    data = dataset((photo, labels), task=task)
    with pytest.raises(RequestError, match="classes, which need no judge"):
        evaluate(model(task=task), data, {"x": FCNScore(3)}, judge=judge())
    found = evaluate(model(task=task), data, {"x": FCNScore(3)})
    assert found.scores["class_iou"] == 1


def test_a_judge_of_other_classes_than_the_data_is_refused():
    labels, _, photo = scene(0)

    def refused(source, target, task=None, arbiter=None):
        data = dataset((source, target), task=task or Labels())
        with pytest.raises(DataError) as error:
            evaluate(model(), data, {"x": FCNScore(3)}, judge=arbiter or judge())
        return str(error.value)

    assert "1 of 1 looked at" in (told := refused(photo, photo))
    assert "main colours are" in told
    assert "set the other direction" in refused(photo, labels)
    from img2img.tasks.palettes import find_palette

    facades = find_palette("facades")[np.arange(12)[:, None].repeat(8, 0).repeat(96, 1)]
    assert "it is one in those of 'facades'" in refused(facades.astype(np.uint8), facades // 2)
    two = Judge(model(torch.eye(3)[:2], task=PhotoToLabels(palette=PALETTE[:2])))
    told = refused(labels, photo, Labels(palette=PALETTE), two)
    assert "knows no class of the colour [0, 0, 255]" in told


# The sheet


def images(*values):
    return [ImageScores(f"pair-{i}.png", i, {"s": v}) for i, v in enumerate(values)]


def test_best_median_and_worst():
    def found(*values, higher):
        return [
            (t, image.scores["s"]) for t, image in extremes(images(*values), "s", higher=higher)
        ]

    assert found(3, 1, 2, 5, 4, higher=True) == [("best", 5), ("median", 3), ("worst", 1)]
    assert found(3, 1, 2, 5, 4, higher=False) == [("best", 1), ("median", 3), ("worst", 5)]
    assert found(1, 4, 2, 3, higher=True) == [("best", 4), ("median", 3), ("worst", 1)]
    assert found(1, 2, higher=True) == [("best and median", 2), ("worst", 1)]
    assert found(7, higher=True) == [("best and median and worst", 7)]
    assert extremes(images(1, 2), "other", higher=True) == []


def test_the_sheet_shows_source_output_and_target_of_each():
    def flat(value):
        return np.full((16, 16, 3), value, np.uint8)

    pairs = [(flat(v), flat(100)) for v in (110, 150, 190)]
    data = dataset(*pairs)
    found = evaluate(model(bias=-20 / 127.5), data, {"l1": L1()})
    chosen = extremes(found.images, "l1", higher=False)
    assert [image.index for _, image in chosen] == [0, 1, 2]
    drawn = draw_extremes(model(bias=-20 / 127.5), data, chosen, "l1")
    third = drawn.shape[0] // 3
    for row, value in enumerate((110, 150, 190)):
        area = drawn[row * third : (row + 1) * third]
        middle = area[third - 30]
        at = [drawn.shape[1] * (2 * column + 1) // 6 for column in range(3)]
        assert [int(middle[x, 0]) for x in at] == [value, value - 20, 100]
