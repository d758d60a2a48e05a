"""What a client of the CA does: ask for certificates, look at the roots, replay the ledger.

Speaks only on the subjects that account CLIENTS offers; needs none of our workers' code.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final, Self

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from events import jetstream
from events.base import RequestId, Struct
from events.envelope import Stored
from events.leaves import IdentityKind
from events.ledger import LedgerReader
from events.log import GapError, UnreachableError
from events.subjects import Subjects
from projections.bundle import Roots
from services import transport
from services.asking import Asker, Heard, NoAnswerError, RefusedLateError, error_of
from services.clock import SystemEntropy
from services.refusals import RefusedError
from services.status import Status, merged

ANSWER_SECONDS: Final = 10.0
READ_MAX: Final = 512  # entries at once
REQUEST_BYTES_MAX: Final = 64 * 1024
FULL_RETRY_SECONDS: Final = 1.0
STATUS_GATHER_SECONDS: Final = 0.8  # those who do not lead answer half a second later
ROOTS_POLL_SECONDS: Final = 10.0  # should a push have been lost


class SigningRequest(Struct, omit_defaults=True):
    """What is sent on a `sign` subject; a bare PEM or DER CSR does as well."""

    request_id: RequestId
    csr: str | None = None  # PEM; without it this only looks up what the id got


class CaClient:
    """One user's connection to a datacenter's CA.

    Every method may raise NoAnswerError, NotPermittedError, or RefusedError where the CA says no.
    """

    def __init__(self, nc: Client, datacenter: str, asker: Asker) -> None:
        self.nc = nc
        self.subjects = Subjects(datacenter)
        self._asker = asker

    @classmethod
    async def connect(
        cls,
        servers: Sequence[str],
        *,
        datacenter: str,
        creds: Path | None,
        ca: Path | None = None,
        name: str = "caledger",
        timeout: float = transport.CONNECT_TIMEOUT_SECONDS,
    ) -> Self:
        """Connect; the inbox prefix follows from the creds. Raises TransportError."""
        asker = Asker(SystemEntropy())
        nc = await transport.connect(
            servers,
            creds=creds,
            ca=ca,
            name=name,
            on_permission_error=asker.forbidden,
            on_closed=asker.closed,
            timeout=timeout,
        )
        return cls(nc, datacenter, asker)

    async def close(self) -> None:
        """Close the connection."""
        await self.nc.close()

    async def sign(
        self,
        name: str,
        csr: str,
        *,
        request_id: str,
        kind: IdentityKind = "service",
        timeout: float = ANSWER_SECONDS,
    ) -> bytes:
        """Return the CA's IssuedCert JSON for a PEM CSR of this identity.

        `name` is of the service or the node; gateways and servers have none, and it is not looked
        at. The same request id again gets the same bytes, so that after a NoAnswerError asking
        again with the same id and CSR is safe.
        """
        body = msgspec.json.encode(SigningRequest(request_id=request_id, csr=csr))
        return await self.request(self.subjects.sign(kind, name), body, timeout)

    async def lookup(
        self,
        name: str,
        *,
        request_id: str,
        kind: IdentityKind = "service",
        timeout: float = ANSWER_SECONDS,
    ) -> bytes:
        """Return what was issued for this id.

        Raises RefusedError: `not_found` where nothing was, `pending` where it was submitted and is
        not done, and with any other code where it was submitted and never will be issued.
        """
        body = msgspec.json.encode(SigningRequest(request_id=request_id))
        return await self.request(self.subjects.sign(kind, name), body, timeout)

    async def submit(
        self,
        name: str,
        csr: str,
        *,
        request_id: str,
        kind: IdentityKind = "service",
        timeout: float = ANSWER_SECONDS,
    ) -> None:
        """Leave a request to be signed whenever it can be; returns once it is durable.

        Then it survives restarts of everything, is signed once, and `lookup` gets what came of it.
        No worker needs to run. After a NoAnswerError submitting the same again is safe.
        Raises RefusedError `not_ready` while the queue is full, for this identity or for all.
        """
        body = msgspec.json.encode(SigningRequest(request_id=request_id, csr=csr))
        if len(body) > REQUEST_BYTES_MAX:
            raise RefusedError("too_large", f"a request has at most {REQUEST_BYTES_MAX} bytes")
        await self._asker.ask(
            self.nc, self.subjects.submit(kind, name), body, timeout=timeout, not_yet=_not_stored
        )

    async def roots(self, *, timeout: float = ANSWER_SECONDS) -> bytes:
        """Return the trust bundle, Consul's Roots JSON, as a root-manager holds it now."""
        return await self.request(self.subjects.roots_get, b"", timeout)

    async def stored_roots(self, *, timeout: float = ANSWER_SECONDS) -> bytes:
        """Return the trust bundle as it was last published; no root-manager is needed for it."""
        query: dict[str, object] = {"last_by_subj": self.subjects.roots_log}
        if (read := await self._read_roots(query, timeout)) is None:
            return await self.roots(timeout=timeout)
        return read[1]

    async def status(self, *, timeout: float = ANSWER_SECONDS) -> Status:
        """Return the state of the CA: the leader's answer, with what only other nodes know."""
        answers = await self._asker.ask_all(
            self.nc,
            self.subjects.status_get,
            b"",
            timeout=timeout,
            gather=STATUS_GATHER_SECONDS,
        )
        try:
            return merged(msgspec.json.decode(answer.data, type=Status) for answer in answers)
        except msgspec.MsgspecError as error:
            raise NoAnswerError(f"a status that cannot be read: {error}") from error

    async def watch_roots(self) -> AsyncIterator[bytes]:
        """Yield the stored trust bundle, then each later one, for ever.

        What is pushed only wakes: what is read by sequence decides, and it never goes back, neither
        in the stream nor in the ledger.
        """
        shown = -1
        pushed: asyncio.Queue[Heard] = asyncio.Queue()
        subscription = await self.nc.subscribe(self.subjects.roots_changed, cb=pushed.put)
        query: dict[str, object] = {"last_by_subj": self.subjects.roots_log}
        try:
            with self._asker.heard(self.subjects.roots_changed, pushed):
                while True:
                    while (read := await self._read_roots(query)) is not None:
                        sequence, bundle = read
                        if (of := _ledger_sequence(bundle)) > shown:
                            shown = of
                            yield bundle
                        query = {"seq": sequence + 1, "next_by_subj": self.subjects.roots_log}
                    await _pushed(pushed)
        finally:
            if not self.nc.is_closed:
                await subscription.unsubscribe()

    async def replay(
        self,
        *,
        after: int = 0,
        until: int | None = None,
        follow: bool = False,
        gaps: bool = False,
        timeout: float = ANSWER_SECONDS,
    ) -> AsyncIterator[Stored]:
        """Yield every message of the ledger above `after`, in order.

        As far as `until`, a sequence that the ledger was seen to have; without it, all that there
        is, or with `follow` for ever. Needs a user who may read the ledger.

        A copy of the ledger that is behind is asked again, for `timeout` seconds without progress.
        Then raises NoAnswerError where another one still says that it has what is missing. Where
        none does, and wherever a later one comes instead, it is missing: raises GapError
        (events.log); with `gaps` it goes on, or ends, and the reader is to see that.
        """
        subjects = self.subjects
        reader = LedgerReader(
            self.nc,
            subjects.datacenter,
            direct_get=subjects.audit_read,
            live=subjects.live,
            ledger_filter=subjects.ledger,
        )
        last = await self.last_sequence()  # where it is not allowed, it is refused at once
        goal = last if until is None else until
        told = 0  # by whoever was asked for the last since there was progress
        loop = asyncio.get_running_loop()
        heard = loop.time()
        async for _ in reader.woken():
            try:
                while read := await reader.read(
                    after, limit=READ_MAX, only=subjects.ledger if gaps else None
                ):
                    for stored in read:
                        if until is not None and stored.sequence > until:
                            return
                        yield stored
                    after, told = read[-1].sequence, 0
                    heard = loop.time()  # who takes his time with them may have lost the connection
                    if after == until:
                        return
            except UnreachableError as error:
                if self.nc.is_closed or (not follow and loop.time() - heard > timeout):
                    raise NoAnswerError(str(error)) from error
            else:
                if follow:
                    continue
                if after >= goal:
                    return
                told = max(told, await self.last_sequence())
                if loop.time() - heard > timeout:
                    _give_up(after, goal, there=told >= goal, gaps=gaps)
                    return

    async def last_sequence(self) -> int:
        """Return the last sequence of the ledger (0: empty), as far as whoever answers knows."""
        query = msgspec.json.encode({"last_by_subj": self.subjects.ledger})
        answer, _ = await self._ask(self.subjects.audit_read, query, ANSWER_SECONDS)
        headers = answer.headers or {}
        return int(headers.get("Nats-Sequence", "0"))  # 404: there is none

    async def _read_roots(
        self, query: dict[str, object], timeout: float = ANSWER_SECONDS
    ) -> tuple[int, bytes] | None:
        answer, _ = await self._ask(self.subjects.roots_read, msgspec.json.encode(query), timeout)
        headers = answer.headers or {}
        if "Nats-Sequence" not in headers:  # 404: there is none
            return None
        return int(headers["Nats-Sequence"]), answer.data

    async def request(self, subject: str, body: bytes, timeout: float) -> bytes:
        """Return the answer to a question; raises RefusedError where it says no."""
        answer, sendings = await self._ask(subject, body, timeout)
        if (error := error_of(answer)) is not None:
            raise (RefusedError if sendings == 1 else RefusedLateError)(
                error.code, error.message, retry_after=error.retry_after
            )
        return answer.data

    async def _ask(self, subject: str, body: bytes, timeout: float) -> tuple[Msg, int]:
        return await self._asker.ask(self.nc, subject, body, timeout=timeout)


def _not_stored(answer: Msg) -> RefusedError | None:
    """Return why JetStream has not stored what was submitted, None where it has."""
    match jetstream.read_answer(answer.data):
        case jetstream.Accepted():
            return None
        case jetstream.Refused(error=error):
            why = f"the queue of durable requests does not take it: {error}"
        case other:
            why = f"the queue of durable requests does not take it yet: {other}"
    return RefusedError("not_ready", why, retry_after=FULL_RETRY_SECONDS)


def _give_up(after: int, goal: int, *, there: bool, gaps: bool) -> None:
    """Raise what it means that nobody gave the sequences above `after`, up to `goal`.

    `there`: somebody has them.
    """
    if there:
        raise NoAnswerError(
            f"the copies of the ledger that answer have it up to sequence {after}, not {goal} yet"
        )
    if not gaps:
        raise GapError(f"sequence {after + 1} is missing: the ledger had {goal}, and has {after}")


async def _pushed(queue: asyncio.Queue[Heard]) -> None:
    """Return when something was pushed, and now and then anyway: a push may be lost."""
    try:
        async with asyncio.timeout(ROOTS_POLL_SECONDS):
            heard = await queue.get()
    except TimeoutError:
        return
    while True:
        if not isinstance(heard, Msg):
            raise heard
        if queue.empty():
            return
        heard = queue.get_nowait()


def _ledger_sequence(bundle: bytes) -> int:
    try:
        return msgspec.json.decode(bundle, type=Roots).ledger_sequence
    except msgspec.MsgspecError as error:
        raise NoAnswerError(f"a trust bundle that cannot be read: {error}") from error
