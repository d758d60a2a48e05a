"""Requests that wait to be decided: bounded, and taken in turns from all who ask."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Final, Generic, Protocol, TypeVar

ITEMS_MAX: Final = 2_048
BYTES_MAX: Final = 16 * 1024 * 1024

Asker = str | None


class Queued(Protocol):
    """What waits in memory."""

    @property
    def requester(self) -> Asker:
        """Return who asks; all that are unknown count as one."""
        ...

    @property
    def size(self) -> int:
        """Return its size in bytes, about."""
        ...


Item = TypeVar("Item", bound=Queued)


class FairQueue(Generic[Item]):
    """Whoever floods it waits behind his own, and others do not (failure F16).

    One alone may have all of the room. Where there is none left, it is taken from who has most of
    it (longest queue drop, McKenney 1990).
    """

    def __init__(self) -> None:
        self._first: deque[Item] = deque()  # had their place already
        self._rest: OrderedDict[Asker, deque[Item]] = OrderedDict()  # whose turn is next, first
        self._items = 0
        self._bytes = 0
        self._bytes_of: dict[Asker, int] = {}

    def __len__(self) -> int:
        """Return how many wait."""
        return self._items

    def put(self, item: Item) -> list[Item]:
        """Let one more wait; return those that now have no room, the newest of who has most."""
        asker = item.requester
        self._rest.setdefault(asker, deque()).append(item)
        self._bytes_of[asker] = self._bytes_of.get(asker, 0) + item.size
        self._count(item, 1)
        dropped = []
        while (self._items > ITEMS_MAX or self._bytes > BYTES_MAX) and self._rest:
            most = max(self._rest, key=self._bytes_of.__getitem__)
            dropped.append(self._leave(most, self._rest[most].pop()))
        return dropped

    def put_first(self, items: Iterable[Item]) -> None:
        """Put back before all others, room or not."""
        for item in reversed(list(items)):
            self._first.appendleft(item)
            self._count(item, 1)

    def take(self, number: int) -> list[Item]:
        """Take out at most so many: those that were put back, then one of each who asks."""
        return [self._take() for _ in range(min(number, self._items))]

    def _take(self) -> Item:
        if self._first:
            item = self._first.popleft()
            self._count(item, -1)
            return item
        asker = next(iter(self._rest))
        self._rest.move_to_end(asker)  # last in turn
        return self._leave(asker, self._rest[asker].popleft())

    def _leave(self, asker: Asker, item: Item) -> Item:
        self._bytes_of[asker] -= item.size
        if not self._rest[asker]:
            del self._rest[asker], self._bytes_of[asker]
        self._count(item, -1)
        return item

    def _count(self, item: Item, sign: int) -> None:
        self._items += sign
        self._bytes += sign * item.size
