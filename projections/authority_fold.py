"""The fold over `authority`: what each event makes of what the certificate authority is."""

from __future__ import annotations

from typing import Final, assert_never

from msgspec.structs import replace

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
from events.envelope import Entry, Recorded, Stored, VoidEntryError, decode_entry
from events.leadership import LeadershipAcquired, LeadershipReleased
from events.revocation import CrlIssued, LeavesRevoked
from events.signers import SignersAssigned
from events.subjects import Family
from projections import bridges
from projections.authority import (
    AuthorityState,
    Commanded,
    Crl,
    Issuer,
    Leader,
    Renewal,
    Revoked,
    Root,
    Rotation,
    SignerGrant,
    VoidEntry,
)

REQUESTS_KNOWN: Final = 256  # commands whose outcome is told again to who asks again


def fold(state: AuthorityState, stored: Stored) -> AuthorityState:
    """Fold one message of `authority`.

    A void entry is passed over and told in `last_void`. Raises UnknownEventTypeError for an
    event of a type that this software does not know.
    """
    try:
        entry = decode_entry(stored, datacenter=state.datacenter)
        check_expected(state, entry)
    except VoidEntryError as void:
        return pass_over(state, stored.sequence, str(void))
    return apply(state, entry)


def check_expected(state: AuthorityState, entry: Entry) -> None:
    """Raise VoidEntryError where an authority entry does not follow the one before it."""
    if entry.subject.family is not Family.AUTHORITY:
        raise VoidEntryError(
            f"{entry.subject.family.value} entry where authority was expected", kind="subject"
        )
    expected = entry.events[0].envelope.expectedsequence
    if expected != state.position:
        raise VoidEntryError(
            f"expects authority at {expected}, but that is at {state.position}", kind="expected"
        )
    if repeated := state.event_ids.among(e.envelope.id for e in entry.events):
        raise VoidEntryError(f"repeats event {min(repeated)}", kind="event_id")


def pass_over(state: AuthorityState, sequence: int, reason: str) -> AuthorityState:
    """Fold a void entry: it moves the position, since appends are conditional on that."""
    return replace(
        _cut_off(state, sequence),
        position=sequence,
        settled=sequence,
        last_void=VoidEntry(sequence=sequence, reason=reason),
    )


def apply(state: AuthorityState, entry: Entry) -> AuthorityState:
    """Fold a well-formed authority entry that `check_expected` has passed."""
    state = _cut_off(state, entry.sequence)
    for recorded in entry.events:
        state = evolve(state, recorded)
    return replace(
        state,
        position=entry.sequence,
        settled=entry.sequence + entry.messages - 1,
        event_ids=state.event_ids.with_ids(e.envelope.id for e in entry.events),
    )


def _cut_off(state: AuthorityState, sequence: int) -> AuthorityState:
    """Take back the grants of an append that an authority entry at `sequence` stands inside of.

    They are not there, so nothing could be appended under them; their signers are given others.
    """
    if sequence > state.settled:
        return state
    there = {name: grant for name, grant in state.signers.items() if grant.sequence < sequence}
    return replace(state, signers=there)


def evolve(state: AuthorityState, recorded: Recorded) -> AuthorityState:
    """Fold one authority event."""
    event: AuthorityEvent = recorded.event  # type: ignore[assignment]  # its family was checked
    sequence = recorded.sequence
    match event:
        case LeadershipAcquired():
            return replace(
                state,
                term=max(state.term, event.term),
                leader=Leader(node=event.node, term=event.term),
                led_since=recorded.envelope.time,
            )
        case LeadershipReleased():
            return replace(state, leader=None, led_since=None)
        case CAConfigured():
            return replace(
                _asked(state, event),
                configuration=event,
                configured=sequence,
                first_configured=state.first_configured or sequence,
                bundle_sequence=sequence,
            )
        case KeyCreated() | KeyShared() | KeyDestroyed():
            return _key(state, event)
        case RotationStarted():
            return replace(
                _asked(state, event),
                rotation=Rotation(started=event, sequence=sequence),
            )
        case RotationAborted():
            return replace(_asked(_given_up(state), event), rotation=None)
        case RootPublished() | RootActivated() | RootRetired() | RootPruned():
            return _root(state, event, recorded)
        case IntermediateRequested():
            return replace(state, renewal=Renewal(requested=event, sequence=sequence))
        case IntermediateInstalled() | LeafSignerSelected():
            return _leaf_signer(state, event, recorded)
        case LeavesRevoked():
            return _revoke(state, event, recorded)
        case CrlIssued():
            listed = Crl(issued=event, sequence=sequence)
            return replace(state, crls={**state.crls, event.issuer_key_id: listed})
        case SignersAssigned():
            return replace(state, signers=_assigned(state, event, sequence))
        case _:
            assert_never(event)


def _asked(state: AuthorityState, event: Commanded) -> AuthorityState:
    """Remember what a command led to; of leaves that were revoked, not which."""
    if event.request_id is None:
        return state
    kept = replace(event, leaves=()) if isinstance(event, LeavesRevoked) else event
    requests = {**state.requests, event.request_id: kept}
    while len(requests) > REQUESTS_KNOWN:
        del requests[next(iter(requests))]
    return replace(state, requests=requests)


def _given_up(state: AuthorityState) -> AuthorityState:
    """Remember, of the command that began the rotation, that it led to nothing."""
    began = state.rotation.started.request_id if state.rotation is not None else None
    if began is None:
        return state
    return replace(state, given_up=(*state.given_up, began)[-REQUESTS_KNOWN:])


def _key(state: AuthorityState, event: KeyCreated | KeyShared | KeyDestroyed) -> AuthorityState:
    match event:
        case KeyCreated():
            return replace(state, keys={**state.keys, event.key_id: event})
        case KeyShared():
            return replace(state, shared=state.shared | {event.key_id})
        case KeyDestroyed():
            created = state.keys.get(event.key_id)
            if created is not None and created.purpose != event.purpose:
                return replace(state, shared=state.shared - {event.key_id})
            keys = {key_id: key for key_id, key in state.keys.items() if key_id != event.key_id}
            return replace(state, keys=keys)
        case _:
            assert_never(event)


def _root(
    state: AuthorityState,
    event: RootPublished | RootActivated | RootRetired | RootPruned,
    recorded: Recorded,
) -> AuthorityState:
    roots, sequence = dict(state.roots), recorded.sequence
    match event:
        case RootPublished():
            pruned = {key: root for key, root in state.pruned.items() if key != event.root_id}
            state = replace(state, pruned=pruned)  # one that was taken back may come again
            active = state.active_root if event.cross_signed is not None else None
            if active is not None and (bridge := bridges.crossing(event, active)) is not None:
                state = replace(state, crossings=(*state.crossings, bridge))
            roots[event.root_id] = Root(
                published=event,
                active=False,
                created=sequence,
                modified=sequence,
                crossed_by=active.published.root_id if active is not None else None,
            )
        case RootActivated():
            return _activate(state, event, sequence)
        case RootRetired():
            if (root := roots.get(event.root_id)) is not None:
                roots[event.root_id] = replace(
                    root,
                    active=False,
                    modified=sequence,
                    rotated_out_at=event.rotated_out_at,
                    retired=sequence,
                )
        case RootPruned():
            state = _asked(state, event)
            if (root := roots.pop(event.root_id, None)) is not None:
                state = replace(state, pruned={**state.pruned, event.root_id: root})
                state = bridges.revoked(state, root, recorded)
        case _:
            assert_never(event)
    return replace(state, roots=roots, bundle_sequence=sequence)


def _activate(state: AuthorityState, event: RootActivated, sequence: int) -> AuthorityState:
    roots = {
        root_id: replace(
            root,
            active=root_id == event.root_id,
            modified=sequence if (root_id == event.root_id) != root.active else root.modified,
        )
        for root_id, root in state.roots.items()
    }
    return replace(state, roots=roots, rotation=None, renewal=None, bundle_sequence=sequence)


def _leaf_signer(
    state: AuthorityState,
    event: IntermediateInstalled | LeafSignerSelected,
    recorded: Recorded,
) -> AuthorityState:
    root, sequence = state.roots.get(event.root_id), recorded.sequence
    above = bridges.above(state, root, recorded.envelope.time) if root is not None else ()
    match event:
        case IntermediateInstalled():
            certificate, chain = event.certificate, (event.certificate, *above)
        case LeafSignerSelected():
            certificate, chain = (root.published.certificate if root is not None else b""), above
        case _:
            assert_never(event)
    issuer = Issuer(
        key_id=event.signing_key_id, root_id=event.root_id, certificate=certificate, chain=chain
    )
    roots = dict(state.roots)
    if root is not None:
        roots[event.root_id] = replace(root, modified=sequence)
    return replace(
        state,
        issuers={**state.issuers, issuer.key_id: issuer},
        issuer_key_id=issuer.key_id,
        issuer_changed=sequence,
        roots=roots,
        renewal=None,
        bundle_sequence=sequence,
    )


def _revoke(state: AuthorityState, event: LeavesRevoked, recorded: Recorded) -> AuthorityState:
    """Fold a revocation; a leaf that was revoked before stays revoked as it was."""
    revoked = {key_id: dict(serials) for key_id, serials in state.revoked.items()}
    for leaf in event.leaves:
        revoked.setdefault(leaf.issuer_key_id, {}).setdefault(
            leaf.serial,
            Revoked(
                sequence=recorded.sequence,
                identity=leaf.identity,
                at=recorded.envelope.time,
                reason=event.reason,
                not_after=leaf.not_after,
            ),
        )
    sequences = dict.fromkeys((leaf.issuer_key_id for leaf in event.leaves), recorded.sequence)
    return replace(
        _asked(state, event),
        revoked=revoked,
        revoked_sequence={**state.revoked_sequence, **sequences},
    )


def _assigned(
    state: AuthorityState, event: SignersAssigned, sequence: int
) -> dict[str, SignerGrant]:
    changed = {signer: sequence + 1 + i for i, signer in enumerate(event.granted)}
    return {
        assignment.signer: SignerGrant(
            assignment=assignment,
            sequence=changed.get(assignment.signer)
            or (
                state.signers[assignment.signer].sequence
                if assignment.signer in state.signers
                else 0
            ),
        )
        for assignment in event.assignments
    }
