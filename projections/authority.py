"""What the certificate authority is now, which every decision needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from events.authority import (
    CAConfigured,
    IntermediateRequested,
    KeyCreated,
    RootPruned,
    RootPublished,
    RotationAborted,
    RotationStarted,
)
from events.base import Moment, Struct
from events.revocation import CrlIssued, LeavesRevoked, RevocationReason
from events.signers import Assignment
from projections.id_set import IdSet

CaState = Literal["UNINITIALIZED", "INITIALIZED", "RECONFIGURING", "RENEWING"]
"""Consul's states (section 3.1), as far as the ledger tells: what was begun and neither finished
nor given up. While the first authority is being made a root-manager says `INITIALIZING`."""

Commanded = CAConfigured | RotationStarted | RotationAborted | RootPruned | LeavesRevoked
"""Events that carry the id of a command."""


class Leader(Struct):
    """The node that leads, and the term that its decisions carry."""

    node: str
    term: int


class Root(Struct):
    """A trusted root, with the ledger sequences that first and last changed it."""

    published: RootPublished
    active: bool
    created: int
    modified: int
    crossed_by: str | None = None  # id of the root that signed it across
    rotated_out_at: Moment | None = None  # Consul's RotatedOutAt
    retired: int = 0  # sequence of the entry that retired it: no leaf under it comes after that

    @property
    def taken_back(self) -> bool:
        """Say, of one that is trusted no more, whether its rotation was given up."""
        return self.retired == 0


class Issuer(Struct):
    """A certificate that signs leaves, and what verifiers need between it and their root.

    Never forgotten: the answer to a repeated request id is built from it again.
    """

    key_id: str
    root_id: str
    certificate: bytes  # DER
    chain: tuple[bytes, ...]  # DER, sent after the leaf, nearest issuer first


class SignerGrant(Struct):
    """What a signer may do, and the sequence that its appends are conditional on."""

    assignment: Assignment
    sequence: int


class Rotation(Struct):
    """A new root is published and not active yet."""

    started: RotationStarted
    sequence: int


class Renewal(Struct):
    """A new intermediate is on its way."""

    requested: IntermediateRequested
    sequence: int


class Crossing(Struct):
    """A root's key that another root signed: whoever trusts that one can be led to this one."""

    root_id: str
    key_id: str
    by: str  # id of the root that signed
    serial: str  # of the certificate, in hex
    not_after: Moment


class Revoked(Struct):
    """What a list says of a certificate, and whose it is."""

    sequence: int
    identity: str
    at: Moment
    reason: RevocationReason
    not_after: Moment


class Crl(Struct):
    """The latest revocation list of an issuer."""

    issued: CrlIssued
    sequence: int


class VoidEntry(Struct):
    """An entry that was passed over."""

    sequence: int
    reason: str


class AuthorityState(Struct):
    """The whole of it. Dictionaries are never changed in place."""

    datacenter: str
    position: int = 0  # the last sequence on `authority` that was folded, void or not
    settled: int = 0  # the stream must have reached this for the last append to be whole
    term: int = 0  # the highest so far
    leader: Leader | None = None
    led_since: Moment | None = None  # by that leader's clock
    configuration: CAConfigured | None = None
    configured: int = 0  # sequence of the configuration
    first_configured: int = 0  # and of the first that there was
    keys: Mapping[str, KeyCreated] = {}  # those that were not destroyed
    shared: frozenset[str] = frozenset()  # root keys that signers have, too
    roots: Mapping[str, Root] = {}  # trusted ones, by root id, oldest first
    pruned: Mapping[str, Root] = {}  # once trusted
    rotation: Rotation | None = None
    renewal: Renewal | None = None
    issuers: Mapping[str, Issuer] = {}  # by key id, all there ever were
    issuer_key_id: str | None = None  # the one that signs now
    issuer_changed: int = 0  # sequence since when it does: no other signed any leaf after that
    signers: Mapping[str, SignerGrant] = {}
    revoked: Mapping[str, Mapping[str, Revoked]] = {}  # by issuer's key id, then by serial
    crossings: tuple[Crossing, ...] = ()  # all there ever were
    given_up: tuple[str, ...] = ()  # ids of commands whose rotations were; the last REQUESTS_KNOWN
    bridges: Mapping[str, Mapping[str, Revoked]] = {}  # of pruned roots, by who signed them across
    revoked_sequence: Mapping[str, int] = {}  # by issuer's key id, of its last revocation
    crls: Mapping[str, Crl] = {}  # by issuer's key id
    requests: Mapping[str, Commanded] = {}  # what commands led to; the last REQUESTS_KNOWN
    bundle_sequence: int = 0  # of the last change of the trust bundle
    event_ids: IdSet = IdSet()
    last_void: VoidEntry | None = None

    @property
    def active_root(self) -> Root | None:
        """Return the root that leaves chain up to."""
        return next((root for root in self.roots.values() if root.active), None)

    @property
    def issuer(self) -> Issuer | None:
        """Return the certificate that signs leaves now."""
        return self.issuers[self.issuer_key_id] if self.issuer_key_id is not None else None

    @property
    def ca_state(self) -> CaState:
        """Return Consul's state of the CA."""
        if self.configuration is None:
            return "UNINITIALIZED"
        if self.rotation is not None:
            return "RECONFIGURING"
        return "INITIALIZED" if self.renewal is None else "RENEWING"
