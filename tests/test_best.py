"""The best model by a validation score, and when validation happens."""

import json
import math
import re
import shutil
import time
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import img2img
from img2img.bundle import BundleInfo, load_bundle, read_info, save_bundle
from img2img.engine import records
from img2img.engine.best import Best, describe_best
from img2img.engine.checkpoint import find_checkpoints
from img2img.engine.directory import RunDirectory
from img2img.errors import RecipeError
from img2img.evaluation.evaluating import Evaluation
from img2img.methods import Pix2Pix

TRAIN = """
steps = 6
batch_size = 2
log_every = 2
sample_every = 100
checkpoint_every = 2
keep_checkpoints = 9
"""


@pytest.fixture
def recipe(tmp_path, pairs_folder, tiny_tables):
    path = tmp_path / "tiny.toml"
    path.write_text(tiny_tables.replace('"pairs"', f'"{pairs_folder}"') + TRAIN)
    return path


def run(recipe, out, resume=False, **overrides):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return img2img.train(
            recipe,
            out=out,
            device="cpu",
            resume=resume,
            overrides={name.replace("__", "."): value for name, value in overrides.items()},
        )


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def scores(out, name="l1"):
    return {x["step"]: x["validation"][name] for x in lines(out) if "validation" in x}


def report_of(out):
    page = (out / "report.html").read_text()
    (data,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    return json.loads(data)


def weights(path):
    return load_bundle(path)[0]


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(v, second[k]) for k, v in first.items()
    )


@pytest.mark.parametrize(("by", "choose"), [("", min), ("psnr", max)])
def test_best_is_the_model_of_the_best_validation(tmp_path, recipe, by, choose):
    """At a rate so high that scores go up and down; the model is that of a run that ends there."""
    options = {"method__learning_rate": 0.02, "train__validate_every": 1, "train__ema_decay": 0.5}
    if by:
        options["train__best_by"] = by
    out = tmp_path / "run"
    run(recipe, out, **options)
    found = scores(out, by or "l1")
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    step = choose(found, key=lambda step: found[step])
    trained = read_info(out / "best.safetensors").trained
    assert trained["step"] == step
    assert trained["score"] == {"name": by or "l1", "value": found[step]}
    run(recipe, tmp_path / "there", train__steps=step, **options)
    assert same(weights(out / "best.safetensors"), weights(tmp_path / "there/model.safetensors"))
    assert describe_best(out / "best.safetensors") == f"step {step}, {by or 'l1'} {found[step]:.4f}"
    assert img2img.load(out / "best.safetensors", device="cpu")


@pytest.mark.parametrize(("given", "steps"), [({}, [2, 4, 6]), ({"train__validate_every": 0}, [6])])
def test_validation_comes_with_each_checkpoint_unless_the_recipe_says_otherwise(
    tmp_path, recipe, given, steps
):
    run(recipe, tmp_path / "run", **given)
    assert sorted(scores(tmp_path / "run")) == steps


def test_validation_changes_no_bit_of_training(tmp_path, recipe):
    run(recipe, tmp_path / "often", train__validate_every=1)
    run(recipe, tmp_path / "never", train__validate_every=0)
    for file in ("networks", "optimizers", "loose"):
        often, never = (
            (find_checkpoints(RunDirectory(tmp_path / name))[-1] / f"{file}.safetensors")
            for name in ("often", "never")
        )
        assert often.read_bytes() == never.read_bytes()


def test_validation_takes_none_of_the_steps_time(tmp_path, recipe, monkeypatch):
    """By a clock that goes on by a second with each step, and by a hundred with each validation."""
    now, step, validate = [0.0], Pix2Pix.step, records.validate

    def taking(seconds, call):
        def timed(*arguments, **options):
            now[0] += seconds
            return call(*arguments, **options)

        return timed

    monkeypatch.setattr(records, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(Pix2Pix, "step", taking(1, step))
    monkeypatch.setattr(records, "validate", taking(100, validate))
    run(recipe, tmp_path / "run", train__validate_every=1)
    assert now[0] >= 606
    logged = [x for x in lines(tmp_path / "run") if "losses" in x]
    assert [x["elapsed_s"] for x in logged] == [2, 4, 6]
    assert [x["images_per_s"] for x in logged] == [2, 2, 2]


def test_a_resumed_run_ends_with_the_same_best(tmp_path, recipe):
    """Killed at its end, and before or after the step of its best, whose file is there already."""
    options = {"method__learning_rate": 0.02, "train__validate_every": 1}
    whole = tmp_path / "whole"
    run(recipe, whole, **options)
    for back_to in (2, 4):
        cut = shutil.copytree(whole, tmp_path / f"cut{back_to}")
        for path in find_checkpoints(RunDirectory(cut)):
            if int(path.name[5:]) > back_to:
                shutil.rmtree(path)
        run(recipe, cut, resume=True, **options)
        assert scores(whole) == scores(cut)
        best, again = ((path / "best.safetensors").read_bytes() for path in (whole, cut))
        assert best == again


def test_a_best_of_a_step_that_comes_again_with_other_settings_is_replaced(tmp_path, recipe):
    """Killed after its best, and gone on with from before that, to an earlier end."""
    out = tmp_path / "run"
    options = {"method__learning_rate": 0.02, "train__validate_every": 1}
    run(recipe, out, **options)
    best = out / "best.safetensors"
    for path in find_checkpoints(RunDirectory(out))[1:]:
        shutil.rmtree(path)
    # As if a step had been the best that is now trained with another learning rate.
    weights, info = load_bundle(best)
    score = {"name": "l1", "value": 0.0}
    save_bundle(best, weights, replace(info, trained={**info.trained, "step": 4, "score": score}))
    run(recipe, out, resume=True, train__steps=4, **options)
    trained = read_info(best).trained
    assert trained["score"]["value"] == min(scores(out)[step] for step in (3, 4))
    assert scores(out)[trained["step"]] == trained["score"]["value"]


def test_the_report_of_a_run_that_lacked_its_last_score_knows_its_best(
    tmp_path, recipe, monkeypatch
):
    """Killed between its last checkpoint and its scores; the best is written in a thread."""
    out = tmp_path / "run"
    run(recipe, out, train__steps=2)
    (out / "best.safetensors").unlink()
    kept = [line for line in lines(out) if "validation" not in line]
    (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    real = records.save_bundle

    def slowly(*given):
        time.sleep(0.3)
        return real(*given)

    monkeypatch.setattr(records, "save_bundle", slowly)
    run(recipe, out, resume=True, train__steps=2)
    assert list(scores(out)) == [2]
    assert report_of(out)["best"] is True


def test_a_damaged_best_is_told_and_replaced(tmp_path, recipe):
    run(recipe, tmp_path / "run", train__steps=2)
    best = tmp_path / "run" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:500])
    with pytest.warns(RuntimeWarning, match=r"best model so far is lost.*best\.safetensors"):
        run(recipe, tmp_path / "run", resume=True)
    assert read_info(best).trained["step"] in (4, 6)


def offered(path, values, by=None, name="l1", start=5):
    """The steps at which these values in turn were the best so far."""
    task = {"name": "paired", "settings": {}}
    generator = {"name": "unet", "settings": {}, "in_channels": 3, "out_channels": 3}
    best = Best(path, by, start)
    info = BundleInfo("x", task, generator, {}, {"img2img": "1"})
    steps = []
    for step, value in enumerate(values):
        scores = Evaluation({name: value}, {"l1": False, "psnr": True, "accuracy": True})
        told = best.offer(scores, step, info)
        if told is not None:
            save_bundle(path, nn.Linear(1, 1).state_dict(), told)
            steps.append(step)
    return steps


def test_only_what_is_strictly_better_takes_its_place(tmp_path):
    nan, path = math.nan, tmp_path / "best.safetensors"
    assert offered(path, [nan, 0.5, 0.5, nan, 0.6, 0.4, -math.inf]) == [1, 5]
    assert offered(path, [0.41, 0.4, 0.39]) == [2]  # it goes on from the file
    # One of a step that comes again, perhaps to another score, counts for nothing.
    assert offered(path, [0.41, 0.42], start=1) == [0]
    assert offered(path, [9.0, 9.0, 10.0, 9.5], name="psnr") == [0, 2]
    assert offered(path, [0.2, 0.3], name="accuracy") == [0, 1]
    assert offered(path, [0.1], by="psnr") == []  # a score that was not given
    assert offered(path, []) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train__best_by": "psnrr"}, "best_by.*psnrr.*did you mean.*psnr"),
        ({"train__best_by": "accuracy"}, r"train\.best_by: .*images, which have no accuracy.*'l1'"),
        ({"train__best_by": "ssim", "data__test_size": 8}, "ssim needs images of 11 pixels"),
        ({"train__validate_every": -1}, "validate_every.*at least 0"),
    ],
)
def test_a_score_that_cannot_be_is_refused(tmp_path, recipe, overrides, message):
    with pytest.raises(RecipeError, match=message):
        run(recipe, tmp_path / "run", **overrides)
    assert not (tmp_path / "run").exists()


def test_the_end_of_a_run_names_its_best(tmp_path, recipe, capsys, monkeypatch):
    from img2img.cli import main

    monkeypatch.setattr(
        "sys.argv", ["img2img", "run", str(recipe), "--out", str(tmp_path / "run"), "--device=cpu"]
    )
    with pytest.raises(SystemExit):
        main()
    found = scores(tmp_path / "run")
    step = min(found, key=lambda step: found[step])
    assert f"best: step {step}, l1 {found[step]:.4f} -> best.safetensors" in capsys.readouterr().err
