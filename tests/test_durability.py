"""Checkpoints are whole or not there, and what a run may go on with."""

import json
import os
import pickle
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pluggy
import pytest
import safetensors.torch
import torch

import img2img
from img2img.bundle import read_info, save_bundle
from img2img.engine import checkpoint as checkpoints
from img2img.engine.checkpoint import find_checkpoints, flaw
from img2img.engine.directory import RunDirectory, step_in
from img2img.engine.events import Events
from img2img.engine.health import Health
from img2img.errors import Img2ImgError, Note, RequestError
from img2img.plugins import load_plugins
from img2img.recipe_parser import load_recipe
from img2img.resuming import MAY_CHANGE, Earlier, differences, look_back, table, tell_changes
from img2img.tensor_file import save_tensors
from img2img.training import train_recipe

RECIPE = """
name = "tiny"
[data]
source = "synthetic"
count = 6
size = 32
load_size = 34
crop_size = 32
[generator]
width = 4
dropout = 0.5
[discriminator]
name = "patchgan16"
width = 4
[[losses]]
name = "adversarial"
[[losses]]
name = "l1"
weight = 100
[train]
steps = 6
batch_size = 2
log_every = 1
sample_every = 4
checkpoint_every = 2
validate_every = 6
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


def run(recipe, out, resume=False, fresh=False, **overrides):
    overrides = {key.replace("__", "."): value for key, value in overrides.items()}
    return img2img.train(
        recipe, out=out, resume=resume, fresh=fresh, device="cpu", overrides=overrides
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run of six steps that nothing disturbed; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("done")
    (folder / "tiny.toml").write_text(RECIPE)
    run(folder / "tiny.toml", folder / "run", train__keep_checkpoints=9)
    return folder / "run"


@pytest.fixture
def out(tmp_path, done):
    """A copy of it that can be damaged."""
    return shutil.copytree(done, tmp_path / "run")


def weights(out):
    return safetensors.torch.load_file(out / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def steps(out):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines if "losses" in json.loads(line)]


def flip(path, at=-1):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def names(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


# Writing tensors


def test_files_are_those_of_the_library(tmp_path):
    """Byte for byte, in every type, shape and layout that networks and optimizers have."""
    import hashlib

    grid = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "wide": grid.double(),
        "a.turned": grid.t(),
        "b.part": grid[:, 1:3],
        "half": grid.bfloat16(),
        "float16": grid.half(),
        "count": torch.tensor(7),
        "flags": grid > 3,
        "waves": torch.complex(grid, grid),
        "bytes": grid.byte(),
        "float8": grid.to(torch.float8_e4m3fn),
        "random": torch.get_rng_state(),
        "none": torch.zeros(0, 3),
        "grün": torch.nn.Parameter(grid.clone()),
    }
    found = save_tensors(tmp_path / "ours", tensors, {"format": "2"})
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    ours = (tmp_path / "ours").read_bytes()
    assert ours == safetensors.torch.save(plain, {"format": "2"})
    assert (found.size, found.sha256) == (len(ours), hashlib.sha256(ours).hexdigest())
    with pytest.raises(ValueError, match=r"no type for odd \(torch.complex128\)"):
        save_tensors(tmp_path / "odd", {"odd": torch.zeros(2, dtype=torch.complex128)}, {})
    assert not (tmp_path / "odd").exists()


def test_more_than_a_piece_is_hashed_and_written(tmp_path):
    import hashlib

    large = torch.randn(1_000_003)
    found = save_tensors(tmp_path / "a", {"a": large}, {})
    assert torch.equal(safetensors.torch.load_file(tmp_path / "a")["a"], large)
    assert hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest() == found.sha256


# Damage


def test_every_byte_counts(done, tmp_path):
    """A bit that flips anywhere, the manifest and the state included, is found."""
    source = done / "checkpoints/step-00000006"
    assert flaw(source) is None
    for path in sorted(source.iterdir()):
        size = path.stat().st_size
        for at in sorted({0, 9, size // 3, size // 2, size - 2, size - 1}):
            copy = shutil.copytree(source, tmp_path / source.name)
            flip(copy / path.name, at)
            said = flaw(copy)
            # White space at the end of JSON is nothing that could be damaged.
            assert said is not None or path.name == "manifest.json", (path.name, at)
            assert said is None or path.name in said or path.name == "manifest.json"
            shutil.rmtree(copy)


@pytest.mark.parametrize("name", [p + ".safetensors" for p in checkpoints.TENSORS] + ["state.json"])
@pytest.mark.parametrize("how", ["cut", "gone", "empty", "longer"])
def test_what_is_missing_is_named(done, tmp_path, name, how):
    copy = shutil.copytree(done / "checkpoints/step-00000006", tmp_path / "step-00000006")
    data = (copy / name).read_bytes()
    (copy / name).unlink()
    if how != "gone":
        (copy / name).write_bytes({"cut": data[:-1], "empty": b"", "longer": data + b"x"}[how])
    assert name in flaw(copy)
    (copy / name).write_bytes(data)
    assert flaw(copy) is None
    (copy / "manifest.json").unlink()
    assert "manifest.json is missing" in flaw(copy)


def test_a_renamed_checkpoint_is_not_believed(done, tmp_path):
    copy = shutil.copytree(done / "checkpoints/step-00000004", tmp_path / "step-00000008")
    assert "state.json is of step 4" in flaw(copy)


def test_the_newest_good_one_is_gone_on_from(tmp_path, recipe, done, out):
    """To the same end, bit for bit; the damaged are named, and gone when they are overtaken."""
    flip(out / "checkpoints/step-00000006/networks.safetensors")
    (out / "checkpoints/step-00000004/state.json").unlink()
    before = {path.name: path.read_bytes() for path in (out / "checkpoints").rglob("*.safetensors")}
    with pytest.warns(UserWarning) as told:
        run(recipe, out, resume=True, train__keep_checkpoints=9)
    said = [str(warning.message) for warning in told]
    assert any("step-00000006 is damaged (networks.safetensors is not" in text for text in said)
    assert any("step-00000004 is damaged (state.json is missing)" in text for text in said)
    assert all("goes on from step 2" in text for text in said if "damaged" in text)
    assert before
    assert names(out) == ["step-00000002", "step-00000004", "step-00000006"]
    assert same(weights(out), weights(done))
    assert steps(out) == [1, 2, 3, 4, 5, 6]
    assert all(flaw(path) is None for path in find_checkpoints(RunDirectory(out)))


def test_damaged_ones_push_out_no_good_ones(recipe, out):
    """Not even where their step is never saved again."""
    for step in (4, 6):
        flip(out / f"checkpoints/step-0000000{step}/loose.safetensors")
    with pytest.warns(UserWarning, match="damaged"):
        run(
            recipe,
            out,
            resume=True,
            train__checkpoint_every=5,
            train__steps=5,
            train__keep_checkpoints=2,
        )
    # One of step 6 is still ahead, and may be looked at.
    assert names(out) == ["damaged-step-00000006", "step-00000002", "step-00000005"]
    run(recipe, out, resume=True, train__steps=7, train__keep_checkpoints=2)
    assert names(out) == ["step-00000006", "step-00000007"]


def test_none_is_good(recipe, out):
    for path in (out / "checkpoints").iterdir():
        flip(path / "optimizers.safetensors")
    before = sorted(out.rglob("*"))
    with pytest.raises(Img2ImgError, match=r"(?s)no checkpoint in .*step-00000006: .*--fresh"):
        run(recipe, out, resume=True)
    assert sorted(out.rglob("*")) == before
    run(recipe, out, fresh=True)
    assert names(out) == ["step-00000004", "step-00000006"]


def test_strange_names_are_nobodys(recipe, done, out):
    folder = out / "checkpoints"
    (folder / "step-foo").mkdir()
    (folder / "step-").mkdir()
    (folder / "step-00000005").write_text("a file")
    (folder / "step-00000099").symlink_to("step-00000006")
    (folder / "step-٣").mkdir()
    (folder / f"step-{'9' * 40}").mkdir()
    (folder / "notes.txt").write_text("mine")
    (out / "samples/step-last.png").write_bytes(b"mine")
    strange = {"step-foo", "step-", "step-00000005", "step-00000099", "step-٣", "notes.txt"}
    shutil.rmtree(folder / "step-00000006")
    run(recipe, out, resume=True)
    assert strange < set(names(out))
    assert same(weights(out), weights(done))
    assert (out / "samples/step-last.png").is_file()
    (folder / "step-00000042").mkdir()
    with pytest.warns(UserWarning, match=r"step-00000042 is damaged \(networks.* is missing\)"):
        run(recipe, out, resume=True)


def test_checkpoints_without_checksums_are_read(recipe, done, out):
    """Those of format 1; cut short ones are told from their headers."""
    shutil.rmtree(out / "checkpoints/step-00000006")
    for path in find_checkpoints(RunDirectory(out)):
        (path / "manifest.json").unlink()
        state = json.loads((path / "state.json").read_text())
        (path / "state.json").write_text(json.dumps({**state, "format": 1}))
    newest = out / "checkpoints/step-00000004"
    assert flaw(newest) is None
    run(recipe, out, resume=True)
    assert same(weights(out), weights(done))
    data = (newest / "networks.safetensors").read_bytes()
    (newest / "networks.safetensors").write_bytes(data[:-4])
    assert flaw(newest)
    state = json.loads((newest / "state.json").read_text())
    (newest / "networks.safetensors").write_bytes(data)
    (newest / "state.json").write_text(json.dumps({**state, "format": 3}))
    assert "format 3, this program reads 1 to 2" in flaw(newest)


def test_verified_once(recipe, out, monkeypatch):
    looked, real = [], checkpoints.flaw
    monkeypatch.setattr(checkpoints, "flaw", lambda path: looked.append(path.name) or real(path))
    run(recipe, out, resume=True, train__steps=7)
    assert looked == ["step-00000006"]


def test_other_networks_are_an_error(recipe, out, tmp_path):
    """Whole, but of a run that has others: a mistake of somebody's, and no damage."""
    run(recipe, tmp_path / "wider", generator__width=8)
    shutil.rmtree(out / "checkpoints")
    shutil.copytree(tmp_path / "wider/checkpoints", out / "checkpoints")
    with pytest.raises(Img2ImgError, match=r"step-00000006 cannot be used .*size mismatch"):
        run(recipe, out, resume=True)
    assert "step-00000006" in names(out)


def test_nothing_is_unpickled(recipe, out, monkeypatch, done):
    """Neither written nor read: torch.save, torch.load and the module itself are shut."""

    def refuse(*args, **options):
        raise AssertionError("a pickle")

    for path in done.rglob("*"):
        if path.is_file():
            head = path.read_bytes()[:2]
            assert head[:1] != b"\x80", path  # PROTO, which every pickle since Python 2 begins with
            assert head != b"PK", path  # torch.save's
    shutil.rmtree(out / "checkpoints/step-00000006")
    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    run(recipe, out, resume=True)
    monkeypatch.undo()
    assert same(weights(out), weights(done))


# Writing them


@pytest.mark.parametrize("what", ["file", "link", "broken link", "folder", "empty folder"])
def test_what_is_in_its_place_is_not_replaced(recipe, tmp_path, done, what):
    """Somebody else's, that came while the run went on: the run stops, and can go on."""
    out = tmp_path / "run"
    place = out / "checkpoints/step-00000004"

    def put(step):
        if step != 3:
            return
        if what == "file":
            place.write_bytes(b"mine")
        elif "link" in what:
            place.symlink_to(tmp_path if what == "link" else "nowhere")
        else:
            place.mkdir()
            if what == "folder":
                (place / "notes.txt").write_bytes(b"mine")

    plugins = load_plugins(entry_points=False)
    with pytest.raises(Img2ImgError, match=r"(?s)step-00000004: something of that.*--resume"):
        train_recipe(str(recipe), plugins, out=out, device="cpu", on_step=put)
    assert names(out) == ["step-00000002", "step-00000004"]
    if what == "file":
        assert place.read_bytes() == b"mine"
    if what == "folder":
        assert (place / "notes.txt").read_bytes() == b"mine"
    place.rename(tmp_path / "elsewhere")
    run(recipe, out, resume=True)
    assert same(weights(out), weights(done))


def test_all_of_it_is_synced_before_it_has_its_name(tmp_path, recipe, monkeypatch):
    """Files, their folder, then the name, then the folder above; and lines up to it first."""
    order, sync, rename = [], os.fsync, checkpoints.Path.rename

    def synced(handle):
        order.append(
            str(Path(f"/proc/self/fd/{handle}").readlink()).removeprefix(str(tmp_path / "run"))
        )
        sync(handle)

    def renamed(self, to):
        order.append(f"rename {to.name}")
        return rename(self, to)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(checkpoints.Path, "rename", renamed)
    run(recipe, tmp_path / "run", train__steps=2)
    at = order.index("rename step-00000002")
    here = "/checkpoints/.partial-step-00000002"
    assert order[at + 1] == "/checkpoints"
    assert order[at - 1] == here
    files = [name for name in order[:at] if name.startswith(f"{here}/")]
    assert len(files) == 5
    assert "/metrics.jsonl" in order[:at]
    assert {"", "/checkpoints"} <= set(order)
    assert any(name.endswith(".toml") for name in order)


def test_halves_are_cleaned_away_and_nothing_else(recipe, out):
    for place in (".partial-0123.json", "samples/.partial-01.png", "checkpoints/.partial-step-9"):
        if "step" in place:
            (out / place).mkdir()
            (out / place / "networks.safetensors").write_bytes(b"half")
        else:
            (out / place).write_bytes(b"half")
    mine = [out / "notes.txt", out / "samples/mine.png", out / ".hidden", out / "own/.partial-x"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    run(recipe, out, resume=True)
    found = {path for path in out.rglob("*") if path.name.startswith(".partial-")}
    assert found == {out / "own/.partial-x"}
    assert all(path.read_bytes() == b"mine" for path in mine)


class Killed(BaseException):
    """What nothing catches."""


def dying_after(patched, count):
    """Have removals and renames of a run directory end all with the one after `count` of them."""
    calls = []

    def dying(call):
        def inner(*args, **options):
            calls.append(call)
            if len(calls) > count:
                raise Killed
            return call(*args, **options)

        return inner

    for place, name in ((Path, "unlink"), (Path, "rename"), (shutil, "rmtree")):
        patched.setattr(place, name, dying(getattr(place, name)))


def test_fresh_that_is_cut_short_is_made_up_for(recipe, out, monkeypatch):
    """After whichever removal: all is there to go on with, or nothing that is the old run's."""
    mine = [out / name for name in ("notes.txt", "samples/mine.png", "tensorboard/mine")]
    for path in mine:
        path.write_text("mine")
    (out / "checkpoints/damaged-step-00000001").mkdir()
    kept = out.with_name("kept")
    shutil.copytree(out, kept)
    cleared = 0
    for count in range(50):
        with monkeypatch.context() as patched:
            dying_after(patched, count)
            try:
                RunDirectory(out).prepare(fresh=True)
                break
            except Killed:
                pass
        left = RunDirectory(out)
        left.check(resume=True, fresh=False)
        assert left.holds_run()
        assert sorted(left.saved_steps()) in ([2, 4, 6], [])
        if not left.saved_steps():
            cleared += 1
            left.prepare(fresh=True)
            files = {path for path in out.rglob("*") if path.is_file()}
            assert files == {*mine, out / "recipe.toml"}
        shutil.rmtree(out)
        shutil.copytree(kept, out)
    assert 8 < cleared < 48
    assert {path for path in out.rglob("*") if path.is_file()} == {*mine, out / "recipe.toml"}


@pytest.mark.parametrize("how", ["resume", "fresh", "recipe gone"])
def test_nothing_of_a_run_that_was_removed_passes_for_the_new_one(
    recipe, done, out, monkeypatch, how
):
    """Not its best model, which no later score beats, its curves and its sheets."""
    info = read_info(out / "best.safetensors")
    score = {"name": "l1", "value": 0.0}
    info = replace(info, trained={**info.trained, "score": score, "step": 6})
    save_bundle(out / "best.safetensors", weights(out), info)
    (out / "samples/mine.png").write_text("mine")
    # By another name than a run of this second gives.
    (events,) = (out / "tensorboard").iterdir()
    events = events.rename(events.with_name("events.out.tfevents.0000000001.host.1.0"))
    with monkeypatch.context() as patched, pytest.raises(Killed):
        # Removed are .writable, what was cleared before, and the checkpoints by another name.
        dying_after(patched, 3)
        RunDirectory(out).prepare(fresh=True)
    assert RunDirectory(out).saved_steps() == {}
    assert (out / "best.safetensors").is_file()
    if how == "recipe gone":
        (out / "recipe.toml").unlink()
    run(recipe, out, resume=how == "resume", fresh=how == "fresh", train__keep_checkpoints=9)
    assert steps(out) == [1, 2, 3, 4, 5, 6]
    assert read_info(out / "best.safetensors").trained["score"]["value"] > 0
    assert same(weights(out), weights(done))
    assert not events.exists()
    assert len(list((out / "tensorboard").iterdir())) == 1
    assert (out / "samples/mine.png").read_text() == "mine"


def test_a_folder_of_somebody_is_not_cleared(recipe, tmp_path):
    """One that is empty but for names that a run's have."""
    out = tmp_path / "run"
    mine = [out / "samples/holiday.png", out / "checkpoints/epoch1.pth", out / "tensorboard/x/y"]
    for path in mine:
        path.parent.mkdir(parents=True)
        path.write_text("mine")
    run(recipe, out, train__steps=1)
    assert all(path.read_text() == "mine" for path in mine)


def test_steps_in_names():
    assert step_in("step-00000012") == step_in("step-12") == 12
    odd = ("step-", "step--1", "step-1_0", "step-1.0", "step-٣", "xstep-1", "step-1\n")
    assert [step_in(name) for name in odd] == [None] * len(odd)


# What changed


def test_a_moved_run_goes_on(recipe, done, out, tmp_path, monkeypatch):
    shutil.rmtree(out / "checkpoints/step-00000006")
    (tmp_path / "far/away").mkdir(parents=True)
    out.rename(tmp_path / "far/away/it")
    monkeypatch.chdir(tmp_path / "far")
    run(recipe, Path("away/it"), resume=True)
    assert same(weights(tmp_path / "far/away/it"), weights(done))
    for path in (tmp_path / "far/away/it").rglob("*.json*"):
        assert str(done.parent) not in path.read_text()


def test_differences_of_losses_are_readable():
    before = {"losses": [{"name": "adversarial", "weight": 1}, {"name": "l1", "weight": 100}]}
    after = {
        "losses": [
            {"name": "ssim", "weight": 2.0},
            {"name": "adversarial", "weight": 1},
            {"name": "l1", "weight": 50},
        ],
        "train": {"steps": 3},
    }
    assert table(list(differences(before, after))).split("\n") == [
        '  losses.ssim:      not set -> { name = "ssim", weight = 2.0 }',
        "  losses.l1.weight: 100     -> 50",
        "  train:            not set -> { steps = 3 }",
    ]
    gone = list(differences(after, before))
    assert [found.key for found in gone] == ["losses.ssim", "losses.l1.weight", "train"]
    assert gone[0].after == "not set"
    twice = {"losses": [*before["losses"], {"name": "l1", "weight": 1}]}
    assert [found.key for found in differences(before, twice)] == ["losses.2"]
    lighter = {"losses": [before["losses"][0], {"name": "l1", "weight": 50}]}
    assert table(list(differences(before, lighter))) == "  losses.l1.weight: 100 -> 50"
    assert not list(differences(before, before))


def test_what_may_not_change_is_refused_with_all_that_differs(recipe, out):
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(RequestError) as caught:
        run(
            recipe,
            out,
            resume=True,
            train__steps=9,
            train__seed=3,
            losses=[{"name": "l1", "weight": 50}],
            discriminator=False,
        )
    told = str(caught.value)
    refused, allowed = told.split("These may change, and would:")
    for key in ("losses.adversarial:", "losses.l1.weight: ", "train.seed:", "discriminator:"):
        assert key in refused
    assert "6 -> 9" in allowed.partition("Use --fresh")[0]
    assert all(key in allowed for key in MAY_CHANGE)
    assert "docs/recipes.md" in allowed
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert before.pop(out / "recipe.toml") == after.pop(out / "recipe.toml")
    assert after == before


def test_what_may_change_is_noted(recipe, out):
    with pytest.warns(Note) as told:
        run(recipe, out, resume=True, train__steps=7, train__log_every=5)
    notes = [str(warning.message) for warning in told if warning.category is Note]
    assert len(notes) == 1
    assert "train.log_every:" in notes[0]
    assert "1 -> 5" in notes[0]
    assert "6 -> 7" in notes[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)
        run(recipe, out, resume=True, train__steps=7, train__log_every=5)


@pytest.mark.parametrize("how", ["gone", "garbage", "binary", "folder"])
def test_a_damaged_recipe_of_the_run(recipe, out, how):
    path = out / "recipe.toml"
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "gone":
        path.write_bytes({"garbage": b"name = [\n", "binary": b"\xff\xfe\x00"}[how])
    with pytest.raises(RequestError, match=r"(?s)recipe\.toml says what .*put a\s+copy.*--fresh"):
        run(recipe, out, resume=True)
    with pytest.raises(RequestError, match="already holds a run"):
        run(recipe, out)
    if how == "gone":
        shutil.copy(recipe, path)
        run(recipe, out, resume=True)


def test_a_run_does_not_go_back(recipe, out):
    with pytest.raises(RequestError, match="has done 6 steps, and the recipe says 5") as caught:
        run(recipe, out, resume=True, train__steps=5)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"device": "cuda:0", "device_name": "H100"}, r"device cpu \(.*\) \(before: cuda \(H100\)"),
        ({"precision": "fp8"}, r"precision \w+ \(before: fp8\)"),
        ({"torch": "1.0"}, r"torch .* \(before: 1\.0\)"),
        ({"threads": 99}, r"threads \d+ \(before: 99\)"),
        ({"train_pairs": 5}, r"train pairs 6 \(before: 5\): the pairs come in another order, .*"),
        ({"validation_pairs": 9}, r"validation pairs \d+ \(before: 9\): scores are of other pairs"),
    ],
)
def test_what_cannot_be_exact_is_said(recipe, out, changed, said):
    path = out / "environment.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | changed))
    directory, registry = RunDirectory(out), load_plugins(entry_points=False).registry
    earlier = look_back(directory, registry)
    with pytest.warns(Note, match=said + ".*bit for bit") as told:
        tell_changes(earlier.recipe, earlier, about)
    assert len(told) == 1
    note = str(told[0].message)
    assert "\n" not in note
    assert ("noise are drawn anew" in note) == ("device" in changed)
    assert ("rounded" in note) == (not any("pairs" in key for key in changed))
    if changed.keys().isdisjoint({"threads", "train_pairs"}):
        return
    with pytest.warns(Note, match=said):
        run(recipe, out, resume=True, train__steps=7)
    assert json.loads(path.read_text())["threads"] == about["threads"]
    assert json.loads(path.read_text())["train_pairs"] == 6


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (
            {"train_fingerprint": "00a1", "validation_fingerprint": "00b1"},
            {"train_fingerprint": "00a2", "validation_fingerprint": "00b1"},
            r"fingerprint of the train pairs 00a2 \(before: 00a1\): the pairs are others, or",
        ),
        (
            {"train_fingerprint": "00a1", "validation_fingerprint": "00b1"},
            {"train_fingerprint": "00a1", "validation_fingerprint": "00b2"},
            r"fingerprint of the validation pairs 00b2 \(before: 00b1\): scores are of other pairs",
        ),
        (
            {"train_fingerprint": "00a1", "train_pairs": 5},
            {"train_fingerprint": "00a2", "train_pairs": 6},
            r"with train pairs 6 \(before: 5\): the pairs come in another order",
        ),
        ({"train_fingerprint": "00a1"}, {"train_fingerprint": "00a1"}, None),
        ({"train_fingerprint": "00a1"}, {"train_fingerprint": None}, None),
        ({}, {"train_fingerprint": "00a1"}, None),
    ],
)
def test_other_pairs_of_the_same_number_are_told_of(out, before, now, said):
    directory, registry = RunDirectory(out), load_plugins(entry_points=False).registry
    earlier = look_back(directory, registry)
    about = earlier.environment
    assert about["train_fingerprint"] is None
    earlier = replace(earlier, environment={**about, "train_fingerprint": None, **before})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tell_changes(earlier.recipe, earlier, about | now)
    assert len(told) == (said is not None)
    if said is not None:
        assert re.search(said, str(told[0].message))


@pytest.mark.parametrize(
    ("device", "setting", "said"),
    [
        ("cpu", "compile", r"train\.compile true \(before: false\): numbers are rounded"),
        ("cuda:0", "compile", r"train\.compile true \(before: false\): numbers are rounded"),
        ("cuda:0", "capture", r"train\.capture false \(before: true\): numbers are rounded"),
        ("cpu", "capture", None),
    ],
)
def test_settings_that_round_otherwise_are_told_of(out, device, setting, said):
    directory, registry = RunDirectory(out), load_plugins(entry_points=False).registry
    old = look_back(directory, registry)
    about = old.environment | {"device": device}
    value = str(not getattr(old.recipe.train, setting)).lower()
    new = load_recipe(directory.recipe, registry, [f"train.{setting}={value}"])
    with pytest.warns(Note) as told:
        tell_changes(new, Earlier(old.recipe, about), about)
    notes = [str(warning.message) for warning in told]
    assert len(notes) == (1 if said is None else 2)
    if said is not None:
        assert re.search(said + ".*bit for bit", notes[1])


def test_a_finished_run_says_that_settings_come_too_late(recipe, out):
    before = (out / "recipe.toml").stat().st_mtime_ns
    keep = {"train__keep_checkpoints": 9}
    with pytest.warns(Note, match=r"(?s)is finished, and these change nothing.*1 -> 5") as told:
        run(recipe, out, resume=True, train__log_every=5, **keep)
    assert len(told) == 1
    assert (out / "recipe.toml").stat().st_mtime_ns == before
    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)
        run(recipe, out, resume=True, **keep)


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": 3, "warning": {"kind": "x\xff", "message": "m"}}',
        b"\xff\xfe",
        b"[1]",
        b"3",
        b'{"losses": {"d_real": 1.0}}',
        b'{"step": "3", "losses": {}}',
        b"[" * 50_000,
        b'{"step": 3, "warning": [], "passed": 1}',
    ],
)
def test_metrics_with_a_strange_line(done, tmp_path, line):
    """Such as a failing disk or an editor leaves."""
    directory, events = RunDirectory(tmp_path), Events(pluggy.PluginManager("x"))
    lines = (done / "metrics.jsonl").read_bytes().splitlines()
    directory.metrics.write_bytes(b"\n".join([*lines[:3], line, *lines[3:], b""]))
    Health(directory, events, None)
    directory.drop_metrics_after(6)
    assert steps(tmp_path) == steps(done)
    Health(directory, events, None)


def test_a_byte_that_is_no_text_in_metrics(recipe, done, out):
    shutil.rmtree(out / "checkpoints/step-00000006")
    path = out / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    lines.insert(2, b'{"step": 2, "warning": {"kind": "x\xff", "message": "m"}}')
    path.write_bytes(b"\n".join([*lines, b""]))
    run(recipe, out, resume=True)
    assert steps(out) == [1, 2, 3, 4, 5, 6]
    assert "x\ufffd" in path.read_text(encoding="utf-8")
    assert same(weights(out), weights(done))


@pytest.mark.parametrize("text", ["", '{"threads": null, "global_batch": "x"}', "\xff"])
def test_a_damaged_environment_is_no_obstacle(recipe, out, text):
    (out / "environment.json").write_text(text, encoding="latin-1")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*bit for bit.*")
        run(recipe, out, resume=True, train__steps=7)
    assert steps(out)[-1] == 7
