"""The queue of durable requests, as a signer reads it: one message at a time, of the leader's copy.

There are no consumers, and so nothing to acknowledge: whose partition it is decides who works on a
request, the ledger whether it is done, and what is done is removed. Whatever is read once more, as
after a crash, is found on the ledger. (A consumer's deliveries and acknowledgements would have to
cross accounts on subjects that anyone there may name; and it cannot tell what is *not* there.)

JetStream takes away who asked before it stores a message (`Nats-Request-Info`; tried), so that
nothing in a header says anything: headers are not looked at.
"""

from __future__ import annotations

from typing import Final

import structlog
from nats.aio.client import Client

from events import jetstream
from events.base import PARTITIONS, Struct
from events.log import UnreachableError
from events.subjects import BadNameError, Subjects

_GONE: Final = "no message found"

_log = structlog.get_logger()


class Submission(Struct):
    """A durable request that waits."""

    sequence: int
    subject: str  # on which the same would be heard at once
    partition: int | None  # None: it is of nobody
    body: bytes


class _Message(Struct):
    subject: str
    seq: int
    data: bytes = b""


class _Got(Struct):
    message: _Message


class SubmitQueue:
    """Reads and removes. Every method may raise LedgerError (UnreachableError among them)."""

    def __init__(self, nc: Client, subjects: Subjects) -> None:
        self._nc = nc
        self._subjects = subjects

    async def after(self, sequence: int) -> Submission | None:
        """Return the first durable request above a sequence, None where there is none."""
        return await self._get({"seq": sequence + 1, "next_by_subj": self._subjects.submitted_all})

    async def at(self, sequence: int) -> Submission | None:
        """Return the durable request at a sequence, None where it is no more."""
        return await self._get({"seq": sequence})

    async def remove(self, sequence: int) -> None:
        """Remove one that is done; nothing happens where it is gone already."""
        subject = f"$JS.API.STREAM.MSG.DELETE.{self._subjects.submit_stream}"
        body = {"seq": sequence, "no_erase": True}  # a CSR is no secret
        _, error = await jetstream.request(self._nc, subject, body)
        if error is not None and error.description != _GONE:
            raise UnreachableError(f"{subject}: {error}")

    async def _get(self, query: dict[str, int | str]) -> Submission | None:
        subject = f"$JS.API.STREAM.MSG.GET.{self._subjects.submit_stream}"
        reply, error = await jetstream.request(self._nc, subject, query)
        if error is not None:
            if error.err_code == jetstream.NO_MESSAGE:
                return None
            raise UnreachableError(f"{subject}: {error}")
        message = jetstream.decode(reply, _Got).message
        work_subject, partition = self._whose(message.subject)
        return Submission(
            sequence=message.seq,
            subject=work_subject,
            partition=partition,
            body=message.data,  # whole, since its request id may be told; the stream bounds it
        )

    def _whose(self, stored: str) -> tuple[str, int | None]:
        """Return the subject of its work, and its partition, as the server mapped it."""
        try:
            subject = self._subjects.work_of_submitted(stored)
        except BadNameError:
            subject = stored
        token = stored.split(".")[3]
        partition = int(token) if token.isdecimal() and len(token) < 4 else PARTITIONS
        if partition >= PARTITIONS:
            _log.error("a durable request that no partition has", subject=stored)
            return subject, None
        return subject, partition
