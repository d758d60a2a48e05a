"""The fold of the whole stream: which entries count, and which leaves break a rule.

Pure. Its part on `authority` is the fold of `projections.authority` itself, so a reader of that
one subject and a reader of everything always agree. What only a reader of everything can see (a
grant that does not follow its authority entry, an event id used by somebody else) makes the grant
or the leaves entry void, never the authority entry.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, assert_never

from events.base import Struct
from events.catalogue import CODEC, EventCodec
from events.envelope import Entry, Stored, VoidEntryError, VoidKind, decode_entry
from events.identities import NoIdentityError, identity_of
from events.leaves import LeafIssued
from events.log import GapError
from events.signers import GrantGiven, GrantWithdrawn, SignersAssigned
from events.subjects import BadNameError, Family, Subjects, identity_tokens, partition_of
from projections import authority_fold
from projections.authority import AuthorityState

IrregularKind = Literal["signer", "grant", "partition", "issuer_key", "name"]


class Void(Struct):
    """Why an entry is passed over. Only `ledger verify` goes on after an unknown type."""

    kind: VoidKind | Literal["unknown_type"]
    reason: str


class Irregular(Struct):
    """A rule that an issued leaf breaks; it is kept all the same, since that certificate exists."""

    position: int  # of the event in its entry
    kind: IrregularKind
    reason: str


class Read(Struct):
    """One message, read by itself."""

    stored: Stored
    entry: Entry | None = None
    void: Void | None = None

    @property
    def event_ids(self) -> frozenset[str]:
        """Return the ids that the fold has to know whether they were used before."""
        events = self.entry.events if self.entry is not None else ()
        return frozenset(recorded.envelope.id for recorded in events)


class Folded(Struct):
    """What one message came to: an entry that counts, or a void one; and the authority around it.

    `after` is what `authority` says once this message is folded.
    """

    stored: Stored
    entry: Entry | None
    void: Void | None
    irregular: tuple[Irregular, ...]
    before: AuthorityState
    after: AuthorityState
    repeats: str | None = None
    """An event id that a grant or a leaf had before this authority entry: a fault, but none that a
    reader of `authority` alone can see, so the entry counts."""

    @property
    def sequence(self) -> int:
        """Return the message's place in the ledger."""
        return self.stored.sequence


class _Append(Struct):
    """An atomic append: the grants that have to follow its authority entry, in order."""

    sequence: int
    grants: tuple[tuple[str, type[GrantGiven | GrantWithdrawn]], ...]


def read(stored: Stored, *, datacenter: str, codec: EventCodec = CODEC) -> Read:
    """Read one message by itself; raises UnknownEventTypeError."""
    try:
        return Read(stored=stored, entry=decode_entry(stored, datacenter=datacenter, codec=codec))
    except VoidEntryError as void:
        return Read(stored=stored, void=Void(kind=void.kind, reason=str(void)))


class LedgerFold:
    """The fold at a place in the ledger. `authority` and `position` are all of its state.

    `known` are the ids of events before `position`: all of them, or at least those that come again
    in what is folded next (a projections file knows them all, and is asked for these).
    """

    def __init__(
        self,
        datacenter: str,
        *,
        state: AuthorityState | None = None,
        position: int = 0,
        known: Iterable[str] = (),
    ) -> None:
        self.authority = state or AuthorityState(datacenter=datacenter)
        self.position = position
        self._authority_subject = Subjects(datacenter).authority
        self._known = set(known)
        self._append: _Append | None = None
        self._pending: list[Folded] = []

    def fold(self, message: Read) -> tuple[Folded, ...]:
        """Fold the next message, and return what counts now.

        () while the last message of an atomic append has not been seen, then the whole append.
        Raises GapError, and is then what it was before.
        """
        stored = message.stored
        if stored.sequence != self.position + 1:
            raise GapError(f"sequence {stored.sequence} comes after {self.position}")
        before = self.authority
        folded = self._judge(message, before)
        self.authority = folded.after
        self.position = stored.sequence
        if folded.entry is not None:
            self._known |= message.event_ids
        self._pending.append(folded)
        return self._take() if self.position >= self.authority.settled else ()

    def skip(self, position: int) -> tuple[Folded, ...]:
        """Go on after a gap, at `position`, with what was folded of an unfinished append.

        For `ledger verify`, which looks on; a projection never does.
        """
        self.position = position
        self._append = None
        return self._take()

    def _take(self) -> tuple[Folded, ...]:
        pending, self._pending = tuple(self._pending), []
        return pending

    def _judge(self, message: Read, before: AuthorityState) -> Folded:
        stored, entry, void = message.stored, message.entry, message.void
        try:
            if entry is not None:
                self._check(entry, before)
        except VoidEntryError as broken:
            entry, void = None, Void(kind=broken.kind, reason=str(broken))
        after = before
        if stored.subject == self._authority_subject:
            self._append = _append_of(entry) if entry is not None else None
            if entry is not None:
                after = authority_fold.apply(before, entry)
            else:
                assert void is not None
                after = authority_fold.pass_over(before, stored.sequence, void.reason)
        irregular = _irregularities(entry, before) if entry is not None else ()
        repeated = self._known & message.event_ids if entry is not None else frozenset()
        return Folded(
            stored=stored,
            entry=entry,
            void=void,
            irregular=irregular,
            before=before,
            after=after,
            repeats=min(repeated, default=None),
        )

    def _check(self, entry: Entry, state: AuthorityState) -> None:
        """Raise VoidEntryError where an entry breaks a rule that needs the entries before it."""
        family = entry.subject.family
        if family is Family.AUTHORITY:
            return authority_fold.check_expected(state, entry)
        if repeated := self._known.intersection(e.envelope.id for e in entry.events):
            raise VoidEntryError(f"repeats event {min(repeated)}", kind="event_id")
        if family is Family.GRANT:
            return _check_grant(entry, self._append, state)
        if family is Family.LEAVES:
            return None
        assert_never(family)


def _append_of(entry: Entry) -> _Append:
    changes: tuple[tuple[str, type[GrantGiven | GrantWithdrawn]], ...] = ()
    for recorded in entry.events:
        if isinstance(recorded.event, SignersAssigned):
            changes = (
                *((signer, GrantGiven) for signer in recorded.event.granted),
                *((signer, GrantWithdrawn) for signer in recorded.event.withdrawn),
            )
    return _Append(sequence=entry.sequence, grants=changes)


def _check_grant(entry: Entry, append: _Append | None, state: AuthorityState) -> None:
    """Raise VoidEntryError for a grant that is not what its authority entry says follows."""
    place = entry.sequence - append.sequence - 1 if append is not None else -1
    if append is None or not 0 <= place < len(append.grants):
        raise VoidEntryError("a grant that no authority entry is about", kind="grant_message")
    signer, kind = append.grants[place]
    event = entry.events[0].event
    if len(entry.events) != 1 or not isinstance(event, kind) or entry.subject.signer != signer:
        raise VoidEntryError(
            f"is not the {kind.TYPE} of {signer} that authority entry {append.sequence} says"
            " comes here",
            kind="grant_message",
        )
    if isinstance(event, GrantWithdrawn):
        if event.signer != signer:
            raise VoidEntryError("withdraws another signer's grant", kind="grant_message")
    elif signer not in state.signers or event.assignment != state.signers[signer].assignment:
        raise VoidEntryError(
            f"gives {signer} another grant than authority entry {append.sequence}",
            kind="grant_message",
        )


def _irregularities(entry: Entry, state: AuthorityState) -> tuple[Irregular, ...]:
    if entry.subject.family is not Family.LEAVES:
        return ()
    return tuple(
        Irregular(position=recorded.position, kind=kind, reason=reason)
        for recorded in entry.events
        if isinstance(recorded.event, LeafIssued)
        for kind, reason in _broken_rules(recorded.event, entry.subject.signer or "", state)
    )


def _broken_rules(
    leaf: LeafIssued, signer: str, state: AuthorityState
) -> Iterable[tuple[IrregularKind, str]]:
    """Yield the rules of architecture 3.1 and 3.2 that a leaf breaks."""
    if leaf.signer != signer:
        yield "signer", f"stands among the leaves of {signer}, but is of {leaf.signer}"
    if not _is_named(leaf, state):
        yield "name", f"{leaf.identity} is not {leaf.kind} {leaf.name!r} of this datacenter"
    grant = state.signers.get(signer)
    if grant is None or grant.sequence != leaf.grant_sequence:
        current = f"its grant is {grant.sequence}" if grant is not None else "it has none"
        yield "grant", f"issued under grant {leaf.grant_sequence} of {signer}, but {current}"
        return
    if leaf.issuer_key_id != grant.assignment.signing_key_id:
        yield "issuer_key", f"issued with key {leaf.issuer_key_id}, which the grant does not name"
    try:
        partition = partition_of(*identity_tokens(leaf.kind, leaf.name))
    except BadNameError as error:
        yield "partition", str(error)
        return
    if partition not in grant.assignment.partitions:
        yield "partition", f"{leaf.name} is in partition {partition}, which {signer} does not hold"


def _is_named(leaf: LeafIssued, state: AuthorityState) -> bool:
    """Tell whether the identity is the one that `kind` and `name`, hence the partition, stand for.

    Else a signer could issue a name of somebody else's partition as if it were one of its own; or,
    with another spelling of the same name (`%77eb` for `web`), a second certificate for a request.
    """
    if state.configuration is None:
        return False
    try:
        named = identity_of(
            leaf.kind,
            leaf.name,
            trust_domain=state.configuration.trust_domain,
            datacenter=state.datacenter,
        )
    except NoIdentityError:
        return False
    return leaf.identity == named
