"""Finding and loading plugins, and telling them what happens."""

import importlib.metadata
import sys
import warnings
from pathlib import Path

import pluggy
import pytest
import torch

from img2img import hookimpl, hookspecs
from img2img.engine.events import Events
from img2img.errors import PluginError
from img2img.plugins import load_plugins

TINY = '''
from __future__ import annotations

from typing import Literal

import img2img
from torch import Tensor, nn


class Tiny(nn.Module):
    """One hidden layer. Shape: (B, in_channels, H, W) -> (B, out_channels, H, W)."""

    def __init__(
        self, in_channels: int, out_channels: int, *, width: int = 32, mode: Literal["a"] = "a"
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1),
            nn.Conv2d(width, out_channels, 3, padding=1),
        )

    def forward(self, source: Tensor) -> Tensor:
        return self.layers(source).tanh()


@img2img.hookimpl
def register(registry):
    registry.generator("tiny", Tiny)
'''

LOSS = """
import img2img


def near(reach: float = 1.0):
    "How near it is."


@img2img.hookimpl
def register(registry):
    registry.loss({name!r}, near)
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="plugin.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Makes a distribution with entry points look installed."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    modules = set(sys.modules)

    def install(name, entry_points, modules, version="0.1"):
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(entry_points)
        for module, text in modules.items():
            (folder / f"{module}.py").write_text(text)

    yield install
    for name in set(sys.modules) - modules:
        if (
            getattr(sys.modules[name], "__file__", None)
            and str(folder) in sys.modules[name].__file__
        ):
            del sys.modules[name]


# Whoever runs these tests may have plugins installed.
INSTALLED = load_plugins()


def added(plugins):
    """What is registered beyond the built-in and installed components, and from where."""
    others = {"img2img", *INSTALLED.origins}
    return {c.name: c.origin for c in plugins.registry.components() if c.origin not in others}


def broken(plugins):
    return {k: v for k, v in plugins.broken.items() if k not in INSTALLED.broken}


def names(plugins):
    found = [name for name, _ in plugins.manager.list_name_plugin()]
    return [name for name in found if name not in INSTALLED.origins]


def nothing_but_builtins(plugins):
    assert added(plugins) == {}
    assert names(plugins) == ["img2img"]


# Local files


def test_a_local_file(write):
    path = write(TINY)
    plugins = load_plugins([path], entry_points=False)
    assert added(plugins) == {"tiny": str(path)}
    assert plugins.origins == {str(path): "local file"}
    assert broken(plugins) == {}
    component = plugins.registry.get("generator", "tiny")
    assert component.summary == "One hidden layer."
    assert [(s.name, s.type_name) for s in component.settings] == [
        ("width", "int"),
        ("mode", "'a'"),
    ]
    network = component.build({"width": 2}, in_channels=3, out_channels=1, image_size=8)
    assert network(torch.zeros(1, 3, 8, 8)).shape == (1, 1, 8, 8)


def test_each_load_is_its_own(write):
    """There is no global registry: what one call loads, the next does not have."""
    path = write(TINY)
    first, second = (load_plugins([path], entry_points=False) for _ in range(2))
    assert first.registry is not second.registry
    assert added(first) == added(second) == {"tiny": str(path)}
    nothing_but_builtins(load_plugins(entry_points=False))


def test_the_same_file_twice_is_one_plugin(write):
    path = write(TINY)
    same = path.parent / "." / path.name
    assert added(load_plugins([path, same, str(path)], entry_points=False)) == {"tiny": str(path)}


def test_files_of_one_name_in_two_folders(write):
    one = write(LOSS.format(name="one"), "a/plugin.py")
    two = write(LOSS.format(name="two"), "b/plugin.py")
    plugins = load_plugins([one, two], entry_points=False)
    assert added(plugins) == {"one": str(one), "two": str(two)}
    modules = {plugins.registry.get("loss", n).factory.__module__ for n in ("one", "two")}
    assert len(modules) == 2
    # Where pickle looks for a class, in the processes that load data.
    assert all(module in sys.modules for module in modules)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import img2img_nonsense\n", "ModuleNotFoundError: No module named 'img2img_nonsense'"),
        ("def (:\n", "SyntaxError: invalid syntax .*line 1"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("import sys\nsys.exit()\n", "SystemExit"),
        ("def register(registry): ...\n", "implements no hook: mark its functions with @img2img"),
        ("", "implements no hook"),
        (
            "import img2img\n@img2img.hookimpl\ndef regsiter(registry): ...\n",
            r"unknown hook 'regsiter'; hooks are .*register\(registry\)",
        ),
        (
            "import img2img\n@img2img.hookimpl\ndef register(reg): ...\n",
            r"'reg'.*hooks are .*register\(registry\)",
        ),
        (
            "import img2img\n@img2img.hookimpl\ndef on_metrics(metrics): ...\n"
            "@img2img.hookimpl\ndef on_samples(stepp): ...\n",
            r"'stepp'.*on_samples\(step, path\)",
        ),
        (LOSS.format(name="l1"), "loss 'l1' from .*: the name is taken by img2img"),
        (
            LOSS.format(name="one") + "    registry.loss('two', 3)\n",
            "must be a class or a function",
        ),
        (LOSS.format(name="one") + "    registry.los('two', near)\n", "no attribute 'los'"),
        (LOSS.format(name="one") + "    raise SystemExit\n", "SystemExit"),
    ],
)
def test_a_local_file_that_does_not_work(write, monkeypatch, text, reason):
    path = write(text)
    kept = []
    monkeypatch.setattr(
        pluggy.PluginManager, "__init__", remembering(pluggy.PluginManager.__init__, kept)
    )
    with pytest.raises(PluginError, match=reason) as caught:
        load_plugins([path], entry_points=False)
    assert str(caught.value).startswith(f"plugin {path} cannot be loaded: ")
    assert "\n" not in str(caught.value)
    # Nothing of it is left to be told about a run.
    (manager,) = kept
    assert [name for name, _ in manager.list_name_plugin()] == ["img2img"]
    assert all(
        len(getattr(manager.hook, name).get_hookimpls()) == (name == "register")
        for name in vars(hookspecs)
        if name.startswith("on_") or name == "register"
    )


def remembering(method, kept):
    def remember(self, *args, **kwargs):
        kept.append(self)
        method(self, *args, **kwargs)

    return remember


def test_files_that_are_no_plugin(tmp_path, write):
    with pytest.raises(PluginError, match="there is no such file"):
        load_plugins([tmp_path / "none.py"], entry_points=False)
    with pytest.raises(PluginError, match="there is no such file"):
        load_plugins([tmp_path], entry_points=False)
    with pytest.raises(PluginError, match=r"must be Python, ending in \.py"):
        load_plugins([write("hello", "plugin.txt")], entry_points=False)


def test_a_failed_import_leaves_no_module(write):
    before = set(sys.modules)
    with pytest.raises(PluginError):
        load_plugins([write("1 / 0\n")], entry_points=False)
    assert {name for name in set(sys.modules) - before if "img2img_local" in name} == set()


def test_ctrl_c_while_loading_is_no_broken_plugin(write):
    with pytest.raises(KeyboardInterrupt):
        load_plugins([write("raise KeyboardInterrupt\n")], entry_points=False)


# Installed distributions


def test_an_installed_plugin(install):
    install("img2img-near", "[img2img]\nnear = near_one\n", {"near_one": LOSS.format(name="near")})
    plugins = load_plugins()
    assert added(plugins)["near"] == "img2img-near"
    assert plugins.origins["img2img-near"] == "0.1"
    assert "near" not in added(load_plugins(entry_points=False))


def test_an_entry_point_may_be_an_object(install):
    text = """
import img2img

def near(reach: float = 1.0):
    "How near it is."

class Plugin:
    @img2img.hookimpl
    def register(self, registry):
        registry.loss("near", near)

plugin = Plugin()
"""
    install("img2img-near", "[img2img]\nnear = near_object:plugin\n", {"near_object": text})
    assert added(load_plugins())["near"] == "img2img-near"


def test_a_distribution_with_two_plugins(install):
    install(
        "img2img-both",
        "[img2img]\none = both_one\ntwo = both_two\n",
        {"both_one": LOSS.format(name="one"), "both_two": LOSS.format(name="two")},
    )
    plugins = load_plugins()
    assert added(plugins) == {"one": "img2img-both", "two": "img2img-both (two)"}
    assert broken(plugins) == {}


def test_a_distribution_that_tells_nothing_of_itself(install, monkeypatch):
    """As the package `importlib_metadata` answers, once anything has imported it."""

    def missing(self):
        raise KeyError("not present")

    install("img2img-mute", "[img2img]\nmute = mute_one\n", {"mute_one": LOSS.format(name="mute")})
    monkeypatch.setattr(importlib.metadata.Distribution, "name", property(missing))
    monkeypatch.setattr(importlib.metadata.Distribution, "version", property(missing))
    plugins = load_plugins()
    assert "mute" in {component.name for component in plugins.registry.components()}
    assert plugins.origins["mute_one"] == "unknown"


BROKEN = {
    "import": ("import img2img_nonsense\n", "ModuleNotFoundError"),
    "exit": ("raise SystemExit(1)\n", "SystemExit"),
    "hook": ("import img2img\n@img2img.hookimpl\ndef regsiter(registry): ...\n", "regsiter"),
    "none": ("x = 1\n", "implements no hook"),
    "taken": (LOSS.format(name="l1"), "taken by img2img"),
    "halfway": (LOSS.format(name="half") + "    registry.loss('half', near)\n", "taken by"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_named_and_set_aside(install, name):
    text, reason = BROKEN[name]
    # In the alphabet before and after it, to see that the others still work.
    for other in ("a", "z"):
        install(
            f"img2img-{other}",
            f"[img2img]\n{other} = whole_{other}\n",
            {f"whole_{other}": LOSS.format(name=other)},
        )
    install("img2img-broken", "[img2img]\nbroken = broken_one\n", {"broken_one": text})
    plugins = load_plugins()
    assert added(plugins) == {"a": "img2img-a", "z": "img2img-z"}
    assert plugins.origins.keys() - INSTALLED.origins.keys() == {"img2img-a", "img2img-z"}
    assert set(broken(plugins)) == {"img2img-broken"}
    assert reason in plugins.broken["img2img-broken"]
    assert "\n" not in plugins.broken["img2img-broken"]
    assert names(plugins) == ["img2img", "img2img-a", "img2img-z"]


@pytest.mark.parametrize(
    "entry_points",
    [
        "[img2img]\nx = no such module!\n",
        "[img2img]\nx = sys:none\n",
        "[img2img]\nx = img2img_no\n",
    ],
)
def test_entry_points_that_lead_nowhere(install, entry_points):
    install("img2img-broken", entry_points, {})
    plugins = load_plugins()
    assert set(broken(plugins)) == {"img2img-broken"}
    assert plugins.registry.get("generator", "unet")


def test_entry_points_that_cannot_be_parsed(install):
    install("img2img-a", "[img2img]\na = parsed_a\n", {"parsed_a": LOSS.format(name="near")})
    install("img2img-broken", "[img2img]\nno equals sign\n", {})
    plugins = load_plugins()
    assert set(broken(plugins)) == {"img2img-broken"}
    assert "entry points cannot be read" in plugins.broken["img2img-broken"]
    assert added(plugins) == {"near": "img2img-a"}


def test_two_distributions_want_one_name(install):
    install("img2img-a", "[img2img]\na = same_a\n", {"same_a": LOSS.format(name="near")})
    install("img2img-b", "[img2img]\nb = same_b\n", {"same_b": LOSS.format(name="near")})
    plugins = load_plugins()
    assert added(plugins) == {"near": "img2img-a"}
    assert broken(plugins) == {
        "img2img-b": "loss 'near' from img2img-b: the name is taken by img2img-a; one of the two "
        "must be renamed"
    }


def test_a_named_file_that_clashes_with_an_installed_plugin(install, write):
    install("img2img-a", "[img2img]\na = clash_a\n", {"clash_a": LOSS.format(name="near")})
    path = write(LOSS.format(name="near"))
    with pytest.raises(PluginError, match="taken by img2img-a"):
        load_plugins([path])


# Events


class Watcher:
    def __init__(self):
        self.seen = []

    @hookimpl
    def on_metrics(self, metrics):
        self.seen.append(metrics["step"])

    @hookimpl
    def on_samples(self, path):
        self.seen.append(path)


class Broken(Watcher):
    @hookimpl
    def on_metrics(self, metrics):
        super().on_metrics(metrics)
        raise ZeroDivisionError("oh no")


def test_an_event_that_fails_is_named_once_and_told_no_more():
    manager = load_plugins(entry_points=False).manager
    watchers = {"first": Watcher(), "broken": Broken(), "last": Watcher()}
    for name, watcher in watchers.items():
        manager.register(watcher, name=name)
    events = Events(manager)
    with pytest.warns(RuntimeWarning) as caught:
        events.tell("on_metrics", metrics={"step": 1})
    (warning,) = caught
    for part in ("'broken'", "on_metrics", "ZeroDivisionError: oh no"):
        assert part in str(warning.message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        events.tell("on_metrics", metrics={"step": 2})
        # An implementation gets the arguments it names.
        events.tell("on_samples", step=2, path=Path("x.png"))
    assert watchers["broken"].seen == [1]
    assert watchers["first"].seen == watchers["last"].seen == [1, 2, Path("x.png")]


def test_hooks_are_documented():
    """Each hook says what each of its arguments is."""
    hooks = [h for name, h in vars(hookspecs).items() if name == "register" or name[:3] == "on_"]
    assert len(hooks) == 7
    for hook in hooks:
        arguments = hook.__code__.co_varnames[: hook.__code__.co_argcount]
        for argument in arguments:
            assert f"\n        {argument}: " in hook.__doc__, (hook.__name__, argument)


def test_a_recipe_that_requires_a_broken_plugin_is_refused(tmp_path):
    """Its components would be missing one by one otherwise, and the reason with them."""
    from img2img.assemble import refuse_broken
    from img2img.errors import RecipeError
    from img2img.recipe_files import shipped_recipes
    from img2img.recipe_parser import load_recipe

    plugins = load_plugins(entry_points=False)
    recipe = load_recipe(
        shipped_recipes()["quickstart"], plugins.registry, ['requires=["pytest>=1"]']
    )
    refuse_broken(recipe, plugins)
    plugins.broken["PyTest"] = "ImportError: no such thing"
    with pytest.raises(RecipeError, match=r"requires.*pytest>=1 cannot be loaded: ImportError"):
        refuse_broken(recipe, plugins)
