"""What was decided, stamped to be recorded: each event with what it is about."""

from __future__ import annotations

from events.authority import (
    CAConfigured,
    IntermediateInstalled,
    KeyCreated,
    RootActivated,
    RootPublished,
)
from events.catalogue import AuthorityEvent
from events.envelope import NewEvent
from events.log import Grant
from events.signers import GrantGiven
from services.root_manager.decide import Decision
from services.stamping import Stamper


def events(decision: Decision, stamper: Stamper, *, datacenter: str) -> list[NewEvent]:
    """Return the authority entry's events."""
    return [stamper.stamp(e, subject=_about(e, datacenter)) for e in decision.events]


def grants(decision: Decision, stamper: Stamper) -> list[Grant]:
    """Return the grant messages of the same atomic append, in the order that was decided."""
    found = []
    for event in decision.grants:
        signer = event.assignment.signer if isinstance(event, GrantGiven) else event.signer
        found.append(Grant(signer=signer, event=stamper.stamp(event, subject=signer)))
    return found


def _about(event: AuthorityEvent, datacenter: str) -> str:
    match event:
        case CAConfigured():
            return event.trust_domain
        case KeyCreated():
            return event.key_id
        case RootPublished() | RootActivated() | IntermediateInstalled():
            return event.root_id
        case _:
            return datacenter
