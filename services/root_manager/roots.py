"""The trust bundle on its way to those who verify: the root-change stream."""

from __future__ import annotations

from typing import Final

import msgspec
import structlog
from nats.aio.client import Client

from events.base import Struct
from events.subjects import Subjects
from projections.authority import AuthorityState
from projections.bundle import bundle
from services.buckets import LastValues

SEQUENCE_HEADER: Final = "Caledger-Ledger-Sequence"

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


def ledger_sequence(roots: bytes) -> int:
    """Return the sequence that a bundle says it is of; 0 for what is none of ours."""
    try:
        return msgspec.json.decode(roots, type=_Published).ledger_sequence
    except (msgspec.MsgspecError, RecursionError):
        return 0
