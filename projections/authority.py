"""What the certificate authority is now: the fold over `authority`, which every decision needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from msgspec.structs import replace

from events.authority import (
    CAConfigured,
    IntermediateInstalled,
    KeyCreated,
    RootActivated,
    RootPublished,
)
from events.base import Struct
from events.catalogue import AuthorityEvent
from events.envelope import Entry, Recorded, Stored, VoidEntryError, decode_entry
from events.leadership import LeadershipAcquired, LeadershipReleased
from events.signers import Assignment, SignersAssigned
from events.subjects import Family
from projections.id_set import IdSet


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
    configuration: CAConfigured | None = None
    configured: int = 0  # sequence of the configuration
    keys: Mapping[str, KeyCreated] = {}
    roots: Mapping[str, Root] = {}  # by root id, oldest first
    issuers: Mapping[str, Issuer] = {}  # by key id, all there ever were
    issuer_key_id: str | None = None  # the one that signs now
    signers: Mapping[str, SignerGrant] = {}
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
            )
        case LeadershipReleased():
            return replace(state, leader=None)
        case CAConfigured():
            return replace(
                state, configuration=event, configured=sequence, bundle_sequence=sequence
            )
        case KeyCreated():
            return replace(state, keys={**state.keys, event.key_id: event})
        case RootPublished():
            root = Root(published=event, active=False, created=sequence, modified=sequence)
            return replace(
                state, roots={**state.roots, event.root_id: root}, bundle_sequence=sequence
            )
        case RootActivated():
            return _activate(state, event, sequence)
        case IntermediateInstalled():
            return _install(state, event, sequence)
        case SignersAssigned():
            return replace(state, signers=_assigned(state, event, sequence))
        case _:
            assert_never(event)


def _activate(state: AuthorityState, event: RootActivated, sequence: int) -> AuthorityState:
    roots = {
        root_id: replace(
            root,
            active=root_id == event.root_id,
            modified=sequence if (root_id == event.root_id) != root.active else root.modified,
        )
        for root_id, root in state.roots.items()
    }
    return replace(state, roots=roots, bundle_sequence=sequence)


def _install(state: AuthorityState, event: IntermediateInstalled, sequence: int) -> AuthorityState:
    root = state.roots.get(event.root_id)
    cross_signed = root.published.cross_signed if root is not None else None
    issuer = Issuer(
        key_id=event.signing_key_id,
        root_id=event.root_id,
        certificate=event.certificate,
        chain=(event.certificate, *([cross_signed] if cross_signed is not None else [])),
    )
    roots = dict(state.roots)
    if root is not None:
        roots[event.root_id] = replace(root, modified=sequence)
    return replace(
        state,
        issuers={**state.issuers, issuer.key_id: issuer},
        issuer_key_id=issuer.key_id,
        roots=roots,
        bundle_sequence=sequence,
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
