"""Finds and loads plugins. A broken one is named and set aside; the rest works."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import sys
import zlib
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
        failures: what their imports raised, for `--debug`.
    """

    registry: Registry
    manager: pluggy.PluginManager
    origins: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    failures: list[BaseException] = field(default_factory=list)


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
        _load_installed(plugins)
    # A file that is named twice is one plugin.
    for path in dict.fromkeys(Path(file) for file in files):
        try:
            _install(plugins, _import_file(path), str(path))
        except (Exception, SystemExit) as error:
            raise PluginError(f"plugin {path} cannot be loaded: {_reason(error)}") from error
        plugins.origins[str(path)] = "local file"
    return plugins


def _load_installed(plugins: Plugins) -> None:
    for entry in sorted(_entry_points(plugins), key=lambda entry: (entry.name, entry.value)):
        dist = entry.dist
        origin = (_metadata(dist, "name") if dist else None) or entry.value
        # Of a distribution with several entry points, each is a plugin.
        if plugins.manager.has_plugin(origin):
            origin = f"{origin} ({entry.name})"
        try:
            _install(plugins, entry.load(), origin)
        # SystemExit: a plugin that exits on import must not take the program with it.
        except (Exception, SystemExit) as error:
            plugins.broken[origin] = _reason(error)
            plugins.failures.append(error)
        else:
            plugins.origins[origin] = (_metadata(dist, "version") if dist else None) or "unknown"


def _metadata(dist: importlib.metadata.Distribution, key: str) -> str | None:
    try:
        value: str | None = getattr(dist, key)
    # Python has None for what is missing. The package `importlib_metadata`, once anything has
    # imported it, answers in Python's place, and raises.
    except KeyError:
        return None
    return value


def _entry_points(plugins: Plugins) -> list[importlib.metadata.EntryPoint]:
    try:
        return list(importlib.metadata.entry_points(group=hookspecs.PROJECT))
    # Some distribution's file is damaged. Python does not say which, so each is asked by itself.
    except Exception:
        found: list[importlib.metadata.EntryPoint] = []
        for dist in importlib.metadata.distributions():
            try:
                found += dist.entry_points.select(group=hookspecs.PROJECT)
            except Exception as error:
                name = _metadata(dist, "name") or "a distribution without a name"
                plugins.broken[name] = f"its entry points cannot be read: {_reason(error)}"
        return found


def _install(plugins: Plugins, module: Any, origin: str) -> None:
    """Register one plugin and call its `register` hook, or leave everything as it was."""
    manager = plugins.manager
    if not any(manager.parse_hookimpl_opts(module, name) for name in dir(module)):
        raise PluginError("it implements no hook: mark its functions with @img2img.hookimpl")
    try:
        manager.register(module, name=origin)
        manager.check_pending()
        with plugins.registry.adding_from(origin):
            for implementation in manager.hook.register.get_hookimpls():
                # One by one, so that each component knows where it came from.
                if implementation.plugin is module:
                    arguments = {"registry": plugins.registry}
                    implementation.function(*(arguments[a] for a in implementation.argnames))
    except BaseException:
        if manager.get_plugin(origin) is module:
            manager.unregister(module)
        raise


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise PluginError("there is no such file")
    # Files of one name in two folders are two modules.
    name = f"img2img_local_{path.stem}_{zlib.crc32(bytes(path.resolve())):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError("a plugin file must be Python, ending in .py")
    module = importlib.util.module_from_spec(spec)
    # Before it runs: dataclasses and get_type_hints look their module up here.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, pluggy.PluginValidationError):
        return f"{text.partition(' in plugin ')[0]}; hooks are {', '.join(_hook_signatures())}"
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"


def _hook_signatures() -> list[str]:
    """The hooks there are, as `name(arguments)`."""
    specs = inspect.getmembers(
        hookspecs, lambda member: hasattr(member, f"{hookspecs.PROJECT}_spec")
    )
    return [f"{name}({', '.join(inspect.signature(spec).parameters)})" for name, spec in specs]
