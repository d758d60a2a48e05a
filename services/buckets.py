"""Streams of which only each subject's last message counts: buckets, the root-change stream.

By raw requests: nats-py's own key-value store drops the time to live (nats.md, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError

from events import jetstream
from events.base import Moment, Struct
from events.log import LedgerError
from events.subjects import Subjects

TIMEOUT_SECONDS: Final = 2.0
VALUES_MAX: Final = 10_000  # below one prefix, deleted ones that leave a marker included

_DELETED: Final = (b"nats-marker-reason:", b"kv-operation: del", b"kv-operation: purge")


class BucketError(LedgerError):
    """The stream did not answer, or refused; whether a write is stored is not known."""


class WrongRevisionError(BucketError):
    """Another write came first: nothing was written."""


class Value(Struct):
    """The last message of a key."""

    key: str
    revision: int  # its sequence in the stream
    written: datetime  # the server's time
    data: bytes | None  # None: deleted or expired, only the marker is left


class _Message(Struct):
    subject: str
    seq: int
    time: Moment
    hdrs: bytes = b""
    data: bytes = b""


class _Reply(Struct):
    message: _Message


_REPLY: Final = msgspec.json.Decoder(_Reply)


class LastValues:
    """The keys below one prefix of one stream, each with its last value.

    Everything is read from the stream leader's copy (architecture 3.1, rule 5).
    """

    def __init__(self, nc: Client, *, stream: str, prefix: str) -> None:
        self._nc = nc
        self._stream = stream
        self._prefix = prefix
        self._get = f"$JS.API.STREAM.MSG.GET.{stream}"

    async def get(self, key: str) -> Value | None:
        """Return the last message of a key, a marker included; None where nothing is left of it.

        Raises BucketError.
        """
        return await self._read({"last_by_subj": self._prefix + key})

    async def all(self) -> list[Value]:
        """Return every key that holds a value, by revision. Raises BucketError.

        What is written meanwhile is seen or not; nothing that stays is missed, since a message
        that is replaced only moves further on in the stream.
        """
        found: dict[str, Value] = {}
        sequence = 1
        for _ in range(VALUES_MAX):
            value = await self._read({"seq": sequence, "next_by_subj": f"{self._prefix}>"})
            if value is None:
                return [value for value in found.values() if value.data is not None]
            found.pop(value.key, None)
            found[value.key] = value
            sequence = value.revision + 1
        raise BucketError(f"{self._stream} holds more than {VALUES_MAX} values")

    async def write(
        self,
        key: str,
        data: bytes,
        *,
        expected: int,
        ttl_seconds: int | None = None,
        timeout: float = TIMEOUT_SECONDS,
        headers: Mapping[str, str] = {},
    ) -> int:
        """Write a key whose revision is `expected` (0: it has none); return its new revision.

        Durable when it returns. Raises WrongRevisionError, or BucketError: then it is not known
        whether it was written.
        """
        conditions = {"Nats-Expected-Last-Subject-Sequence": str(expected)}
        if ttl_seconds is not None:
            conditions["Nats-TTL"] = f"{ttl_seconds}s"
        return await self._write(key, data, {**headers, **conditions}, timeout)

    async def purge(
        self, key: str, *, expected: int | None = None, ttl_seconds: int | None = None
    ) -> None:
        """Remove a key's value; a marker is left in its place, for `ttl_seconds` if given.

        The stream keeps one message of a key, so it needs no rollup (and buckets allow none).
        Raises as `write` does.
        """
        headers = {"KV-Operation": "PURGE"}
        if expected is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(expected)
        if ttl_seconds is not None:
            headers["Nats-TTL"] = f"{ttl_seconds}s"
        await self._write(key, b"", headers, TIMEOUT_SECONDS)

    async def _write(self, key: str, data: bytes, headers: dict[str, str], timeout: float) -> int:
        try:
            reply = await self._nc.request(
                self._prefix + key, data, timeout=timeout, headers=headers
            )
        except (NatsError, TimeoutError) as error:
            raise BucketError(f"{self._stream}, {key}: {type(error).__name__}") from error
        match jetstream.read_answer(reply.data):
            case jetstream.Accepted(sequence=revision):
                return revision
            case jetstream.Moved(last=last):
                raise WrongRevisionError(f"{self._stream}, {key}: its revision is {last}")
            case answer:
                raise BucketError(f"{self._stream}, {key}: {answer}")

    async def _read(self, request: dict[str, Any]) -> Value | None:
        try:
            reply, error = await jetstream.request(self._nc, self._get, request)
        except LedgerError as unreachable:
            raise BucketError(f"{self._stream}: {unreachable}") from unreachable
        if error is not None:
            if error.err_code == jetstream.NO_MESSAGE:
                return None
            raise BucketError(f"{self._stream}: {error}")
        try:
            message = _REPLY.decode(reply).message
        except msgspec.MsgspecError as malformed:
            raise BucketError(f"{self._stream}: {malformed}") from malformed
        if not message.subject.startswith(self._prefix):
            raise BucketError(f"{self._stream}: a message of another stream")
        headers = message.hdrs.lower()
        return Value(
            key=message.subject.removeprefix(self._prefix),
            revision=message.seq,
            written=message.time,
            data=None if any(mark in headers for mark in _DELETED) else message.data,
        )


def bucket(nc: Client, name: str) -> LastValues:
    """Return a key-value bucket."""
    return LastValues(nc, stream=Subjects.stream_of_bucket(name), prefix=Subjects.key(name, ""))
