"""When a node leads: pure, from the fold and what the shell knows of the lease."""

from __future__ import annotations

from typing import Literal

from events.leadership import LeadershipAcquired, LeadershipReleased
from projections.authority import AuthorityState, Leader


def acquire(state: AuthorityState, *, node: str, lease_revision: int) -> LeadershipAcquired:
    """Decide that the node that holds the lease leads, under a term higher than all before."""
    return LeadershipAcquired(node=node, term=state.term + 1, lease_revision=lease_revision)


def release(
    state: AuthorityState, *, node: str, term: int, reason: Literal["shutdown", "lease_lost"]
) -> LeadershipReleased | None:
    """Decide that a term ends; None where the ledger says that another one has begun or none is.

    A deposed elector's release would end somebody else's leadership (architecture 3.1, rule 4).
    """
    if not leads(state, node=node, term=term):
        return None
    return LeadershipReleased(node=node, term=term, reason=reason)


def leads(state: AuthorityState, *, node: str, term: int) -> bool:
    """Tell whether the ledger says that this node leads, under this very term."""
    return state.leader == Leader(node=node, term=term)
