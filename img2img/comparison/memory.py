"""What the runs of a comparison have scored, metric by metric, kept between its commands."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from img2img.files import whole_file


@dataclass(frozen=True)
class Scores:
    """What one run scored by one or more metrics.

    Attributes:
        scores: by name.
        higher_is_better: of each of these.
        ceiling: of those that a judge gave, what it makes of the real targets.
        failed: why a metric could not be computed, by the metric's name.
        pairs: that were scored.
        skipped: that could not be read.
    """

    scores: dict[str, float] = field(default_factory=dict)
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    ceiling: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    pairs: int = 0
    skipped: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def together(found: Iterable[Scores]) -> Scores:
    """The scores of several metrics of one run."""
    of = list(found)
    return Scores(
        {name: value for each in of for name, value in each.scores.items()},
        {name: value for each in of for name, value in each.higher_is_better.items()},
        {name: value for each in of for name, value in each.ceiling.items()},
        {name: value for each in of for name, value in each.failed.items()},
        max((each.pairs for each in of), default=0),
        max((each.skipped for each in of), default=0),
    )


class Memory:
    """Scores by a key that says all that they depend on: a file that only grows.

    So what an earlier command has computed is there for a later one that asks for it again,
    whatever other metrics, seeds or variants were asked for in between. A metric that failed is not
    kept: what it lacked may be there the next time.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = _read(path)

    def get(self, key: str) -> Scores | None:
        return self._known.get(key)

    def add(self, found: Mapping[str, Scores]) -> None:
        """Keep what did not fail, by key.

        Raises:
            OSError: it cannot be written.
        """
        self._known |= {key: scores for key, scores in found.items() if not scores.failed}
        whole = {key: scores.as_json() for key, scores in self._known.items()}
        with whole_file(self.path) as partial:
            partial.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8", newline="")


def _read(path: Path) -> dict[str, Scores]:
    found: dict[str, Scores] = {}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        for key, value in said.items():
            found[key] = Scores(**value)
    # There is none, or it was written by another version, or by hand: all is scored again.
    except (OSError, ValueError, RecursionError, AttributeError, TypeError):
        return {}
    return found
