"""Run events: told to every plugin that watches; one that fails is named and told no more."""

from __future__ import annotations

import warnings
from typing import Any

import pluggy


class Events:
    """Calls the `on_*` hooks one implementation at a time, so that one failing stops no other.

    Args:
        manager: pluggy's, with every plugin registered.
    """

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self._manager = manager
        self._silenced: set[object] = set()

    def tell(self, event: str, **values: Any) -> None:
        """Call `event` with those of `values` that each implementation names."""
        for implementation in getattr(self._manager.hook, event).get_hookimpls():
            if implementation.plugin in self._silenced:
                continue
            try:
                implementation.function(*(values[name] for name in implementation.argnames))
            # Watching must never end a run, whatever a stranger's logger raises.
            except (Exception, SystemExit) as error:
                self._silenced.add(implementation.plugin)
                warnings.warn(
                    f"plugin {implementation.plugin_name!r} failed in {event} and is told no more "
                    f"({type(error).__name__}: {error})",
                    RuntimeWarning,
                    stacklevel=2,
                )
