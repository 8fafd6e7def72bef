"""TOML with the line of every key, and `--set` overrides on top."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from img2img.errors import RecipeError
from img2img.names import printable

KeyPath = tuple[str | int, ...]
# A recipe needs four; whoever prints or validates deeper ones runs into recursion limits.
DEEPEST = 32
TOO_LARGE = "an integer that does not fit in 64 bits"
# Characters of a recipe, of which the largest palette takes an eighth; and points in one line: the
# parser takes minutes for a key of some ten thousand parts.
LONGEST, MOST_POINTS = 1 << 17, 2000
# What a line end may stand in, or a bracket mean nothing in: strings of the four kinds, comments.
_TOKENS = re.compile(
    r'''"""(?:\\.|[^\\])*?"""(?:"{0,2})|\'{3}.*?\'{3}\'{0,2}'''
    r"""|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|#[^\n]*|[\[\]{}\n]""",
    re.DOTALL,
)


class Document:
    """A parsed TOML text that can say where each key came from.

    Attributes:
        data: the values, overrides included.
        label: the file's name for messages.
    """

    def __init__(self, text: str, label: str) -> None:
        # File names may hold anything.
        self.label = label = printable(label)
        if len(text) > LONGEST:
            raise RecipeError([f"{label}: more than {LONGEST:,} characters, so not a recipe"])
        try:
            _check_points(text)
            self.data: dict[str, Any] = tomllib.loads(text)
            _check_depth(self.data)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError([_syntax_problem(error, text, label)]) from error
        # Brackets end the parser's recursion, dotted keys nest without any.
        except RecursionError as error:
            raise RecipeError([f"{label}: nested too deeply to be a recipe"]) from error
        # Python converts no integer of thousands of digits.
        except ValueError as error:
            raise RecipeError([f"{label}: it holds {TOO_LARGE}"]) from error
        self._origins: dict[KeyPath, str] = {
            path: f"{label}:{line}" for path, line in key_lines(text)
        }
        unusable = [
            f"{self.where(path)}: {'.'.join(map(str, path))} is {what}"
            for path, what in _unusable(self.data, ())
        ]
        if unusable:
            raise RecipeError(unusable)

    @classmethod
    def read(cls, path: Path) -> Document:
        """Parse a file.

        Raises:
            RecipeError: it cannot be read or is not TOML.
        """
        try:
            # With or without the mark that Windows editors put first.
            with path.open(encoding="utf-8-sig") as file:
                text = file.read(LONGEST + 1)
        except UnicodeDecodeError as error:
            raise RecipeError([f"{path}: not a text file in UTF-8, so not a recipe"]) from error
        except OSError as error:
            raise RecipeError([f"{path}: cannot be read ({error.strerror or error})"]) from error
        return cls(text, str(path))

    def where(self, path: KeyPath) -> str:
        """`file:line` of a key, or of the table it would be in, or the `--set` it came from."""
        for length in range(len(path), 0, -1):
            if origin := self._origins.get(path[:length]):
                return origin
        return self.label

    def override(self, assignments: Iterable[str]) -> None:
        """Apply `key=value` strings: dotted keys, TOML values, and plain strings where not TOML.

        An entry of a list is named by its number or, where it has one, its `name`.

        Raises:
            RecipeError: an assignment that is none, or a key inside something that is no table.
        """
        problems = []
        for assignment in assignments:
            try:
                path, value = parse_assignment(assignment)
                for _, what in _unusable(value, ()):
                    raise ValueError(f"it holds {what}")
                self._place(path, value, f"--set {assignment}")
            except ValueError as error:
                problems.append(f"--set {assignment}: {error}")
        if problems:
            raise RecipeError(problems)

    def _place(self, keys: list[str], value: Any, origin: str) -> None:
        table: Any = self.data
        path: KeyPath = ()
        for i, key in enumerate(keys):
            step: str | int = _list_index(table, key) if isinstance(table, list) else key
            path = (*path, step)
            if i == len(keys) - 1:
                table[step] = value
                stale = [known for known in self._origins if known[: len(path)] == path]
                for known in stale:
                    del self._origins[known]
                self._origins[path] = origin
                return
            table = table.setdefault(step, {}) if isinstance(table, dict) else table[step]
            if not isinstance(table, (dict, list)):
                raise ValueError(f"{'.'.join(keys[: i + 1])} is a value and has no keys")


def parse_assignment(assignment: str) -> tuple[list[str], Any]:
    """`a.b=1` as (["a", "b"], 1).

    Raises:
        ValueError: there is no `=`, or the key is no TOML key, or the value is nested too deeply.
    """
    # What a shell passes on from bytes that are no UTF-8 could not be written into recipe.toml.
    if any("\ud800" <= character <= "\udfff" for character in assignment):
        raise ValueError("it is not text in UTF-8")
    if len(assignment) > LONGEST:
        raise ValueError(f"it has more than {LONGEST:,} characters")
    key, equals, text = assignment.partition("=")
    if not equals:
        raise ValueError("expected key=value")
    path = []
    try:
        _check_points(assignment)
        table: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        raise ValueError(f"{key.strip()!r} is not a key; expected key=value") from None
    except RecursionError:
        raise ValueError("nested too deeply to be part of a recipe") from None
    while isinstance(table, dict) and len(table) == 1:
        ((name, table),) = table.items()
        path.append(name)
    if table != 0:
        raise ValueError(f"{key.strip()!r} is not a key; expected key=value")
    try:
        parsed = tomllib.loads(f"value = {text}")
        _check_depth(parsed, len(path))
    except tomllib.TOMLDecodeError:
        parsed = {}
    except RecursionError:
        raise ValueError("nested too deeply to be part of a recipe") from None
    except ValueError:
        raise ValueError(f"it holds {TOO_LARGE}") from None
    return path, parsed["value"] if parsed.keys() == {"value"} else text


def key_lines(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Every key of a valid TOML text with the line (from 1) its statement starts on.

    The text is cut into statements, each of which the standard parser reads once more.
    """
    counts: dict[KeyPath, int] = {}
    prefix: KeyPath = ()
    for line, statement in _statements(text):
        parsed = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            prefix = _header_path(parsed, counts)
            yield prefix, line
        else:
            yield from ((path, line) for path in _paths(parsed, prefix))


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """The statements of a valid TOML text, each with the line it starts on.

    One ends with its line, unless that ends within a string of several lines or within brackets.
    """
    # Not splitlines(): TOML knows no other line ends, and U+2028 may stand in a comment.
    text = text.replace("\r\n", "\n") + "\n"
    begin, depth, line = 0, 0, 1
    for found in _TOKENS.finditer(text):
        token = found[0]
        if token in ("[", "{"):
            depth += 1
        elif token in ("]", "}"):
            depth -= 1
        elif token == "\n" and depth == 0:
            statement = text[begin : found.end()]
            yield line, statement
            begin, line = found.end(), line + statement.count("\n")


def _header_path(parsed: dict[str, Any], counts: dict[KeyPath, int]) -> KeyPath:
    path: KeyPath = ()
    value: Any = parsed
    while value:
        ((key, value),) = value.items()
        path = (*path, key)
        if isinstance(value, list):
            counts[path] = counts.get(path, -1) + 1
            path, value = (*path, counts[path]), value[0]
        elif path in counts:
            path = (*path, counts[path])
    return path


def _paths(value: Any, prefix: KeyPath) -> Iterator[KeyPath]:
    items: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield (*prefix, key)
        yield from _paths(inner, (*prefix, key))


def _check_depth(value: Any, depth: int = 0) -> None:
    """Raise a RecursionError for what is nested more deeply than a recipe."""
    if depth > DEEPEST:
        raise RecursionError
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_depth(inner, depth + 1)


def _check_points(text: str) -> None:
    """Raise a RecursionError for keys that the parser itself would take too long for."""
    if any(line.count(".") > MOST_POINTS for line in text.split("\n")):
        raise RecursionError


def _unusable(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Values that TOML or a number's nature forbids and Python's parser lets through."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield path, TOO_LARGE
    elif isinstance(value, float) and value != value:
        yield path, "nan, which is no number to train with"
    elif isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _unusable(inner, (*path, key))


def _list_index(entries: list[Any], key: str) -> int:
    if key.isdecimal() and int(key) < len(entries):
        return int(key)
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
    if key in names:
        return names.index(key)
    known = ", ".join(str(name) for name in names if name)
    raise ValueError(f"{key!r} is no entry of that list, which has {known or len(entries)}")


def _syntax_problem(error: tomllib.TOMLDecodeError, text: str, label: str) -> str:
    message = str(error)
    what, _, place = message.partition(" (at ")
    if place.startswith("line "):
        return f"{label}:{place.split()[1].rstrip(',')}: not valid TOML: {what}"
    if "end of document" in place:
        return f"{label}:{text.rstrip().count(chr(10)) + 1}: not valid TOML: {what} (at the end)"
    return f"{label}: not valid TOML: {message}"
