"""What one signing request is while a signer has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from events.authority import SanPolicy
from events.envelope import NewEvent
from events.leaves import LeafIssued
from projections.issuance import IssuedLeaf
from services.nats_access.asker import ACROSS_ACCOUNTS
from services.pki.csr import CheckedCsr
from services.signer.request import BODY_BYTES_MAX, SignRequest

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
    checked_under: SanPolicy | None = None  # the names that it was checked against
    admitted: bool = False  # the limits gave it its turn

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


def body_of(data: bytes) -> bytes:
    """Return a body to keep until it is read: of one that is too large no more than shows it."""
    return data if len(data) <= BODY_BYTES_MAX else data[: BODY_BYTES_MAX + 1]
