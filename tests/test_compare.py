"""`img2img compare`: variants, their training, and what is made of their scores."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from img2img.bundle import BundleInfo, save_bundle
from img2img.cli import app
from img2img.comparison import running
from img2img.comparison.directory import ComparisonDirectory
from img2img.comparison.figure import Column, figure_rows
from img2img.comparison.memory import Memory
from img2img.comparison.pairs import pairs_digest, validation_pairs
from img2img.comparison.running import Job, Slot, last_step, make_slots, train_all
from img2img.comparison.scoring import Scorer, choose_metrics
from img2img.comparison.variants import make_variants, parse_vary, split_values
from img2img.engine.lock import RunLock
from img2img.errors import DataError, ImageError, RecipeError, RequestError
from img2img.recipe_files import find_recipe
from img2img.recipe_parser import load_recipe

# Without torchmetrics, whose import takes longer than all that is trained here.
METRICS = '[[metrics]]\nname = "l1"\n'
STEPS = "steps = 3\nlog_every = 1\n"


@pytest.fixture
def recipe(pairs_folder, tiny_tables, monkeypatch):
    """A tiny recipe's path, in a folder that is the current one."""
    monkeypatch.chdir(pairs_folder.parent)
    Path("tiny.toml").write_text(tiny_tables.replace("[train]", f"{METRICS}[train]") + STEPS)
    return Path("tiny.toml")


def losses(variant):
    return [(loss.name, loss.weight) for loss in variant.recipe.losses]


# Variants


def test_losses_have_the_recipes_weights_and_the_discriminator_to_fit(recipe, registry):
    named = ["l1", "gan", "cgan", "l1+gan", "l2+l1*7+cgan", "adversarial"]
    made = {v.name: v for v in make_variants(recipe, registry, {"losses": named})}
    assert list(made) == named
    assert losses(made["l1"]) == [("l1", 100.0)]
    assert made["l1"].recipe.discriminator is None
    assert losses(made["gan"]) == [("adversarial", 1.0)]
    assert made["gan"].recipe.conditional is False
    assert made["cgan"].recipe.conditional is True
    assert losses(made["l1+gan"]) == [("l1", 100.0), ("adversarial", 1.0)]
    assert losses(made["l2+l1*7+cgan"]) == [("l2", 100.0), ("l1", 7.0), ("adversarial", 1.0)]
    for name in ("gan", "cgan", "l1+gan", "adversarial"):
        assert made[name].recipe.discriminator.settings["width"] == 4
    assert len({v.folder for v in made.values()}) == len(named)


def test_losses_keep_settings_and_a_discriminator_comes_where_there_was_none(recipe, registry):
    recipe.write_text(recipe.read_text().replace("weight = 100", "weight = 30"))
    kept = make_variants(recipe, registry, {"losses": ["l1"]}, ["losses.l1.weight=5"])
    assert losses(kept[0]) == [("l1", 5.0)]
    text = recipe.read_text().replace('[discriminator]\nname = "patchgan16"\nwidth = 4\n', "")
    recipe.write_text(text.replace('[[losses]]\nname = "adversarial"\n', ""))
    (made,) = make_variants(recipe, registry, {"losses": ["l1+gan"]})
    assert (made.recipe.discriminator.name, made.recipe.conditional) == ("patchgan70", False)


def test_every_combination_in_order(recipe, registry):
    vary = {"generator.width": [4, 8], "losses": ["l1", "cgan"], "data.mirror": [True]}
    made = make_variants(recipe, registry, vary, ["train.steps=9"])
    assert [v.name for v in made] == [
        f"width={width}, {loss}, mirror=true" for width in (4, 8) for loss in ("l1", "cgan")
    ]
    assert [v.recipe.generator.settings["width"] for v in made] == [4, 4, 8, 8]
    assert {v.recipe.train.steps for v in made} == {9}


def test_a_key_of_a_loss_varies_with_the_losses(recipe, registry):
    vary = {"losses.l1.weight": [1, 2], "losses": ["l1", "l1+cgan"]}
    made = make_variants(recipe, registry, vary)
    assert [dict(losses(v))["l1"] for v in made] == [1, 1, 2, 2]


def test_mistakes_of_all_variants_at_once(recipe, registry):
    with pytest.raises(RecipeError) as caught:
        make_variants(recipe, registry, {"losses": ["l1", "l3", "l1*x", "gan+cgan", "ssim"]})
    said = caught.value.problems
    assert [line.split(":")[0] for line in said] == [
        "variant l3",
        "variant l1*x",
        "variant gan+cgan",
    ]
    assert "'l3' is not a loss" in said[0]
    with pytest.raises(RecipeError) as caught:
        make_variants(recipe, registry, {"generator.name": ["unet", "unett"], "losses": ["l1"]})
    assert "variant unett, l1: " in str(caught.value)
    assert "did you mean 'unet'" in str(caught.value)


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ({}, "nothing to compare"),
        ({"losses": []}, "nothing to compare"),
        ({"train.seed": [1, 2]}, "--seeds"),
        ({"losses": ["l1", "l1"]}, "twice"),
        ({"generator.width": list(range(300))}, "300 variants"),
    ],
)
def test_what_cannot_vary(recipe, registry, vary, said):
    with pytest.raises(RequestError, match=said):
        make_variants(recipe, registry, vary)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b", ["a", "b"]),
        ("[1, 2],[3]", ["[1, 2]", "[3]"]),
        ('{a = [1, 2], b = 3}, "x,y"', ["{a = [1, 2], b = 3}", '"x,y"']),
        ("'it]s,', b", ["'it]s,'", "b"]),
    ],
)
def test_commas_within_brackets_and_quotes_part_nothing(text, parts):
    assert split_values(text) == parts


def test_values_are_toml_or_text():
    assert parse_vary("generator.width=4, 8") == ("generator.width", [4, 8])
    assert parse_vary("losses=l1,l1*2+cgan") == ("losses", ["l1", "l1*2+cgan"])
    assert parse_vary("a.b=[1,2],true,'x,y'") == ("a.b", [[1, 2], True, "x,y"])
    for wrong in ("losses", "=1", "losses=l1,,cgan", "losses="):
        with pytest.raises(RequestError, match="--vary"):
            parse_vary(wrong)


def test_a_folder_for_each_name(recipe, registry):
    made = make_variants(recipe, registry, {"description": ["a/b", "a?b", "a-b", "..", "ü" * 99]})
    folders = [v.folder for v in made]
    assert len(set(folders)) == 5
    assert folders[2] == "a-b"
    for folder in folders:
        assert Path(folder).name == folder
        assert folder.isascii()
        assert not folder.startswith(".")


def test_names_that_would_share_a_folder(recipe, registry):
    made = make_variants(recipe, registry, {"description": ["a, b", "a_b", "A_b", "", "-"]})
    folders = [v.folder for v in made]
    assert folders[0] == "a_b"
    assert len({folder.lower() for folder in folders}) == 5
    assert all(folder.strip() for folder in folders)
    assert made[3].name == 'description=""'
    with pytest.raises(RequestError, match="two variants called a b"):
        make_variants(recipe, registry, {"description": ["a b", "a  b"]})


def test_a_discriminator_cannot_vary_where_there_is_none(recipe, registry):
    vary = {"discriminator.width": [4, 8], "losses": ["l1", "cgan"]}
    with pytest.raises(RecipeError) as caught:
        make_variants(recipe, registry, vary)
    assert len(caught.value.problems) == 2
    assert caught.value.problems[0].startswith(
        "variant width=4, l1: losses=l1 trains without a discriminator, so discriminator.width"
    )


# The table in a recipe

TABLE = """
[compare]
seeds = 2
metrics = ["l1"]
[compare.vary]
losses = ["l1", "cgan"]
generator.width = [4, 8]
"discriminator.width" = [4]
"""


def test_a_recipe_says_what_to_compare(recipe, registry):
    recipe.write_text(recipe.read_text() + TABLE)
    found = load_recipe(recipe, registry)
    assert (found.compare.seeds, found.compare.metrics) == (2, ("l1",))
    assert found.compare.vary == {
        "losses": ("l1", "cgan"),
        "generator.width": (4, 8),
        "discriminator.width": (4,),
    }
    # One run has no use for it.
    assert "compare" not in found.to_toml()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("seeds = 0", "compare.seeds"),
        ("seedss = 1", "did you mean 'seeds'"),
        ("vary = 1", "compare.vary"),
        ('vary.losses = "l1"', "compare.vary.losses should be a list"),
    ],
)
def test_mistakes_in_that_table(recipe, registry, wrong, said):
    recipe.write_text(recipe.read_text() + f"[compare]\n{wrong}\n")
    line = len(recipe.read_text().splitlines())
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, registry)
    assert said in str(caught.value)
    assert f"tiny.toml:{line}" in str(caught.value) or f"tiny.toml:{line - 1}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "variants"), [("losses", 5), ("generators", 4), ("receptive_fields", 4)]
)
def test_the_papers_comparisons(name, variants, registry):
    path = find_recipe(f"compare/{name}")
    base = load_recipe(path, registry)
    assert base.compare.seeds == 3
    assert base.compare.judge == "runs/facades-segmenter"
    made = make_variants(path, registry, base.compare.vary)
    assert len(made) == variants
    batch = 10 if name == "generators" else 1
    for variant in made:
        assert variant.recipe.train.batch_size == batch
        assert dict(losses(variant)).get("l1", 100.0) == 100.0
        assert variant.recipe.inference.statistics == ("running" if batch == 10 else "image")


# Where runs are trained


def test_slots_follow_the_devices(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def devices(*args):
        return [slot.device for slot in make_slots(*args)]

    assert devices("cuda", "auto", None, 3, 16) == ["cuda:0", "cuda:1", "cuda:2"]
    assert devices("cuda", "cuda", 4, 2, 16) == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert devices("cuda", "cuda:1", None, 3, 16) == ["cuda:1"]
    # "auto" is no device that a message could name.
    assert devices("cpu", "auto", None, 0, 16) == ["cpu"]
    # No more than cores, where nobody asked for more.
    assert devices("cuda", "auto", None, 8, 2) == ["cuda:0", "cuda:1"]
    (alone,) = make_slots("cpu", "cpu", None, 0, 8)
    assert alone.environment == {}
    for slot in make_slots("cpu", "cpu", 3, 0, 8):
        assert slot.environment == {"OMP_NUM_THREADS": "2", "LOCAL_WORLD_SIZE": "3"}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert make_slots("cpu", "cpu", 2, 0, 8)[0].environment["OMP_NUM_THREADS"] == "1"
    with pytest.raises(RequestError, match="4 cores"):
        make_slots("cpu", "cpu", 5, 0, 4)


def test_the_last_step_of_a_file_that_is_being_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert last_step(path) == 0
    path.write_bytes(b'{"step": 1}\n' * 10_000 + b'{"step": 7, "x": 1}\n{"step": 8, "x')
    assert last_step(path) == 7


class Watcher:
    """Remembers what it is told."""

    def __init__(self):
        self.told = []

    def started(self, job, slot):
        self.told.append(("started", job.name))

    def reached(self, job, step):
        pass

    def ended(self, job, error):
        self.told.append(("ended", job.name))


def test_runs_at_once_and_one_that_fails(tmp_path, monkeypatch):
    """With a stand-in for `img2img run` that writes down when it began and ended."""
    script = tmp_path / "run"
    script.write_text(
        f"#!{sys.executable}\n"
        "import sys, time, pathlib\n"
        "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\n"
        "begun = time.time()\n"
        "time.sleep(0.6)\n"
        "(out.parent / f'{out.name}.times').write_text(f'{begun} {time.time()}')\n"
        "if out.name == 'seed-1':\n"
        "    print('error: the loss is not finite', file=sys.stderr)\n"
        "    sys.exit(1)\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(Job, "finished", lambda self: True)
    jobs = [Job("v", i, tmp_path / "r", tmp_path / f"v/seed-{i}", 1) for i in range(4)]
    watcher = Watcher()
    failed = train_all(jobs, [Slot("cpu"), Slot("cpu")], [], watcher)
    assert failed == {jobs[1]: "the loss is not finite"}
    assert len(watcher.told) == 8
    times = [
        tuple(map(float, (tmp_path / f"v/seed-{i}.times").read_text().split())) for i in range(4)
    ]
    running = [sum(begin <= t < end for begin, end in times) for t, _ in times]
    assert max(running) == 2


# From end to end


class InProcess:
    """Stands in for a process that runs `img2img run`, and is there at once."""

    def __init__(self, command, *, stderr, stdin, **options):
        assert command[1:4] == ["-m", "img2img", "run"]
        assert stdin == subprocess.PIPE
        self.stdin = None
        done = CliRunner().invoke(app, [word for word in command[3:] if "stdin" not in word])
        stderr.write(done.output.encode())
        if done.exception is not None:
            stderr.write(f"error: {done.exception}\n".encode())
        self.code = getattr(done.exception, "exit_code", 1) if done.exception else 0

    def poll(self):
        return self.code


@pytest.fixture
def in_process(monkeypatch):
    """Runs without processes of their own, whose start takes most of their time."""
    # The name alone: others start processes of another kind meanwhile.
    stand_in = SimpleNamespace(Popen=InProcess, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr("img2img.comparison.running.subprocess", stand_in)
    monkeypatch.setattr("img2img.comparison.running.PAUSE", 0.01)


def invoke(*arguments):
    return CliRunner().invoke(app, ["compare", "tiny.toml", "--device", "cpu", *arguments])


def contents(folder, *names):
    return {name: (folder / name).read_bytes() for name in names}


def test_a_comparison(recipe, registry, in_process):
    out = Path("out")
    given = ("--vary", "losses=l1,l1+cgan", "--seeds", "2", "--out", "out", "--rows", "2")
    done = invoke(*given, "--jobs", "2", "--metric", "l1", "--metric", "lab-histogram", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said == json.loads((out / "comparison.json").read_text())
    assert [v["name"] for v in said["variants"]] == ["l1", "l1+cgan"]
    for variant in said["variants"]:
        values = []
        for seed, run in enumerate(variant["runs"]):
            folder = out / variant["folder"] / f"seed-{seed}"
            trained = load_recipe(folder / "recipe.toml", registry)
            assert trained.train.seed == seed
            assert (trained.discriminator is None) == (variant["name"] == "l1")
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            last = [json.loads(line) for line in lines if "validation" in line][-1]["validation"]
            assert run["scores"].keys() == {"l1", *(f"lab_histogram_{c}" for c in "lab")}
            assert run["scores"]["l1"] == pytest.approx(last["l1"], abs=1e-6)
            values.append(run["scores"]["l1"])
        cell = variant["scores"]["l1"]
        assert cell["mean"] == pytest.approx(np.mean(values))
        # 12.7062 is Student's t for one degree of freedom.
        half = 12.7062 * np.std(values, ddof=1) / 2**0.5
        assert cell["interval"] == pytest.approx(half, rel=1e-4)
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert [row["variant"] for row in rows] == ["l1", "l1+cgan"]
    assert float(rows[1]["l1"]) == pytest.approx(said["variants"][1]["scores"]["l1"]["mean"])
    assert "| l1+cgan |" in (out / "table.md").read_text()
    with Image.open(out / "figure.png") as figure:
        # Four columns of 32 pixels, enlarged six times.
        assert figure.width == 4 * 192 + 5 * 4
        assert 2 * 192 < figure.height < 2 * 192 + 60

    # Again: nothing is trained or scored anew, the table is told.
    before = contents(out, "l1/seed-0/model.safetensors", "l1/seed-0/metrics.jsonl", "figure.png")
    stamps = [path.stat().st_mtime_ns for path in (out / "figure.png", out / "l1/seed-0.log")]
    again = invoke(*given, "--metric", "l1", "--metric", "lab-histogram")
    assert again.exit_code == 0, again.output
    assert "scoring" not in again.output
    assert "4 runs, 4 finished" in again.output
    assert "over 2 seeds" in " ".join(again.output.split())
    assert contents(out, *before) == before
    now = [path.stat().st_mtime_ns for path in (out / "figure.png", out / "l1/seed-0.log")]
    assert now == stamps

    # Fewer metrics and seeds: no interval, and said so; the others are not forgotten.
    other = invoke(*given, "--seeds", "1", "--metric", "lab-histogram")
    assert other.exit_code == 0, other.output
    assert "left out of the table: l1+cgan/seed-1, l1/seed-1" in other.output
    assert "One seed" in other.output
    now = json.loads((out / "comparison.json").read_text())
    assert now["scores"].keys() == {f"lab_histogram_{c}" for c in "lab"}
    assert [len(variant["runs"]) for variant in now["variants"]] == [1, 1]
    assert "±" not in other.output
    whole = invoke(*given, "--metric", "l1", "--metric", "lab-histogram")
    assert "scoring" not in other.output + whole.output
    assert json.loads((out / "comparison.json").read_text())["variants"] == said["variants"]
    assert contents(out, "l1/seed-0/metrics.jsonl").items() <= before.items()

    # Other settings in the same place.
    wrong = invoke(*given, "--set", "generator.width=8")
    assert wrong.exit_code != 0
    assert "generator.width" in str(wrong.exception)
    assert "which replaces all runs that this command names, 4 of them finished" in str(
        wrong.exception
    )
    assert "--resume" not in str(wrong.exception)
    assert contents(out, *list(before)[:2]).items() <= before.items()
    short = ("--vary", "losses=l1", "--seeds", "1", "--out", "out", "--metric", "l1")
    fresh = invoke(*short, "--set", "generator.width=8", "--fresh")
    assert fresh.exit_code == 0, fresh.output
    trained = load_recipe(out / "l1/seed-0/recipe.toml", registry)
    assert trained.generator.settings["width"] == 8


def test_scores_are_known_by_what_they_depend_on(recipe, in_process, monkeypatch):
    """What is there is not computed again; what changed is, and that alone."""
    scored = []

    def score(self, folder, recipe, names, begin):
        scored.append(list(names))
        return compute(self, folder, recipe, names, begin)

    compute = Scorer.score
    monkeypatch.setattr(Scorer, "score", score)
    Path("plugin.py").write_text(PLUGIN)
    Path("weights.bin").write_bytes(b"1")
    steady = '[[metrics]]\nname = "steady"\nweights = "weights.bin"\n'
    recipe.write_text(recipe.read_text().replace("[train]", f"{steady}[train]"))
    given = ("--vary", "losses=l1", "--seeds", "1", "--out", "out", "--plugin", "plugin.py")

    def computed(*more):
        done = invoke(*given, *more)
        assert done.exit_code == 0, done.output
        last = scored[:]
        scored.clear()
        return last

    both = ("--metric", "steady", "--metric", "l1")
    assert computed("--metric", "l1") == [["l1"]]
    assert computed(*both) == [["steady"]]
    assert computed("--metric", "l1") == computed(*both) == []
    Path("weights.bin").write_bytes(b"2")
    assert computed(*both) == [["steady"]]
    Path("plugin.py").write_text(f"{PLUGIN}\n")
    assert computed(*both) == [["steady"]]
    os.utime("pairs/val/000.png")
    assert computed(*both) == [["steady", "l1"]]
    outcome = Path("out/comparison.json").read_bytes()

    # The same data elsewhere; other data, which the models were not trained on; and a model's way
    # to translate, which is the finished file's.
    shutil.copytree("pairs", "other")
    for change in ("data.root=other", "inference.dropout=false"):
        done = invoke(*given, *both, "--set", change)
        assert done.exception.exit_code == 2
        assert change.partition("=")[0] in str(done.exception)
    assert Path("out/comparison.json").read_bytes() == outcome
    shutil.move("pairs", "moved")
    assert computed(*both, "--set", "data.root=moved") == []

    # As an earlier version left it: scored again.
    Path("out/scores.json").unlink()
    assert computed(*both, "--set", "data.root=moved") == [["steady", "l1"]]
    Path("out/scores.json").write_text('{"a": {"b": 1}}')
    assert Memory(Path("out/scores.json")).get("a") is None


def test_pairs_are_told_from_others_without_reading_them(recipe, registry, pairs_folder):
    def told(*changes, paths=True):
        changed = load_recipe(recipe, registry, changes)
        dataset = validation_pairs(changed, registry)
        if not paths:
            # As of a source that does not say where its pairs lie.
            dataset.pairs = type(
                "Pairs", (), {"__len__": lambda _: 2, "name": lambda _, i: f"{i}"}
            )()
        return pairs_digest(changed, dataset)

    before = [told(), told(paths=False)]
    shutil.copytree("pairs", "copy")
    # Where they lie, and what training does with pairs, is not seen.
    assert told("data.root=copy", "data.mirror=false", "train.seed=7") == before[0]
    assert told("data.direction=BtoA") != before[0]
    os.utime("pairs/train/000.png", (1, 1))
    assert told() == before[0]
    assert told(paths=False) != before[1]
    os.utime("pairs/val/000.png", (1, 1))
    assert told() != before[0]
    (pairs_folder / "val" / "000.png").rename(pairs_folder / "val" / "new.png")
    assert told() != told("data.root=copy")


def test_a_first_seed_that_fails(recipe, in_process, monkeypatch):
    class Failing(InProcess):
        def __init__(self, command, *, stderr, **options):
            if "train.seed=0" in command and "/l1/" in "".join(command):
                stderr.write(b"error: the disk is full\n")
                self.code, self.stdin = 1, None
            else:
                super().__init__(command, stderr=stderr, **options)

    drawn = []
    running.subprocess.Popen = Failing
    monkeypatch.setattr(
        "img2img.comparison.comparing.draw_figure",
        lambda path, rows, titles: drawn.append((len(rows), titles)),
    )
    given = ("--vary", "losses=l1,l2", "--seeds", "2", "--out", "out", "--metric", "l1")
    done = invoke(*given)
    assert done.exit_code == 1
    assert "l1 (1 of 2 seeds)" in done.output
    table = Path("out/table.md").read_text()
    assert "| l1 (1 of 2 seeds) |" in table
    assert "- l1, seed 0 failed: the disk is full\n" in table
    assert "**" not in table
    assert "on cpu; its log: out/l2/seed-1.log" in done.output
    assert drawn == [(2, ["source", "l1, seed 1", "l2", "target"])]


class Dataset:
    """Pairs of one colour each, of which some cannot be read."""

    task = SimpleNamespace(decode_source=lambda s: s, decode_target=lambda t, s: t)

    def __init__(self, names, bad=()):
        self.names, self.bad = names, bad

    def tensors(self, index):
        if self.names[index] in self.bad:
            raise ImageError(Path(self.names[index]), "it is damaged")
        image = torch.full((4, 4, 3), self.names.index(self.names[index]), dtype=torch.uint8)
        return image, image + 100


def test_rows_of_the_figure_are_pairs_that_all_variants_have(monkeypatch):
    monkeypatch.setattr("img2img.comparison.figure.to_display", np.asarray)
    monkeypatch.setattr("img2img.comparison.figure.fitting", lambda rows: rows)
    translator = SimpleNamespace(translate=lambda source: source + 50)

    def rows(count, *sets):
        columns = [Column("v", Path("v"), Dataset(*of), of[0]) for of in sets]
        made = figure_rows(columns, lambda folder: translator, count)
        return [[int(image[0, 0, 0]) for image in row] for row in made]

    # In the second set, b and c have other places, and c cannot be read.
    assert rows(9, ("abcd",), ("xcb", "c")) == [[1, 51, 52, 101]]
    assert rows(2, ("abcd",)) == [[0, 50, 100], [2, 52, 102]]
    with pytest.raises(DataError, match="no validation pair of the same name"):
        rows(2, ("ab",), ("cd",))
    with pytest.raises(DataError, match="can be read"):
        rows(2, ("ab", "ab"))


def test_variants_with_other_pairs_have_scores_and_no_figure(recipe, in_process, pairs_folder):
    shutil.copytree(pairs_folder, "more")
    for path in Path("more/val").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    given = ("--vary", "data.root=pairs,more", "--seeds", "1", "--out", "out", "--metric", "l1")
    done = invoke(*given)
    assert done.exit_code == 0, done.output
    assert "no figure: the variants have no validation pair of the same name" in done.output
    assert not Path("out/figure.png").exists()
    assert "| more |" in Path("out/table.md").read_text()


def a_run(folder):
    folder.mkdir(parents=True)
    for name in ("recipe.toml", "model.safetensors"):
        (folder / name).write_text(name)
    return folder / "model.safetensors"


def test_fresh_looks_before_it_removes(recipe, registry, tmp_path):
    variants = make_variants(recipe, registry, {"losses": ["l1", "l2"]})
    directory = ComparisonDirectory(tmp_path / "out")
    models = [a_run(directory.run(variant, 0)) for variant in variants]
    directory.markdown.write_text("| |")
    held = RunLock(models[1].parent)
    held.take()
    with pytest.raises(RequestError, match="another run"):
        directory.clear(variants, [0])
    held.release()
    assert all(path.is_file() for path in (*models, directory.markdown))
    (models[1].parent / "recipe.toml").rename(models[1].parent / "notes.txt")
    with pytest.raises(RequestError, match="not a run directory"):
        directory.clear(variants, [0])
    (models[1].parent / "notes.txt").rename(models[1].parent / "recipe.toml")
    (directory.path / "l2").rename(tmp_path / "elsewhere")
    (directory.path / "l2").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RequestError, match="lies outside of the comparison"):
        directory.clear(variants, [0])
    assert all(path.is_file() for path in (*models, directory.markdown))
    directory.clear(variants[:1], [0])
    assert [path.is_file() for path in (*models, directory.markdown)] == [False, True, False]
    assert not list(models[0].parent.glob(".lock"))


def test_killed_at_its_start_it_can_go_on(recipe, monkeypatch):
    def killed(self, path, text):
        if path.name == "variant.toml":
            raise KeyboardInterrupt
        write(self, path, text)

    write = ComparisonDirectory.write_text
    monkeypatch.setattr(ComparisonDirectory, "write_text", killed)
    done = invoke("--vary", "losses=l1", "--out", "out", "--metric", "l1")
    assert done.exception.exit_code == 130
    assert Path("out/l1").is_dir()
    ComparisonDirectory(Path("out")).check()
    Path("half").mkdir()
    Path("half/.partial-comparison.json").touch()
    ComparisonDirectory(Path("half")).check()


def test_a_judge_that_is_missing_is_told_with_all_else(recipe):
    recipe.write_text(
        f'{recipe.read_text()}[compare]\nmetrics = ["fcn-score"]\njudge = "runs/nobody"\n'
    )
    done = invoke("--vary", "losses=l1,cgan", "--out", "out", "--set", "data.root=nowhere")
    said = str(done.exception)
    assert done.exception.exit_code == 2
    assert "runs/nobody ([compare].judge of the recipe tiny), is not there" in said
    assert "img2img run facades-segmenter" in said
    assert "nowhere" in said
    assert not Path("out").exists()


def test_all_metrics_are_those_that_suit(recipe, registry, monkeypatch):
    names = ["l1", "accuracy", "fcn-score"]
    monkeypatch.setattr(registry, "names", lambda kind: names)
    base = load_recipe(recipe, registry)
    assert list(choose_metrics(["all"], False, base, registry)) == ["l1"]
    assert "fcn-score" in choose_metrics(["all"], True, base, registry)


PLUGIN = """
import torch
from img2img import hookimpl
from img2img.errors import MetricError

class Exploding(torch.nn.Module):
    def forward(self, output, target):
        return (output - target).abs().mean() * float("inf")

class Pointwise(torch.nn.Module):
    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = torch.nn.Conv2d(in_channels, out_channels, 1)
    def forward(self, x):
        return self.conv(x)

class Late:
    of, scores = "images", {"late": True}
    def update(self, output, target):
        return {}
    def compute(self):
        raise MetricError("it is too late")

class Many(Late):
    least = 3

class Unhad(Late):
    def __init__(self):
        raise MetricError("its weights are on the moon; fetch them")

class Steady(Late):
    scores = {"steady": True}
    def __init__(self, *, weights: str = ""):
        pass
    def compute(self):
        return {"steady": 0.5}

@hookimpl
def register(registry):
    registry.metric("steady", Steady)
    registry.loss("exploding", Exploding)
    registry.generator("pointwise", Pointwise)
    registry.metric("late", Late)
    registry.metric("many", Many)
    registry.metric("unhad", Unhad)
"""


@pytest.fixture
def plugin(recipe):
    """Arguments that load a loss that explodes, metrics that fail, and a small generator."""
    Path("plugin.py").write_text(PLUGIN)
    return ("--plugin", "plugin.py", "--out", "out")


def test_one_that_fails_leaves_the_rest(plugin, in_process):
    given = ("--seeds", "1", "--metric", "l1", *plugin)
    done = invoke("--vary", "losses=exploding,l1", *given)
    assert done.exit_code == 1, done.output
    assert "1 of 2 runs failed" in str(done.exception)
    assert "failed: exploding, seed 0: " in done.output
    assert "finite" in done.output
    said = json.loads(Path("out/comparison.json").read_text())
    assert [v["runs"][0]["finished"] for v in said["variants"]] == [False, True]
    assert said["variants"][1]["scores"]["l1"]["best"] is False
    table = Path("out/table.md").read_text()
    assert "| exploding (0 of 1 seeds) |" in table
    assert "- exploding, seed 0 failed: " in table
    assert "finite" in said["variants"][0]["runs"][0]["error"]

    # A metric that was asked for by name and fails: told, and the other scores are there. What it
    # lacked may be there the next time.
    for _ in range(2):
        done = invoke("--vary", "losses=l1", *given, "--metric", "late")
        assert done.exit_code == 1, done.output
        assert str(done.exception).startswith("late could not be computed")
        assert "without late: it is too late" in done.output
        assert "1 run, 1 finished" in done.output
        assert "scoring l1, seed 0" in done.output
        (variant,) = json.loads(Path("out/comparison.json").read_text())["variants"]
        assert variant["scores"].keys() == {"l1"}


@pytest.mark.parametrize(
    ("where", "metrics", "said"),
    [
        ("command", ["many"], ["many: it needs 3 validation pairs or more, and there are 2"]),
        ("command", ["l1", "unhad"], ["unhad: its weights are on the moon; fetch them"]),
        ("recipe", ["unhad"], ["unhad: its weights"]),
        ("recipe", ["ms-ssim", "many"], ["ms-ssim: ms-ssim needs images of 176", "many: it needs"]),
    ],
)
def test_a_metric_that_cannot_be_had_is_told_before_anything_trains(
    recipe, plugin, monkeypatch, where, metrics, said
):
    monkeypatch.setattr("img2img.cli.comparing.Progress", None)
    names = [word for name in metrics for word in ("--metric", name)]
    if where == "recipe":
        recipe.write_text(f"{recipe.read_text()}[compare]\nmetrics = {json.dumps(metrics)}\n")
        names = []
    done = invoke("--vary", "losses=l1,cgan", *names, *plugin)
    assert done.exception.exit_code == 2
    assert all(part in str(done.exception) for part in said)
    assert not Path("out").exists()


def test_pairs_of_each_variant_are_looked_at(plugin, pairs_folder):
    shutil.copytree(pairs_folder, "more")
    shutil.copy("pairs/val/000.png", "more/val/9.png")
    done = invoke("--vary", "data.root=more,pairs", "--metric", "many", *plugin)
    assert done.exception.exit_code == 2
    assert str(done.exception).startswith("variant pairs: many: it needs 3")
    assert "variant more" not in str(done.exception)


COLOURS = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def write_judge(path, palette):
    """A model that takes the strongest colour for the class, with classes of these colours."""
    table = {"name": "pointwise", "settings": {}, "in_channels": 3, "out_channels": 3}
    info = BundleInfo(
        path.stem,
        {"name": "photo2labels", "settings": {"palette": palette}, "origin": "img2img"},
        {**table, "activation": "softmax", "origin": "plugin.py"},
        {"statistics": "image", "dropout": False, "scale": [1.0, 1.0]},
        {"step": 1},
    )
    tensors = {"conv.weight": torch.eye(3)[..., None, None].contiguous()}
    save_bundle(path, {**tensors, "conv.bias": torch.zeros(3)}, info)


def test_a_judge_must_know_the_classes_of_the_data(recipe, plugin, in_process, monkeypatch):
    """Of the others it is said before anything trains, and nothing is changed."""
    for path in Path("pairs").glob("*/*.png"):
        drawn = np.random.default_rng(0).integers(0, 3, (4, 4)).repeat(8, 0).repeat(8, 1)
        labels = np.array(COLOURS, np.uint8)[drawn]
        Image.fromarray(np.concatenate([labels, labels // 2 + 60], axis=1)).save(path)
    write_judge(Path("judge.safetensors"), COLOURS)
    write_judge(Path("other.safetensors"), [[9, 9, 9], [0, 90, 90], [200, 200, 0]])
    text = recipe.read_text().replace("[train]", '[task]\nname = "labels"\n[train]')
    recipe.write_text(text.replace("width = 4", 'name = "pointwise"', 1))
    given = ("--vary", "losses=l1", "--seeds", "1", "--metric", "l1", *plugin)
    wrong = invoke(*given, "--judge", "other.safetensors")
    assert wrong.exception.exit_code == 2
    assert "other.safetensors cannot judge these pairs: in 2 of 2 looked at" in str(wrong.exception)
    assert not Path("out").exists()
    done = invoke(*given, "--judge", "judge.safetensors")
    assert done.exit_code == 0, done.output
    outcome = Path("out/comparison.json").read_bytes()
    said = json.loads(outcome)
    assert said["ceiling"] == {"pixel_accuracy": 1, "class_accuracy": 1, "class_iou": 1}
    assert 0 <= said["variants"][0]["scores"]["class_iou"]["mean"] <= 1
    wrong = invoke(*given, "--judge", "other.safetensors")
    assert wrong.exception.exit_code == 2
    assert "cannot judge" in str(wrong.exception)
    assert Path("out/comparison.json").read_bytes() == outcome

    # What is wrong with one run alone, whatever it says, ends no other.
    def fail(self, folder, recipe, names, begin):
        raise DataError(f"no judge could see {folder.name}")

    monkeypatch.setattr("img2img.comparison.scoring.Scorer.score", fail)
    done = invoke(*given, "--metric", "lab-histogram", "--judge", "judge.safetensors")
    assert done.exit_code == 1
    assert "1 of 1 runs failed" in str(done.exception)
    assert "failed: l1, seed 0: no judge could see seed-0" in done.output


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "nothing to compare"),
        (("--vary", "losses=l1,l3"), "variant l3"),
        (("--vary", "losses=l1", "--vary", "losses=cgan"), "twice"),
        (("--vary", "losses=l1,cgan", "--metric", "l9"), "'l9' is not a metric"),
        (("--vary", "losses=l1,cgan", "--metric", "fcn-score"), "--judge"),
        (("--vary", "losses=l1,cgan", "--metric", "accuracy"), "judge"),
        (("--vary", "losses=l1,cgan", "--judge", "nowhere"), "nowhere"),
        (("--vary", "generator.width=4,0"), "variant width=0"),
        (("--vary", "data.crop_size=32,30"), "variant crop_size=30"),
        (("--vary", "losses=l1,cgan", "--out", "pairs"), "holds no comparison"),
        (("--vary", "losses=l1,cgan", "--out", "pairs", "--fresh"), "holds no comparison"),
    ],
)
def test_nothing_is_written_for_what_is_wrong(recipe, given, said):
    out = () if "--out" in given else ("--out", "out")
    done = invoke(*given, *out)
    assert said in str(done.exception)
    assert done.exception.exit_code == 2
    assert not Path("out").exists()


def test_two_at_once_are_refused(recipe):
    Path("out").mkdir()
    held = RunLock(Path("out"))
    held.take()
    try:
        done = invoke("--vary", "losses=l1,cgan", "--out", "out")
    finally:
        held.release()
    assert "another run" in str(done.exception)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_interrupted_it_goes_on(recipe, request, monkeypatch):
    """Its runs, real processes, end with it, whole, and the same command goes on from there."""
    given = ("--vary", "losses=l1", "--seeds", "1", "--metric", "l1", "--out", "out", "--set")

    def reached(self, job, step):
        if step >= 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("img2img.cli.comparing.Progress.reached", reached)
        stopped = invoke(*given, "train.steps=100000")
    assert stopped.exception.exit_code == 130, stopped.output
    assert "the same command goes on" in str(stopped.exception)
    run = Path("out/l1/seed-0")
    (saved,) = run.glob("checkpoints/step-*")
    step = int(saved.name.removeprefix("step-"))
    assert step >= 3
    assert "stopped at step" in (run.parent / "seed-0.log").read_text()
    request.getfixturevalue("in_process")
    done = invoke(*given, f"train.steps={step + 2}")
    assert done.exit_code == 0, done.output
    assert f"going on from step {step}" in (run.parent / "seed-0.log").read_text()
    assert json.loads(Path("out/comparison.json").read_text())["variants"][0]["scores"]["l1"]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_runs_end_with_whoever_started_them(tmp_path):
    """Killed, a comparison can ask nobody anything: its end of a pipe goes with it."""
    (tmp_path / "run").write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys\n"
        f"pathlib.Path({str(tmp_path)!r}, 'begun').touch()\n"
        "sys.stdin.read()\n"
        f"pathlib.Path({str(tmp_path)!r}, 'ended').touch()\n"
    )
    (tmp_path / "run").chmod(0o755)
    started = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\n"
            "from pathlib import Path\n"
            "from unittest.mock import MagicMock\n"
            # It would import torch, which takes seconds, and nothing here is trained.
            "sys.modules['img2img.bundle'] = MagicMock()\n"
            "from img2img.comparison.running import Job, Slot, train_all\n"
            f"here = Path({str(tmp_path)!r})\n"
            "sys.executable = str(here / 'run')\n"
            "job = Job('v', 0, here / 'r', here / 'v' / 'seed-0', 1)\n"
            "train_all([job], [Slot('cpu')], [], MagicMock())\n",
        ]
    )
    deadline = time.monotonic() + 60
    try:
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.2)
        assert not (tmp_path / "ended").exists()
    finally:
        started.kill()
        started.wait()
    while not (tmp_path / "ended").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
