"""`[[metrics]]` of a recipe: what is refused, what is built, and what may change."""

import re
from typing import ClassVar

import pytest
import torch
import torchvision

from img2img.assemble import metrics_of
from img2img.assemble.metrics import check_count
from img2img.document import Document
from img2img.errors import MetricError, RecipeError
from img2img.recipe_parser import parse_recipe
from img2img.resuming import MAY_CHANGE, differences, may_change
from img2img.tasks import Paired, PhotoToLabels

RECIPE = """name = "scored"
[task]
name = "{task}"
[data]
root = "nowhere"
crop_size = {size}
[[losses]]
name = "l1"
[train]
steps = 1
"""


def read(registry, extra="", *overrides, task="paired", size=256):
    text = RECIPE.format(task=task, size=size) + extra
    return parse_recipe(Document(text, "scored.toml"), registry, overrides)


def builder(registry, extra="", *overrides, **options):
    recipe = read(registry, extra, *overrides, **options)
    task = Paired() if recipe.task.name == "paired" else PhotoToLabels(**recipe.task.settings)
    return metrics_of(recipe, registry, task)


def refused(registry, *given, **options):
    with pytest.raises(RecipeError) as caught:
        builder(registry, *given, **options)
    return caught.value.problems


def table(name, *settings):
    return "\n".join(["[[metrics]]", f'name = "{name}"', *settings, ""])


def test_what_suits_the_task_is_usual(registry):
    assert list(builder(registry)()) == ["l1", "psnr", "ssim"]
    assert list(builder(registry, task="photo2labels")()) == ["accuracy"]
    assert read(registry).metrics == ()
    assert "metrics" not in read(registry).to_dict()
    assert list(builder(registry, "", "metrics=[]")()) == ["l1", "psnr", "ssim"]


def test_as_many_pairs_as_they_need(registry):
    class Several:
        """A metric of five images."""

        of = "images"
        scores: ClassVar = {"several": True}
        least = 5

        def update(self, output, target):
            return {}

        def compute(self):
            return {"several": 1.0}

    registry.metric("several", Several)
    recipe = read(registry, table("l1") + table("several"))
    build = metrics_of(recipe, registry, Paired())
    check_count(recipe, build, 5, 200)
    for pairs, most in ((4, 200), (90, 4)):
        with pytest.raises(RecipeError) as caught:
            check_count(recipe, build, pairs, most)
        (said,) = caught.value.problems
        assert "scored.toml:13: metrics.1: several needs 5 images" in said, said
        assert f"scores 4 pairs of {pairs}" in said


def test_named_ones_are_built_anew_with_their_settings(registry):
    given = table("lab-histogram", "bins = 7") + table("psnr")
    build = builder(registry, given)
    one, other = build(), build()
    assert list(one) == ["lab-histogram", "psnr"]
    assert one["psnr"] is not other["psnr"]
    images = torch.rand(1, 3, 8, 8)
    one["psnr"].update(images, images)
    with pytest.raises(MetricError, match="there were no images"):
        other["psnr"].compute()
    assert one["lab-histogram"]._histograms(images).shape == (1, 3, 8)


def test_how_many_classes_there_are_comes_from_the_task(registry):
    metric = builder(registry, table("fcn-score"), task="photo2labels")()["fcn-score"]
    metric.update(*torch.full((2, 1, 2, 2), 11))
    with pytest.raises(MetricError, match="12 classes"):
        metric.update(*torch.full((2, 1, 2, 2), 12))


def test_they_survive_writing(registry):
    recipe = read(registry, table("l1") + table("fid", "features = 64", "least = 100"))
    again = parse_recipe(Document(recipe.to_toml(), "again.toml"), registry)
    assert again == recipe
    assert again.metrics[1].settings == {"features": 64, "least": 100, "weights": None}


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (table("sim"), ":12: metrics.0.name: 'sim' is not a metric (did you mean 'ssim'?)"),
        ("[[metrics]]\nbins = 3", ":11: metrics.0.name is missing: which metric"),
        ("[metrics]\nname = 'l1'", ":11: metrics should be a list: write [[metrics]]"),
        (table("l1") + table("l1"), ":14: metrics.1: 'l1' is there already; keep one"),
        (
            table("lab-histogram", "bin = 3"),
            ":13: metrics.0.bin is not a setting of 'lab-histogram' (did you mean 'bins'?)",
        ),
        (
            table("fid", "features = 100"),
            ":13: metrics.0.features should be 64, 192, 768 or 2048, not 100",
        ),
        ("[metric]\nname = 'l1'", ":11: metric is not part of a recipe (did you mean 'metrics'?"),
    ],
)
def test_a_mistake_has_its_line(registry, extra, expected):
    with pytest.raises(RecipeError) as caught:
        read(registry, extra)
    (problem,) = caught.value.problems
    assert problem.startswith(f"scored.toml{expected}")


@pytest.mark.parametrize(
    ("task", "extra", "size", "expected"),
    [
        ("paired", table("fcn-score"), 64, ":11: metrics.0: fcn-score compares classes, and the "
         "targets of 'paired' are images: choose another, such as 'l1', .* `img2img eval --judge`"),
        ("paired", table("accuracy"), 64, ":11: metrics.0: accuracy compares classes"),
        ("photo2labels", table("ssim"), 64, ":11: metrics.0: ssim compares images, and the targets "
         "of 'photo2labels' are classes: choose another, such as 'accuracy'"),
        ("paired", table("ms-ssim"), 64, ":11: metrics.0: ms-ssim: ms-ssim needs images of 176"),
        ("paired", table("lab-histogram", "bins = 1"), 64, ":11: metrics.0: bins must be from 2"),
        ("photo2labels", table("fcn-score", "ignore = 12"), 64, ":11: metrics.0: ignore holds "),
        ("paired", table("lpips", "weights = 'gone.pth'"), 64, ":11: metrics.0: lpips cannot be "
         "had: weights: there is no file gone.pth"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(registry, task, extra, size, expected):
    (problem,) = refused(registry, extra, task=task, size=size)
    assert re.match(f"scored.toml{expected}", problem)


def best(score):
    return f"train.best_by={score}"


@pytest.mark.parametrize(
    ("score", "extra", "options", "expected"),
    [
        ("psnrr", "", {}, "no score 'psnrr' here (did you mean 'psnr'?); possible: l1, psnr, ssim"),
        ("accuracy", "", {}, "targets of 'paired' are images, which have no accuracy: use 'l1' or"),
        ("l1", "", {"task": "photo2labels"}, "are classes, which have no l1: use 'accuracy'"),
        ("ssim", "", {"size": 8}, "ssim needs images of 11 pixels or more"),
        ("ms_ssim", "", {}, "add [[metrics]] with name = 'ms-ssim', or use 'l1' or 'psnr'"),
        ("l1", table("psnr"), {}, "add [[metrics]] with name = 'l1', or use 'psnr'"),
    ],
)
def test_a_best_that_cannot_be(registry, score, extra, options, expected):
    (problem,) = refused(registry, extra, best(score), **options)
    assert problem.startswith("--set train.best_by")
    assert expected in problem


def test_best_by_any_score_of_what_is_chosen(registry):
    builder(registry, table("lab-histogram"), best("lab_histogram_b"))
    builder(registry, table("fcn-score"), best("class_iou"), task="photo2labels")
    builder(registry, table("ms-ssim"), best("ms_ssim"))
    builder(registry, "", best("psnr"), size=8)


class Noisy:
    """One that draws random numbers when it is built."""

    of = "images"

    def __init__(self) -> None:
        self.scores = {"noise": True}
        torch.rand(3)

    def update(self, output, target):
        return {}

    def compute(self):
        return {"noise": 0.5}


def test_building_one_leaves_the_run_alone(registry):
    registry.metric("noisy", Noisy)
    before = torch.get_rng_state()
    build = builder(registry, table("noisy"), best("noise"))
    assert build()["noisy"].compute() == {"noise": 0.5}
    assert torch.equal(before, torch.get_rng_state())


def test_two_with_one_score(registry):
    class Other(Noisy):
        """Another one of the same name."""

    registry.metric("noisy", Noisy)
    registry.metric("other", Other)
    (problem,) = refused(registry, table("noisy") + table("other"))
    assert "'noisy' and 'other' both have a score 'noise'; keep one" in problem


def test_one_that_is_no_metric(registry):
    class Bare:
        """Has nothing to say of itself."""

        def update(self, output, target):
            raise KeyError("x")

        def compute(self):
            return {}

    class Broken(Bare):
        """Fails on every image."""

        of, scores = "images", {"broken": True}

    class Dead(Broken):
        """Cannot be built."""

        def __init__(self):
            raise RuntimeError("no licence")

    class Other(Broken):
        """Gives what it did not name."""

        scores: ClassVar = {"mine": True}

        def update(self, output, target):
            return {"other": output.mean((1, 2, 3))}

    for metric in (Bare, Broken, Dead, Other):
        registry.metric(metric.__name__.lower(), metric)
    given = "".join(map(table, ("bare", "broken", "dead", "other")))
    one, two, three, four = refused(registry, given)
    assert "bare does not say what it scores: a metric has attributes `scores` and `of`" in one
    assert "broken: fails on (1, 3, 256, 256): KeyError: 'x'" in two
    assert "dead cannot be built: RuntimeError: no licence" in three
    assert "other: update gave 'other', which `scores` does not name" in four


def test_one_that_fails_later_ends_no_run(registry):
    """Whatever has happened to it, its validation goes on."""
    built = []

    class Once:
        """Can be built once."""

        of, scores = "images", {"once": True}

        def __init__(self):
            built.append(self)
            if len(built) > 1:
                raise RuntimeError("gone")

        def update(self, output, target):
            return {}

        def compute(self):
            return {"once": 1.0}

    registry.metric("once", Once)
    build = builder(registry, table("once") + table("l1"))
    check_count(read(registry, table("once") + table("l1")), build, 3, 200)
    assert len(built) == 1, "how many pairs it needs is known by then"
    with pytest.warns(RuntimeWarning, match="goes on without once: RuntimeError: gone"):
        assert list(build()) == ["l1"]


def test_weights_that_vanish_end_no_run(registry, tmp_path):
    path = tmp_path / "squeeze.pth"
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    given = table("lpips", "net = 'squeeze'", f"weights = '{path}'") + table("l1")
    build = builder(registry, given, size=32)
    assert list(build()) == ["lpips", "l1"]
    path.unlink()
    with pytest.warns(RuntimeWarning, match="validation goes on without lpips: .*no file"):
        assert list(build()) == ["l1"]


def test_they_may_change_in_a_run_that_goes_on(registry):
    assert "metrics" in MAY_CHANGE
    none = read(registry).to_dict()
    some = read(registry, table("lab-histogram") + table("l1")).to_dict()
    other = read(registry, table("lab-histogram", "bins = 9") + table("psnr")).to_dict()
    for before, after in ((none, some), (some, none), (some, other)):
        found = list(differences(before, after))
        assert found
        assert all(may_change(difference.key) for difference in found)
    keys = [difference.key for difference in differences(some, other)]
    assert keys == ["metrics.lab-histogram.bins", "metrics.l1", "metrics.psnr"]
    assert not may_change("losses.l1.weight")
