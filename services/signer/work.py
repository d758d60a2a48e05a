"""What one signing request is while a signer has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from events.envelope import NewEvent
from events.leaves import LeafIssued
from projections.issuance import IssuedLeaf
from services.nats_access.wire import REQUEST_INFO
from services.pki.csr import CheckedCsr
from services.signer.request import BODY_BYTES_MAX, SignRequest

ACROSS_ACCOUNTS: Final = "_R_."  # what a server makes of a reply subject of another account
REPLY_PREFIXES: Final = (ACROSS_ACCOUNTS, "_INBOX.")
EVENT_BYTES: Final = 1_500  # of an event, its certificate apart


@dataclass(slots=True, eq=False)
class Work:
    """A request, as far as it has come. Nothing in it outlives an answer."""

    subject: str
    partition: int  # whose subscription heard it
    body: bytes
    requester: str | None
    heard: float  # of the loop's clock
    replies: list[str]  # where the answer goes: several askers of one request id get the same
    request: SignRequest | None = None
    identity: str | None = None
    csr_sha256: str | None = None
    checked: CheckedCsr | None = None
    admitted: bool = False  # the rate limit gave it its turn

    @property
    def size(self) -> int:
        """Return about how much memory it holds."""
        return len(self.body) + 4_096

    @property
    def key(self) -> tuple[str, str] | None:
        """Return what it may be asked for again by: identity and request id."""
        if self.request is None or self.request.request_id is None or self.identity is None:
            return None
        return self.identity, self.request.request_id

    @property
    def nameless(self) -> bool:
        """Say whether it came from another account and does not tell from whom.

        Whose header block does not end as it must, hides what the server adds behind it; so does
        who forges it. Where there are no accounts, as in tests, nobody is told.
        """
        return self.requester is None and self.replies[0].startswith(ACROSS_ACCOUNTS)


@dataclass(slots=True, eq=False)
class Signed:
    """A signature that has not left the signer, and must not before it is recorded."""

    work: Work
    leaf: LeafIssued
    event: NewEvent
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = EVENT_BYTES + len(self.leaf.certificate) * 4 // 3

    def issued(self, sequence: int, position: int) -> IssuedLeaf:
        """Return what it is once the entry at `sequence` is durable that it is in."""
        return IssuedLeaf(
            sequence=sequence,
            position=position,
            event_id=self.event.id,
            leaf=self.leaf,
            irregular=None,
        )


class _RequestInfo(msgspec.Struct):
    user: str | None = None


_REQUEST_INFO: Final = msgspec.json.Decoder(_RequestInfo)
_REQUESTER_MAX: Final = 256


def requester_of(headers: Mapping[str, str] | None) -> str | None:
    """Return the NATS user key of who asked, as the server says it (nats.md, section 10)."""
    told = headers.get(REQUEST_INFO) if headers else None
    if told is None:
        return None
    try:
        user = _REQUEST_INFO.decode(told).user
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return user if user is not None and 0 < len(user) <= _REQUESTER_MAX else None


def may_answer(reply: str) -> bool:
    """Say whether a reply subject is one that this signer answers on (architecture 6.1)."""
    return reply.startswith(REPLY_PREFIXES)


def body_of(data: bytes) -> bytes:
    """Return a body to keep until it is read: of one that is too large no more than shows it."""
    return data if len(data) <= BODY_BYTES_MAX else data[: BODY_BYTES_MAX + 1]
