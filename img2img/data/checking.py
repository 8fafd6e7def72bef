"""Looking through data before a run trusts it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from img2img.data.source import PairSource
from img2img.errors import ImageError
from img2img.picture import Pixels

Size = tuple[int, int]


@dataclass
class Findings:
    """What one split holds.

    Attributes:
        pairs: how many there are, unusable ones included.
        sizes: how often each (width, height) of one image occurs.
        problems: unusable pairs, file and reason.
    """

    pairs: int
    sizes: Counter[Size] = field(default_factory=Counter)
    problems: list[tuple[str, str]] = field(default_factory=list)

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
    judge: Callable[[Pixels, Pixels], str | None] | None = None,
) -> Findings:
    """Decode every pair, in parallel, and say which cannot be used and why.

    Args:
        source: the pairs of one split.
        on_pair: called after each.
        judge: given a pair's first and second image, says why the task cannot use them, or None.
    """
    findings = Findings(len(source))

    def look(index: int) -> Size | tuple[str, str]:
        try:
            first, second = source.pair(index)
        except ImageError as error:
            return (str(error.path), error.reason)
        odd = judge(first, second) if judge is not None else None
        if odd is not None:
            return (source.name(index), odd)
        return (first.shape[1], first.shape[0])

    # Decoders release the interpreter, so threads are enough.
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        for result in pool.map(look, range(len(source))):
            on_pair()
            if isinstance(result[0], str):
                findings.problems.append((result[0], str(result[1])))
            else:
                findings.sizes[(int(result[0]), int(result[1]))] += 1
    return findings
