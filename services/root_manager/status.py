"""What `status.get` is answered with, from what a node knows: pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final, Literal

from projections.authority import AuthorityState, Root
from projections.faults import Faults, Found
from services.leases import Leases, SignerLease
from services.pki import certificates
from services.refusals import clip
from services.root_manager.assignment import unassigned
from services.root_manager.attempts import Failure
from services.root_manager.expiry import Validity, expiring, root_ends
from services.status import (
    DatacenterStatus,
    FailureStatus,
    FaultsStatus,
    FoundStatus,
    LeaderStatus,
    ProjectionsStatus,
    ProviderStatus,
    RenewalStatus,
    RootStatus,
    RotationStatus,
    SignerStatus,
    SigningCertStatus,
    Status,
    WarningStatus,
    ranges,
)
from services.wording import counted, moment

SIGNERS_TOLD_MAX: Final = 1_000  # more than can hold partitions
LAG_MAX: Final = 1_000  # entries; of projections that are further behind it is told


@dataclass(frozen=True)
class Facts:
    """What a node knows at one moment."""

    node: str
    now: datetime
    state: AuthorityState
    leases: Leases | None  # None: they cannot be read
    last_sequence: int | None  # of the ledger; None: it cannot be read
    durable_requests: int | None  # that wait in their queue; None: it cannot be read
    projected: int  # how far this node's projections are; 0: there are none
    failures: tuple[Failure, ...] = ()
    initialising: bool = False
    faults: Faults | None = None  # None: not counted yet
    agent: Validity | None = None  # of the nats-server's certificate

    @property
    def alive(self) -> frozenset[str]:
        """Return which signers hold their leases."""
        signers = self.leases.signers if self.leases is not None else ()
        return frozenset(lease.signer for lease in signers)


def status(facts: Facts) -> Status:
    """Return all of it."""
    state = facts.state
    configuration = state.configuration
    why = tuple(_why(facts))
    return Status(
        datacenter=state.datacenter,
        answered_by=facts.node,
        time=facts.now,
        can_sign=not why,
        why=why,
        state="INITIALIZING" if facts.initialising else state.ca_state,
        position=state.position,
        ledger_sequence=facts.last_sequence,
        leader=_leader(facts),
        provider=ProviderStatus(
            name=configuration.provider if configuration is not None else None,
            failures=tuple(_failure(failure) for failure in facts.failures),
        ),
        active_root=(
            _root(state.active_root, facts.now) if state.active_root is not None else None
        ),
        signing_cert=_signing_cert(facts),
        roots=tuple(_root(root, facts.now) for root in state.roots.values()),
        rotation=_rotation(state),
        renewal=_renewal(state),
        signers=tuple(islice(_signers(facts), SIGNERS_TOLD_MAX)),
        unassigned_partitions=ranges(_unassigned(state)),
        durable_requests_waiting=facts.durable_requests,
        projections=(_projections(facts),),
        faults=_faults(facts.faults),
        datacenters=(
            DatacenterStatus(
                name=state.datacenter,
                role="primary",
                trust_domain=configuration.trust_domain if configuration is not None else None,
            ),
        ),
        warnings=tuple(_warnings(facts)),
    )


def _why(facts: Facts) -> Iterator[str]:
    """Yield what keeps the CA from signing for any identity.

    Not that nobody leads: signers sign under their grants all the same.
    """
    if facts.leases is None or facts.last_sequence is None:
        yield "the ledger or the leases cannot be read: JetStream does not answer"
    if facts.state.configuration is None:
        yield "CA is uninitialized: no root certificate"
        for failure in facts.failures:
            yield f"{failure.what} fails: {clip(failure.reason)}"
        return
    yield from _certificates_why(facts)
    if facts.leases is not None:
        yield from _signers_why(facts)
    held_here = any(
        grant.assignment.node == facts.node and grant.assignment.partitions
        for grant in facts.state.signers.values()
    )
    if held_here and facts.projected == 0:
        yield f"node {facts.node} has no projections yet, which its signers wait for"


def _certificates_why(facts: Facts) -> Iterator[str]:
    root, signing_cert = facts.state.active_root, _signing_cert(facts)
    if root is None or signing_cert is None:
        yield "no root is active" if root is None else "there is no certificate to sign leaves with"
        return
    if (ends := root_ends(root)) <= facts.now:
        yield f"the active root has expired, {moment(ends)}"
    if signing_cert.issuer == "intermediate" and signing_cert.not_after <= facts.now:
        yield f"the intermediate has expired, {moment(signing_cert.not_after)}"


def _signers_why(facts: Facts) -> Iterator[str]:
    if lacking := _unassigned(facts.state):
        nobody = "" if facts.alive else ": no signer is alive"
        yield f"no signer has partitions {ranges(lacking)}{nobody}"
    alive = facts.alive
    for signer, grant in facts.state.signers.items():
        if grant.assignment.partitions and signer not in alive:
            gone = ranges(grant.assignment.partitions)
            yield f"signer {signer} has partitions {gone} and is not alive"


def _unassigned(state: AuthorityState) -> set[int]:
    return unassigned(grant.assignment for grant in state.signers.values())


def _leader(facts: Facts) -> LeaderStatus | None:
    """Return who leads, as both the ledger and the lease say."""
    leader = facts.state.leader
    held = facts.leases.leader if facts.leases is not None else None
    if leader is None or held is None or (held.node, held.term) != (leader.node, leader.term):
        return None
    return LeaderStatus(node=leader.node, term=leader.term, since=facts.state.led_since)


def _failure(failure: Failure) -> FailureStatus:
    return FailureStatus(
        what=failure.what,
        error=clip(failure.reason),
        attempts=failure.count,
        since=failure.since,
        next_try=failure.again_at,
    )


def _root(root: Root, now: datetime) -> RootStatus:
    told = root.published
    state: Literal["active", "on its way", "retired"] = "active"
    if not root.active:
        state = "on its way" if root.rotated_out_at is None else "retired"
    return RootStatus(
        root_id=told.root_id,
        name=told.name,
        key_id=told.key_id,
        private_key_type=told.key_type,
        private_key_bits=told.key_bits,
        not_after=told.not_after,
        seconds_left=_seconds(root_ends(root), now),
        state=state,
        rotated_out_at=root.rotated_out_at,
    )


def _signing_cert(facts: Facts) -> SigningCertStatus | None:
    state = facts.state
    issuer = state.issuer
    if issuer is None:
        return None
    root = state.roots.get(issuer.root_id) or state.pruned.get(issuer.root_id)
    by_root = root is not None and issuer.certificate == root.published.certificate
    not_after = certificates.load(issuer.certificate).not_valid_after_utc
    return SigningCertStatus(
        key_id=issuer.key_id,
        root_id=issuer.root_id,
        issuer="root" if by_root else "intermediate",
        not_after=not_after,
        seconds_left=_seconds(not_after, facts.now),
    )


def _rotation(state: AuthorityState) -> RotationStatus | None:
    if state.rotation is None:
        return None
    started = state.rotation.started
    return RotationStatus(
        root_id=started.root_id, reason=started.reason, activate_at=started.activate_at
    )


def _renewal(state: AuthorityState) -> RenewalStatus | None:
    if state.renewal is None:
        return None
    return RenewalStatus(
        key_id=state.renewal.requested.signing_key_id, ledger_sequence=state.renewal.sequence
    )


def _signers(facts: Facts) -> Iterator[SignerStatus]:
    """Yield those that hold partitions, then those that live and hold none."""
    leases: dict[str, SignerLease] = {
        lease.signer: lease for lease in (facts.leases.signers if facts.leases else ())
    }
    for signer, grant in sorted(facts.state.signers.items()):
        lease = leases.pop(signer, None)
        held = grant.assignment
        yield SignerStatus(
            signer=signer,
            node=held.node,
            slot=held.slot,
            alive=lease is not None,
            stopping=lease is not None and lease.stopping,
            partitions=len(held.partitions),
            ranges=ranges(held.partitions),
            grant_sequence=grant.sequence,
            rate_per_second=held.rate_per_second,
            concurrent=held.concurrent,
        )
    for signer, lease in sorted(leases.items()):
        yield SignerStatus(
            signer=signer,
            node=lease.node,
            slot=lease.slot,
            alive=True,
            stopping=lease.stopping,
            partitions=0,
            ranges="",
            grant_sequence=0,
            rate_per_second=0.0,
            concurrent=0,
        )


def _projections(facts: Facts) -> ProjectionsStatus:
    last = facts.last_sequence
    lag = None if last is None else max(last - facts.projected, 0)
    return ProjectionsStatus(node=facts.node, position=facts.projected, lag=lag)


def _faults(faults: Faults | None) -> FaultsStatus | None:
    def told(found: Found) -> FoundStatus:
        return FoundStatus(count=found.count, first=found.first)

    if faults is None:
        return None
    return FaultsStatus(
        position=faults.position, void=told(faults.void), irregular=told(faults.irregular)
    )


def _warnings(facts: Facts) -> Iterator[WarningStatus]:
    if _leader(facts) is None and facts.leases is not None:
        yield WarningStatus(
            kind="leader", level="error", message="nobody leads: nothing is renewed or assigned"
        )
    for one in expiring(facts.state, facts.now, agent=facts.agent):
        yield WarningStatus(
            kind="expiry",
            level=one.level,
            message=f"certificate expiring soon: {one.cert_type}, {one.days:g} days remaining: "
            f"{one.action}",
            cert_type=one.cert_type,
            days_remaining=one.days,
            expiration=one.not_after,
            suggested_action=one.action,
        )
    for failure in facts.failures:
        yield WarningStatus(
            kind="provider",
            level="error",
            message=f"{failure.what} fails ({counted(failure.count, 'time')}): "
            f"{clip(failure.reason)}",
        )
    lag = _projections(facts).lag
    if lag is not None and lag > LAG_MAX:
        yield WarningStatus(
            kind="projections",
            level="warning",
            message=f"the projections of node {facts.node} are {lag} entries behind",
        )
    if facts.faults is not None:
        yield from _fault_warnings(facts.faults)


def _fault_warnings(faults: Faults) -> Iterator[WarningStatus]:
    for found, what in (
        (faults.void, ("void entry", "void entries")),
        (faults.irregular, ("irregular certificate", "irregular certificates")),
    ):
        if found.count:
            yield WarningStatus(
                kind="ledger",
                level="error",
                message=f"{counted(found.count, *what)} on the ledger, the first at sequence "
                f"{found.first[0]}: `caledger ledger verify` says what is broken",
            )


def _seconds(until: datetime, now: datetime) -> int:
    return int((until - now).total_seconds())
