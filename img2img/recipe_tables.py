"""One table of a recipe after another, each mistake in them with its file and line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from img2img.component import Component
from img2img.document import Document, KeyPath
from img2img.presets import Preset, preset_values
from img2img.recipe import Choice, DataSettings, InferenceSettings, TrainSettings
from img2img.registry import Registry
from img2img.table import TableModel, check_table, dotted, shown


class TableReader:
    """Reads tables of a document and collects problems instead of stopping at the first.

    Args:
        document: the recipe's.
        registry: where the names in it are looked up.

    Attributes:
        problems: what is wrong, each with file and line.
        preset: what the recipe leaves out comes from there.
    """

    def __init__(self, document: Document, registry: Registry) -> None:
        self.document = document
        self.registry = registry
        self.problems: list[str] = []
        self.data = document.data
        self.preset: Preset | None = None

    def problem(self, path: KeyPath, message: str) -> None:
        """Take down what is wrong with a key."""
        self.problems.append(f"{self.document.where(path)}: {message}")

    def is_table(self, key: str) -> bool:
        """Whether it is one, or left out; if not, what it lacks is not worth a message."""
        return isinstance(self.data.get(key, {}), dict)

    def table(self, key: str) -> dict[str, Any]:
        """A table of the document; empty if it is left out or is none."""
        value = self.data.get(key, {})
        if isinstance(value, dict):
            return value
        self.problem((key,), f"{key} should be a table, [{key}], not {shown(value)}")
        return {}

    def entries(self, key: str) -> list[tuple[KeyPath, dict[str, Any]]]:
        """Copies of the tables of a list such as `[[losses]]`, each with its place."""
        given = self.data.get(key, [])
        if not isinstance(given, list):
            self.problem((key,), f"{key} should be a list: write [[{key}]], in double brackets")
            return []
        found: list[tuple[KeyPath, dict[str, Any]]] = []
        for i, entry in enumerate(given):
            if isinstance(entry, dict):
                found.append(((key, i), dict(entry)))
            else:
                self.problem(
                    (key, i), f"{key}.{i} should be a table with a name, not {shown(entry)}"
                )
        return found

    def of_preset(self, table: str) -> dict[str, Any]:
        """What the recipe's preset, if it names one, has for a table."""
        return {} if self.preset is None else preset_values(self.preset, table)

    def component(self, kind: str, name: Any, path: KeyPath) -> Component | None:
        """What a name stands for."""
        if name is None:
            self.problem(path, f"{dotted(path)} is missing: which {kind}")
            return None
        if not isinstance(name, str):
            self.problem(path, f"{dotted(path)} should be the name of a {kind}, not {shown(name)}")
            return None
        try:
            return self.registry.get(kind, name)
        except KeyError as error:
            self.problem(path, f"{dotted(path)}: {error.args[0]}")
            return None

    def choice(self, key: str, default: str) -> Choice | None:
        """The component that a table of the kind's own name chooses, with its settings."""
        table = dict(self.table(key))
        name = table.pop("name", default)
        component = self.component(key, name, (key, "name"))
        if component is None:
            return None
        return Choice(name, self.settings(component, table, (key,)))

    def settings(
        self, component: Component, table: dict[str, Any], path: KeyPath, shared: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Settings of a component, validated and completed; `shared` are the table's other keys."""
        what = f"a setting of {component.name!r}"
        if path == ("data",):
            what = f"a key of [data] with the source {component.name!r}"
        own = {s.name for s in component.settings}
        preset = {k: v for k, v in self.of_preset(str(path[0])).items() if k in own}
        # Defaults take the same way, so that a run from its recipe.toml gets the very same values.
        full = {**component.defaults, **preset, **table}
        what += self._left_behind(component, path, table.keys() - own - set(shared))
        model = self._checked(component.model, path, full, what, shared)
        return {} if model is None else {s.name: getattr(model, s.name) for s in component.settings}

    def _left_behind(self, component: Component, path: KeyPath, extra: set[str]) -> str:
        """A remark on settings of the file's component, where --set names another."""
        in_data = path == ("data",)
        named = self.document.where((*path, "source" if in_data else "name"))
        kept = [key for key in extra if not self.document.where((*path, key)).startswith("--set")]
        if not kept or not named.startswith("--set"):
            return ""
        if in_data:
            return " (the file's belong to its own source; take them out of the file)"
        table: Any = self.data
        for key in path:
            table = table[key]
        # What belongs to the table and not to the component should stay.
        stays = {key: table[key] for key in ("conditional", "weight") if key in table}
        values = {"name": component.name, **stays}
        text = ", ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
        return (
            f" (the file's belong to another; --set '{dotted(path)}={{{text}}}' replaces its whole "
            f"table)"
        )

    def settings_table(
        self, model: type[TableModel], key: str, table: dict[str, Any]
    ) -> TableModel | None:
        """A table whose keys are the recipe's own."""
        return self._checked(model, (key,), table, f"a key of [{key}]")

    def _checked(
        self,
        model: type[TableModel],
        path: KeyPath,
        table: dict[str, Any],
        what: str,
        shared: Sequence[str] = (),
    ) -> TableModel | None:
        found, mistakes = check_table(model, path, table, what, shared, self._homes)
        for where, message in mistakes:
            self.problem(where, message)
        return found

    @cached_property
    def _homes(self) -> dict[str, str]:
        """Where keys belong that stand in another table by mistake, such as a learning rate."""
        homes: dict[str, str] = {}
        for kind, usual in (("generator", "unet"), ("method", "pix2pix")):
            table = self.data.get(kind)
            name = table.get("name", usual) if isinstance(table, dict) else usual
            with suppress(KeyError, TypeError):
                settings = self.registry.get(kind, name).settings
                homes |= {setting.name: f"{kind}.{setting.name}" for setting in settings}
        tables = (
            ("train", TrainSettings),
            ("inference", InferenceSettings),
            ("data", DataSettings),
        )
        for key, model in tables:
            homes |= {field: f"{key}.{field}" for field in model.model_fields}
        return homes
