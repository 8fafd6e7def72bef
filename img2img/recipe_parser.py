"""From a TOML document to a `Recipe`: every mistake at once, each with file and line."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from img2img.component import Component
from img2img.document import Document, KeyPath
from img2img.errors import RecipeError
from img2img.presets import Preset, preset_names, preset_values
from img2img.recipe import (
    LARGEST,
    Choice,
    DataSettings,
    InferenceSettings,
    LossChoice,
    Recipe,
    TrainSettings,
)
from img2img.registry import Registry, suggest
from img2img.table import TableModel, check_table, dotted, shown


def load_recipe(path: Path, registry: Registry, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply `key=value` overrides, and validate all of it.

    Raises:
        RecipeError: with every mistake that was found.
    """
    document = Document.read(path)
    return parse_recipe(document, registry, overrides)


def parse_recipe(document: Document, registry: Registry, overrides: Sequence[str] = ()) -> Recipe:
    """Validate a document; see `load_recipe`."""
    overrides = list(overrides)
    _let_length_win(document, overrides)
    document.override(overrides)
    return _Parser(document, registry).recipe()


class _Parser:
    """Walks a document table by table and collects problems instead of stopping at the first."""

    def __init__(self, document: Document, registry: Registry) -> None:
        self.document = document
        self.registry = registry
        self.problems: list[str] = []
        self.data = document.data
        self.preset: Preset | None = None

    def recipe(self) -> Recipe:
        tables = ("task", "method", "data", "generator", "discriminator", "losses", "train")
        known = ("name", "description", "preset", "requires", *tables, "inference")
        for key in self.data:
            if key not in known:
                self.problem((key,), f"{key} is not part of a recipe{suggest(key, known)}")
        name, description = self._text("name", required=True), self._text("description")
        self.preset = self._preset()
        requires = self._requires()
        data, source = self._data()
        discriminator, conditional = self._discriminator()
        parts: dict[str, Any] = {
            "name": name,
            "description": description,
            "preset": self.preset or "",
            "requires": requires,
            "task": self._choice("task", "paired"),
            "method": self._choice("method", "pix2pix"),
            "data": data,
            "source": source,
            "generator": self._choice("generator", "unet"),
            "discriminator": discriminator,
            "conditional": conditional,
            "losses": self._losses(),
            "train": self._train(),
            "inference": self._table(
                InferenceSettings,
                "inference",
                {**self._of_preset("inference"), **self.table("inference")},
            ),
        }
        if self.problems:
            raise RecipeError(sorted(self.problems, key=_line_of))
        return Recipe(**parts, where=self.document.where)

    def problem(self, path: KeyPath, message: str) -> None:
        self.problems.append(f"{self.document.where(path)}: {message}")

    def is_table(self, key: str) -> bool:
        """Whether it is one, or left out; if not, what it lacks is not worth a message."""
        return isinstance(self.data.get(key, {}), dict)

    def table(self, key: str) -> dict[str, Any]:
        value = self.data.get(key, {})
        if isinstance(value, dict):
            return value
        self.problem((key,), f"{key} should be a table, [{key}], not {shown(value)}")
        return {}

    def _text(self, key: str, *, required: bool = False) -> str:
        value = self.data.get(key, "")
        if not isinstance(value, str):
            self.problem((key,), f"{key} should be a text in quotes, not {shown(value)}")
        elif required and not value:
            self.problem((key,), f'{key} is missing: the run\'s name, for example name = "shoes"')
        elif key == "name" and not can_be_folder(value):
            self.problem(
                (key,),
                f"name becomes a folder, so {shown(value)} must be one line of at most 200 "
                f"characters, and cannot hold / or start with .",
            )
        return str(value)

    def _preset(self) -> Preset | None:
        name = self.data.get("preset")
        if name is not None and name not in preset_names():
            near = suggest(name, preset_names()) if isinstance(name, str) else ""
            self.problem(("preset",), f"{shown(name)} is not a preset{near}")
            return None
        return name

    def _of_preset(self, table: str) -> dict[str, Any]:
        """What the recipe's preset, if it names one, has for a table."""
        return {} if self.preset is None else preset_values(self.preset, table)

    def _requires(self) -> tuple[str, ...]:
        value = self.data.get("requires", [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.problem(("requires",), 'requires should be a list such as ["img2img-foo>=0.2"]')
            return ()
        for i, item in enumerate(value):
            if problem := _unmet(item):
                self.problem(("requires", i), problem)
        return tuple(value)

    def _component(self, kind: str, name: Any, path: KeyPath) -> Component | None:
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

    def _choice(self, key: str, default: str) -> Choice | None:
        table = dict(self.table(key))
        name = table.pop("name", default)
        component = self._component(key, name, (key, "name"))
        if component is None:
            return None
        return Choice(name, self._settings(component, table, (key,)))

    def _settings(
        self, component: Component, table: dict[str, Any], path: KeyPath, shared: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Settings of a component, validated and completed; `shared` are the table's other keys."""
        what = f"a setting of {component.name!r}"
        if path == ("data",):
            what = f"a key of [data] with the source {component.name!r}"
        own = {s.name for s in component.settings}
        preset = {k: v for k, v in self._of_preset(str(path[0])).items() if k in own}
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

    def _table(self, model: type[TableModel], key: str, table: dict[str, Any]) -> TableModel | None:
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

    def _data(self) -> tuple[DataSettings | None, Choice | None]:
        table = dict(self.table("data"))
        shared = set(DataSettings.model_fields)
        own = {key: table[key] for key in table if key not in shared}
        name = table.get("source", "side_by_side")
        # Under its own name the source is looked up below, which says more.
        table["source"] = str(name)
        settings = self._table(
            DataSettings, "data", {key: table[key] for key in table if key in shared}
        )
        component = self._component("source", name, ("data", "source"))
        if component is None:
            return None, None
        source = Choice(name, self._settings(component, own, ("data",), sorted(shared)))
        if settings is None:
            return None, source
        if settings.root is None and "root" in component.takes and self.is_table("data"):
            self.problem(
                ("data",), "data.root is missing: the folder of images (or --set data.root=DIR)"
            )
        crop = settings.crop_size
        if not settings.resize:
            if not settings.jitter:
                self.problem(
                    ("data", "jitter"),
                    "data.jitter = false has no meaning with data.resize = false, whose crops lie "
                    "at random places; leave one of the two out",
                )
            if settings.load_size is not None:
                self.problem(
                    ("data", "load_size"),
                    "data.load_size has no meaning with data.resize = false, where crops come from "
                    "images as they are; leave one of the two out",
                )
            return settings.model_copy(update={"test_size": settings.test_size or crop}), source
        # The paper's 286 for 256, at any size.
        usual = min(round(crop * 286 / 256), LARGEST) if settings.jitter else crop
        load = settings.load_size or usual
        if not settings.jitter and load != crop:
            self.problem(
                ("data", "load_size"),
                f"data.load_size = {load} is jitter, which data.jitter = false turns off; leave "
                f"one of the two out",
            )
        if load < crop:
            self.problem(
                ("data", "load_size"), f"data.load_size is {load}, below data.crop_size, {crop}"
            )
        return settings.model_copy(
            update={"load_size": load, "test_size": settings.test_size or crop}
        ), source

    def _discriminator(self) -> tuple[Choice | None, bool]:
        # `false` is how --set leaves a table of the file out.
        if self.data.get("discriminator", False) is False:
            return None, True
        table = dict(self.table("discriminator"))
        usual = self._of_preset("discriminator").get("conditional", True)
        conditional = table.pop("conditional", usual)
        if not isinstance(conditional, bool):
            self.problem(
                ("discriminator", "conditional"),
                f"discriminator.conditional should be true or false, not {shown(conditional)}",
            )
        name = table.pop("name", "patchgan70")
        component = self._component("discriminator", name, ("discriminator", "name"))
        if component is None:
            return None, True
        settings = self._settings(component, table, ("discriminator",), ["conditional"])
        return Choice(name, settings), bool(conditional)

    def _losses(self) -> tuple[LossChoice, ...]:
        entries = self.data.get("losses", [])
        if not isinstance(entries, list):
            self.problem(
                ("losses",), "losses should be a list: write [[losses]], in double brackets"
            )
            return ()
        if not entries:
            self.problem(
                ("losses",), 'losses is missing: add [[losses]] with, for example, name = "l1"'
            )
            return ()
        chosen = []
        for i, entry in enumerate(entries):
            path: KeyPath = ("losses", i)
            if not isinstance(entry, dict):
                self.problem(path, f"losses.{i} should be a table with a name, not {shown(entry)}")
                continue
            table = dict(entry)
            weight = table.pop("weight", 1.0)
            number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            if not number or not 0 <= weight < float("inf"):
                self.problem(
                    (*path, "weight"),
                    f"losses.{i}.weight should be a number, 0 or more, not {shown(weight)}",
                )
                weight = 1.0
            name = table.pop("name", None)
            component = self._component("loss", name, (*path, "name"))
            if component is not None:
                settings = self._settings(component, table, path, ["weight"])
                chosen.append(LossChoice(name, settings, float(weight)))
        return tuple(chosen)

    def _train(self) -> TrainSettings | None:
        table = self.table("train")
        usual = self._of_preset("train")
        if table.get("schedule", usual.get("schedule")) != usual.get("schedule"):
            # It is about the preset's own schedule.
            usual.pop("decay_from", None)
        settings = self._table(TrainSettings, "train", {**usual, **table})
        if "epochs" in table and "steps" in table:
            self.problem(("train", "steps"), "train has both epochs and steps; keep one of them")
        elif "epochs" not in table and "steps" not in table and self.is_table("train"):
            self.problem(("train",), "train.epochs or train.steps is missing: how long to train")
        return settings


def _let_length_win(document: Document, overrides: Sequence[str]) -> None:
    """`--set train.steps=N` replaces the file's epochs, and the other way round."""
    train = document.data.get("train")
    if not isinstance(train, dict):
        return
    given = {assignment.partition("=")[0].replace(" ", "") for assignment in overrides}
    for key, other in (("steps", "epochs"), ("epochs", "steps")):
        if f"train.{key}" in given and f"train.{other}" not in given:
            train.pop(other, None)


def _unmet(requirement: str) -> str | None:
    try:
        wanted = Requirement(requirement)
    except InvalidRequirement:
        return f'requires: {requirement!r} is not a requirement such as "img2img-foo>=0.2"'
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return (
            f"this recipe needs the plugin {requirement}, which is not installed: "
            f'pip install "{requirement}"'
        )
    if not wanted.specifier.contains(version, prereleases=True):
        return (
            f"this recipe needs {requirement}, but {wanted.name} {version} is installed: "
            f'pip install "{requirement}"'
        )
    return None


def _line_of(problem: str) -> int:
    """The line in `file:line: message`; 0 for problems of the whole file, which come first."""
    found = re.match(r".*?:(\d+): ", problem)
    return int(found[1]) if found else 0


def can_be_folder(name: str) -> bool:
    """Whether a run may be called so: one path component, on any system, that is not hidden."""
    short = len(name) <= 200 and name == name.strip() and name.isprintable()
    return short and not name.startswith(".") and not set(name) & set("/\\")
