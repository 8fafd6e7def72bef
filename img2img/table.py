"""One table of a document against its model, with pydantic's complaints in a recipe's words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import pydantic
from pydantic_core import ErrorDetails

from img2img.component import type_name
from img2img.document import KeyPath
from img2img.registry import suggest

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
TableModel = TypeVar("TableModel", bound=pydantic.BaseModel)


Mistake = tuple[KeyPath, str]


def check_table(
    model: type[TableModel],
    path: KeyPath,
    table: dict[str, Any],
    what: str,
    shared: Sequence[str] = (),
    elsewhere: Mapping[str, str] = MappingProxyType({}),
) -> tuple[TableModel | None, list[Mistake]]:
    """A table as its model has it, or None and what is wrong with it.

    Args:
        model: names, types and defaults of its keys.
        path: where it stands in the document.
        table: what was given.
        what: one of its keys is called so in messages.
        shared: keys beside the model's own that may be suggested.
        elsewhere: keys of other tables, and where they belong.
    """
    # Through JSON: there a list may become a tuple and a text a Path, yet "64" is no number.
    try:
        found = model.model_validate_json(json.dumps(table, default=str), strict=True)
    except pydantic.ValidationError as error:
        return None, list(_explain(error, model, path, table, what, shared, elsewhere))
    # Where pydantic sees a float or a Literal of 1, it lets `true` pass, since True == 1.
    slips = [key for key in table if _took_bool(table[key], getattr(found, key))]
    mistakes = [
        ((*path, key), f"{dotted((*path, key))} should be a number, not {shown(table[key])}")
        for key in slips
    ]
    return (None, mistakes) if mistakes else (found, [])


def _explain(
    error: pydantic.ValidationError,
    model: type[TableModel],
    path: KeyPath,
    table: dict[str, Any],
    what: str,
    shared: Sequence[str],
    elsewhere: Mapping[str, str],
) -> Iterator[Mistake]:
    unions = set()
    for item in error.errors(include_url=False):
        loc = item["loc"]
        reached, steps = _descend(table, loc)
        missing = item["type"] == "missing" and steps == len(loc) - 1
        full = (*path, *loc)
        key = dotted(full)
        # What leads on into nothing that was given is the name of a union's member.
        if steps < len(loc) and not missing:
            unions.add(str(loc[0]))
        elif item["type"] == "extra_forbidden":
            home = elsewhere.get(str(loc[0])) if len(loc) == 1 else None
            near = suggest(str(loc[-1]), [*_fields_of(model, loc[:-1]), *shared])
            near = f" (did you mean {home}?)" if home else near
            of = what if len(loc) == 1 else f"a key of {dotted(full[:-1])}"
            yield full, f"{key} is not {of}{near}"
        elif missing and isinstance(reached, list):
            yield full, f"{dotted(full[:-1])} has only {len(reached)} entries"
        elif missing:
            yield full, f"{key} is missing"
        else:
            yield full, f"{key} {_complaint(item)}"
    # One line instead of one for each member of the union, none of which it is.
    for name in sorted(unions):
        full, wanted = (*path, name), type_name(model.model_fields[name].annotation)
        yield full, f"{dotted(full)} should be {wanted}, not {shown(table[name])}"


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
    return f"{text}, not {shown(item['input'])}{near}"


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


def shown(value: Any) -> str:
    """A value as TOML has it, shortened to what fits in a message."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:60]}..."


def dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)
