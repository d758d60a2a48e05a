"""Who signs what: partitions, signing key and rate share of every signer."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from events.base import INT_MAX, Event, KeyId, Partition, Struct, Token, Ulid


class Assignment(Struct):
    """What one signer (one run of a process) may do until it is assigned something else."""

    signer: Ulid
    node: Token
    slot: Annotated[int, Meta(ge=0, le=INT_MAX)]  # which of its node's; kept by a restarted one
    partitions: tuple[Partition, ...]  # ascending
    signing_key_id: KeyId
    rate_per_second: Annotated[float, Meta(ge=0)]  # its share of CSRMaxPerSecond; 0 = no limit
    concurrent: Annotated[int, Meta(ge=0, le=INT_MAX)] = 0
    """Its share of CSRMaxConcurrent; 0 = no limit."""


class SignersAssigned(Event):
    """The whole table, after the change. The grants it changes are in the same atomic append.

    `granted` then `withdrawn`, in this order, are the grant messages that follow the authority
    entry: the i-th of them stands at the entry's sequence + 1 + i.
    """

    TYPE: ClassVar[str] = "caledger.signers.assigned.v1"
    assignments: tuple[Assignment, ...]  # every signer that holds a grant, by signer
    granted: tuple[Ulid, ...]
    withdrawn: tuple[Ulid, ...]
    reason: Literal["joined", "left", "rebalanced", "authority_changed"]


class GrantGiven(Event):
    """A signer's grant, on its own subject: its leaves are accepted while it is the last there."""

    TYPE: ClassVar[str] = "caledger.grant.given.v1"
    assignment: Assignment


class GrantWithdrawn(Event):
    """The signer holds no grant any more: none of its leaves is accepted after this."""

    TYPE: ClassVar[str] = "caledger.grant.withdrawn.v1"
    signer: Ulid
    reason: Literal["lost", "stopped", "replaced"]
