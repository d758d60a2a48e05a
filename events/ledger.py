"""The ledger on JetStream: the only way to write it (architecture 3.1), and how workers read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    RetryError,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

from events.append import Append, Message, authority_append, leaves_append
from events.envelope import CONTENT_TYPE, NewEvent, Stored
from events.jetstream import (
    ANSWER_SECONDS,
    Accepted,
    AlreadyHeld,
    Answer,
    ApiError,
    Later,
    Moved,
    Refused,
    read_answer,
)
from events.log import (
    Appended,
    ConflictError,
    Grant,
    LedgerError,
    NotAcceptedError,
    OutcomeUnknownError,
    UnreachableError,
)
from events.lookup import Lookup, NotDefiniteError
from events.loudly import Loudly
from events.reader import LedgerReader
from events.subjects import Subjects

__all__ = ["JetStreamLedger", "LedgerReader"]

COMMIT_MESSAGE_SECONDS: Final = 0.002  # more patience, for each message of an atomic append
BACKOFF_MAX_SECONDS: Final = 1.0
QUIET_TRIES: Final = 1  # that may fail before it is told of


class JetStreamLedger:
    """Implements `events.log.Ledger`.

    One append of each kind is in flight at a time; a second one waits for its answer (rule 7). An
    append that is cancelled while it waits may be stored or not: it must be treated like
    OutcomeUnknownError.
    """

    def __init__(
        self,
        nc: Client,
        subjects: Subjects,
        *,
        duplicate_window: float = 600.0,
        durable: Callable[[], bool] = lambda: True,
    ) -> None:
        """Write and read with `nc`; `duplicate_window` is the stream's, in seconds.

        Nothing is sent while `durable` says that a server may lose what it acknowledges.
        """
        self._nc = nc
        self._durable = durable
        self._subjects = subjects
        self._limit = duplicate_window / 2
        self._authority = asyncio.Lock()
        self._leaves = asyncio.Lock()
        stream = subjects.ledger_stream
        self._reader = LedgerReader(
            nc,
            subjects.datacenter,
            direct_get=f"$JS.API.DIRECT.GET.{stream}",
            live=subjects.live,
            ledger_filter=subjects.ledger,
        )
        self._lookup = Lookup(nc, stream, self._reader)

    async def append_authority(
        self,
        events: Sequence[NewEvent],
        *,
        term: int,
        expected_sequence: int,
        grants: Sequence[Grant] = (),
    ) -> Appended:
        """Append one authority entry and its grants (`events.log.Ledger`).

        Raises NotAcceptedError where the stream will not store it, also.
        """
        append = authority_append(
            self._subjects,
            events,
            term=term,
            expected_sequence=expected_sequence,
            grants=grants,
        )
        async with self._authority:
            return await self._append(append)

    async def append_leaves(
        self, signer: str, events: Sequence[NewEvent], *, grant_sequence: int
    ) -> Appended:
        """Append one leaves entry (`events.log.Ledger`).

        Raises NotAcceptedError where the stream will not store it, also.
        """
        append = leaves_append(self._subjects, signer, events, grant_sequence=grant_sequence)
        async with self._leaves:
            return await self._append(append)

    async def last_authority(self) -> int:
        """Return the last sequence on `authority`, as the leader knows it.

        Raises UnreachableError where nobody answers.
        """
        last = await self._lookup.message({"last_by_subj": self._subjects.authority})
        return last.sequence if last is not None else 0

    async def last_sequence(self) -> int:
        """Return the last sequence of the stream, as the leader knows it.

        Raises UnreachableError where nobody answers.
        """
        return await self._lookup.last_sequence()

    async def read_authority(self, after: int, *, limit: int = 256) -> list[Stored]:
        """Return messages of `authority` above `after` (`LedgerReader.read`)."""
        return await self._reader.read(after, limit=limit, only=self._subjects.authority)

    async def read(self, after: int, *, limit: int = 256) -> list[Stored]:
        """Return messages of the whole stream above `after` (`LedgerReader.read`)."""
        return await self._reader.read(after, limit=limit)

    def woken(self) -> AsyncIterator[None]:
        """Yield when there may be something new to read (`LedgerReader.woken`)."""
        return self._reader.woken()

    async def _append(self, append: Append) -> Appended:
        """Send until the answer is definite (rule 6); only then may anything be decided anew."""
        if self._nc.is_closed:
            raise UnreachableError("the connection is closed")
        deadline = asyncio.get_running_loop().time() + self._limit
        loudly = Loudly("an append has no definite answer yet", subject=append.messages[0].subject)

        def tell(tried: RetryCallState) -> None:
            if tried.attempt_number > QUIET_TRIES and tried.outcome is not None:
                loudly.still(str(tried.outcome.exception()))

        tries = AsyncRetrying(
            retry=retry_if_exception(_is_open),
            before_sleep=tell,
            wait=wait_random_exponential(multiplier=0.02, max=BACKOFF_MAX_SECONDS),
            stop=stop_after_delay(self._limit),
        )
        try:
            async for attempt in tries:
                with attempt:
                    return await self._try(append, attempt.retry_state.attempt_number, deadline)
        except RetryError as error:
            last = error.last_attempt.exception()
            raise OutcomeUnknownError(f"{append.messages[0].subject}: {last}") from last
        raise AssertionError("tenacity ends by returning or raising")

    async def _try(self, append: Append, number: int, deadline: float) -> Appended:
        """Send once and settle the answer; after the first time a refusal may mean ourselves."""
        if self._nc.is_closed or asyncio.get_running_loop().time() > deadline:
            raise OutcomeUnknownError("closed, or stopped for longer than it may be sent again")
        match await self._send(append, number):
            case Accepted(duplicate=False, sequence=last, messages=count):
                assert count == len(append.messages), f"{count} of {len(append.messages)} stored"
                return Appended(sequence=last - count + 1, messages=count)
            case Accepted(sequence=sequence):
                return await self._lookup.settle_duplicate(append, sequence)
            case Moved(last=last) if last < append.condition_sequence:
                raise await self._lookup.told_by_one_behind(append, last)
            case Moved(last=last) if number == 1:
                raise ConflictError(append.condition_subject, last)
            case Moved(last=last):
                return await self._lookup.settle_past(append, last)
            case AlreadyHeld():
                return await self._lookup.settle_past(append, 0)
            case Refused(error=error) if number == 1:
                raise NotAcceptedError(f"{append.messages[0].subject}: {error}")
            case Refused(error=error):
                raise NotDefiniteError(str(error))  # of this try; an earlier one may be stored
            case Later(reason=reason):
                raise NotDefiniteError(reason)

    async def _send(self, append: Append, number: int) -> Answer:
        if not self._nc.is_connected:
            # nats-py would keep it, and send it when nobody waits for it any more.
            return Later(reason="not connected")
        if not self._durable():
            return Later(reason="connected again, and not known yet whether writes are durable")
        try:
            if len(append.messages) == 1:
                return await self._publish(append.messages[0], self._headers(append))
            return await self._publish_batch(append, f"{append.message_id}-{number}")
        except MaxPayloadError:
            error = ApiError(code=413, description="larger than the server's max_payload")
            return Refused(error=error)
        except (NatsError, TimeoutError) as failed:
            return Later(reason=str(failed) or type(failed).__name__)

    def _headers(self, append: Append) -> dict[str, str]:
        return {
            "Content-Type": CONTENT_TYPE,
            "Nats-Msg-Id": append.message_id,
            "Nats-Expected-Last-Subject-Sequence": str(append.condition_sequence),
            "Nats-Expected-Last-Subject-Sequence-Subject": append.condition_subject,
        }

    async def _publish(
        self, message: Message, headers: dict[str, str], *, patience: float = ANSWER_SECONDS
    ) -> Answer:
        reply = await self._nc.request(
            message.subject, message.data, timeout=patience, headers=headers
        )
        return read_answer(reply.data)

    async def _publish_batch(self, append: Append, batch: str) -> Answer:
        """Send an atomic batch; every try is a batch of its own, so that none completes another."""
        first, *middle, last = append.messages
        headers = {**self._headers(append), **_batched(batch, 1)}
        reply = await self._nc.request(
            first.subject, first.data, timeout=ANSWER_SECONDS, headers=headers
        )
        if reply.data:  # it is empty where the server has opened the batch
            return read_answer(reply.data)
        for place, message in enumerate(middle, 2):
            await self._nc.publish(message.subject, message.data, headers=_batched(batch, place))
        count = len(append.messages)
        commit = {**_batched(batch, count), "Nats-Batch-Commit": "1"}
        return await self._publish(
            last, commit, patience=ANSWER_SECONDS + count * COMMIT_MESSAGE_SECONDS
        )


def _batched(batch: str, place: int) -> dict[str, str]:
    return {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(place)}


def _is_open(error: BaseException) -> bool:
    """Whether to send again; all but these say nothing of what is stored."""
    last_words = (ConflictError, NotAcceptedError, OutcomeUnknownError)
    return isinstance(error, LedgerError) and not isinstance(error, last_words)
