"""Refusals on the ledger: the first of each second one by one, the rest summed once a minute.

A refusal's answer does not wait until this is durable: nothing was signed, so nothing that could be
lost has left the signer (failure F5 is about what was done). Bodies are never recorded.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Final

from events.base import Struct
from events.leaves import LeafRefusalsCounted, LeafRefused, RefusalCode, RefusalCount
from services.signer.window import Window

RECORDED_PER_SECOND: Final = 10
COUNTED_EVERY: Final = timedelta(minutes=1)
REQUESTERS_MAX: Final = 256  # told apart in one count; all others are counted together
WAITING_MAX: Final = 100  # recorded one by one while no entry can be appended
IDENTITY_MAX: Final = 2048


class Refusal(Struct):
    """A refusal, as far as it is known whom and what it was about."""

    request_id: str | None
    identity: str | None
    code: RefusalCode
    message: str
    requester: str | None


class RefusalRecord:
    """What this signer refused and has not recorded yet. Bounded, whatever is sent."""

    def __init__(self, signer: str, now: datetime) -> None:
        self._signer = signer
        self._waiting: list[Refusal] = []
        self._one_by_one = Window(RECORDED_PER_SECOND)
        self._since = now
        self._counts: Counter[tuple[RefusalCode, str | None]] = Counter()

    def add(self, refusal: Refusal, now: datetime) -> None:
        """Take note of a refusal."""
        if len(self._waiting) < WAITING_MAX and self._one_by_one.room(now.timestamp()):
            self._waiting.append(refusal)
        else:
            self.count(refusal.code, refusal.requester, now)

    def count(self, code: RefusalCode, requester: str | None, now: datetime) -> None:
        """Take note of a refusal that is only to be summed."""
        self._count(code, requester, 1, since=now)

    @property
    def waiting(self) -> bool:
        """Say whether refusals wait to be recorded one by one."""
        return bool(self._waiting)

    def sum_is_due(self, now: datetime) -> bool:
        """Say whether the rest is to be summed now."""
        return bool(self._counts) and not timedelta() <= now - self._since < COUNTED_EVERY

    def take(
        self, now: datetime, *, grant_sequence: int, limit: int, closing: bool = False
    ) -> list[LeafRefused | LeafRefusalsCounted]:
        """Take out what is to be recorded now, under this grant: at most `limit` events.

        `closing`: the sum too, although its minute is not over.
        """
        taken: list[LeafRefused | LeafRefusalsCounted] = []
        due = self.sum_is_due(now) or (closing and bool(self._counts))
        if due and limit > 0:
            taken.append(self._sum(now, grant_sequence))
        room = max(0, limit - len(taken))
        taken += [self._event(refusal, grant_sequence) for refusal in self._waiting[:room]]
        del self._waiting[:room]
        return taken

    def put_back(self, events: list[LeafRefused | LeafRefusalsCounted]) -> None:
        """Take back what could not be recorded under the grant that it was taken for."""
        refused = [event for event in events if isinstance(event, LeafRefused)]
        self._waiting[:0] = [
            Refusal(
                request_id=event.request_id,
                identity=event.identity,
                code=event.code,
                message=event.message,
                requester=event.requester,
            )
            for event in refused
        ]
        for event in events:
            if isinstance(event, LeafRefusalsCounted):
                for count in event.counts:
                    self._count(count.code, count.requester, count.count, since=event.since)

    def _count(
        self, code: RefusalCode, requester: str | None, number: int, *, since: datetime
    ) -> None:
        self._since = min(self._since, since) if self._counts else since
        key = (code, requester)
        if key not in self._counts and len(self._counts) >= REQUESTERS_MAX:
            key = (code, None)
        self._counts[key] += number

    def _sum(self, now: datetime, grant_sequence: int) -> LeafRefusalsCounted:
        counted = LeafRefusalsCounted(
            signer=self._signer,
            grant_sequence=grant_sequence,
            since=self._since,
            until=max(now, self._since),
            counts=tuple(
                RefusalCount(code=code, requester=requester, count=number)
                for (code, requester), number in self._counts.items()
            ),
        )
        self._counts.clear()
        return counted

    def _event(self, refusal: Refusal, grant_sequence: int) -> LeafRefused:
        return LeafRefused(
            request_id=refusal.request_id,
            identity=refusal.identity,
            code=refusal.code,
            message=refusal.message,
            signer=self._signer,
            grant_sequence=grant_sequence,
            requester=refusal.requester,
        )
