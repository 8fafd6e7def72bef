"""The order of an epoch as a function from position to index, in constant time and memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from img2img.errors import DataError

Indices = NDArray[np.int64]
Words = NDArray[np.uint64]

# With so many, tests of uniformity find nothing even where each half has two or three values only.
ROUNDS = 12
# Pairs of so many shards are mixed: neighbours in an epoch then come from different parts of the
# data, and no more files than a process may well keep open are read at a time.
WINDOW = 8


class Order:
    """Each epoch's order of all pairs, drawn from the seed.

    Indices are computed from positions and nothing is shuffled, so that an epoch of millions begins
    at once and a run goes on anywhere. Where pairs lie together in shards, the shards' order is
    drawn, and pairs are mixed within windows of `WINDOW` shards that follow each other in it, so
    that reading stays local.

    Args:
        count: how many pairs there are.
        seed: the run's.
        shards: how many pairs lie in each shard, in the order of indices; None if they do not.

    Raises:
        DataError: the shards hold another number of pairs.
    """

    def __init__(self, count: int, seed: int, shards: Sequence[int] | None = None) -> None:
        self.count, self.seed = count, seed
        self._sizes = np.asarray([count] if shards is None else shards, np.int64)
        if self._sizes.sum() != count or self._sizes.min(initial=0) < 0:
            raise DataError(
                f"the source has {count} pairs, and says its shards hold {self._sizes.sum()}"
            )
        self._firsts = np.cumsum(self._sizes) - self._sizes
        self._epoch = -1
        self._shards = self._starts = np.empty(0, np.int64)

    def indices(self, epoch: int, start: int, stop: int) -> Indices:
        """The indices at positions `start` to `stop` of an epoch, both from 0 to `count`."""
        self._lay_out(epoch)
        found = np.empty(stop - start, np.int64)
        window = int(np.searchsorted(self._starts, start, side="right")) - 1
        at = start
        while at < stop:
            first, end = int(self._starts[window]), int(self._starts[window + 1])
            upto = min(end, stop)
            places = np.arange(at - first, upto - first)
            # The first two words keep shards and windows apart.
            places = permute(places, end - first, self._key(epoch, 1, window))
            found[at - start : upto - start] = self._within(window, places)
            at, window = upto, window + 1
        return found

    def _lay_out(self, epoch: int) -> None:
        """The shards in the epoch's order, and the position at which each window begins."""
        if epoch != self._epoch:
            count = len(self._sizes)
            self._shards = permute(np.arange(count), count, self._key(epoch, 0, 0))
            ends = np.cumsum(self._sizes[self._shards])
            starts = np.append(0, ends)
            self._starts = np.append(starts[:count:WINDOW], self.count)
            self._epoch = epoch

    def _within(self, window: int, places: Indices) -> Indices:
        """What lies at these places of a window's shards, laid end to end."""
        shards = self._shards[window * WINDOW : (window + 1) * WINDOW]
        ends = np.cumsum(self._sizes[shards])
        which = np.searchsorted(ends, places, side="right")
        begins = ends - self._sizes[shards]
        indices: Indices = self._firsts[shards[which]] + places - begins[which]
        return indices

    def _key(self, *words: int) -> Words:
        # The number behind keeps it from being the seed of some pair's augmentation.
        mixed = np.random.SeedSequence([self.seed, *words], spawn_key=(1,))
        return mixed.generate_state(ROUNDS, np.uint64).astype(np.uint64, copy=False)


def permute(places: Indices, count: int, key: Words) -> Indices:
    """A permutation of 0 to `count` - 1 that the key chooses, at some places of it.

    A Feistel network on pairs of numbers below a and b, where a * b is hardly more than `count`;
    what lands outside goes through it again until it does not (Black and Rogaway, Ciphers with
    arbitrary finite domains, CT-RSA 2002, methods 2 and 3).

    Args:
        places: (N,) from 0 to `count` - 1.
        count: of the permutation.
        key: one word for each round, an even number of them.
    """
    left_count = np.uint64(max(1, int(np.ceil(np.sqrt(count)))))
    right_count = np.uint64(-(-count // int(left_count)))
    found = places.astype(np.uint64)
    outside = np.ones(len(found), np.bool_)
    while outside.any():
        left, right = np.divmod(found[outside], right_count)
        for round_ in range(0, len(key), 2):
            left = (left + _hash(right, key[round_]) % left_count) % left_count
            right = (right + _hash(left, key[round_ + 1]) % right_count) % right_count
        found[outside] = left * right_count + right
        outside = found >= count
    return found.astype(np.int64)


def _hash(values: Words, key: np.uint64) -> Words:
    """The mixing step of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) on values and a key."""
    mixed = values * np.uint64(0x9E3779B97F4A7C15) + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
