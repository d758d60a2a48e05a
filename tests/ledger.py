"""Builders of ledger events for tests; every default can be overridden."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from ulid import ULID

from events.catalogue import AnyEvent
from events.envelope import NewEvent
from events.leadership import LeadershipAcquired
from events.leaves import LeafIssued
from events.log import Appended, Grant, Ledger
from events.signers import Assignment, GrantGiven, GrantWithdrawn, SignersAssigned

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
IDENTITY = "spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/web"


def ulid() -> str:
    """Return a new event id, or a new run of a signer."""
    return str(ULID())


def new(event: AnyEvent, *, event_id: str | None = None, subject: str = "test") -> NewEvent:
    """Stamp an event."""
    return NewEvent(
        id=event_id or ulid(),
        source="/caledger/dc1/test/n1",
        subject=subject,
        time=NOW,
        event=event,
        correlation_id="c0ffee",
    )


def acquired(node: str = "n1", *, term: int = 1) -> NewEvent:
    """Return the authority event that is easiest to make."""
    return new(LeadershipAcquired(node=node, term=term, lease_revision=1), subject=node)


def leaf(signer: str, *, grant: int, request_id: str | None = None, size: int = 600) -> NewEvent:
    """Return an issued leaf whose certificate is `size` bytes that no verifier ever sees."""
    return new(
        LeafIssued(
            request_id=request_id,
            identity=IDENTITY,
            kind="service",
            name="web",
            serial=f"{ULID().to_uuid().int:x}",
            key_id="a" * 64,
            issuer_key_id="b" * 64,
            not_before=NOW,
            not_after=NOW + timedelta(hours=72),
            certificate=bytes(size),
            csr_sha256="c" * 64,
            signer=signer,
            grant_sequence=grant,
            requester=None,
        ),
        subject=IDENTITY,
    )


def assignment(signer: str, slot: int = 0) -> Assignment:
    """Return an assignment of the `slot`-th partition."""
    return Assignment(
        signer=signer,
        node="n1",
        slot=slot,
        partitions=(slot % 64,),
        signing_key_id="b" * 64,
        rate_per_second=0,
    )


def assigned(
    given: Sequence[str], withdrawn: Sequence[str] = ()
) -> tuple[list[NewEvent], list[Grant]]:
    """Return a table of signers that are all given their grants anew, and those grants."""
    table = [assignment(signer, slot) for slot, signer in enumerate(given)]
    event = SignersAssigned(
        assignments=tuple(table),
        granted=tuple(given),
        withdrawn=tuple(withdrawn),
        reason="rebalanced",
    )
    grants = [
        Grant(signer=each.signer, event=new(GrantGiven(assignment=each), subject=each.signer))
        for each in table
    ]
    grants += [
        Grant(signer=each, event=new(GrantWithdrawn(signer=each, reason="lost"), subject=each))
        for each in withdrawn
    ]
    return [new(event)], grants


async def give_grants(
    ledger: Ledger, given: Sequence[str], *, expected: int = 0, withdrawn: Sequence[str] = ()
) -> Appended:
    """Append a table of signers; the i-th grant stands at the returned sequence + 1 + i."""
    events, grants = assigned(given, withdrawn)
    return await ledger.append_authority(events, term=1, expected_sequence=expected, grants=grants)
