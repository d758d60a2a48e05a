"""Questions to JetStream, and what its answers mean: the one place that knows the error codes."""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError
from tenacity import (
    AsyncRetrying,
    RetryError,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from events.base import Struct
from events.log import LedgerError, UnreachableError

ANSWER_SECONDS: Final = 1.0  # of waiting for one answer
UNANSWERED_SECONDS: Final = 5.0  # of asking again, before the caller is told

NO_MESSAGE: Final = 10037
NO_STREAM: Final = 10059
WRONG_LAST_SEQUENCE: Final = 10071
DUPLICATE_IN_BATCH: Final = 10201
# Definite refusals although their status is 503: no room for more (nats.md, section 11).
_NO_ROOM: Final = frozenset({10023, 10077})
# Nothing was stored by this try, and the same bytes may yet be: not the stream's leader; the same
# message id is in flight; another conditional write is; atomic batch incomplete; too many batches.
_LATER: Final = frozenset({10009, 10158, 10164, 10176, 10210})
_LAST_SEQUENCE: Final = re.compile(r"wrong last sequence: (\d{1,20})")


class ApiError(Struct):
    """An error as JetStream tells it."""

    code: int  # as of HTTP
    err_code: int = 0
    description: str = ""

    def __str__(self) -> str:
        """Return what a person needs."""
        return f"{self.description} ({self.err_code or self.code})"


class Accepted(Struct):
    """It is stored; `sequence` is of its last message."""

    sequence: int
    messages: int
    duplicate: bool  # it was there already, under this message id


class Moved(Struct):
    """The condition does not hold; the subject's last sequence is `last` (0: not known)."""

    last: int


class AlreadyHeld(Struct):
    """A message id of the atomic batch is stored already."""


class Later(Struct):
    """Not by this try; to be sent again unchanged."""

    reason: str


class Refused(Struct):
    """No, for a reason that waiting does not change."""

    error: ApiError


T = TypeVar("T")

Answer = Accepted | Moved | AlreadyHeld | Later | Refused


class _Acknowledgement(Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    count: int = 1
    error: ApiError | None = None


class _Reply(Struct):
    error: ApiError | None = None


class StreamState(Struct):
    """What a stream holds."""

    messages: int
    last_seq: int


class _Info(Struct):
    state: StreamState


_ACKNOWLEDGEMENT = msgspec.json.Decoder(_Acknowledgement)
_REPLY = msgspec.json.Decoder(_Reply)


def read_answer(data: bytes) -> Answer:
    """Read the answer to a publish (the table of nats.md, section 11).

    What cannot be read is `Later`: it says nothing of what was stored.
    """
    try:
        acknowledgement = _ACKNOWLEDGEMENT.decode(data)
    except msgspec.MsgspecError as error:
        return Later(reason=f"an answer that cannot be read: {error}")
    refusal = acknowledgement.error
    if refusal is None:
        if acknowledgement.seq < 1:
            return Later(reason="an answer without a sequence")
        return Accepted(
            sequence=acknowledgement.seq,
            messages=acknowledgement.count,
            duplicate=acknowledgement.duplicate,
        )
    if refusal.err_code == WRONG_LAST_SEQUENCE:
        told = _LAST_SEQUENCE.search(refusal.description)
        return Moved(last=int(told[1]) if told else 0)
    if refusal.err_code == DUPLICATE_IN_BATCH:
        return AlreadyHeld()
    if is_passing(refusal):
        return Later(reason=str(refusal))
    return Refused(error=refusal)


def is_passing(error: ApiError) -> bool:
    """Whether the same question may be answered otherwise in a moment."""
    return error.err_code in _LATER or (error.code == 503 and error.err_code not in _NO_ROOM)


async def request(nc: Client, subject: str, body: object = None) -> tuple[bytes, ApiError | None]:
    """Ask JetStream's API what may be asked twice; returns the reply and its error.

    Asks again while there is no answer, or none but "not now". Raises UnreachableError when that
    went on for UNANSWERED_SECONDS, and LedgerError for a reply that cannot be read.
    """
    asked = AsyncRetrying(
        retry=retry_if_exception_type(UnreachableError),
        wait=wait_random_exponential(multiplier=0.02, max=0.5),
        stop=stop_after_delay(UNANSWERED_SECONDS),
    )
    try:
        return await asked(_request, nc, subject, body)
    except RetryError as error:
        last = error.last_attempt.exception()
        raise UnreachableError(f"{subject}: no answer: {last}") from last


async def stream_state(nc: Client, stream: str) -> StreamState:
    """Return what a stream holds now; raises LedgerError (UnreachableError)."""
    subject = f"$JS.API.STREAM.INFO.{stream}"
    reply, error = await request(nc, subject)
    if error is not None:
        raise LedgerError(f"{subject}: {error}")
    return decode(reply, _Info).state


def decode(reply: bytes, kind: type[T]) -> T:
    """Read a reply of JetStream's API; raises LedgerError where it is not what it should be."""
    try:
        return msgspec.json.decode(reply, type=kind)
    except msgspec.MsgspecError as error:
        raise LedgerError(f"JetStream's reply cannot be read: {error}") from error


async def _request(nc: Client, subject: str, body: object) -> tuple[bytes, ApiError | None]:
    data = b"" if body is None else msgspec.json.encode(body)
    try:
        reply = await nc.request(subject, data, timeout=ANSWER_SECONDS)
    except (NatsError, TimeoutError) as failed:
        raise UnreachableError(str(failed) or type(failed).__name__) from failed
    error = decode(reply.data, _Reply).error
    if error is not None and is_passing(error):
        raise UnreachableError(str(error))
    return reply.data, error
