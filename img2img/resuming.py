"""What may differ between a run and its continuation, and how a difference is told."""

from __future__ import annotations

import json
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import tomli_w

from img2img.engine.directory import RunDirectory
from img2img.engine.processes import Processes
from img2img.errors import Img2ImgError, Note, RequestError
from img2img.recipe import Recipe
from img2img.recipe_parser import load_recipe
from img2img.registry import Registry

# It changes how long, where and how often something is written, not what is learned in a step.
MAY_CHANGE = (
    "description",
    "preset",
    "requires",
    "data.root",
    "data.workers",
    "data.keep_mb",
    "train.steps",
    "train.epochs",
    "train.log_every",
    "train.sample_every",
    "train.sample_count",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.validate_every",
    "train.best_by",
    "metrics",
    "train.precision",
    "train.capture",
    "train.compile",
    "inference.statistics",
    "inference.dropout",
)
# What another condition than before does to the result.
ORDER = "the pairs come in another order, in epochs of another length"
OTHERS = "the pairs are others, or come in another order"
SCORES = "scores are of other pairs than those before"
NOISE = "dropout and other noise are drawn anew"
ROUNDING = "numbers are rounded differently"
EFFECTS = (ORDER, OTHERS, SCORES, NOISE, ROUNDING)
_ABSENT = object()


@dataclass(frozen=True)
class Earlier:
    """What a run directory says of the run in it.

    Attributes:
        recipe: it was started, or last gone on with, from.
        environment: of `environment.json`, as far as that can be read.
    """

    recipe: Recipe
    environment: dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """A key that has another value than before, both as they would stand in a recipe."""

    key: str
    before: str
    after: str


def look_back(directory: RunDirectory, registry: Registry) -> Earlier:
    """What the run in a directory was started with.

    Raises:
        RequestError: its recipe cannot be read.
    """
    try:
        recipe = load_recipe(directory.recipe, registry)
    except (Img2ImgError, OSError, ValueError) as error:
        raise RequestError(
            f"{directory.recipe} says what the run was started with, and cannot be read:\n"
            f"{textwrap.indent(str(error), '  ')}\n"
            f"If a plugin is missing, name it with --plugin. If the file is damaged or gone, put a "
            f"copy of the recipe there to go on; or use --fresh to start over"
        ) from error
    return Earlier(recipe, _recorded(directory))


def check_same(
    new: Recipe, earlier: Earlier, directory: RunDirectory, processes: Processes
) -> None:
    """Whether a run can go on with a recipe.

    Raises:
        RequestError: it differs in what a run cannot change midway.
    """
    old = earlier.recipe
    batch = _number(earlier.environment, "global_batch", old.train.batch_size)
    count = _number(earlier.environment, "processes", 1)
    if count != processes.world_size or processes.several:
        _check_batch(batch, new.train.batch_size, processes.world_size, directory)
    found = list(differences(old.to_dict(), new.to_dict()))
    same_batch = batch == new.train.batch_size * processes.world_size
    fixed = [
        difference
        for difference in found
        if not may_change(difference.key)
        and not (difference.key == "train.batch_size" and same_batch)
    ]
    if not fixed:
        return
    free = [difference for difference in found if may_change(difference.key)]
    also = f"\nThese may change, and would:\n{table(free)}" if free else ""
    listed = textwrap.fill(", ".join(MAY_CHANGE), 98, initial_indent="  ", subsequent_indent="  ")
    raise RequestError(
        f"{directory.path} was started with other settings, which a run cannot change midway:\n"
        f"{table(fixed)}{also}\n"
        f"Use --fresh to start over, or --out for another directory. What may change on --resume "
        f"(see docs/recipes.md, Going on):\n{listed}"
    )


def may_change(key: str) -> bool:
    """Whether it is one of those keys, or in a table that may change as a whole."""
    return key in MAY_CHANGE or key.startswith("metrics.")


def check_length(step: int, total_steps: int, directory: RunDirectory) -> None:
    """Whether a run at `step` can be one of `total_steps`.

    Raises:
        RequestError: it is further already, and no run goes back.
    """
    if total_steps < step:
        raise RequestError(
            f"{directory.path} has done {step} steps, and the recipe says {total_steps}: a run "
            f"cannot go back. Give --set train.steps={step} to leave it as it is, a larger number "
            f"to train on, or --out for another directory"
        )


def tell_changes(new: Recipe, earlier: Earlier, environment: Mapping[str, Any]) -> None:
    """Say what a run goes on with that is new, and what cannot be exact because of that."""
    changed = [
        difference
        for difference in differences(earlier.recipe.to_dict(), new.to_dict())
        if may_change(difference.key)
    ]
    if changed:
        _tell(f"the run goes on with other settings than before:\n{table(changed)}")
    other = list(_conditions(new, earlier, environment))
    if other:
        told = ", ".join(f"{name} {now} (before: {was})" for name, was, now, _ in other)
        # Each once, those of the data and of what is drawn first.
        effects = [effect for effect in EFFECTS if any(effect in each for *_, each in other)]
        _tell(
            f"the run goes on from the same state with {told}: {', and '.join(effects)}, so the "
            f"result cannot be bit for bit what it would have been"
        )


def tell_finished(new: Recipe, earlier: Earlier) -> None:
    """Say what of a recipe comes too late for a run that has done its steps."""
    if changed := list(differences(earlier.recipe.to_dict(), new.to_dict())):
        _tell(
            f"the run is finished, and these change nothing in it (a larger train.steps would "
            f"train on with them):\n{table(changed)}"
        )


def _tell(message: str) -> None:
    warnings.warn(message, Note, stacklevel=3)


def _conditions(
    new: Recipe, earlier: Earlier, now: Mapping[str, Any]
) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """What decides over bits, is known and is other than before, with its effects."""
    before, old = earlier.environment, earlier.recipe

    def on(about: Mapping[str, Any]) -> str | None:
        kind, name = about.get("device"), about.get("device_name")
        # Which of several equal ones it is changes nothing.
        return f"{kind.partition(':')[0]} ({name})" if isinstance(kind, str) else None

    def both(name: str, key: str, *effects: str) -> tuple[str, Any, Any, tuple[str, ...]]:
        return name, before.get(key), now.get(key), effects

    known = [
        both("train pairs", "train_pairs", ORDER),
        both("validation pairs", "validation_pairs", SCORES),
        ("device", on(before), on(now), (NOISE, ROUNDING)),
        both("precision", "precision", ROUNDING),
        both("torch", "torch", ROUNDING),
        ("train.compile", _word(old.train.compile), _word(new.train.compile), (ROUNDING,)),
    ]
    # Of another number it is another one in any case.
    for split, effect in (("train", OTHERS), ("validation", SCORES)):
        key = f"{split}_fingerprint"
        if now.get(key) is not None and before.get(f"{split}_pairs") == now.get(f"{split}_pairs"):
            known.append(both(f"fingerprint of the {split} pairs", key, effect))
    # On a GPU the host computes nothing that is learned, and nothing is recorded elsewhere.
    if str(now.get("device")) == "cpu" == before.get("device"):
        known.append(both("threads", "threads", ROUNDING))
    if str(now.get("device")).startswith("cuda"):
        capture = _word(old.train.capture), _word(new.train.capture)
        known.append(("train.capture", *capture, (ROUNDING,)))
    for name, was, is_now, effects in known:
        if was is not None and was != is_now:
            yield name, str(was), str(is_now), effects


def _word(setting: bool) -> str:
    """As it stands in a recipe."""
    return str(setting).lower()


def differences(before: Any, after: Any, key: str = "") -> Iterator[Difference]:
    """Where two recipes as plain values differ, in the order of their keys."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted(before.keys() | after.keys()):
            inner = f"{key}.{name}" if key else str(name)
            yield from differences(before.get(name, _ABSENT), after.get(name, _ABSENT), inner)
    elif _tables(before) and _tables(after):
        yield from _entries(before, after, key)
    elif before != after:
        yield Difference(key, _shown(before), _shown(after))


def _tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value)


def _entries(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], key: str
) -> Iterator[Difference]:
    """Differences of two lists of named tables: one that is new shifts the others' numbers."""
    was, now = ([str(entry.get("name")) for entry in entries] for entries in (before, after))
    # An entry goes by its name, as it may in `--set`, where no two have the same.
    named = len(set(was)) == len(was) and len(set(now)) == len(now)

    def label(names: Sequence[str], index: int) -> str:
        return f"{key}.{names[index] if named else index}"

    matcher = SequenceMatcher(None, was, now, autojunk=False)
    for kind, first, last, begin, end in matcher.get_opcodes():
        if kind == "equal":
            for old, new in zip(range(first, last), range(begin, end), strict=True):
                yield from differences(before[old], after[new], label(now, new))
        else:
            for old in range(first, last):
                yield Difference(label(was, old), _shown(before[old]), _shown(_ABSENT))
            for new in range(begin, end):
                yield Difference(label(now, new), _shown(_ABSENT), _shown(after[new]))


def table(found: Sequence[Difference]) -> str:
    """Differences under each other, a line each."""
    keys = max(len(difference.key) for difference in found) + 1
    # One long value would push all others off the screen.
    values = min(16, max(len(difference.before) for difference in found))
    return "\n".join(
        f"  {difference.key + ':':{keys}} {difference.before:{values}} -> {difference.after}"
        for difference in found
    )


def to_inline(value: Any) -> str:
    """A value as TOML on the right of an equals sign, tables included."""
    # Within a list of lists, where tables cannot become sections of their own.
    text = tomli_w.dumps({"v": [[value]]}).partition("=")[2].strip()
    return text[1:-1].strip(", \n")[1:-1].strip(", \n")


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "not set"
    return textwrap.shorten(to_inline(value), 200, placeholder=" ...")


def _check_batch(was: int, batch_size: int, count: int, directory: RunDirectory) -> None:
    """Refuse another number of pairs a step than a run was started with."""
    if batch_size * count == was:
        return
    if was % count == 0:
        way = f"give --set train.batch_size={was // count}"
    else:
        fitting = [n for n in range(1, was + 1) if was % n == 0 and n * batch_size != was]
        # Those nearest to how many there are: large steps have many divisors.
        near = sorted(sorted(fitting, key=lambda n: abs(n - count))[:4])
        ways = [_many(was // batch_size, "process", "es")] if was % batch_size == 0 else []
        if near:
            numbers = _either(near) if ways else _many(_either(near), "process", "es")
            sizes = _either([was // n for n in near])
            ways.append(f"{numbers} with --set train.batch_size={sizes}")
        way = f"start {', or '.join(ways)}"
    raise RequestError(
        f"{directory.path} was started with {_many(was, 'pair', 's')} a step over all processes, "
        f"and {_many(count, 'process', 'es')} with train.batch_size {batch_size} would take "
        f"{batch_size * count}: {way}"
    )


def _many(count: int | str, one: str, ending: str) -> str:
    return f"{count} {one}{'' if str(count) == '1' else ending}"


def _either(numbers: Sequence[int]) -> str:
    """Numbers as a choice between them."""
    *some, last = map(str, numbers)
    return f"{', '.join(some)} or {last}" if some else last


def _recorded(directory: RunDirectory) -> dict[str, Any]:
    """What `environment.json` says, as far as it can be read."""
    try:
        found = json.loads(directory.environment.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _number(environment: Mapping[str, Any], key: str, default: int) -> int:
    found = environment.get(key)
    return found if isinstance(found, int) and 0 < found < 1 << 20 else default
