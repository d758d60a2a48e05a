"""Whether a ledger can be believed: every rule that can be checked from its entries alone.

Pure. Every fault names one sequence and the check that found it, and the reader goes on after it
where that makes sense, so that one run finds all there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final, Literal

from events.base import Struct
from events.catalogue import CODEC, EventCodec, UnknownEventTypeError
from events.envelope import Recorded, Stored
from events.leadership import LeadershipAcquired, LeadershipReleased
from events.leaves import LeafIssued, LeafRefusalsCounted, LeafRefused
from events.log import GapError
from events.subjects import Family
from projections import authority_fold
from projections.authority import AuthorityState
from projections.ledger_fold import Folded, LedgerFold, Read, Void, read
from projections.verify_leaf import LeafVerifier

Check = Literal[
    "gap",
    "malformed",
    "subject",
    "unknown_type",
    "event_id",
    "expected",
    "atomic",
    "grant_message",
    "term",
    "signer",
    "name",
    "grant",
    "partition",
    "issuer_key",
    "leaf_fields",
    "leaf_signature",
    "leaf_chain",
    "serial",
    "request_id",
]

CHECKS: Final[Mapping[Check, str]] = {
    "gap": "no sequence is missing",
    "malformed": "every entry is a list of well-formed events",
    "subject": "every event is on the subject that it belongs on",
    "unknown_type": "every event's type is known",
    "event_id": "no event id is used twice",
    "expected": "every authority entry expects the one before it",
    "atomic": "every authority entry says how many grants it changes, and they follow it",
    "grant_message": "every grant is one that an authority entry is about",
    "term": "terms only rise, and decisions carry their leader's",
    "signer": "every leaf is of the signer that it stands under",
    "name": "every leaf's identity is what its name stands for",
    "grant": "every leaf's grant was current",
    "partition": "every leaf's partition was its signer's",
    "issuer_key": "every leaf was issued with its grant's key",
    "leaf_fields": "every certificate says what its event says",
    "leaf_signature": "every leaf is signed by its issuer",
    "leaf_chain": "every leaf verifies against the bundle of its time, and within its issuer's",
    "serial": "no serial is used twice",
    "request_id": "no request of one identity has two certificates",
}
"""What is checked, in words."""


class Fault(Struct):
    """A rule that is broken, at one sequence of the ledger."""

    sequence: int
    check: Check
    text: str


class Summary(Struct):
    """What was checked, and how much."""

    first: int  # sequences; 0: nothing
    last: int
    entries: int
    events: int
    leaves: int
    faults: int
    checked: dict[str, int]  # by check: how many entries, events or leaves it looked at
    events_by_type: dict[str, int]


class Verifier:
    """Reads a whole ledger from sequence 1, one message after the other.

    Remembers ids, serials and request ids of everything it saw: about 500 bytes a leaf.
    """

    def __init__(self, datacenter: str, *, codec: EventCodec = CODEC) -> None:
        self._datacenter = datacenter
        self._codec = codec
        self._fold = LedgerFold(datacenter)
        self._leaf = LeafVerifier()
        self._serials: set[str] = set()
        self._requests: set[tuple[str, str]] = set()
        self._faults: Counter[int] = Counter()  # by sequence
        self._checked: Counter[Check] = Counter(dict.fromkeys(CHECKS, 0))
        self._types: Counter[str] = Counter()
        self._entries = 0

    def check(self, stored: Stored) -> list[Fault]:
        """Check the next message; returns the faults that it lets be seen.

        What belongs to an atomic append is judged with its last message.
        """
        return self._counted(self._check(stored))

    def finish(self, *, last_sequence: int | None = None) -> list[Fault]:
        """Check what can only be told at the end; `last_sequence`: what the ledger says it has."""
        return self._counted(self._finish(last_sequence))

    def summary(self) -> Summary:
        """Return what was checked so far, and how much."""
        return Summary(
            first=1 if self._entries else 0,
            last=self._fold.position,
            entries=self._entries,
            events=self._types.total(),
            leaves=self._types[LeafIssued.TYPE],
            faults=self._faults.total(),
            checked={str(check): count for check, count in self._checked.items()},
            events_by_type=dict(sorted(self._types.items())),
        )

    def _counted(self, faults: Iterator[Fault]) -> list[Fault]:
        found = list(faults)
        self._faults.update(fault.sequence for fault in found)
        return found

    def _check(self, stored: Stored) -> Iterator[Fault]:
        self._checked["gap"] += 1
        expected = self._fold.position + 1
        if stored.sequence < expected:
            yield Fault(
                sequence=stored.sequence, check="gap", text=f"comes again, after {expected - 1}"
            )
            return
        if stored.sequence > expected:
            yield _missing(expected, stored.sequence - 1)
            yield from self._unfinished(self._fold.skip(stored.sequence - 1))
        self._entries += 1
        try:
            folded = self._fold.fold(self._read(stored))
        except GapError as error:  # the sequence was just made to fit
            raise AssertionError(error) from error
        for each in folded:
            yield from self._entry(each)

    def _read(self, stored: Stored) -> Read:
        try:
            return read(stored, datacenter=self._datacenter, codec=self._codec)
        except UnknownEventTypeError as error:
            return Read(stored=stored, void=Void(kind="unknown_type", reason=str(error)))

    def _finish(self, last_sequence: int | None) -> Iterator[Fault]:
        yield from self._unfinished(self._fold.skip(self._fold.position))
        if last_sequence is not None and last_sequence > self._fold.position:
            yield _missing(self._fold.position + 1, last_sequence)

    def _unfinished(self, pending: tuple[Folded, ...]) -> Iterator[Fault]:
        """Check what there is of an atomic append whose end is missing."""
        if pending:
            yield Fault(
                sequence=pending[0].sequence,
                check="atomic",
                text=f"an append of {pending[0].after.settled - pending[0].sequence + 1} messages,"
                f" but only {len(pending)} are there",
            )
        for folded in pending:
            yield from self._entry(folded)

    def _entry(self, folded: Folded) -> Iterator[Fault]:
        for check in ("malformed", "subject", "unknown_type", "event_id"):
            self._checked[check] += 1
        if folded.void is not None:
            yield Fault(
                sequence=folded.sequence, check=folded.void.kind, text=f"void: {folded.void.reason}"
            )
        if folded.entry is None:
            return
        self._types.update(recorded.envelope.type for recorded in folded.entry.events)
        family = folded.entry.subject.family
        if family is not Family.GRANT and folded.sequence <= folded.before.settled:
            yield Fault(
                sequence=folded.sequence,
                check="atomic",
                text=f"stands inside the append of authority entry {folded.before.position}",
            )
        match family:
            case Family.AUTHORITY:
                yield from self._authority(folded, folded.entry.events)
            case Family.GRANT:
                self._checked["grant_message"] += 1
            case Family.LEAVES:
                yield from self._leaves(folded, folded.entry.events)

    def _authority(self, folded: Folded, events: tuple[Recorded, ...]) -> Iterator[Fault]:
        self._checked["expected"] += 1
        self._checked["atomic"] += 1
        if folded.repeats is not None:
            yield Fault(
                sequence=folded.sequence, check="event_id", text=f"repeats event {folded.repeats}"
            )
        state = folded.before
        for recorded in events:
            self._checked["term"] += 1
            if (reason := _wrong_term(recorded, state)) is not None:
                yield Fault(sequence=folded.sequence, check="term", text=reason)
            state = authority_fold.evolve(state, recorded)

    def _leaves(self, folded: Folded, events: tuple[Recorded, ...]) -> Iterator[Fault]:
        for broken in folded.irregular:
            yield Fault(
                sequence=folded.sequence,
                check=broken.kind,
                text=f"event {broken.position}: {broken.reason}",
            )
        for recorded in events:
            match recorded.event:
                case LeafIssued() as leaf:
                    for check in ("signer", "name", "grant", "partition", "issuer_key"):
                        self._checked[check] += 1
                    yield from self._issued(folded, recorded, leaf)
                case LeafRefused() | LeafRefusalsCounted() as refused:
                    yield from self._refused(folded, recorded, refused)
                case _:
                    raise AssertionError("its family was checked")

    def _issued(self, folded: Folded, recorded: Recorded, leaf: LeafIssued) -> Iterator[Fault]:
        def fault(check: Check, text: str) -> Fault:
            return Fault(
                sequence=folded.sequence, check=check, text=f"event {recorded.position}: {text}"
            )

        for check in ("leaf_fields", "leaf_signature", "leaf_chain", "serial", "request_id"):
            self._checked[check] += 1
        for name, text in self._leaf.broken(leaf, folded.before):
            yield fault(name, text)
        if leaf.serial in self._serials:
            yield fault("serial", f"serial {leaf.serial} is another certificate's too")
        self._serials.add(leaf.serial)
        if leaf.request_id is not None:
            request = (leaf.identity, leaf.request_id)
            if request in self._requests:
                yield fault(
                    "request_id", f"request {leaf.request_id} of {leaf.identity} has one already"
                )
            self._requests.add(request)

    def _refused(
        self, folded: Folded, recorded: Recorded, refused: LeafRefused | LeafRefusalsCounted
    ) -> Iterator[Fault]:
        """Check that who refused had the grant that it says; nothing else hangs on it."""
        assert folded.entry is not None
        signer = folded.entry.subject.signer or ""
        self._checked["signer"] += 1
        self._checked["grant"] += 1
        if refused.signer != signer:
            yield Fault(
                sequence=folded.sequence,
                check="signer",
                text=f"event {recorded.position}: is of {refused.signer}",
            )
        grant = folded.before.signers.get(signer)
        if grant is None or grant.sequence != refused.grant_sequence:
            yield Fault(
                sequence=folded.sequence,
                check="grant",
                text=f"event {recorded.position}: grant {refused.grant_sequence} was not current",
            )


def _wrong_term(recorded: Recorded, state: AuthorityState) -> str | None:
    """Say what is wrong with the term that an authority event carries (3.1, rule 4)."""
    term, event = recorded.envelope.term, recorded.event
    if isinstance(event, LeadershipAcquired):
        if event.term <= state.term:
            return f"term {event.term} is not above {state.term}"
        return None if term == event.term else f"acquires term {event.term} under term {term}"
    if state.leader is None:
        return f"decided under term {term}, while nobody led"
    if term != state.leader.term:
        return f"decided under term {term}, but {state.leader.term} is the leader's"
    if isinstance(event, LeadershipReleased) and (event.node, event.term) != (
        state.leader.node,
        state.leader.term,
    ):
        return f"releases term {event.term} of {event.node}, who does not lead"
    return None


def _missing(first: int, last: int) -> Fault:
    text = "is missing" if first == last else f"and all up to {last} are missing"
    return Fault(sequence=first, check="gap", text=text)
