"""What a bundle says of itself, as JSON; read back key by key, as a stranger's recipe would be."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import pydantic
from pydantic import Field

from img2img.component import Component
from img2img.document import DEEPEST, TOO_LARGE, KeyPath
from img2img.errors import ModelFileError
from img2img.layers import Activation
from img2img.names import printable
from img2img.recipe import LARGEST, InferenceSettings
from img2img.registry import Registry, suggest
from img2img.table import check_table, dotted, shown

FORMAT = 1
# Far above what any model says of itself, and little enough that every complaint comes at once:
# characters of the whole, of one text and of one key, and values with all that they hold.
LONGEST, LONGEST_TEXT, LONGEST_KEY, MOST_VALUES = 1 << 20, 10_000, 200, 10_000
SHOWN_PROBLEMS = 10
# Of a number among the settings of our own components, which compute with it before it is known to
# fit the weights: layers are counted up to it, and 2 is raised to it. Of images it is LARGEST.
LARGEST_SETTING = 8192


@dataclass(frozen=True)
class BundleInfo:
    """What a bundle says of itself.

    Attributes:
        name: the run's.
        task: `name` and `settings` of the task, and the `origin` it was registered from.
        generator: `name`, `settings`, the supplied `in_channels`, `out_channels`, `image_size` and
            `activation`, and the `origin` it was registered from.
        inference: the policy, `statistics`, `dropout` and `scale`.
        trained: step, version of the program and the like, for people.
    """

    name: str
    task: dict[str, Any]
    generator: dict[str, Any]
    inference: dict[str, Any]
    trained: dict[str, Any] = field(default_factory=dict)


class _Table(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class _Whole(_Table):
    format: int
    name: str
    task: dict[str, Any]
    generator: dict[str, Any]
    inference: dict[str, Any]
    trained: dict[str, Any] = {}


class _Task(_Table):
    name: str
    settings: dict[str, Any]
    origin: str | None = None


Count = Annotated[int, Field(ge=1, le=LARGEST)]


class _Generator(_Task):
    in_channels: Count
    out_channels: Count
    image_size: Count | None = None
    # Bundles of before had no other ending.
    activation: Activation = "tanh"


# No image becomes larger by it than the largest there is; smaller is no harm.
Factor = Annotated[float, Field(ge=1 / LARGEST, le=LARGEST / 256)]


class _Inference(InferenceSettings):
    scale: tuple[Factor, Factor] = (1.0, 1.0)


PARTS: dict[str, type[pydantic.BaseModel]] = {
    "task": _Task,
    "generator": _Generator,
    "inference": _Inference,
}


class Description:
    """A bundle's description as plain values, and what is wrong with it.

    Mistakes are collected, so that whoever reads on can add what only shows there.

    Args:
        text: JSON.
        label: the file's name for messages.

    Raises:
        ModelFileError: it is no description, or one of a later version.
    """

    def __init__(self, text: str, label: object) -> None:
        self.label = label
        self.problems: list[str] = []
        self.data = self._parse(text)
        _, mistakes = check_table(_Whole, (), self.data, "part of a bundle")
        for key, model in PARTS.items():
            if isinstance(self.data.get(key), dict):
                mistakes += check_table(model, (key,), self.data[key], f"a key of {key}")[1]
        for _, message in mistakes:
            self.problem(message)

    def problem(self, message: str) -> None:
        """Add a mistake, whose words may come from anywhere."""
        self.problems.append(in_short(message))

    def raise_any(self) -> None:
        """Raise a ModelFileError with all mistakes, if there are any."""
        count = len(self.problems)
        if count == 1:
            raise ModelFileError(f"{self.label} cannot be used as a model: {self.problems[0]}")
        if count:
            more = [f"and {count - SHOWN_PROBLEMS} more"] if count > SHOWN_PROBLEMS else []
            raise ModelFileError(
                f"{self.label} cannot be used as a model; its description has {count} mistakes:",
                [f"  {line}" for line in (*self.problems[:SHOWN_PROBLEMS], *more)],
            )

    def info(self) -> BundleInfo:
        """The description, if nothing is wrong with it.

        Raises:
            ModelFileError: with every mistake.
        """
        self.raise_any()
        return BundleInfo(**{key: value for key, value in self.data.items() if key != "format"})

    def choice(self, kind: str, registry: Registry) -> tuple[Component, dict[str, Any]] | None:
        """The component that it names for `task` or `generator`, and settings to build it with.

        None where something is wrong, which is added to the mistakes.
        """
        part = self.data.get(kind)
        name = part.get("name") if isinstance(part, dict) else None
        if not isinstance(part, dict) or not isinstance(name, str):
            return None
        try:
            component = registry.get(kind, name)
        except KeyError:
            hint = _where_from(part.get("origin")) or (
                f"install its plugin or give its file with --plugin"
                f"{suggest(name, registry.names(kind))}"
            )
            self.problem(f"it needs the {kind} {shown(name)}, which is not here: {hint}")
            return None
        settings = part.get("settings")
        if not isinstance(settings, dict):
            return None
        path = (kind, "settings")
        found, mistakes = check_table(component.model, path, settings, f"a setting of {name!r}")
        if component.origin == "img2img":
            mistakes += [
                (place, f"{dotted(place)} should be at most {LARGEST_SETTING}, not {value}")
                for place, value in _values(settings, path)
                if isinstance(value, int) and abs(value) > LARGEST_SETTING
            ]
        for _, message in mistakes:
            self.problem(f"the {kind} {name!r} refuses its settings: {message}")
        if found is None or mistakes:
            return None
        return component, {s.name: getattr(found, s.name) for s in component.settings}

    def _parse(self, text: str) -> dict[str, Any]:
        if len(text) > LONGEST:
            raise ModelFileError(
                f"{self.label} has a description of {len(text)} characters, and none needs more "
                f"than {LONGEST}; the file is damaged or was made to be"
            )
        twice: list[str] = []

        def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            counts = Counter(key for key, _ in pairs)
            twice.extend(key for key, count in counts.items() if count > 1)
            return dict(pairs)

        try:
            data: Any = json.loads(text, object_pairs_hook=table)
        # Python converts no integer of thousands of digits, and nests only so deep.
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise ModelFileError(
                f"{self.label} has a damaged description ({in_short(reason)})"
            ) from error
        if not isinstance(data, dict):
            raise ModelFileError(f"{self.label} has a damaged description (it is no JSON object)")
        for key in twice:
            self.problem(f"{shown(key)} is there twice")
        for message in _unfit(data):
            self.problem(message)
        # What is that far off has no parts worth naming.
        self.raise_any()
        version = data.get("format")
        if isinstance(version, int) and version != FORMAT:
            trained = data.get("trained")
            maker = trained.get("img2img") if isinstance(trained, dict) else None
            raise ModelFileError(
                f"{self.label} has bundle format {version}, this program reads {FORMAT}; install "
                f"the version that made it: {shown(maker) if maker else 'a newer one'}"
            )
        return {key: _encodable(value) for key, value in data.items()}


def to_text(info: BundleInfo) -> str:
    """A description as JSON.

    Raises:
        ModelFileError: it could not be read back, as with a setting that is no number.
    """
    text = json.dumps({"format": FORMAT, **asdict(info)})
    Description(text, f"a bundle of {info.name!r}").raise_any()
    return text


def in_short(text: str) -> str:
    """A message of one line, whatever a stranger's file put into it, fit for a terminal."""
    plain = printable(text)
    return plain if len(plain) <= 500 else f"{plain[:500]}..."


def _unfit(data: Any) -> Iterator[str]:
    """Why values are none that a description holds: what would choke those who look at it."""
    for count, (path, value) in enumerate(_values(data, ())):
        key = str(path[-1])
        if count >= MOST_VALUES:
            yield f"it holds more than {MOST_VALUES} values"
            return
        if len(path) > DEEPEST:
            yield f"{dotted(path[:3])}... is nested too deeply"
            return
        if len(key) > LONGEST_KEY or not key.isprintable():
            yield f"{shown(key)} is no name of a key"
            return
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            yield f"{dotted(path)} is {TOO_LARGE}"
        elif isinstance(value, float) and not math.isfinite(value):
            yield f"{dotted(path)} is {value}, and should be a finite number"
        elif isinstance(value, str) and len(value) > LONGEST_TEXT:
            yield f"{dotted(path)} is a text of {len(value)} characters"


def _values(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """What a table or list holds and all that is in it, each with its place; no recursion."""
    waiting: list[tuple[KeyPath, Any]] = [(path, value)]
    while waiting:
        path, value = waiting.pop()
        if not isinstance(value, (dict, list)):
            continue
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield (*path, key), inner
            waiting.append(((*path, key), inner))


def _encodable(value: Any) -> Any:
    """The same with the halves of characters, which file names may hold, as readable escapes."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _encodable(inner) for key, inner in value.items()}
    return [_encodable(inner) for inner in value] if isinstance(value, list) else value


def _where_from(origin: Any) -> str | None:
    """Where a component is to be had that came from elsewhere."""
    if not isinstance(origin, str) or not origin or origin == "img2img":
        return None
    if origin.endswith(".py"):
        file = origin if len(origin) <= LONGEST_KEY else shown(origin)
        return f"it came from the file {file}; give it with --plugin"
    # Nothing else that a stranger would like to see installed, or done.
    named = re.fullmatch(r"[\w.-]{1,100}( \([\w.-]{1,100}\))?", origin)
    return f"install the plugin {origin if named else shown(origin)}"
