"""The variants of a recipe that a comparison trains."""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from img2img.document import Document, parse_assignment
from img2img.errors import RecipeError, RequestError
from img2img.losses import AdversarialLoss
from img2img.recipe import Recipe
from img2img.recipe_parser import load_recipe
from img2img.registry import Registry
from img2img.resuming import to_inline

# What the paper's tables call the adversarial loss, and whether its discriminator sees the source.
ADVERSARIAL = {"gan": False, "cgan": True}
# Weights of losses that the recipe does not have; the paper's lambda, and 1 for all others.
WEIGHTS = {"l1": 100.0, "l2": 100.0}
# What stands for no discriminator in a recipe.
NONE = "discriminator=false"
# More than anybody trains; a product of long lists is a mistake.
MOST = 200


@dataclass(frozen=True)
class Variant:
    """One of the recipes that are compared.

    Attributes:
        name: what it is called in tables and figures, such as `unet, l1+cgan`.
        folder: of its runs.
        recipe: whole and valid.
    """

    name: str
    folder: str
    recipe: Recipe


def parse_vary(text: str) -> tuple[str, list[Any]]:
    """`key=a,b,c` as the key and its values, each TOML or plain text.

    Raises:
        RequestError: it is no such thing.
    """
    key, equals, values = text.partition("=")
    if not equals or not key.strip():
        raise RequestError(f"--vary {text}: expected key=a,b,c, such as losses=l1,cgan,l1+cgan")
    found = []
    for item in split_values(values):
        try:
            found.append(parse_assignment(f"{key.strip()}={item}")[1])
        except ValueError as error:
            raise RequestError(f"--vary {text}: {error}") from None
        if not item:
            raise RequestError(f"--vary {text}: there is nothing between two commas, or at an end")
    return key.strip(), found


def split_values(text: str) -> list[str]:
    """Cut a text at its commas, but for those within brackets or quotes."""
    parts, begin, depth, quote = [], 0, 0, ""
    for i, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[begin:i])
            begin = i + 1
    return [part.strip() for part in (*parts, text[begin:])]


def make_variants(
    path: Path, registry: Registry, vary: Mapping[str, Sequence[Any]], overrides: Sequence[str] = ()
) -> list[Variant]:
    """Every combination of the values in `vary`, in their order, the last key's changing first.

    Args:
        path: the recipe, valid by itself.
        registry: where its names are looked up.
        vary: the values of each key; those of `losses` may be texts such as `l1+cgan`.
        overrides: `key=value`, applied before.

    Raises:
        RequestError: nothing to compare, or the same twice.
        RecipeError: all mistakes of all variants, each with the variant's name.
    """
    _check(vary)
    document = Document.read(path)
    document.override(overrides)
    variants: list[Variant] = []
    problems: list[str] = []
    names: list[str] = []
    folders: list[str] = []
    for values in itertools.product(*vary.values()):
        name = ", ".join(_title(key, value, vary) for key, value in zip(vary, values, strict=True))
        folder = _folder(name)
        # Two names may make one folder, on systems that take `L1` for `l1` too.
        if folder.casefold() in {other.casefold() for other in folders}:
            folder = f"{folder}-{zlib.crc32(name.encode()):08x}"
        if name in names:
            raise RequestError(f"there are two variants called {name}: write a value otherwise")
        folders.append(folder)
        names.append(name)
        name_of_run = f"{document.data.get('name')}-{folder}"[:200]
        changes = [f"name={to_inline(name_of_run)}"]
        try:
            # Losses first, so that another key may name one of them.
            for key, value in sorted(
                zip(vary, values, strict=True), key=lambda v: v[0] != "losses"
            ):
                if NONE in changes and key.split(".")[0].strip() == "discriminator":
                    losses = _text(dict(zip(vary, values, strict=True))["losses"])
                    raise ValueError(
                        f"losses={losses} trains without a discriminator, so {key} cannot vary: "
                        f"compare {losses} by itself, or leave it out"
                    )
                changes += _changes(key, value, document.data, registry)
            recipe = load_recipe(path, registry, [*overrides, *changes])
        except RecipeError as error:
            problems += [f"variant {name}: {problem}" for problem in error.problems]
        except ValueError as error:
            problems.append(f"variant {name}: {error}")
        else:
            variants.append(Variant(name, folder, recipe))
    if problems:
        raise RecipeError(problems)
    return variants


def _check(vary: Mapping[str, Sequence[Any]]) -> None:
    count = 1
    for key, values in vary.items():
        if key.replace(" ", "") in ("train.seed", "name"):
            raise RequestError(
                f"{key} cannot vary: each variant has its own name, and is trained with the seeds "
                f"that --seeds counts from the recipe's train.seed"
            )
        shown = [_text(value) for value in values]
        if twice := sorted({text for text in shown if shown.count(text) > 1}):
            raise RequestError(f"{key} has {', '.join(twice)} twice: each variant is trained once")
        count *= len(values)
    if not vary or not count:
        raise RequestError(
            "nothing to compare: give --vary key=a,b,c, such as --vary losses=l1,cgan,l1+cgan, or "
            "a recipe with a [compare.vary] table"
        )
    if count > MOST:
        raise RequestError(f"that makes {count:,} variants, and {MOST} is the most: vary less")


def _changes(key: str, value: Any, data: Mapping[str, Any], registry: Registry) -> list[str]:
    """`key=value` for the recipe.

    Raises:
        ValueError: losses that are none.
    """
    if key == "losses" and isinstance(value, str):
        return _losses(value, data, registry)
    return [f"{key}={to_inline(value)}"]


def _losses(text: str, data: Mapping[str, Any], registry: Registry) -> list[str]:
    """`l1+cgan` as tables: weights and settings as the recipe has them, the discriminator to fit.

    Raises:
        ValueError: names or weights that are none.
    """
    given = data.get("losses", [])
    own = {entry["name"]: entry for entry in given if isinstance(entry, dict) and "name" in entry}
    entries: list[dict[str, Any]] = []
    conditional: set[bool] = set()
    for part in text.split("+"):
        word, star, weight = (piece.strip() for piece in part.partition("*"))
        if word in ADVERSARIAL:
            conditional.add(ADVERSARIAL[word])
        name = "adversarial" if word in ADVERSARIAL else word
        if any(entry["name"] == name for entry in entries):
            raise ValueError(f"losses: {text!r} has {name!r} twice")
        if name not in registry.names("loss"):
            try:
                registry.get("loss", name)
            except KeyError as error:
                raise ValueError(f"losses: {error.args[0]}, or gan or cgan") from None
        entry = dict(own.get(name, {"name": name, "weight": WEIGHTS.get(name, 1.0)}))
        if star:
            try:
                entry["weight"] = float(weight)
            except ValueError:
                raise ValueError(f"losses: {part!r} should be NAME*WEIGHT, as l1*10") from None
        entries.append(entry)
    changes = [f"losses={to_inline(entries)}"]
    if not any(_is_adversarial(registry, entry["name"]) for entry in entries):
        return [*changes, NONE]
    table = data.get("discriminator")
    table = dict(table) if isinstance(table, dict) else {}
    for sees in conditional:
        table["conditional"] = sees
    return [*changes, f"discriminator={to_inline(table)}"]


def _is_adversarial(registry: Registry, name: str) -> bool:
    factory = registry.get("loss", name).factory
    return isinstance(factory, type) and issubclass(factory, AdversarialLoss)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else to_inline(value)


def _title(key: str, value: Any, vary: Mapping[str, Any]) -> str:
    """A value as people call it: a text by itself, anything else with the key."""
    last = key.rpartition(".")[2].strip()
    alone = sum(other.rpartition(".")[2].strip() == last for other in vary) == 1
    if isinstance(value, str) and not value.strip():
        return f'{last if alone else key}=""'
    text = value if isinstance(value, str) and alone else f"{last if alone else key}={_text(value)}"
    return " ".join(text.split())


def _folder(name: str) -> str:
    """A name for a folder on any system; another name gives another folder."""
    plain = name.replace(", ", "_")
    safe = re.sub(r"[^A-Za-z0-9._+*=-]", "-", plain).replace("*", "x").strip(".-")[:80]
    # Where something had to go, two names could have become one.
    return safe if safe == plain else f"{safe}-{zlib.crc32(name.encode()):08x}"
