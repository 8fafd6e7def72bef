"""From a TOML document to a `Recipe`: every mistake at once, each with file and line."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from img2img.document import Document
from img2img.errors import RecipeError
from img2img.presets import Preset, preset_names
from img2img.recipe import (
    LARGEST,
    Choice,
    CompareSettings,
    DataSettings,
    InferenceSettings,
    LossChoice,
    Recipe,
    TrainSettings,
)
from img2img.recipe_tables import TableReader
from img2img.registry import Registry, suggest
from img2img.table import dotted, shown


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


class _Parser(TableReader):
    """Puts a recipe together, table by table."""

    def recipe(self) -> Recipe:
        tables = ("task", "method", "data", "generator", "discriminator", "losses", "metrics")
        known = (
            "name",
            "description",
            "preset",
            "requires",
            *tables,
            "train",
            "inference",
            "compare",
        )
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
            "task": self.choice("task", "paired"),
            "method": self.choice("method", "pix2pix"),
            "data": data,
            "source": source,
            "generator": self.choice("generator", "unet"),
            "discriminator": discriminator,
            "conditional": conditional,
            "losses": self._losses(),
            "metrics": self._metrics(),
            "train": self._train(),
            "inference": self.settings_table(
                InferenceSettings,
                "inference",
                {**self.of_preset("inference"), **self.table("inference")},
            ),
            "compare": self._compare(),
        }
        if self.problems:
            raise RecipeError(sorted(self.problems, key=_line_of))
        return Recipe(**parts, where=self.document.where)

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

    def _requires(self) -> tuple[str, ...]:
        value = self.data.get("requires", [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.problem(("requires",), 'requires should be a list such as ["img2img-foo>=0.2"]')
            return ()
        for i, item in enumerate(value):
            if problem := _unmet(item):
                self.problem(("requires", i), problem)
        return tuple(value)

    def _data(self) -> tuple[DataSettings | None, Choice | None]:
        table = dict(self.table("data"))
        shared = set(DataSettings.model_fields)
        own = {key: table[key] for key in table if key not in shared}
        name = table.get("source", "side_by_side")
        # Under its own name the source is looked up below, which says more.
        table["source"] = str(name)
        settings = self.settings_table(
            DataSettings, "data", {key: table[key] for key in table if key in shared}
        )
        component = self.component("source", name, ("data", "source"))
        if component is None:
            return None, None
        source = Choice(name, self.settings(component, own, ("data",), sorted(shared)))
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
        usual = self.of_preset("discriminator").get("conditional", True)
        conditional = table.pop("conditional", usual)
        if not isinstance(conditional, bool):
            self.problem(
                ("discriminator", "conditional"),
                f"discriminator.conditional should be true or false, not {shown(conditional)}",
            )
        name = table.pop("name", "patchgan70")
        component = self.component("discriminator", name, ("discriminator", "name"))
        if component is None:
            return None, True
        settings = self.settings(component, table, ("discriminator",), ["conditional"])
        return Choice(name, settings), bool(conditional)

    def _losses(self) -> tuple[LossChoice, ...]:
        if self.data.get("losses", []) == []:
            self.problem(
                ("losses",), 'losses is missing: add [[losses]] with, for example, name = "l1"'
            )
        chosen = []
        for path, table in self.entries("losses"):
            weight = table.pop("weight", 1.0)
            number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            if not number or not 0 <= weight < float("inf"):
                self.problem(
                    (*path, "weight"),
                    f"{dotted(path)}.weight should be a number, 0 or more, not {shown(weight)}",
                )
                weight = 1.0
            name = table.pop("name", None)
            component = self.component("loss", name, (*path, "name"))
            if component is not None:
                settings = self.settings(component, table, path, ["weight"])
                chosen.append(LossChoice(name, settings, float(weight)))
        return tuple(chosen)

    def _compare(self) -> CompareSettings | None:
        table = dict(self.table("compare"))
        if isinstance(table.get("vary"), dict):
            # generator.name = [...] is a table in a table unless its key stands in quotes.
            table["vary"] = dict(_leaves(table["vary"]))
        return self.settings_table(CompareSettings, "compare", table)

    def _metrics(self) -> tuple[Choice, ...]:
        chosen: list[Choice] = []
        for path, table in self.entries("metrics"):
            name = table.pop("name", None)
            component = self.component("metric", name, (*path, "name"))
            if component is None:
                continue
            if any(name == other.name for other in chosen):
                self.problem(
                    (*path, "name"), f"{dotted(path)}: {name!r} is there already; keep one"
                )
            chosen.append(Choice(name, self.settings(component, table, path)))
        return tuple(chosen)

    def _train(self) -> TrainSettings | None:
        table = self.table("train")
        usual = self.of_preset("train")
        if table.get("schedule", usual.get("schedule")) != usual.get("schedule"):
            # It is about the preset's own schedule.
            usual.pop("decay_from", None)
        settings = self.settings_table(TrainSettings, "train", {**usual, **table})
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
        version: str | None = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return (
            f"this recipe needs the plugin {requirement}, which is not installed: "
            f'pip install "{requirement}"'
        )
    except KeyError:
        # Python answers None for metadata without one; the `importlib_metadata` package, once
        # anything has imported it, answers in Python's place, and raises.
        version = None
    version = version or "of no known version"
    if not wanted.specifier.contains(version, prereleases=True):
        return (
            f"this recipe needs {requirement}, but {wanted.name} {version} is installed: "
            f'pip install "{requirement}"'
        )
    return None


def _leaves(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of tables within tables."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _line_of(problem: str) -> int:
    """The line in `file:line: message`; 0 for problems of the whole file, which come first."""
    found = re.match(r".*?:(\d+): ", problem)
    return int(found[1]) if found else 0


def can_be_folder(name: str) -> bool:
    """Whether a run may be called so: one path component, on any system, that is not hidden."""
    short = len(name) <= 200 and name == name.strip() and name.isprintable()
    return short and not name.startswith(".") and not set(name) & set("/\\")
