"""What was decided, stamped to be recorded: each event with what it is about."""

from __future__ import annotations

from events.authority import (
    CAConfigured,
    IntermediateInstalled,
    IntermediateRequested,
    KeyCreated,
    KeyDestroyed,
    KeyShared,
    LeafSignerSelected,
    RootActivated,
    RootPruned,
    RootPublished,
    RootRetired,
    RotationAborted,
    RotationStarted,
)
from events.catalogue import AuthorityEvent
from events.envelope import NewEvent
from events.log import Grant
from events.revocation import CrlIssued
from events.signers import GrantGiven
from services.root_manager.decide import Decision
from services.stamping import Stamper


def stamped(
    decision: Decision, stamper: Stamper, *, datacenter: str
) -> tuple[list[NewEvent], list[Grant]]:
    """Return the authority entry's events, and the grant messages of the same atomic append.

    In the order that was decided. All but the first event name that one's id as what they belong
    to.
    """
    first, *others = decision.events
    events = [stamper.stamp(first, subject=_about(first, datacenter))]
    belongs_to = events[0].id
    events += [
        stamper.stamp(event, subject=_about(event, datacenter), correlation_id=belongs_to)
        for event in others
    ]
    grants = []
    for event in decision.grants:
        signer = event.assignment.signer if isinstance(event, GrantGiven) else event.signer
        new = stamper.stamp(event, subject=signer, correlation_id=belongs_to)
        grants.append(Grant(signer=signer, event=new))
    return events, grants


def _about(event: AuthorityEvent, datacenter: str) -> str:
    match event:
        case CAConfigured():
            return event.trust_domain
        case KeyCreated() | KeyShared() | KeyDestroyed():
            return event.key_id
        case CrlIssued():
            return event.issuer_key_id
        case (
            RotationStarted()
            | RotationAborted()
            | RootPublished()
            | RootActivated()
            | RootRetired()
            | RootPruned()
            | IntermediateRequested()
            | IntermediateInstalled()
            | LeafSignerSelected()
        ):
            return event.root_id
        case _:
            return datacenter
