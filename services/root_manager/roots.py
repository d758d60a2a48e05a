"""The trust bundle on its way to those who verify: the root-change stream, and who asks for it."""

from __future__ import annotations

from typing import Final

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from events.base import Struct
from events.subjects import Subjects
from projections.authority import AuthorityState
from projections.bundle import bundle
from services import error_reply
from services.buckets import LastValues
from services.refusals import RefusedError

SEQUENCE_HEADER: Final = "Caledger-Ledger-Sequence"
ANSWERED: Final = ("_R_.", "_INBOX.")  # an asker can name any subject as reply (architecture 6.1)

_NOT_READY, _NOT_READY_HEADERS = error_reply.encode(
    RefusedError(
        "not_ready",
        "CA is uninitialized: no root certificate",
        retry_after=0.25,  # an authority is made in about that
    )
)

log = structlog.get_logger()


class _Published(Struct):
    ledger_sequence: int = msgspec.field(name="LedgerSequence", default=0)


def encoded(state: AuthorityState) -> bytes | None:
    """Return the bundle as everybody gets it, Consul's Roots JSON; None before there is one."""
    roots = bundle(state)
    return msgspec.json.encode(roots) if roots is not None else None


class RootChanges:
    """The root-change stream, as its only writer sees it: the leading root-manager."""

    def __init__(self, nc: Client, subjects: Subjects) -> None:
        prefix, _, self._key = subjects.roots_log.rpartition(".")
        self._values = LastValues(nc, stream=subjects.roots_stream, prefix=f"{prefix}.")

    async def publish(self, state: AuthorityState) -> bool:
        """Write the bundle if the stream's last one is not it; return whether it was written.

        The stream lags where a root-manager ended between its append and this. What another one
        wrote of a later state stays. Raises BucketError, WrongRevisionError where another one wrote
        meanwhile.
        """
        roots = encoded(state)
        if roots is None:
            return False
        last = await self._values.get(self._key)
        data = last.data if last is not None else None
        if data == roots or (data is not None and ledger_sequence(data) > state.position):
            return False
        await self._values.write(
            self._key,
            roots,
            expected=last.revision if last is not None else 0,
            headers={SEQUENCE_HEADER: str(state.bundle_sequence)},
        )
        return True


class RootsService:
    """Answers `roots.get` from the fold, whether this node leads or not.

    Every root-manager answers, and the first answer counts: a queue group would give a share of
    the questions to one that is stopped (nats.md, section 10).
    """

    def __init__(self, nc: Client, subjects: Subjects) -> None:
        self._nc = nc
        self._subjects = subjects
        self._roots: bytes | None = None
        self._subscription: Subscription | None = None

    async def show(self, state: AuthorityState) -> None:
        """Answer with the bundle of this state from now on.

        Before the first state is known nothing is answered: "not ready" would be wrong.
        """
        self._roots = encoded(state)
        if self._subscription is None:
            self._subscription = await self._nc.subscribe(self._subjects.roots_get, cb=self._answer)

    async def _answer(self, asked: Msg) -> None:
        if not asked.reply.startswith(ANSWERED):
            return
        if self._roots is None:
            await self._nc.publish(asked.reply, _NOT_READY, headers=_NOT_READY_HEADERS)
        else:
            await self._nc.publish(asked.reply, self._roots)


def ledger_sequence(roots: bytes) -> int:
    """Return the sequence that a bundle says it is of; 0 for what is none of ours."""
    try:
        return msgspec.json.decode(roots, type=_Published).ledger_sequence
    except (msgspec.MsgspecError, RecursionError):
        return 0
