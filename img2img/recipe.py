"""The schema of a recipe, and every mistake in one at once, each with file and line."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic
import tomli_w
from packaging.requirements import InvalidRequirement, Requirement
from pydantic import Field
from pydantic_core import ErrorDetails, to_jsonable_python

from img2img.document import Document, KeyPath
from img2img.errors import RecipeError, RequestError
from img2img.registry import KINDS, Component, Registry, suggest, type_name

# Pydantic's words speak of Python and JSON.
WORDS = {
    "a valid integer": "an integer",
    "a valid number": "a number",
    "a valid string": "a text in quotes",
    "a valid boolean": "true or false",
    "a valid array": "a list",
    "a valid list": "a list",
    "a valid tuple": "a list",
    "a valid dictionary": "a table",
    "an object": "a table",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "less than": "below",
    "greater than": "above",
}
Precision = Literal["auto", "float32", "bfloat16"]
TableModel = TypeVar("TableModel", bound=pydantic.BaseModel)
# Pixels; far beyond any image, so a mistyped size is a mistake and not an allocation.
LARGEST = 65536


class _Table(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class ColorSettings(_Table):
    """`[data.source_color]`: how far the source's colours move, each factor from [1 - x, 1 + x]."""

    brightness: float = Field(0.0, ge=0, le=1)
    contrast: float = Field(0.0, ge=0, le=1)
    saturation: float = Field(0.0, ge=0, le=1)
    hue: float = Field(0.0, ge=0, le=0.5)


class DataSettings(_Table):
    """`[data]`, less the settings of the source it names."""

    source: str = "side_by_side"
    root: str | None = None
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    load_size: int | None = Field(None, ge=4, le=LARGEST)
    crop_size: int = Field(256, ge=4, le=LARGEST)
    test_size: int | None = Field(None, ge=4, le=LARGEST)
    mirror: bool = True
    rotate: bool = False
    source_color: ColorSettings = ColorSettings()
    workers: int | None = Field(None, ge=0, le=256)


class TrainSettings(_Table):
    """`[train]`."""

    epochs: int | None = Field(None, ge=1)
    steps: int | None = Field(None, ge=1)
    batch_size: int = Field(1, ge=1)
    seed: int = Field(0, ge=0, lt=2**63)
    schedule: Literal["constant", "linear"] = "constant"
    decay_from: float = Field(0.5, ge=0, lt=1)
    precision: Precision = "auto"
    log_every: int = Field(50, ge=1)
    sample_every: int = Field(1000, ge=1)
    sample_count: int = Field(4, ge=1, le=64)
    validate_every: int | None = Field(None, ge=1)
    checkpoint_every: int = Field(5000, ge=1)
    keep_checkpoints: int = Field(2, ge=1)


class InferenceSettings(_Table):
    """`[inference]`: how the finished model is used; the bundle carries it."""

    statistics: Literal["image", "running"] = "image"
    dropout: bool = True


@dataclass(frozen=True)
class Choice:
    """A component named in a recipe, and all of its settings, defaults included."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LossChoice(Choice):
    """An entry of `[[losses]]`."""

    weight: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """A whole, valid recipe: defaults filled in, every name known to the registry."""

    name: str
    description: str
    requires: tuple[str, ...]
    task: Choice
    method: Choice
    data: DataSettings
    source: Choice
    generator: Choice
    discriminator: Choice | None
    conditional: bool
    losses: tuple[LossChoice, ...]
    train: TrainSettings
    inference: InferenceSettings

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values in the shape of its file; what is not set is left out."""
        tables: dict[str, Any] = {"name": self.name}
        if self.description:
            tables["description"] = self.description
        if self.requires:
            tables["requires"] = list(self.requires)
        data = self.data.model_dump(exclude={"source_color"})
        color = self.data.source_color.model_dump()
        tables["task"] = {"name": self.task.name, **self.task.settings}
        tables["method"] = {"name": self.method.name, **self.method.settings}
        tables["data"] = {**data, **self.source.settings}
        if any(color.values()):
            tables["data"]["source_color"] = color
        tables["generator"] = {"name": self.generator.name, **self.generator.settings}
        if self.discriminator is not None:
            tables["discriminator"] = {
                "name": self.discriminator.name,
                "conditional": self.conditional,
                **self.discriminator.settings,
            }
        tables["losses"] = [
            {"name": loss.name, "weight": loss.weight, **loss.settings} for loss in self.losses
        ]
        tables["train"] = self.train.model_dump()
        tables["inference"] = self.inference.model_dump()
        plain: dict[str, Any] = to_jsonable_python(_without_none(tables))
        return plain

    def to_toml(self) -> str:
        """The recipe as a file."""
        return tomli_w.dumps(self.to_dict())


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


def find_recipe(name: str) -> Path:
    """A recipe's path: a file, or the name of one that ships with the package.

    Raises:
        RequestError: there is neither; the message names the nearest.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    if path.is_dir():
        raise RequestError(f"{name} is a folder; a recipe is a .toml file")
    stem = path.stem
    hint = suggest(stem, sorted(shipped))
    raise RequestError(f"there is no recipe file {name!r}, nor a shipped recipe of that name{hint}")


def shipped_recipes() -> dict[str, Path]:
    """Recipes that come with the package, by name."""
    here = Path(__file__).parent
    # Inside the package in a wheel, beside it in a checkout.
    for folder in (here / "recipes", here.parent / "recipes"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.toml"))}
    return {}


class _Parser:
    """Walks a document table by table and collects problems instead of stopping at the first."""

    def __init__(self, document: Document, registry: Registry) -> None:
        self.document = document
        self.registry = registry
        self.problems: list[str] = []
        self.data = document.data

    def recipe(self) -> Recipe:
        tables = ("task", "method", "data", "generator", "discriminator", "losses", "train")
        known = ("name", "description", "requires", *tables, "inference")
        for key in self.data:
            if key not in known:
                self.problem((key,), f"{key} is not part of a recipe{suggest(key, known)}")
        name, description = self._text("name", required=True), self._text("description")
        requires = self._requires()
        data, source = self._data()
        discriminator, conditional = self._discriminator()
        parts: dict[str, Any] = {
            "name": name,
            "description": description,
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
            "inference": self._table(InferenceSettings, "inference", self.table("inference")),
        }
        if self.problems:
            raise RecipeError(sorted(self.problems, key=_line_of))
        return Recipe(**parts)

    def problem(self, path: KeyPath, message: str) -> None:
        self.problems.append(f"{self.document.where(path)}: {message}")

    def is_table(self, key: str) -> bool:
        """Whether it is one, or left out; if not, what it lacks is not worth a message."""
        return isinstance(self.data.get(key, {}), dict)

    def table(self, key: str) -> dict[str, Any]:
        value = self.data.get(key, {})
        if isinstance(value, dict):
            return value
        self.problem((key,), f"{key} should be a table, [{key}], not {_shown(value)}")
        return {}

    def _text(self, key: str, *, required: bool = False) -> str:
        value = self.data.get(key, "")
        if not isinstance(value, str):
            self.problem((key,), f"{key} should be a text in quotes, not {_shown(value)}")
        elif required and not value:
            self.problem((key,), f'{key} is missing: the run\'s name, for example name = "shoes"')
        elif key == "name" and not can_be_folder(value):
            self.problem(
                (key,),
                f"name becomes a folder, so {_shown(value)} must be one line of at most 200 "
                f"characters, and cannot hold / or start with .",
            )
        return str(value)

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
            self.problem(path, f"{_dotted(path)} is missing: which {kind}")
            return None
        if not isinstance(name, str):
            self.problem(
                path, f"{_dotted(path)} should be the name of a {kind}, not {_shown(name)}"
            )
            return None
        try:
            return self.registry.get(kind, name)
        except KeyError as error:
            self.problem(path, f"{_dotted(path)}: {error.args[0]}")
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
        # Defaults take the same way, so that a run from its recipe.toml gets the very same values.
        full = {**component.defaults, **table}
        model = self._validated(component.model, path, full, what, shared)
        return {} if model is None else {s.name: getattr(model, s.name) for s in component.settings}

    def _table(self, model: type[TableModel], key: str, table: dict[str, Any]) -> TableModel | None:
        return self._validated(model, (key,), table, f"a key of [{key}]")

    def _validated(
        self,
        model: type[TableModel],
        path: KeyPath,
        table: dict[str, Any],
        what: str,
        shared: Sequence[str] = (),
    ) -> TableModel | None:
        """A table as its model has it; `what` one of its keys is called in messages."""
        # Through JSON: there a list may become a tuple and a text a Path, yet "64" is no number.
        try:
            found = model.model_validate_json(json.dumps(table, default=str), strict=True)
        except pydantic.ValidationError as error:
            self._explain(error, model, path, table, what, shared)
            return None
        # Where pydantic sees a float or a Literal of 1, it lets `true` pass, since True == 1.
        slips = [key for key in table if _took_bool(table[key], getattr(found, key))]
        for key in slips:
            full = (*path, key)
            self.problem(full, f"{_dotted(full)} should be a number, not {_shown(table[key])}")
        return None if slips else found

    def _explain(
        self,
        error: pydantic.ValidationError,
        model: type[TableModel],
        path: KeyPath,
        table: dict[str, Any],
        what: str,
        shared: Sequence[str],
    ) -> None:
        unions = set()
        for item in error.errors(include_url=False):
            loc = item["loc"]
            reached, steps = _descend(table, loc)
            missing = item["type"] == "missing" and steps == len(loc) - 1
            full = (*path, *loc)
            key = _dotted(full)
            # What leads on into nothing that was given is the name of a union's member.
            if steps < len(loc) and not missing:
                unions.add(str(loc[0]))
            elif item["type"] == "extra_forbidden":
                near = suggest(str(loc[-1]), [*_fields_of(model, loc[:-1]), *shared])
                of = what if len(loc) == 1 else f"a key of {_dotted(full[:-1])}"
                self.problem(full, f"{key} is not {of}{near}")
            elif missing and isinstance(reached, list):
                self.problem(full, f"{_dotted(full[:-1])} has only {len(reached)} entries")
            elif missing:
                self.problem(full, f"{key} is missing")
            else:
                self.problem(full, f"{key} {_complaint(item)}")
        # One line instead of one for each member of the union, none of which it is.
        for name in sorted(unions):
            full, wanted = (*path, name), type_name(model.model_fields[name].annotation)
            self.problem(full, f"{_dotted(full)} should be {wanted}, not {_shown(table[name])}")

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
        # The paper's 286 for 256, at any size.
        load = settings.load_size or min(round(crop * 286 / 256), LARGEST)
        if load < crop:
            self.problem(
                ("data", "load_size"), f"data.load_size is {load}, below data.crop_size, {crop}"
            )
        return settings.model_copy(
            update={"load_size": load, "test_size": settings.test_size or crop}
        ), source

    def _discriminator(self) -> tuple[Choice | None, bool]:
        if "discriminator" not in self.data:
            return None, True
        table = dict(self.table("discriminator"))
        conditional = table.pop("conditional", True)
        if not isinstance(conditional, bool):
            self.problem(
                ("discriminator", "conditional"),
                f"discriminator.conditional should be true or false, not {_shown(conditional)}",
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
                self.problem(path, f"losses.{i} should be a table with a name, not {_shown(entry)}")
                continue
            table = dict(entry)
            weight = table.pop("weight", 1.0)
            number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            if not number or not 0 <= weight < float("inf"):
                self.problem(
                    (*path, "weight"),
                    f"losses.{i}.weight should be a number, 0 or more, not {_shown(weight)}",
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
        settings = self._table(TrainSettings, "train", table)
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


def _complaint(item: ErrorDetails) -> str:
    """What pydantic has against a value, in the words of a recipe."""
    text = item["msg"]
    if not text.startswith("Input should "):
        return f"is refused: {text}"
    text = text.removeprefix("Input ")
    for theirs, ours in WORDS.items():
        text = text.replace(theirs, ours)
    near = ""
    if item["type"] == "literal_error" and isinstance(item["input"], str):
        choices = re.findall(r"'([^']*)'", item["ctx"]["expected"])
        near = suggest(item["input"], choices).partition(";")[0]
    return f"{text}, not {_shown(item['input'])}{near}"


def _descend(value: Any, loc: Sequence[str | int]) -> tuple[Any, int]:
    """How far `loc` leads into a value: what it reaches, and after how many of its steps."""
    for i, step in enumerate(loc):
        try:
            value = value[step]
        except (LookupError, TypeError):
            return value, i
    return value, len(loc)


def _fields_of(model: Any, loc: Sequence[str | int]) -> list[str]:
    """Keys of a table inside a table, where it is a model; else none."""
    for step in loc:
        fields = getattr(model, "model_fields", {})
        model = fields[step].annotation if step in fields else None
    return list(getattr(model, "model_fields", {}))


def _took_bool(given: Any, found: Any) -> bool:
    """Whether `true` or `false` was taken for a number."""
    if isinstance(given, bool):
        return isinstance(found, (int, float)) and not isinstance(found, bool)
    if isinstance(given, list) and isinstance(found, (list, tuple)):
        return any(_took_bool(one, other) for one, other in zip(given, found, strict=False))
    return False


def can_be_folder(name: str) -> bool:
    """Whether a run may be called so: one path component, on any system, that is not hidden."""
    short = len(name) <= 200 and name == name.strip() and name.isprintable()
    return short and not name.startswith(".") and not set(name) & set("/\\")


def _shown(value: Any) -> str:
    """A value as TOML has it, shortened to what fits in a message."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:60]}..."


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return value


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)


assert KINDS["source"].reserved == frozenset(DataSettings.model_fields), "registry.py lists them"
