"""What the CA manager answers commands and questions with: JSON in the names that Consul uses."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from events.authority import LeafSigner
from events.base import KeyType, Struct
from events.leaves import RefusalCode

Effect = Literal["initialise", "nothing", "configure", "rotate"]

KEY_REFERENCE: Final = "key:"  # then its id: what stands for a private key that was given (H12)


class Outcome(Struct, omit_defaults=True):
    """What a command came to, as it is answered."""

    outcome: str = msgspec.field(name="Outcome")
    state: str = msgspec.field(name="State")  # Consul's state of the CA
    modify_index: int = msgspec.field(name="ModifyIndex")  # of the configuration
    ledger_sequence: int = msgspec.field(name="LedgerSequence")
    root_id: str | None = msgspec.field(name="RootID", default=None)
    activate_at: str | None = msgspec.field(name="ActivateAt", default=None)
    also: tuple[str, ...] | None = msgspec.field(name="AlsoPruned", default=None)
    """Roots that were pruned with it: they signed it across, and would still be a way to it."""
    live_leaves: int | None = msgspec.field(name="LiveLeaves", default=None)
    identities: Mapping[str, int] | None = msgspec.field(name="Identities", default=None)
    lists_missing: tuple[str, ...] | None = msgspec.field(name="ListsMissing", default=None)
    """Issuers (key ids) whose revocation lists do not say yet what was revoked."""


class Change(Struct, rename="pascal"):
    """A key of the configuration, as it is and as it would be."""

    key: str
    before: Any
    after: Any


class Verifier(Struct, rename="pascal"):
    """Whether those who hold these roots accept the leaves there are, and those that come."""

    holds: Literal[
        "the new bundle",
        "the bundle of before",
        "the new root alone",
        "the new root with what is above it",  # which an operator gave it
    ]
    live_leaves: bool
    new_leaves: bool


class Planned(Struct, omit_defaults=True, rename="pascal"):
    """What `config.set` or `rotation.start` would do, and to whom; nothing was done."""

    effect: Effect
    state: str  # Consul's state of the CA
    modify_index: int  # of the configuration that there is
    ledger_sequence: int
    problem_code: RefusalCode | None = None
    problem: str | None = None  # why it would be refused
    changes: tuple[Change, ...] = ()
    private_key_type: KeyType  # of the root that would be active
    private_key_bits: int
    leaf_signer: LeafSigner
    cross_signed: bool = False  # the new root, by the old one
    live_leaves: int  # not expired, of all roots that are trusted
    leaves_as_of: int  # sequence up to which they were counted
    verifiers: tuple[Verifier, ...] = ()  # where the root is to change
    activate_at: datetime | None = None  # of the new root
    prune_after: datetime | None = None  # the old root, once its last leaf has expired as well
    effects: tuple[str, ...] = ()  # what happens, in words
    warnings: tuple[str, ...] = ()  # what an operator may not expect


class Configuration(Struct):
    """The configuration as `config.get` tells it."""

    provider: str = msgspec.field(name="Provider")
    config: Mapping[str, Any] = msgspec.field(name="Config")
    state: None = msgspec.field(name="State", default=None)
    force_without_cross_signing: bool = msgspec.field(name="ForceWithoutCrossSigning")
    create_index: int = msgspec.field(name="CreateIndex")
    modify_index: int = msgspec.field(name="ModifyIndex")


class RevocationList(Struct, omit_defaults=True, rename="pascal"):
    """A revocation list and its place in the ledger."""

    issuer_key_id: str = msgspec.field(name="IssuerKeyID")  # as in `leaf.issued`
    issuer: str  # root or intermediate
    number: int
    this_update: datetime
    next_update: datetime
    revoked: int
    ledger_sequence: int
    crl: str | None = msgspec.field(name="CRL", default=None)  # PEM; None: ask for it by its issuer


class RevocationLists(Struct, rename="pascal"):
    """The lists of every issuer that is trusted."""

    ledger_sequence: int  # up to which the ledger was folded
    lists: tuple[RevocationList, ...]
