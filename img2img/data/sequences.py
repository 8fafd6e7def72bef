"""Sequences of any length in little memory: items are made when they are asked for."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")
Split = Literal["train", "val"]
# What a finished model is scored on: the pairs held out where a folder has some, else all it has.
Part = Literal["train", "val", "scored"]

# Names of files may hold any bytes, or on Windows halves of characters: they come back as they are.
_ERRORS = sys.getfilesystemencodeerrors()


class Lazy(Sequence[Item]):
    """A sequence that makes its items; a class of this kind has `__len__` and `item(index)`."""

    @abstractmethod
    def item(self, index: int) -> Item:
        """The item at an index from 0 to below the length."""

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            return [self.item(at) for at in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"index {index} of {len(self)}")
        return self.item(at)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as of lists: what is equal to one has no hash


class Texts(Lazy[str]):
    """Strings as their joined bytes and where each begins; both may lie in a file.

    Args:
        joined: (N,) uint8, all of them in UTF-8, one after another.
        starts: (count + 1,) int64, where each begins, and where the last ends.

    Raises:
        ValueError: the two do not belong together.
    """

    def __init__(self, joined: NDArray[np.uint8], starts: NDArray[np.int64]) -> None:
        if not len(starts) or starts[0] != 0 or starts[-1] != len(joined):
            raise ValueError("the texts end elsewhere than their joined bytes")
        self.joined, self.starts = joined, starts

    @staticmethod
    def of(texts: Iterable[str]) -> Texts:
        """The same strings, joined."""
        joined, ends = bytearray(), [0]
        for text in texts:
            joined += text.encode("utf-8", _ERRORS)
            ends.append(len(joined))
        return Texts(np.frombuffer(bytes(joined), np.uint8), np.array(ends, np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def item(self, index: int) -> str:
        part = self.joined[int(self.starts[index]) : int(self.starts[index + 1])]
        return part.tobytes().decode("utf-8", _ERRORS)


class Zipped(Lazy[tuple[Any, ...]]):
    """Tuples of what several sequences of one length have at an index."""

    def __init__(self, *sides: Sequence[Any]) -> None:
        self.sides = sides

    def __len__(self) -> int:
        return len(self.sides[0])

    def item(self, index: int) -> tuple[Any, ...]:
        return tuple(side[index] for side in self.sides)


class SplitOf(Lazy[Item]):
    """Every tenth item, at least one where there are two, or all of the others.

    Args:
        items: two or more.
        split: `val` for every tenth, `train` for the others.
    """

    def __init__(self, items: Sequence[Item], split: Split) -> None:
        self.items, self.split = items, split

    def before(self, end: int) -> int:
        """How many of the first `end` of all items belong to this part."""
        # Fewer than ten have no tenth: then it is the last.
        held = end // 10 if len(self.items) >= 10 else int(end == len(self.items))
        return held if self.split == "val" else end - held

    def __len__(self) -> int:
        return self.before(len(self.items))

    def item(self, index: int) -> Item:
        if self.split == "val":
            return self.items[min(10 * index + 9, len(self.items) - 1)]
        return self.items[index + index // 9]
