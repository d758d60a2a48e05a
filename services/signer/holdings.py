"""Which partitions this signer may serve now: its grant, and what it must know before it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec.structs import replace

from events.base import Struct
from projections.authority import SignerGrant


class Holdings(Struct):
    """What a signer holds under its current grant; nothing before its first."""

    grant_sequence: int = 0  # what its appends are conditional on; 0: it may not sign
    signing_key_id: str | None = None
    rate_per_second: float = 0.0  # its share of CSRMaxPerSecond; 0 = no limit
    concurrent: int = 0  # its share of CSRMaxConcurrent; 0 = no limit
    partitions: frozenset[int] = frozenset()
    gates: Mapping[int, int] = {}
    """Partition -> what must be known before it is served: the sequence of the grant that it came
    with. All that its signers before this one committed stands before that."""


Standing = Literal["served", "held", "foreign"]


def changed(holdings: Holdings, grant: SignerGrant | None) -> Holdings:
    """Return what is held after a change of the grant; None: it is withdrawn.

    To be asked after *every* authority entry: a partition that was lost and came back in between
    has had another signer.
    """
    if (grant.sequence if grant is not None else 0) == holdings.grant_sequence:
        return holdings
    if grant is None:
        return Holdings()
    partitions = frozenset(grant.assignment.partitions)
    gates = {p: gate for p, gate in holdings.gates.items() if p in partitions}
    gates.update(dict.fromkeys(partitions - holdings.partitions, grant.sequence))
    return Holdings(
        grant_sequence=grant.sequence,
        signing_key_id=grant.assignment.signing_key_id,
        rate_per_second=grant.assignment.rate_per_second,
        concurrent=grant.assignment.concurrent,
        partitions=partitions,
        gates=gates,
    )


def known_up_to(holdings: Holdings, position: int) -> Holdings:
    """Return what is held once everything up to `position` is known."""
    if not any(gate <= position for gate in holdings.gates.values()):
        return holdings
    return replace(
        holdings, gates={p: gate for p, gate in holdings.gates.items() if gate > position}
    )


def standing(holdings: Holdings, partition: int) -> Standing:
    """Say what to do with a request of a partition: serve, hold back, or stay silent."""
    if partition not in holdings.partitions:
        return "foreign"
    return "held" if partition in holdings.gates else "served"
