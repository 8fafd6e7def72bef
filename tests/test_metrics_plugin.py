"""Plugins' metrics that do not quite keep to the protocol: it is said, and the others go on."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from img2img.data.loading import PairDataset
from img2img.engine.records import Records
from img2img.errors import RequestError
from img2img.evaluation.choosing import build_metrics
from img2img.evaluation.evaluating import Evaluation, evaluate
from img2img.evaluation.judge import Judge
from img2img.evaluation.scores import baselines
from img2img.evaluation.sheet import extremes
from img2img.held_out import AtScale
from img2img.inference import Policy, Translator
from img2img.metrics import L1, FCNScore
from img2img.report.curves import BASELINES
from img2img.tasks import Paired, PhotoToLabels

PALETTE = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


class Pairs:
    """Label maps of blocks and the same in weaker colours."""

    def __init__(self, count):
        self._count = count

    def __len__(self):
        return self._count

    def name(self, index):
        return str(index)

    def pair(self, index):
        classes = np.random.default_rng(index).integers(0, 3, (4, 4)).repeat(4, 0).repeat(4, 1)
        labels = np.array(PALETTE, np.uint8)[classes]
        return labels, labels // 2 + 60


def scored(metrics, *, count=3, judge=None, batch_size=1):
    task = Paired()
    pairs = PairDataset(Pairs(count), task, AtScale((1, 1), task, None), swap=False, seed=0)
    model = Translator(nn.Identity(), task, Policy(scale=(1.0, 1.0)))
    return evaluate(model, pairs, metrics, judge=judge, batch_size=batch_size)


def segmenter():
    task = PhotoToLabels(palette=PALETTE)
    return Judge(Translator(nn.Identity(), task, Policy(scale=(1.0, 1.0))))


class Odd:
    """Gives what it is told to."""

    of = "images"

    def __init__(self, update=None, compute=None, scores=("odd",)):
        self.scores = dict.fromkeys(scores, True)
        self._update = update if update is not None else (lambda count: {})
        self._compute = compute if compute is not None else {"odd": 1.0}

    def update(self, output, target):
        return self._update(len(output))

    def compute(self):
        return self._compute


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        (Odd(lambda n: {"other": torch.ones(n)}), "update gave 'other', which `scores` does not"),
        (Odd(lambda n: {"odd": torch.ones(n + 1)}), r"of shape \(3,\) for 2 images"),
        (Odd(lambda n: {"odd": torch.tensor(1.0)}), r"of shape \(\) for 2 images"),
        (Odd(lambda n: {"odd": None}), "TypeError|RuntimeError"),
        (Odd(lambda n: 7), "update gave int, which should be a dict"),
        (Odd(compute={"other": 1.0, "odd": 1.0}), "compute gave 'other'"),
        (Odd(compute={}), "compute gave no odd"),
        (Odd(compute={"odd": None}), "TypeError"),
        (Odd(compute=3.0), "compute gave float"),
        (Odd(compute={"odd": math.inf}), "odd came out as no finite number"),
        (Odd(compute={"odd": torch.ones(2)}), "only one element"),
    ],
)
def test_what_is_not_quite_a_score_leaves_the_others(metric, why):
    found = scored({"odd": metric, "l1": L1()}, batch_size=2)
    assert set(found.scores) == {"l1"}
    assert found.broken == {"odd"}
    assert all(set(image.scores) == {"l1"} for image in found.images)
    assert re.search(why, found.failed["odd"]), found.failed


def test_none_for_an_update_is_told():
    found = scored({"odd": Odd(lambda n: None), "l1": L1()})
    assert "update gave NoneType, which should be a dict" in found.failed["odd"]


def test_arrays_and_lists_are_values_too():
    found = scored({"odd": Odd(lambda n: {"odd": np.arange(n)})}, batch_size=3)
    assert [image.scores["odd"] for image in found.images] == [0, 1, 2]
    found = scored({"odd": Odd(lambda n: {"odd": [0.5] * n})})
    assert [image.scores["odd"] for image in found.images] == [0.5] * 3


def test_an_image_without_a_score_has_none_and_is_no_extreme():
    values = iter([math.nan, 0.25, math.nan, 0.5, 0.125])
    metric = Odd(lambda n: {"odd": torch.tensor([next(values)])})
    found = scored({"odd": metric, "l1": L1()}, count=5)
    assert [image.scores.get("odd") for image in found.images] == [None, 0.25, None, 0.5, 0.125]
    chosen = extremes(found.images, "odd", higher=True)
    assert [(title, image.index) for title, image in chosen] == [
        ("best", 3),
        ("median", 1),
        ("worst", 4),
    ]


def test_pixels_that_do_not_count_leave_an_image_without_a_score():
    """NaN goes out of the metric, and nothing into the row."""
    metric = FCNScore(2, ignore=1)
    target = torch.tensor([[[0, 1]], [[1, 1]]])
    given = metric.update(torch.zeros_like(target), target)
    assert math.isnan(given["pixel_accuracy"][1]), "or this test shows nothing"
    metric = Odd(lambda n: {"odd": given["pixel_accuracy"]})
    rows = scored({"odd": metric}, count=2, batch_size=2).images
    assert [row.scores for row in rows] == [{"odd": 1.0}, {}]


class Uncopied(FCNScore):
    """Holds what cannot be copied."""

    def __deepcopy__(self, memo):
        raise TypeError("cannot copy a lock")


def test_one_that_cannot_be_copied_is_scored_without_a_ceiling():
    found = scored({"mine": Uncopied(3), "l1": L1()}, judge=segmenter())
    assert found.scores["pixel_accuracy"] == 1
    assert found.ceiling == {}
    assert "cannot copy a lock" in found.failed["ceiling of mine"]
    assert all("pixel_accuracy" in image.scores for image in found.images)
    whole = scored({"fcn-score": FCNScore(3)}, judge=segmenter())
    assert whole.ceiling == {"pixel_accuracy": 1.0, "class_accuracy": 1.0, "class_iou": 1.0}
    assert whole.failed == {}


def test_without_a_judge_nothing_is_copied():
    metric = Uncopied(3)
    found = scored({"mine": metric, "l1": L1()})
    assert set(found.failed) == {"mine"}
    assert "--judge" in found.failed["mine"]
    assert found.broken == set()


class Dead(Odd):
    """Cannot be built."""

    def __init__(self):
        raise RuntimeError("no licence server")


class Mute(Odd):
    """Does not say what it compares."""

    of = None

    def __init__(self):
        super().__init__()


class Nameless(Odd):
    """Does not say what it scores."""

    def __init__(self):
        super().__init__(scores=())


def test_one_that_cannot_be_built_leaves_the_others(registry):
    for name, metric in (("dead", Dead), ("mute", Mute), ("nameless", Nameless)):
        registry.metric(name, metric)
    names = ("dead", "mute", "nameless", "l1")
    built, failed = build_metrics({n: {} for n in names}, registry, {"images"}, classes=None)
    assert list(built) == ["l1"]
    assert failed["dead"] == "it cannot be built: RuntimeError: no licence server"
    for name in ("mute", "nameless"):
        assert "a metric has attributes `scores` and `of`" in failed[name]
    with pytest.raises(RequestError, match="bins"):
        build_metrics({"lab-histogram": {"bins": 0}}, registry, {"images"}, classes=None)


@pytest.mark.parametrize(
    ("recipe", "found", "said"),
    [
        ({}, Evaluation(failed={"ssim": "too small"}), None),
        ({}, Evaluation(failed={"ssim": "KeyError: 'x'"}, broken=frozenset({"ssim"})), "KeyError"),
        ({"metrics": [{"name": "ssim"}]}, Evaluation(failed={"ssim": "too small"}), "too small"),
    ],
    ids=["unsuited", "broken", "asked for"],
)
def test_a_run_warns_of_all_but_what_nobody_asked_for_and_does_not_suit(recipe, found, said):
    told = []
    health = SimpleNamespace(warn=lambda step, kind, message: told.append((step, kind, message)))
    records = SimpleNamespace(
        _without=set(),
        health=health,
        _run=SimpleNamespace(recipe=recipe),
        _state=SimpleNamespace(step=7),
    )
    for _ in range(2):
        Records._warn_of(records, found)
    if said is None:
        assert told == []
    else:
        ((step, kind, message),) = told
        assert (step, kind) == (7, "no_score")
        assert message.startswith(f"validation goes on without ssim: {said}")


def test_baselines_are_of_what_is_scored():
    task = Paired()
    pairs = PairDataset(Pairs(3), task, AtScale((1, 1), task, None), swap=False, seed=0)
    assert baselines(pairs, pairs, task, scored={"ssim", "psnr", "accuracy"}) == {}
    found = baselines(pairs, pairs, task, scored={"l1"})
    assert set(found) == {"l1_source", "l1_mean_target"}
    assert set(found) < set(BASELINES), "which the report must know"
    task = PhotoToLabels(palette=PALETTE)
    pairs = PairDataset(Pairs(3), task, AtScale((1, 1), task, None), swap=True, seed=0)
    assert baselines(pairs, pairs, task, scored={"pixel_accuracy", "l1"}) == {}
    assert set(BASELINES) - set(found) == set(baselines(pairs, pairs, task, scored={"accuracy"}))
