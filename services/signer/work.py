"""What one signing request is while a signer has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from events.authority import SanPolicy
from events.envelope import NewEvent
from events.leaves import LeafIssued, LeafRefused
from projections.answers import IssuedLeaf, KeptRefusal
from services.nats_access.asker import ACROSS_ACCOUNTS
from services.pki.csr import CheckedCsr
from services.refusals import RefusedError
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
    submissions: list[int] = field(default_factory=list)
    """Durable requests that wait for the same: their sequences in the queue."""
    request: SignRequest | None = None
    identity: str | None = None
    csr_sha256: str | None = None
    checked: CheckedCsr | None = None
    checked_under: SanPolicy | None = None  # the names that it was checked against
    admitted: bool = False  # the limits gave it its turn
    refused: RefusedError | None = None  # a durable request's, which is looked up all the same
    refused_id: str | None = None  # its request id
    looked: bool = False  # of a look-up: the queue of durable requests was read after it came

    @property
    def size(self) -> int:
        """Return about how much memory it holds."""
        return len(self.body) + 4_096

    @property
    def key(self) -> tuple[str, str] | None:
        """Return what it may be asked for again by: identity and request id."""
        request_id = self.request.request_id if self.request is not None else self.refused_id
        if request_id is None or self.identity is None:
            return None
        return self.identity, request_id

    @property
    def looks_up(self) -> bool:
        """Say whether it only asks what its request id got."""
        return self.request is not None and self.request.csr_der is None

    @property
    def nameless(self) -> bool:
        """Say whether it came from another account and does not tell from whom.

        Whose header block does not end as it must, hides what the server adds behind it; so does
        who forges it. Where there are no accounts, as in tests, nobody is told; nor is it ever of a
        durable request, which has no reply subject.
        """
        return self.requester is None and any(
            reply.startswith(ACROSS_ACCOUNTS) for reply in self.replies[:1]
        )


@dataclass(slots=True, eq=False)
class Signed:
    """A signature that has not left the signer, and must not before it is recorded."""

    work: Work
    leaf: LeafIssued
    event: NewEvent
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = EVENT_BYTES + len(self.leaf.certificate) * 4 // 3

    @property
    def grant_sequence(self) -> int:
        """Return the grant that it was made under."""
        return self.leaf.grant_sequence

    def answer(self, sequence: int, position: int) -> IssuedLeaf:
        """Return what it is once the entry at `sequence` is durable that it is in."""
        return IssuedLeaf(
            sequence=sequence,
            position=position,
            event_id=self.event.id,
            leaf=self.leaf,
            irregular=None,
        )


@dataclass(slots=True, eq=False)
class TurnedDown:
    """A durable request that can never be signed: told, and removed, once that is recorded."""

    work: Work
    refused: RefusedError
    refusal: LeafRefused
    event: NewEvent
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = EVENT_BYTES + 2 * len(self.refusal.identity or "") + len(self.refusal.message)

    @property
    def grant_sequence(self) -> int:
        """Return the grant that it was made under."""
        return self.refusal.grant_sequence

    def answer(self, sequence: int, position: int) -> KeptRefusal | None:
        """Return what its request id is answered from now on; None: what it got before."""
        if not self.refusal.durable:
            return None
        return KeptRefusal(sequence=sequence, code=self.refusal.code, message=self.refusal.message)


Decided = Signed | TurnedDown


def body_of(data: bytes) -> bytes:
    """Return a body to keep until it is read: of one that is too large no more than shows it."""
    return data if len(data) <= BODY_BYTES_MAX else data[: BODY_BYTES_MAX + 1]
