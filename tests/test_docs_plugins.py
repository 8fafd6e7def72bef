"""docs/plugins.md is true: its files load, its commands work, its tables match the code."""

import csv
import fnmatch
import importlib.util
import inspect
import re
import shlex
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import img2img
from img2img import hookspecs
from img2img.bundle import read_info
from img2img.cli import main
from img2img.component import KINDS
from img2img.discriminators import PatchGAN16
from img2img.errors import MetricError
from img2img.generators import UNet
from img2img.methods import Pix2Pix, WeightedLoss
from img2img.plugins import load_plugins
from img2img.recipe_parser import load_recipe

PAGE = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
FILES = {
    body.splitlines()[0].removeprefix("# "): body
    for language, body in BLOCKS
    if language in ("python", "toml")
}
BROKEN = ("loose.py", "misspelled.py")
PLUGINS = [name for name in FILES if name.endswith(".py") and name not in (*BROKEN, "test_tiny.py")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The page's files, an image, and photographs listed in two tables; the working directory."""
    assert all(re.fullmatch(r"\w+\.(py|toml)", name) for name in FILES)
    for name, body in FILES.items():
        (tmp_path / name).write_text(body, encoding="utf-8")
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for path in ("drawing.png", "photos/1.png", "photos/2.png"):
        pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / path)
    for split in ("train", "val"):
        with (tmp_path / "photos" / f"{split}.csv").open("w", newline="") as listing:
            csv.writer(listing).writerows([["1.png", "1.png"], ["2.png", "2.png"]])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(*names):
    return load_plugins(map(Path, names), entry_points=False).registry


def call(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code, capsys.readouterr()


@pytest.mark.parametrize("block", [body for language, body in BLOCKS if language == "console"])
def test_commands(block, folder, monkeypatch, capsys):
    for shown in block.strip().removeprefix("$ ").split("\n$ "):
        command, _, expected = shown.partition("\n")
        code, printed = call(command, monkeypatch, capsys)
        if expected.startswith("error:"):
            assert code == 2, command
            assert fnmatch.fnmatchcase(printed.err.strip(), as_pattern(expected)), printed.err
        else:
            assert code == 0, f"{command}\n{printed.err}"
            assert not expected


def as_pattern(expected):
    return re.sub(r"([*?\[])", r"[\1]", expected.strip()).replace("...", "*")


def test_each_component_says_what_it_is(folder):
    registry = load(*PLUGINS)
    found = {c.origin: c for c in registry.components() if c.origin in PLUGINS}
    assert {c.kind for c in found.values()} == set(KINDS)
    for component in found.values():
        assert component.summary.endswith(".")


def test_everything_at_once(folder):
    run = img2img.train("everything.toml", out="run", device="cpu", plugins=PLUGINS)
    assert run.validation["l1"] > 0
    assert run.validation["edges"] > 0
    assert read_info(run.path / "best.safetensors").trained["score"]["name"] == "edges"
    assert (run.path / "losses.csv").read_text().startswith("2,")


def test_gradient(folder):
    build = load("gradient.py").get("loss", "gradient").factory
    target = torch.rand(2, 3, 8, 8)
    assert build()(target + 0.5, target).item() == pytest.approx(0, abs=1e-6)
    slope = torch.arange(8.0).expand(1, 1, 8, 8)
    assert build()(slope * 3, torch.zeros(1, 1, 8, 8)).item() == pytest.approx((3 + 0) / 2)
    assert build(power=2, scales=[2])(slope, 0 * slope).item() == pytest.approx((4 + 0) / 2)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        build(scales=[0])


def test_edges(folder):
    build = load("edges.py").get("metric", "edges").factory
    target = torch.rand(2, 3, 4, 4)
    slope = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1) * torch.arange(4)
    metric = build(distance=2)
    assert metric.update(target + slope, target)["edges"].tolist() == pytest.approx([2, 4])
    metric.update(target, target)
    assert metric.compute()["edges"] == pytest.approx(6 / 4)
    with pytest.raises(MetricError, match="wider than its distance, 4 pixels"):
        build(distance=4).update(target, target)
    with pytest.raises(MetricError, match="no images"):
        build().compute()


@pytest.mark.parametrize("discriminator", ["colours", "patchgan16"])
def test_relativistic(folder, discriminator):
    registry = load("relativistic.py", "colours.py")
    loss = registry.get("loss", "relativistic").factory()
    judge = {"colours": registry.get("discriminator", "colours").factory, "patchgan16": PatchGAN16}
    method = Pix2Pix(
        lambda i, o: UNet(i, o, image_size=16, width=4),
        lambda channels: judge[discriminator](channels, width=4),
        [WeightedLoss("relativistic", 1.0, loss)],
        3,
        3,
        True,
    )
    losses = method.step(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16))
    assert set(losses) == {"d_relative", "relativistic"}
    assert all(torch.isfinite(value) for value in losses.values())


def test_its_tests(folder):
    spec = importlib.util.spec_from_file_location("test_tiny_of_the_page", "test_tiny.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def install(folder, monkeypatch, name, version, entry_points):
    """A dist-info beside the page's files, as installing the distribution would leave it."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{key} = {value}" for key, value in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[img2img]", *lines, ""]))
    monkeypatch.syspath_prepend(folder)
    for module in entry_points.values():
        # Put back, that is, removed, when the test ends.
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(sys.modules, module)


def test_the_distribution(folder, monkeypatch):
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    entry_points = project["entry-points"]["img2img"]
    install(folder, monkeypatch, project["name"], project["version"], entry_points)
    registry = load_plugins().registry
    assert registry.get("generator", "tiny").origin == "img2img-tiny"
    needed = re.search(r'requires = \["img2img-tiny.*?"\]', PAGE)[0]
    (folder / "needs.toml").write_text(f"{needed}\n{FILES['tiny.toml']}")
    assert load_recipe(folder / "needs.toml", registry).requires == ("img2img-tiny>=0.1",)


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_distribution_is_set_aside(folder, monkeypatch, capsys, broken):
    install(folder, monkeypatch, "img2img-broken", "0.1.0", {"broken": broken.removesuffix(".py")})
    code, printed = call("img2img list losses", monkeypatch, capsys)
    assert code == 0
    assert "'img2img-broken' was set aside" in printed.err
    assert len(printed.err.splitlines()) == 1
    assert "l1" in printed.out
    assert "loose" not in printed.out


def rows(heading):
    """The cells of the table whose first column is called that."""
    table = re.search(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table[1].strip().splitlines()
    ]


def test_the_table_of_kinds():
    listed = {
        kind.strip("`"): set(re.findall(r"`(\w+)`", given)) for kind, given, _ in rows("kind")
    }
    assert listed == {name: set(kind.supplied) for name, kind in KINDS.items()}


def test_the_table_of_events():
    events = {
        f"{name}({', '.join(inspect.signature(value).parameters)})"
        for name, value in vars(hookspecs).items()
        if name.startswith("on_")
    }
    assert {event.strip("`") for event, _ in rows("hook")} == events
