"""Looking through data before a run trusts it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from img2img.data.checks.alignment import find_shifted
from img2img.data.checks.direction import find_direction
from img2img.data.checks.duplicates import find_duplicates
from img2img.data.checks.measuring import measure
from img2img.data.checks.modes import files_of, find_modes, modes_of
from img2img.data.checks.problem import Problem, in_order
from img2img.data.checks.seen import ROW, Misfit, Seen
from img2img.data.checks.shapes import find_shapes
from img2img.data.checks.single import find_blank, find_cut, find_identical, is_identical, is_rule
from img2img.data.checks.unsuitable import Judge, find_misfit, find_unsuitable
from img2img.data.source import PairSource
from img2img.errors import ImageError
from img2img.picture import Pixels

Size = tuple[int, int]

# Pairs that wait for a thread: a list of a million would take longer than the first thousand.
AT_ONCE = 512


@dataclass
class Findings:
    """What one split holds.

    Attributes:
        seen: what is known of each pair.
        sizes: how often each (width, height) of one image occurs.
        problems: pairs that cannot be read; those that the task cannot use are in `seen`.
    """

    seen: Seen
    sizes: Counter[Size] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    @property
    def pairs(self) -> int:
        """How many there are, unusable ones included."""
        return len(self.seen.table)

    def size_range(self) -> str:
        """The sizes in words: `256x256`, or `200x180 to 640x480`."""
        if not self.sizes:
            return "none readable"
        small, large = (pick(self.sizes, key=lambda s: s[0] * s[1]) for pick in (min, max))
        texts = [f"{width}x{height}" for width, height in (small, large)]
        return texts[0] if len(self.sizes) == 1 else f"{texts[0]} to {texts[1]}"


def look_through(
    source: PairSource,
    on_pair: Callable[[], None] = lambda: None,
    judge: Judge | None = None,
    *,
    split: str = "train",
    swap: bool = False,
    channels: tuple[int, int] = (3, 3),
) -> Findings:
    """Decode every pair, in parallel; say which cannot be read and why, and measure the others.

    Args:
        source: the pairs of one split.
        on_pair: called after each.
        judge: given a pair's first and second image, says why the task cannot use them, or None;
            its answers are in `Findings.seen.misfits`.
        split: which one it is.
        swap: the second image is the translation's source (`data.direction = "BtoA"`).
        channels: of the images that the task's source and target take.
    """
    made = bool(getattr(source, "makes_first", False)) or hasattr(source, "degrade")
    seen = Seen(split, source.name, np.zeros(len(source), ROW), made, channels)
    findings = Findings(seen)

    def look(index: int) -> Problem | tuple[tuple[Any, ...], tuple[str, str], Misfit | None]:
        try:
            pair = source.pair(index)
        except ImageError as error:
            return Problem(error.kind, split, str(error.path), error.reason, index)
        odd = find_misfit(judge, *pair) if judge is not None else None
        modes = modes_of(pair, files_of(source, index))
        if swap:
            pair, modes = (pair[1], pair[0]), (modes[1], modes[0])
        apart = not made and not np.shares_memory(*pair)
        return measure(*pair, (0, 0), made=not apart), modes, odd

    codes: dict[str, int] = {}
    # Decoders and OpenCV release the interpreter, so threads are enough.
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        for start in range(0, len(source), AT_ONCE):
            indices = range(start, min(start + AT_ONCE, len(source)))
            for index, result in zip(indices, pool.map(look, indices), strict=True):
                on_pair()
                if isinstance(result, Problem):
                    findings.problems.append(result)
                    continue
                row, modes, odd = result
                seen.table[index] = row
                if odd is not None:
                    seen.table[index]["usable"] = False
                    seen.misfits[index] = odd
                    continue
                # Of more than 255 kinds the last is all the others.
                seen.table[index]["mode"] = [
                    codes.setdefault(mode, min(len(codes), 255)) for mode in modes
                ]
                findings.sizes[(row[1], row[2])] += 1
    seen.modes = list(codes)
    return findings


def find_problems(
    findings: Mapping[str, Findings],
    sources: Mapping[str, PairSource],
    *,
    swap: bool = False,
    plainer: int | None = None,
    compare: bool = True,
    others: Sequence[Problem] = (),
) -> list[Problem]:
    """Everything that is wrong, or may be, with splits that were looked through; severe first.

    Args:
        findings, sources: by split, the one to train on first.
        swap: as `look_through` had it.
        plainer: which image the task expects to have fewer colours: 0 the source, 1 the target,
            None where either may.
        compare: source and target are different images; the task makes neither from the other.
        others: what was found before.
    """

    def read(split: str, index: int) -> tuple[Pixels, Pixels]:
        first, second = sources[split].pair(index)
        return (second, first) if swap else (first, second)

    problems = [*others, *(each for found in findings.values() for each in found.problems)]
    everything = [found.seen for found in findings.values()]
    problems += find_unsuitable(everything, compare=compare)
    identical = any(is_rule(is_identical(seen), seen) for seen in everything)
    for seen in everything:
        for find in (find_blank, find_cut, find_shapes, find_modes):
            problems += find(seen)
        if compare and not seen.made:
            problems += find_identical(seen, rule=identical)
            problems += find_direction(seen, plainer)
            problems += find_shifted(seen)
    problems += find_duplicates(everything, read)
    return in_order(problems)
