"""Who leads a datacenter: recorded on `authority`, so that the ledger itself fences the deposed."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from events.base import INT_MAX, Event, Sequence, Token

Term = Annotated[int, Meta(ge=1, le=INT_MAX)]


class LeadershipAcquired(Event):
    """A node won the lease and leads from here on, under a term higher than all before it."""

    TYPE: ClassVar[str] = "caledger.leadership.acquired.v1"
    node: Token
    term: Term
    lease_revision: Sequence  # of the lease in its bucket, when it was won


class LeadershipReleased(Event):
    """The leader gave up its term: nobody leads until the next one is acquired."""

    TYPE: ClassVar[str] = "caledger.leadership.released.v1"
    node: Token
    term: Term
    reason: Literal["shutdown", "lease_lost"]
