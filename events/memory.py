"""A ledger in memory, under the same contract as the one on JetStream; for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final

from events.append import Append, authority_append, leaves_append
from events.envelope import NewEvent, Stored
from events.log import Appended, ConflictError, Grant
from events.subjects import Subjects

TICK_SECONDS: Final = 1.0


class MemoryLedger:
    """Implements `events.log.Ledger`; what it stores carries the time of its first event."""

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        self._stored: list[Stored] = []
        self._last: dict[str, int] = {}  # by subject
        self._appended: dict[str, Appended] = {}  # by message id
        self._changed = asyncio.Condition()

    async def append_authority(
        self,
        events: Sequence[NewEvent],
        *,
        term: int,
        expected_sequence: int,
        grants: Sequence[Grant] = (),
    ) -> Appended:
        """Append one authority entry and its grants (`events.log.Ledger`)."""
        append = authority_append(
            self._subjects,
            events,
            term=term,
            expected_sequence=expected_sequence,
            grants=grants,
        )
        times = [events[0].time, *(grant.event.time for grant in grants)]
        return await self._append(append, times)

    async def append_leaves(
        self, signer: str, events: Sequence[NewEvent], *, grant_sequence: int
    ) -> Appended:
        """Append one leaves entry (`events.log.Ledger`)."""
        append = leaves_append(self._subjects, signer, events, grant_sequence=grant_sequence)
        return await self._append(append, [events[0].time])

    async def last_authority(self) -> int:
        """Return the last sequence on `authority`."""
        return self._last.get(self._subjects.authority, 0)

    async def last_sequence(self) -> int:
        """Return the last sequence of all."""
        return len(self._stored)

    async def read_authority(self, after: int, *, limit: int = 256) -> list[Stored]:
        """Return messages of `authority` above `after`."""
        authority = self._subjects.authority
        return [each for each in self._stored[after:] if each.subject == authority][:limit]

    async def read(self, after: int, *, limit: int = 256) -> list[Stored]:
        """Return messages above `after`."""
        return self._stored[after : after + limit]

    async def woken(self) -> AsyncIterator[None]:
        """Yield at once, after an append, and every TICK_SECONDS."""
        seen = -1
        while True:
            if len(self._stored) > seen:
                seen = len(self._stored)
            else:
                await self._wait(seen)
            yield

    async def _wait(self, seen: int) -> None:
        try:
            async with asyncio.timeout(TICK_SECONDS), self._changed:
                await self._changed.wait_for(lambda: len(self._stored) > seen)
        except TimeoutError:
            return

    async def _append(self, append: Append, times: Sequence[datetime]) -> Appended:
        last = self._last.get(append.condition_subject, 0)
        if last != append.condition_sequence:
            raise ConflictError(append.condition_subject, last)
        if append.message_id in self._appended:
            return self._appended[append.message_id]
        first = len(self._stored) + 1
        for sequence, (message, time) in enumerate(zip(append.messages, times, strict=True), first):
            self._stored.append(
                Stored(sequence=sequence, subject=message.subject, stored=time, data=message.data)
            )
            self._last[message.subject] = sequence
        appended = Appended(sequence=first, messages=len(append.messages))
        self._appended[append.message_id] = appended
        async with self._changed:
            self._changed.notify_all()
        return appended
