"""Finds and loads plugins. A broken one is named and set aside; the rest works."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pluggy

from img2img import builtins, hookspecs
from img2img.errors import PluginError
from img2img.registry import Registry


@dataclass
class Plugins:
    """Everything that was loaded.

    Attributes:
        registry: the components.
        manager: pluggy's manager; run events go through it.
        origins: `name version` of every plugin in use besides the built-in one.
        broken: plugins that were set aside, and why.
    """

    registry: Registry
    manager: pluggy.PluginManager
    origins: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


def load_plugins(files: Iterable[Path] = (), *, entry_points: bool = True) -> Plugins:
    """Load the built-in components, installed plugins and the files that were named.

    Args:
        files: local plugin files (`--plugin`).
        entry_points: also load installed distributions with an entry point in the group `img2img`.

    Raises:
        PluginError: one of `files` cannot be loaded. Installed plugins never raise.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    plugins = Plugins(Registry(), manager)
    _install(plugins, builtins, "img2img")
    if entry_points:
        found = importlib.metadata.entry_points(group=hookspecs.PROJECT)
        for entry in sorted(found, key=lambda entry: (entry.name, entry.value)):
            dist = entry.dist
            origin = dist.name if dist else entry.value
            try:
                _install(plugins, entry.load(), origin)
            # SystemExit: a plugin that exits on import must not take the program with it.
            except (Exception, SystemExit) as error:
                plugins.broken[origin] = _reason(error)
            else:
                plugins.origins[origin] = dist.version if dist else "unknown"
    for path in files:
        try:
            _install(plugins, _import_file(path), str(path))
        except (Exception, SystemExit) as error:
            raise PluginError(f"plugin {path} cannot be loaded: {_reason(error)}") from error
        plugins.origins[str(path)] = "local file"
    return plugins


def _install(plugins: Plugins, module: Any, origin: str) -> None:
    """Register one plugin and call its `register` hook, or leave everything as it was."""
    manager = plugins.manager
    manager.register(module, name=origin)
    try:
        manager.check_pending()
        with plugins.registry.adding_from(origin):
            for implementation in manager.hook.register.get_hookimpls():
                # One by one, so that each component knows where it came from.
                if implementation.plugin is module:
                    arguments = {"registry": plugins.registry}
                    implementation.function(*(arguments[a] for a in implementation.argnames))
    except BaseException:
        manager.unregister(module)
        raise


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    name = f"img2img_local_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("a plugin file must be Python, ending in .py")
    module = importlib.util.module_from_spec(spec)
    # Before it runs: dataclasses and get_type_hints look their module up here.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"
