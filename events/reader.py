"""Reading the ledger by batched direct get: workers by JetStream's own name, auditors by theirs.

Any replica answers, so what is read may lag; what was read stays true.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from typing import Final

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from events.envelope import Stored
from events.log import GapError, LedgerError, UnreachableError

STALL_SECONDS: Final = 2.0  # without a further message, after which a read is given up
TICK_SECONDS: Final = 1.0  # between two wake-ups when nothing is heard
LIMIT_MAX: Final = 1_024  # messages in one read
BYTES_MAX: Final = 8 * 1024 * 1024  # in one read, but for its last message


class _Reply:
    """What came so far of one answer, and its end mark once that has come."""

    def __init__(self) -> None:
        self.messages: list[Msg] = []
        self.end: Mapping[str, str] = {}
        self.complete = asyncio.Event()


class LedgerReader:
    """Reads one ledger, by the names that this user has for it."""

    def __init__(
        self, nc: Client, datacenter: str, *, direct_get: str, live: str, ledger_filter: str
    ) -> None:
        """Keep the names: of the direct get, of entries once stored, of all of the ledger."""
        self._nc = nc
        self.datacenter = datacenter
        self._direct_get = direct_get
        self._live = live
        self._filter = ledger_filter
        self._inbox = nc.new_inbox()
        self._replies: dict[str, _Reply] = {}
        self._asked = 0
        self._subscribing = asyncio.Lock()
        self._subscription: Subscription | None = None

    async def read(self, after: int, *, limit: int = 256, only: str | None = None) -> list[Stored]:
        """Return messages above `after`, in order; with `only`, those on that subject.

        At most `limit` (LIMIT_MAX), and fewer where they are large or one was lost on the way: what
        is returned has no hole. Raises GapError where the whole is read and a sequence is missing,
        UnreachableError where nobody answers, LedgerError for an answer that makes no sense.
        """
        wanted = {
            "seq": after + 1,
            "next_by_subj": only or self._filter,
            "batch": min(limit, LIMIT_MAX),
            "max_bytes": BYTES_MAX,
        }
        reply = await self._ask(wanted)
        found = _chain(reply.messages, after)
        if reply.messages and not found:
            raise UnreachableError("the first message of an answer was lost on the way")
        if only is not None:
            return found
        if found and found[0].sequence != after + 1:
            raise GapError(f"sequence {after + 1} is missing: {found[0].sequence} is the next")
        for before, message in pairwise(found):
            if message.sequence != before.sequence + 1:
                raise GapError(f"sequence {before.sequence + 1} is missing")
        return found

    async def last_of(self, subjects: Sequence[str]) -> dict[str, Stored]:
        """Return the last message of each subject that has one, as one replica has them at once.

        Raises UnreachableError where nobody answers or a message was lost on the way.
        """
        reply = await self._ask({"multi_last": list(subjects)})
        found = _chain(reply.messages, 0)
        last = str(found[-1].sequence if found else 0)
        if len(found) < len(reply.messages) or last != reply.end.get("Nats-Last-Sequence", "0"):
            raise UnreachableError("a message of an answer was lost on the way")
        return {stored.subject: stored for stored in found}

    async def _ask(self, wanted: Mapping[str, object]) -> _Reply:
        """Send one direct get and wait for the whole answer."""
        self._asked += 1
        inbox = f"{self._inbox}.{self._asked}"
        reply = self._replies[inbox] = _Reply()
        try:
            async with self._subscribing:  # twice would hear every answer twice
                if self._subscription is None:
                    name = f"{self._inbox}.*"
                    self._subscription = await self._nc.subscribe(name, cb=self._heard)
            await self._nc.publish(self._direct_get, msgspec.json.encode(wanted), reply=inbox)
            await _completed(reply, self._direct_get)
        except NatsError as error:
            raise UnreachableError(f"{self._direct_get}: {error}") from error
        finally:
            del self._replies[inbox]
        match reply.end.get("Status"):
            case "204" | "404":
                return reply
            case "503":
                raise UnreachableError(f"{self._direct_get}: nobody answers")
            case status:
                raise LedgerError(f"{self._direct_get}: refused with status {status}")

    async def woken(self) -> AsyncIterator[None]:
        """Yield at once, when an entry was stored, and every TICK_SECONDS.

        What is heard is only a hint: many entries may be one wake-up, and what came while there was
        no connection is made good by the next tick.
        """
        heard = asyncio.Event()
        subscription: Subscription | None = None

        async def wake(_: Msg) -> None:
            heard.set()

        try:
            while True:
                if heard.is_set() or subscription is None:
                    heard.clear()
                    subscription = await self._hear_one(wake, before=subscription)
                yield
                await _wait(heard)
        finally:
            if subscription is not None and not heard.is_set():
                with suppress(NatsError):  # it is gone with its connection
                    await subscription.unsubscribe()

    async def _hear_one(
        self, wake: Callable[[Msg], Awaitable[None]], *, before: Subscription | None
    ) -> Subscription:
        """Subscribe to the next entry alone.

        Whoever is busy reading needs no copy of all that he is about to read. What is stored once
        he was woken is heard: the subscription is there before he looks.
        """
        try:
            subscription = await self._nc.subscribe(self._live, cb=wake)
            await subscription.unsubscribe(limit=1)
        except NatsError as error:
            if before is None:
                raise UnreachableError(f"{self._live}: {error}") from error
            return before  # the connection is closed, as the next read will say; ticks go on
        return subscription

    async def _heard(self, message: Msg) -> None:
        reply = self._replies.get(message.subject)
        if reply is None:
            return  # of a read that was given up
        headers = message.headers or {}
        # A stored message may begin with a status as well: that is up to whoever wrote it.
        if "Status" in headers and "Nats-Sequence" not in headers:
            reply.end = headers
            reply.complete.set()
        else:
            reply.messages.append(message)


async def _completed(reply: _Reply, name: str) -> None:
    """Wait for the end of a reply, as long as there is progress."""
    while not reply.complete.is_set():
        count = len(reply.messages)
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await reply.complete.wait()
        except TimeoutError:
            if len(reply.messages) == count:
                raise UnreachableError(f"{name}: no answer within {STALL_SECONDS} s") from None


async def _wait(heard: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(TICK_SECONDS):
            await heard.wait()
    except TimeoutError:
        return


def _chain(messages: list[Msg], after: int) -> list[Stored]:
    """Read messages as far as none is lost: each tells the sequence of the one sent before it."""
    found: list[Stored] = []
    sent = 0
    for message in messages:
        stored, before = _stored(message)
        if before != sent:
            break
        if stored.sequence <= max(after, sent):
            raise LedgerError(f"sequence {stored.sequence} was sent after {max(after, sent)}")
        found.append(stored)
        sent = stored.sequence
    return found


def _stored(message: Msg) -> tuple[Stored, int]:
    headers = message.headers or {}
    try:
        stored = Stored(
            sequence=int(headers["Nats-Sequence"]),
            subject=headers["Nats-Subject"],
            stored=datetime.fromisoformat(headers["Nats-Time-Stamp"]),
            data=message.data,
        )
        return stored, int(headers["Nats-Last-Sequence"])
    except (KeyError, ValueError) as error:
        raise LedgerError(f"a message without what a stored one has: {error!r}") from error
