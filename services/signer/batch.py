"""Group commit: what arrives while one entry is on its way to disk goes into the next, together.

No timer: a lone request is committed at once; under load entries grow by themselves, and with them
falls the cost of each leaf (architecture 3.3).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from events.envelope import ENTRY_BYTES_MAX
from services.waiting import cancelled

LEAVES_MAX: Final = 128  # in one entry: more save little, and each waits for all to be signed
LEAVES_BYTES_MAX: Final = ENTRY_BYTES_MAX * 3 // 4  # refusals ride along
QUEUE_MAX: Final = 2_048  # requests; the last of them waits well under a second
QUEUE_BYTES_MAX: Final = 16 * 1024 * 1024
QUIET_TURNS: Final = 5  # of the event loop, in which what the socket holds already is taken in
CHUNK: Final = 16  # requests between two turns of everything else in this process: 3 ms


class Sized(Protocol):
    """What waits in memory or goes into an entry."""

    @property
    def size(self) -> int:
        """Return its size in bytes, about."""
        ...


Item = TypeVar("Item", bound=Sized)
Ready = TypeVar("Ready", bound=Sized)


class GroupCommit(Generic[Item, Ready]):
    """Prepares what arrives and commits it in groups, one group at a time.

    The next group is prepared while the one before is committed, and committed after it.
    """

    def __init__(
        self,
        *,
        prepare: Callable[[Sequence[Item]], Awaitable[Sequence[Ready]]],
        commit: Callable[[Sequence[Ready]], Coroutine[Any, Any, None]],
    ) -> None:
        self._prepare = prepare
        self._commit = commit
        self._queue: deque[Item] = deque()
        self._queue_bytes = 0
        self._wake = asyncio.Event()
        self._nudged = False
        self._flying = False

    def put(self, items: Iterable[Item]) -> list[Item]:
        """Take items in; returns those that there is no room for."""
        left = []
        for item in items:
            if len(self._queue) >= QUEUE_MAX or self._queue_bytes >= QUEUE_BYTES_MAX:
                left.append(item)
            else:
                self._queue.append(item)
                self._queue_bytes += item.size
        if not self._flying or len(self._queue) >= CHUNK:
            self._wake.set()
        return left

    def put_first(self, items: Sequence[Item]) -> None:
        """Take items in before all others, room or not: they had their place already."""
        self._queue.extendleft(reversed(items))
        self._queue_bytes += sum(item.size for item in items)
        self._wake.set()

    def nudge(self) -> None:
        """Have a group committed soon, be it empty."""
        self._nudged = True
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled. Raises what `prepare` and `commit` raise."""
        flight: asyncio.Task[None] | None = None
        try:
            while True:
                group = await self._gather(flight)
                if flight is not None:
                    await flight
                    flight = None
                    self._flying = False
                if group or self._nudged:
                    self._nudged = False
                    flight = asyncio.create_task(self._commit(group))
                    flight.add_done_callback(lambda _: self._wake.set())
                    self._flying = True
                elif not self._queue:
                    await self._wake.wait()
        finally:
            if flight is not None:
                await cancelled(flight)

    async def _gather(self, flight: asyncio.Task[None] | None) -> list[Ready]:
        """Prepare what there is, and what comes until the group on its way has arrived.

        By whole chunks while there is time: each costs a look at the index, and a turn of the loop.
        """
        group: list[Ready] = []
        size = quiet = 0
        while len(group) < LEAVES_MAX and size < LEAVES_BYTES_MAX:
            self._wake.clear()
            arrived = flight is None or flight.done()
            if len(self._queue) >= (1 if arrived else CHUNK):
                quiet = 0
                ready = await self._prepare(self._take(min(CHUNK, LEAVES_MAX - len(group))))
                group.extend(ready)
                size += sum(item.size for item in ready)
                await asyncio.sleep(0)
            elif arrived and quiet >= QUIET_TURNS:
                break
            elif arrived:
                quiet += 1
                await asyncio.sleep(0)
            else:
                await self._wake.wait()
        return group

    def _take(self, number: int) -> list[Item]:
        items = [self._queue.popleft() for _ in range(min(number, len(self._queue)))]
        self._queue_bytes -= sum(item.size for item in items)
        return items
