"""Work side by side within bounds: reading ahead, batches, writing behind.

Nothing here knows images. Weights are what a thing takes of the memory, in any unit.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Begun = tuple[int, Callable[[], Loaded]]


class Room:
    """Room for a weight; what is heavier than all of it comes in alone. For several threads."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.held = 0
        self.closed = False
        self._turn = 0
        self._changed = threading.Condition()

    def enter(self, turn: int, weight: int) -> bool:
        """Wait for the turn and for room; False if it was closed meanwhile.

        Turns come one after another from 0 on, each once. A later one never takes the room that
        an earlier one waits for.
        """

        def may() -> bool:
            fits = self.held == 0 or self.held + weight <= self.size
            return self.closed or (turn == self._turn and fits)

        with self._changed:
            self._changed.wait_for(may)
            self._turn += 1
            self.held += weight
            self._changed.notify_all()
            return not self.closed

    def leave(self, weight: int) -> None:
        """Give back what `enter` was given."""
        with self._changed:
            self.held -= weight
            self._changed.notify_all()

    def close(self) -> None:
        """Let everybody in who waits."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()


class Closed(Exception):
    """Whoever wanted the result has gone."""


def read_ahead(
    items: Iterable[Item],
    begin: Callable[[Item], Begun[Loaded]],
    *,
    threads: int,
    count: int,
    weight: int,
) -> Generator[tuple[Item, Loaded], None, None]:
    """Load items in threads while those before are in use; they come in order.

    Args:
        items: taken one by one, in the caller's thread.
        begin: finds out an item's weight, and returns it with what loads the item.
        threads: how many load.
        count: items that are ahead at most.
        weight: what they weigh together at most, unless one alone weighs more.
    """
    room = Room(weight)

    def load(turn: int, item: Item) -> tuple[int, Loaded]:
        weighs = 0
        try:
            weighs, rest = begin(item)
        finally:
            # Whatever happens: the next one waits for its turn.
            stays = room.enter(turn, weighs)
        if not stays:
            raise Closed
        return weighs, rest()

    waiting: deque[tuple[Item, Future[tuple[int, Loaded]]]] = deque()
    numbered = enumerate(items)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    try:
        while True:
            for turn, item in itertools.islice(numbered, count - len(waiting)):
                waiting.append((item, pool.submit(load, turn, item)))
            if not waiting:
                return
            item, task = waiting.popleft()
            weighs, loaded = task.result()
            del task
            room.leave(weighs)
            yield item, loaded
    finally:
        room.close()
        pool.shutdown(cancel_futures=True)


def batches(
    items: Iterable[Item],
    kind: Callable[[Item], Hashable],
    most: Callable[[Item], int],
    weigh: Callable[[Item], int],
    *,
    count: int,
    weight: int,
) -> Iterator[list[Item]]:
    """Groups of items of one kind, also where kinds come mixed.

    What is grouped depends on the order of the items and on nothing else, such as time.

    Args:
        items: in order.
        kind: what must be equal in a group.
        most: how many items like this make a whole group.
        weigh: an item's weight.
        count: items that wait for others of their kind at most.
        weight: what they weigh together at most.
    """
    groups: dict[Hashable, list[Item]] = {}
    waiting = held = 0

    def take(key: Hashable) -> list[Item]:
        nonlocal waiting, held
        group = groups.pop(key)
        waiting -= len(group)
        held -= sum(map(weigh, group))
        return group

    for item in items:
        key = kind(item)
        group = groups.setdefault(key, [])
        group.append(item)
        waiting += 1
        held += weigh(item)
        if len(group) >= most(item):
            yield take(key)
        while waiting > count or held > weight:
            # Dictionaries keep their order, so the first group has waited longest.
            yield take(next(iter(groups)))
    while groups:
        yield take(next(iter(groups)))


class WriteBehind:
    """Does tasks in threads while the next are made; a context.

    Left without an error, it has done all of them. Left with one, it finishes those it is at.

    Args:
        threads: how many work.
        count: tasks that wait or are worked at, at most.
        weight: what they weigh together at most, unless one alone weighs more.
    """

    def __init__(self, *, threads: int, count: int, weight: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="write")
        self._count = threading.Semaphore(count)
        self._room = Room(weight)
        self._turns = itertools.count()
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._given = self._busy = 0
        self._left = False

    def submit(self, weight: int, task: Callable[[], None]) -> None:
        """Hand over a task; waits while too much is held.

        Raises:
            BaseException: what an earlier task raised.
        """
        self._count.acquire()
        self._room.enter(next(self._turns), weight)
        self._raise()
        with self._changed:
            self._given += 1
        self._pool.submit(self._do, weight, task)

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                with self._changed:
                    self._changed.wait_for(lambda: not self._given)
        except BaseException as interruption:
            error = interruption
            raise
        finally:
            # What has not begun must not go on behind a caller who was interrupted. Threads are
            # not joined for that: one whose start or join was interrupted is lost to its pool.
            with self._changed:
                self._left = True
                self._changed.wait_for(lambda: not self._busy)
            self._pool.shutdown(cancel_futures=True)
        if error is None:
            self._raise()

    def _do(self, weight: int, task: Callable[[], None]) -> None:
        with self._changed:
            begins = self._error is None and not self._left
            self._busy += begins
        try:
            if begins:
                task()
        except BaseException as error:
            self._error = error
        finally:
            self._room.leave(weight)
            self._count.release()
            with self._changed:
                self._busy -= begins
                self._given -= 1
                self._changed.notify_all()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
