"""The order of an epoch: every pair once, mixed as well as a shuffled list, and read locally."""

import sys
import tracemalloc
from itertools import permutations

import numpy as np
import pytest

from img2img.data.order import WINDOW, Order
from img2img.errors import DataError


def whole(order, epoch=0):
    return order.indices(epoch, 0, order.count)


def off(counts, expected, freedom, factor=1.0):
    """By how many standard deviations chi-square is more, or less, than chance makes it."""
    chi = factor * ((counts - expected) ** 2 / expected).sum()
    return (chi - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize("counts", [range(1, 301), (1023, 1024, 1025, 9973, 65537)])
def test_every_pair_is_seen_once(counts):
    for count in counts:
        assert (np.sort(whole(Order(count, 3), epoch=count % 7)) == np.arange(count)).all(), count


def test_any_part_is_that_of_the_whole():
    rng = np.random.default_rng(0)
    for shards in (None, [7, 0, 90, 1, 30, 30, 2, 5, 9, 11, 0, 3, 8, 4]):
        order = Order(200, 5, shards)
        everything = [whole(Order(200, 5, shards), epoch) for epoch in range(3)]
        for _ in range(60):
            epoch, (start, stop) = int(rng.integers(3)), sorted(rng.integers(0, 201, 2))
            assert (order.indices(epoch, start, stop) == everything[epoch][start:stop]).all()


def test_epochs_and_seeds_give_different_orders():
    orders = {tuple(whole(Order(30, s), e)) for s in (0, 1, 2, 2**32, 2**63 - 1) for e in range(20)}
    assert len(orders) == 100
    assert tuple(range(30)) not in orders
    assert (whole(Order(30, 1), 4) == whole(Order(30, 1), 4)).all()


@pytest.mark.parametrize("count", [2, 3, 4])
def test_all_orders_of_a_few_are_equally_likely(count):
    each = 100
    every = dict.fromkeys(permutations(range(count)), 0)
    order = Order(count, 11)
    for epoch in range(each * len(every)):
        every[tuple(whole(order, epoch).tolist())] += 1
    # Of a right one, one seed in thousands is further off; a wrong one is off by dozens.
    assert abs(off(np.array(list(every.values())), each, len(every) - 1)) < 4


@pytest.mark.parametrize(("count", "epochs"), [(7, 1200), (20, 1200), (101, 400)])
def test_each_place_sees_every_index_equally_often(count, epochs):
    order = Order(count, 2)
    seen = np.zeros((count, count))
    for epoch in range(epochs):
        seen[np.arange(count), whole(order, epoch)] += 1
    expected = epochs / count
    # Rows and columns have fixed sums, which takes from their spread.
    assert abs(off(seen, expected, (count - 1) ** 2, (count - 1) / count)) < 4
    # The first step of an epoch by itself.
    assert abs(off(seen[0], expected, count - 1)) < 4


@pytest.mark.parametrize("count", [50, 400, 4001])
def test_neighbours_are_strangers(count):
    order, rng = Order(count, 9), np.random.default_rng(1)
    tries = 80_000 // count

    def facts(orders):
        found = []
        for o in orders:
            steps = np.diff(o)
            found.append(
                (
                    np.corrcoef(o[:-1], o[1:])[0, 1],
                    np.corrcoef(np.arange(count), o)[0, 1],
                    np.abs(o - np.arange(count)).mean() / count,
                    (np.abs(steps) == 1).mean() * count,
                    ((steps[:-1] > 0) == (steps[1:] > 0)).mean(),
                    (o[:-1] % 2 == o[1:] % 2).mean(),
                )
            )
        return np.array(found)

    ours = facts(whole(order, epoch) for epoch in range(tries))
    theirs = facts(rng.permutation(count) for _ in range(tries))
    error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / tries)
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 4.5 * error).all()
    # As varied as shuffled lists, too.
    assert (ours.std(axis=0) < 1.7 * theirs.std(axis=0)).all()
    assert (ours.std(axis=0) > theirs.std(axis=0) / 1.7).all()


def test_epochs_have_nothing_in_common():
    order = Order(300, 4)
    pairs = [(whole(order, e), whole(order, e + 1)) for e in range(100)]
    same = sum(int((a == b).sum()) for a, b in pairs)
    # One in each on average, as for any two permutations: five deviations.
    assert abs(same - 100) < 50


def test_millions_begin_at_once_and_take_no_memory():
    Order(10, 0).indices(0, 0, 1)
    tracemalloc.start()
    found = Order(10**12, 0).indices(10**6, 10**12 - 5, 10**12)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    assert len(set(found.tolist())) == 5
    assert found.min() >= 0 and found.max() < 10**12 and found.max() > 10**10


# Shards


def shard_of(shards, indices):
    return np.searchsorted(np.cumsum(shards), indices, side="right")


@pytest.mark.parametrize("seed", range(8))
def test_every_pair_in_shards_is_seen_once(seed):
    rng = np.random.default_rng(seed)
    shards = [*rng.integers(0, 12, rng.integers(1, 60)).tolist(), 1]
    order = Order(sum(shards), seed, shards)
    for epoch in range(3):
        assert (np.sort(whole(order, epoch)) == np.arange(sum(shards))).all()


def test_a_window_holds_few_shards_and_mixes_them():
    shards = [50] * 40
    order = Order(2000, 1, shards)
    size = WINDOW * 50
    groups = set()
    for epoch in range(4):
        places = shard_of(shards, whole(order, epoch))
        seen = []
        for at in range(0, 2000, size):
            window = places[at : at + size]
            assert len(set(window)) == WINDOW
            seen.append(frozenset(window.tolist()))
            # Mixed: by chance one neighbour in WINDOW is from the same shard.
            same = (window[1:] == window[:-1]).mean()
            assert abs(same - 1 / WINDOW) < 0.08
        assert frozenset().union(*seen) == set(range(40))
        groups.update(seen)
    # Other shards meet in each epoch.
    assert len(groups) == 20


def test_windows_are_mixed_apart():
    """Equal ones would else take the same places of their shards in step."""
    order = Order(16 * 50, 3, [50] * 16)
    places = order.indices(0, 0, 16 * 50).reshape(2, -1) % 50
    assert (places[0] == places[1]).mean() < 0.1


def test_within_a_window_places_are_equally_likely():
    shards, epochs = [3, 5, 4], 1500
    order = Order(12, 6, shards)
    seen = np.zeros((12, 12))
    for epoch in range(epochs):
        seen[np.arange(12), whole(order, epoch)] += 1
    assert abs(off(seen, epochs / 12, 121, 11 / 12)) < 4


def test_one_shard_is_none():
    assert (whole(Order(90, 3, [90])) == whole(Order(90, 3))).all()


@pytest.mark.parametrize("shards", [[3, 3], [], [12, -2]])
def test_shards_that_do_not_add_up_are_refused(shards):
    with pytest.raises(DataError, match="has 10 pairs, and says its shards hold"):
        Order(10, 0, shards)


def test_many_shards_take_memory_of_their_number_alone():
    shards = [10**6] * 1000
    Order(10, 0).indices(0, 0, 1)
    tracemalloc.start()
    found = Order(10**9, 0, shards).indices(3, 10**8, 10**8 + 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(found.tolist())) == 4
    assert peak < 200 * sys.getsizeof(1) * 1000
