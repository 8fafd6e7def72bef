"""What a check can find, how bad it is, and what usually helps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Kind:
    """One kind of problem.

    Attributes:
        severity: `error` where a pair cannot be used, `warning` where it probably spoils results,
            `note` where it is worth knowing.
        title: what it is, in a few words.
        helps: what usually helps.
    """

    severity: Severity
    title: str
    helps: str


# In the order in which they are shown. The names are part of what `check --json` prints.
KINDS: dict[str, Kind] = {
    "unreadable": Kind("error", "cannot be read", "fetch the files again, or remove them"),
    "unmatched": Kind("error", "no partner of the same name", "add the partner, or move it away"),
    "size": Kind("error", "two images of different sizes", "make both the same size"),
    "unsuitable": Kind("error", "not what the task takes", "the reasons say what to change"),
    "direction": Kind(
        "warning", "direction probably the wrong way round", "set data.direction to the other one"
    ),
    "leak": Kind(
        "warning",
        "pairs to validate on that are trained on",
        "remove them from either split: scores flatter a model that has seen the answer",
    ),
    "shifted": Kind(
        "warning",
        "source and target out of register",
        "align or remove them: a model answers shifts with blur",
    ),
    "swapped": Kind(
        "warning", "source and target changed places", "swap the two images, or remove the pair"
    ),
    "identical": Kind(
        "warning", "source and target nearly identical", "remove pairs that hold nothing to learn"
    ),
    "blank": Kind("warning", "of one colour, or nearly", "remove them, unless emptiness is meant"),
    "cut": Kind(
        "warning",
        "last rows grey: a file cut short",
        "fetch the files again, or remove them",
    ),
    "shared": Kind(
        "note",
        "an image in both splits, its partner in one",
        "fine where sources such as label maps repeat; else move them to one split",
    ),
    "repeated": Kind("note", "pairs that repeat in their split", "remove all but one of them"),
    "shape": Kind(
        "note", "an aspect ratio unlike the others", "look whether these are single, uncut images"
    ),
    "modes": Kind("note", "images of several kinds, or converted", "fine, if it is meant"),
}


@dataclass(frozen=True)
class Problem:
    """One thing found.

    Attributes:
        kind: of `KINDS`.
        split: `train` or `val`.
        file: what to call the pair: its file, or the split where it concerns all of it.
        reason: what was found, in words.
        index: of the pair in its split; None where it concerns all of it, or a file of none.
        twin: split and index of the pair that it repeats.
        unusable: the task cannot use the pair, which makes an error of what would be less.
    """

    kind: str
    split: str
    file: str
    reason: str
    index: int | None = None
    twin: tuple[str, int] | None = None
    unusable: bool = False

    @property
    def severity(self) -> Severity:
        """That of its kind, or `error` where the task cannot use the pair."""
        return "error" if self.unusable else KINDS[self.kind].severity

    @property
    def whole(self) -> bool:
        """Whether it concerns all of its split; a pair that it has is an example."""
        return self.file == self.split


def in_order(problems: list[Problem]) -> list[Problem]:
    """Severe ones first, then by kind, split and index."""
    ranks = {kind: rank for rank, kind in enumerate(KINDS)}
    return sorted(
        problems,
        key=lambda p: (
            SEVERITIES.index(p.severity),
            ranks[p.kind],
            p.split,
            -1 if p.index is None else p.index,
        ),
    )
