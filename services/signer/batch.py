"""Group commit: what arrives while one entry is on its way to disk goes into the next, together.

No timer: a lone request is committed at once; under load entries grow by themselves, and with them
falls the cost of each leaf (architecture 3.3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from events.envelope import ENTRY_BYTES_MAX
from services.signer.queue import FairQueue, Queued
from services.waiting import cancelled

LEAVES_MAX: Final = 128  # in one entry: more save little, and each waits for all to be signed
LEAVES_BYTES_MAX: Final = ENTRY_BYTES_MAX * 3 // 4  # refusals ride along
QUIET_TURNS: Final = 5  # of the event loop, in which what the socket holds already is taken in
CHUNK: Final = 16  # requests between two turns of everything else in this process: 3 ms
CHUNKS_LATE_MAX: Final = 8  # while nothing is on its way: who is ready waits for no more than that


class Sized(Protocol):
    """What goes into an entry."""

    @property
    def size(self) -> int:
        """Return its size in bytes, about."""
        ...


Item = TypeVar("Item", bound=Queued)
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
        self._queue = FairQueue[Item]()
        self._wake = asyncio.Event()
        self._nudged = False
        self._flying = False

    def put(self, items: Iterable[Item]) -> list[Item]:
        """Take items in; returns those that there is no room for, taken in before or now."""
        left = [dropped for item in items for dropped in self._queue.put(item)]
        if not self._flying or len(self._queue) >= CHUNK:
            self._wake.set()
        return left

    def put_first(self, items: Sequence[Item]) -> None:
        """Take items in before all others, room or not: they had their place already."""
        self._queue.put_first(items)
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
        size = quiet = late = 0
        while len(group) < LEAVES_MAX and size < LEAVES_BYTES_MAX:
            self._wake.clear()
            arrived = flight is None or flight.done()
            if late >= CHUNKS_LATE_MAX:
                break  # most of what comes may be refused or known, and never fill a group
            if len(self._queue) >= (1 if arrived else CHUNK):
                quiet = 0
                late += arrived
                ready = await self._prepare(self._queue.take(min(CHUNK, LEAVES_MAX - len(group))))
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
