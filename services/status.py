"""The state of a CA as `status.get` tells it, and how the answers of several nodes are read as one.

Names as Consul's where it has them. Every root-manager answers; the leader's answer counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

import msgspec
from msgspec.structs import replace

from events.base import Struct


class LeaderStatus(Struct, rename="pascal"):
    """Who leads: the ledger says so, and the lease is held."""

    node: str
    term: int
    since: datetime | None = None  # None: who answers is older than this field


class FailureStatus(Struct, rename="pascal"):
    """What the leader has to do and cannot, for the provider's sake."""

    what: str
    error: str
    attempts: int
    since: datetime
    next_try: datetime


class ProviderStatus(Struct, rename="pascal"):
    """Consul's provider; what fails is known to the leader only."""

    name: str | None  # None: the CA is not configured
    failures: tuple[FailureStatus, ...] = ()


class CertificateStatus(Struct, rename="pascal"):
    """A certificate that leaves depend on."""

    key_id: str = msgspec.field(name="KeyID")
    not_after: datetime
    seconds_left: int  # negative: it has expired


class RootStatus(CertificateStatus, rename="pascal"):
    """A trusted root."""

    root_id: str = msgspec.field(name="RootID")
    name: str
    private_key_type: str
    private_key_bits: int
    state: Literal["active", "on its way", "retired"]
    rotated_out_at: datetime | None = None


class SigningCertStatus(CertificateStatus, rename="pascal"):
    """The certificate that signs leaves."""

    issuer: Literal["root", "intermediate"]
    root_id: str = msgspec.field(name="RootID")


class RotationStatus(Struct, rename="pascal"):
    """A new root is trusted and does not sign yet."""

    root_id: str = msgspec.field(name="RootID")
    reason: str
    activate_at: datetime  # not before


class RenewalStatus(Struct, rename="pascal"):
    """A new intermediate is on its way."""

    key_id: str = msgspec.field(name="KeyID")
    ledger_sequence: int  # since when


class SignerStatus(Struct, rename="pascal"):
    """A run of a signer that lives, or that partitions are granted to."""

    signer: str
    node: str
    slot: int
    alive: bool  # it holds its lease
    stopping: bool  # it gives its partitions back
    partitions: int  # how many
    ranges: str  # which: 0-15,32
    grant_sequence: int  # 0: none
    rate_per_second: float  # its share of the limit; 0: no limit
    concurrent: int


class ProjectionsStatus(Struct, rename="pascal"):
    """How far a node's projections are."""

    node: str
    position: int  # 0: there is no file
    lag: int | None  # entries behind the ledger; None: its end is not known


class FoundStatus(Struct, rename="pascal"):
    """Entries that are not as they should be."""

    count: int
    first: tuple[int, ...]  # sequences, at most ten


class FaultsStatus(Struct, rename="pascal"):
    """As of `position`, by a node's projections."""

    position: int
    void: FoundStatus  # passed over
    irregular: FoundStatus  # certificates that break a rule


class DatacenterStatus(Struct, rename="pascal"):
    """A datacenter that has this CA's root."""

    name: str
    role: Literal["primary"]
    trust_domain: str | None


class WarningStatus(Struct, rename="pascal", omit_defaults=True):
    """What somebody should look at before it stops anything."""

    kind: Literal["expiry", "leader", "provider", "projections", "ledger"]
    level: Literal["warning", "error"]
    message: str
    cert_type: str | None = None  # the following for `expiry`, as in the log
    days_remaining: float | None = None
    expiration: datetime | None = None
    suggested_action: str | None = None


class Status(Struct, rename="pascal"):
    """All of it, as one node sees it."""

    datacenter: str
    answered_by: str  # node
    time: datetime  # by that node's clock
    can_sign: bool
    why: tuple[str, ...]  # not
    state: str  # Consul's
    position: int  # of `authority`, as far as it was folded
    ledger_sequence: int | None  # the ledger's last
    leader: LeaderStatus | None
    provider: ProviderStatus
    active_root: RootStatus | None
    signing_cert: SigningCertStatus | None
    roots: tuple[RootStatus, ...]
    rotation: RotationStatus | None
    renewal: RenewalStatus | None
    signers: tuple[SignerStatus, ...]
    unassigned_partitions: str  # ranges; empty: every one has a signer
    durable_requests_waiting: int | None = None  # in their queue; None: it does not answer
    projections: tuple[ProjectionsStatus, ...]
    faults: FaultsStatus | None  # None: not counted yet
    datacenters: tuple[DatacenterStatus, ...]
    warnings: tuple[WarningStatus, ...]

    @property
    def is_leaders(self) -> bool:
        """Say whether the node that leads has answered."""
        return self.leader is not None and self.leader.node == self.answered_by


def merged(answers: Iterable[Status]) -> Status:
    """Return the leader's answer, else that of who knows most, with the projections of all nodes.

    There must be an answer.
    """
    by_node = {answer.answered_by: answer for answer in answers}
    best = max(by_node.values(), key=lambda answer: (answer.is_leaders, answer.position))
    projections = {each.node: each for answer in by_node.values() for each in answer.projections}
    return replace(best, projections=tuple(projections[node] for node in sorted(projections)))


def ranges(numbers: Iterable[int]) -> str:
    """Write numbers in short: 0-3,7."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
