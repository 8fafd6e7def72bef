"""What pairs are called in tables and pictures."""

from __future__ import annotations

from pathlib import Path

from img2img.data.source import PairSource
from img2img.picture import Pixels


class ShortNames:
    """Pairs whose names are paths from the folder that they lie in, where they are below it.

    Args:
        pairs: any.
        root: that folder, as the recipe or the command gives it.
    """

    def __init__(self, pairs: PairSource, root: Path) -> None:
        self._pairs, self._root = pairs, root

    def __len__(self) -> int:
        return len(self._pairs)

    def name(self, index: int) -> str:
        """The name of a pair, shortened."""
        name = self._pairs.name(index)
        try:
            return str(Path(name).relative_to(self._root))
        except ValueError:
            return name

    def pair(self, index: int) -> tuple[Pixels, Pixels]:
        """The pair, as it is."""
        return self._pairs.pair(index)
