"""Durable requests: taken from their queue when there is room, and removed once they are done.

A request is in the queue until what became of it is on the ledger. So a look-up that finds nothing
on the ledger asks here: the queue is read to its end *after* the look-up came, and then the ledger
is looked at once more. Whatever was acknowledged before it is found, here or there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import structlog

from events.log import UnreachableError
from services.breakpoints import reached
from services.signer.backlog import Backlog
from services.signer.held import Held
from services.signer.holdings import Holdings, Standing
from services.signer.submit_queue import SubmitQueue
from services.signer.work import Work
from services.waiting import any_set, cancelled

POLL_SECONDS: Final = 0.5  # between two looks at the queue that nobody asked for
WHOLE_SECONDS: Final = 300.0  # between two readings of the whole of it: somebody may remove some
LOST_SECONDS: Final = 1.0  # before the next try while the queue does not answer
IN_HAND_MAX: Final = 64
LIMITED_IN_HAND_MAX: Final = 1  # they wait for their turn among all others, and leave them theirs

_log = structlog.get_logger()


class Intake:
    """The durable requests of one run of a signer.

    `holdings` tells what it holds now, `standing` what to do with a partition; `put` takes a
    request that is to be decided, `put_first` look-ups that can be answered now.
    """

    def __init__(
        self,
        queue: SubmitQueue,
        *,
        holdings: Callable[[], Holdings],
        standing: Callable[[int], Standing],
        put: Callable[[Work], Awaitable[None]],
        put_first: Callable[[Sequence[Work]], None],
    ) -> None:
        self._queue = queue
        self._holdings = holdings
        self._standing = standing
        self._put = put
        self._put_first = put_first
        self._backlog = Backlog()
        self._read_up_to = 0
        self._covered: frozenset[int] = frozenset()  # partitions that were read from the beginning
        self._whole_at = 0.0  # when the whole queue is read again, by the loop's clock
        self._done: deque[int] = deque()  # on the ledger, and still in the queue
        self._removing: set[int] = set()
        self._asked = Held()
        self._look = asyncio.Event()
        self._work = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled; raises LedgerError for answers of JetStream that make no sense."""
        tasks = [
            asyncio.create_task(_for_ever(self._read, self._look)),
            asyncio.create_task(_for_ever(self._progress, self._work)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            await cancelled(*tasks)

    @property
    def waiting(self) -> int:
        """Return how many are known to wait."""
        return len(self._backlog)

    # --- what the signer says of them

    def holds(self, work: Work) -> bool:
        """Say whether a durable request of the same id waits, as far as the queue was read."""
        assert work.request is not None
        return self._backlog.holds(work.subject, work.request.request_id)

    def look(self, work: Work) -> bool:
        """Have the queue read to its end, and the look-up decided then; False: too many wait."""
        self._look.set()
        return self._asked.add(work)

    def late(self, now: float) -> list[Work]:
        """Take out the look-ups that have waited too long: the queue does not answer."""
        return self._asked.late(now)

    def done(self, work: Work) -> None:
        """Take note that what became of it is durable: it may be removed."""
        if work.submissions:
            self._backlog.gone(work.submissions)
            self._done.extend(work.submissions)
            self._removing.update(work.submissions)
            self._work.set()

    def again(self, work: Work, *, retry_after: float | None) -> None:
        """Have it tried again later."""
        now = asyncio.get_running_loop().time()
        self._backlog.again(work.submissions, now, retry_after=retry_after or 0.0)
        self._work.set()  # there is room for another

    def put_back(self, work: Work) -> None:
        """Take note that it was not decided, and by this run may never be."""
        self._backlog.put_back(work.submissions)

    # --- the queue

    async def _read(self) -> None:
        """Read what has come; all of it where a partition is new, and now and then anyway."""
        held = self._holdings().partitions
        asked = self._asked.all()
        self._backlog.keep_partitions(held)
        self._covered &= held
        now = asyncio.get_running_loop().time()
        whole = bool(held - self._covered) or now >= self._whole_at
        position = 0 if whole else self._read_up_to
        found: set[int] = set()
        while held and (submission := await self._queue.after(position)) is not None:
            position = submission.sequence
            found.add(position)
            if submission.partition in held and position not in self._removing:
                self._backlog.add(submission)
                self._work.set()
        if whole:
            self._backlog.keep_read(found)
            self._whole_at = now + WHOLE_SECONDS
        self._covered, self._read_up_to = held, position
        self._put_first(self._asked.release(lambda work: self._looked(work, asked, held)))

    def _looked(self, work: Work, asked: AbstractSet[Work], read: AbstractSet[int]) -> Standing:
        """Say of a look-up whether it may be decided now; what is of another signer ends there."""
        if work in asked and work.partition in read:
            work.looked = True
        elif work.partition in self._holdings().partitions:
            return "held"
        return "served"

    async def _progress(self) -> None:
        """Work on what is due while there is room, and remove what is done."""
        while self._done:
            sequence = self._done[0]
            await self._queue.remove(sequence)
            reached("submission.removed")
            self._done.popleft()
            self._removing.discard(sequence)
        loop = asyncio.get_running_loop()
        room = self._room() - self._backlog.in_hand
        for sequence in self._backlog.due(loop.time(), room, served=self._served):
            submission = await self._queue.at(sequence)
            if submission is None or submission.partition is None:
                self._backlog.gone([sequence])
            elif self._backlog.take(sequence):
                reached("submission.taken")
                await self._put(
                    Work(
                        subject=submission.subject,
                        partition=submission.partition,
                        body=submission.body,
                        requester=None,
                        heard=loop.time(),
                        replies=[],
                        submissions=[sequence],
                    )
                )

    def _served(self, partition: int) -> bool:
        return self._standing(partition) == "served"

    def _room(self) -> int:
        held = self._holdings()
        limited = held.rate_per_second > 0 or held.concurrent > 0
        return LIMITED_IN_HAND_MAX if limited else IN_HAND_MAX


async def _for_ever(step: Callable[[], Awaitable[None]], wake: asyncio.Event) -> None:
    while True:
        pause = POLL_SECONDS
        wake.clear()
        try:
            await step()
        except UnreachableError as error:
            _log.warning("the queue of durable requests does not answer", error=str(error))
            pause = LOST_SECONDS
        await any_set(wake, timeout=pause)
