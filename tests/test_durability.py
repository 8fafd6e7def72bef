"""Checkpoints are whole or not there, and what a run may go on with."""

import json
import os
import pickle
import shutil
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch

import img2img
from img2img.engine import checkpoint as checkpoints
from img2img.engine.checkpoint import find_checkpoints, flaw
from img2img.engine.directory import RunDirectory, step_in
from img2img.errors import Img2ImgError, Note, RequestError
from img2img.plugins import load_plugins
from img2img.resuming import MAY_CHANGE, differences, look_back, table, tell_changes
from img2img.tensor_file import save_tensors

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


def test_one_that_is_there_is_replaced_without_a_gap(recipe, out, monkeypatch):
    """Killed before any rename or removal, a whole one of this step or of one before is left."""
    directory = RunDirectory(out)
    target = out / "checkpoints/step-00000006"
    partial = out / "checkpoints/.partial-step-00000006"
    shutil.copytree(target, partial)
    good = []

    def look():
        good.append([p.name for p in find_checkpoints(directory) if flaw(p) is None])

    rename, remove = checkpoints.Path.rename, shutil.rmtree

    def renamed(self, to):
        look()
        return rename(self, to)

    def removed(path, **options):
        look()
        return remove(path, **options)

    monkeypatch.setattr(checkpoints.Path, "rename", renamed)
    monkeypatch.setattr(checkpoints.shutil, "rmtree", removed)
    checkpoints._put(partial, target)
    checkpoints._prune(directory, 6, keep=1)
    assert all("step-00000004" in names or "step-00000006" in names for names in good)
    assert good[-1] == ["step-00000004", "step-00000006"]
    assert names(out) == ["step-00000006"]


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


def test_fresh_that_is_cut_short_leaves_no_half_of_a_run(recipe, out, monkeypatch):
    """Whichever removal is the last."""
    from img2img.engine import directory as module

    (out / "notes.txt").write_text("mine")
    kept = out.with_name("kept")
    shutil.copytree(out, kept)
    for count in range(30):
        calls = []

        def dying(call, calls=calls, count=count):
            def inner(*args, **options):
                calls.append(call)
                if len(calls) > count:
                    raise KeyboardInterrupt
                return call(*args, **options)

            return inner

        with monkeypatch.context() as patched:
            patched.setattr(module.Path, "unlink", dying(module.Path.unlink))
            patched.setattr(module.Path, "rename", dying(module.Path.rename))
            patched.setattr(module.shutil, "rmtree", dying(module.shutil.rmtree))
            try:
                RunDirectory(out).prepare(fresh=True)
                break
            except KeyboardInterrupt:
                pass
        left = RunDirectory(out)
        # All of it, or no more that a run could go on with.
        assert not left.holds_run() or sorted(left.saved_steps()) in ([2, 4, 6], [])
        shutil.rmtree(out)
        shutil.copytree(kept, out)
    assert 5 < count < 29
    assert (out / "notes.txt").read_text() == "mine"
    assert not RunDirectory(out).holds_run()


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
    assert table(list(differences(before, lighter))) == "  losses.1.weight: 100 -> 50"
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
    if "threads" not in changed:
        return
    with pytest.warns(Note, match=said):
        run(recipe, out, resume=True, train__steps=7)
    assert json.loads(path.read_text())["threads"] == about["threads"]


@pytest.mark.parametrize("text", ["", '{"threads": null, "global_batch": "x"}', "\xff"])
def test_a_damaged_environment_is_no_obstacle(recipe, out, text):
    (out / "environment.json").write_text(text, encoding="latin-1")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*bit for bit.*")
        run(recipe, out, resume=True, train__steps=7)
    assert steps(out)[-1] == 7
