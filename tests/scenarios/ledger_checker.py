"""Checks a whole ledger against its rules and against what its writers and readers were told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from events.envelope import Entry, NewEvent, Stored, VoidEntryError, decode_entry
from events.leaves import LeafIssued
from events.log import Appended
from events.signers import GrantGiven, SignersAssigned
from events.subjects import Family


@dataclass
class History:
    """What writers were told, and what readers saw."""

    acknowledged: list[tuple[Appended, tuple[str, ...]]] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)  # event ids
    seen: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    contradictions: list[str] = field(default_factory=list)

    def acknowledge(self, appended: Appended, events: Sequence[NewEvent]) -> None:
        """Remember that a writer was told: stored."""
        self.acknowledged.append((appended, tuple(event.id for event in events)))

    def refuse(self, events: Sequence[NewEvent]) -> None:
        """Remember that a writer was told: not stored, and it never will be."""
        self.refused.update(event.id for event in events)

    def see(self, stored: Stored) -> None:
        """Remember what a reader saw."""
        now = (stored.subject, stored.data)
        if self.seen.setdefault(stored.sequence, now) != now:
            self.contradictions.append(f"{stored.sequence}: two readers saw different messages")


def check(ledger: Sequence[Stored], history: History, *, datacenter: str = "dc1") -> list[str]:
    """Return every fault of a ledger that is read from its beginning to its end; [] is good."""
    faults = list(history.contradictions)
    entries: list[Entry] = []
    for place, stored in enumerate(ledger, 1):
        if stored.sequence != place:
            faults.append(f"{place}: {stored.sequence} stands in its place")
        try:
            entries.append(decode_entry(stored, datacenter=datacenter))
        except VoidEntryError as void:
            faults.append(f"{stored.sequence}: void: {void}")
    faults += _order(entries)
    faults += _whole_appends(entries)
    faults += _grants(entries)
    faults += _repeats(entries)
    faults += _promises(ledger, entries, history)
    return faults


def _order(entries: Sequence[Entry]) -> Iterator[str]:
    """Every authority entry was decided on the one before it."""
    position = 0
    for entry in entries:
        if entry.subject.family is Family.AUTHORITY:
            expected = entry.events[0].envelope.expectedsequence
            if expected != position:
                yield f"{entry.sequence}: decided on {expected}, but that was at {position}"
            position = entry.sequence


def _whole_appends(entries: Sequence[Entry]) -> Iterator[str]:
    """Every grant follows the table that names it, and every table is followed by its grants."""
    due: list[tuple[int, str]] = []
    for entry in entries:
        is_grant = entry.subject.family is Family.GRANT
        if due:
            sequence, signer = due.pop(0)
            if not is_grant or (entry.sequence, entry.subject.signer) != (sequence, signer):
                yield f"{entry.sequence}: torn: the grant of {signer} belongs here"
                due = []
        elif is_grant:
            yield f"{entry.sequence}: a grant that no table names"
        for recorded in entry.events:
            if isinstance(table := recorded.event, SignersAssigned):
                named = (*table.granted, *table.withdrawn)
                due = [(entry.sequence + 1 + i, signer) for i, signer in enumerate(named)]
                if entry.messages != 1 + len(named):
                    yield f"{entry.sequence}: {entry.messages} messages for {len(named)} grants"
    if due:
        yield f"the end: torn: {len(due)} grants are missing"


def _grants(entries: Sequence[Entry]) -> Iterator[str]:
    """Every leaf was stored while the grant it names was its signer's latest."""
    current: dict[str | None, int] = {}
    for entry in entries:
        for recorded in entry.events:
            if entry.subject.family is Family.GRANT:
                given = isinstance(recorded.event, GrantGiven)
                current[entry.subject.signer] = entry.sequence if given else 0
            elif isinstance(leaf := recorded.event, LeafIssued):
                now = current.get(leaf.signer, 0)
                if leaf.signer != entry.subject.signer or leaf.grant_sequence != now:
                    yield (
                        f"{entry.sequence}: a leaf of {leaf.signer} under the grant at "
                        f"{leaf.grant_sequence}, but that is at {now}"
                    )


def _repeats(entries: Sequence[Entry]) -> Iterator[str]:
    """No event, and no certificate for one request, stands twice."""
    recorded = [recorded for entry in entries for recorded in entry.events]
    events = Counter(each.envelope.id for each in recorded)
    requests = Counter(
        each.event.request_id for each in recorded if isinstance(each.event, LeafIssued)
    )
    yield from (f"event {key} stands {n} times" for key, n in events.items() if n > 1)
    yield from (f"request {key} was issued {n} times" for key, n in requests.items() if n > 1)


def _promises(
    ledger: Sequence[Stored], entries: Sequence[Entry], history: History
) -> Iterator[str]:
    """What writers were told and readers saw is so."""
    at = {
        entry.sequence: tuple(recorded.envelope.id for recorded in entry.events)
        for entry in entries
    }
    stored_ids = {event_id for ids in at.values() for event_id in ids}
    for appended, ids in history.acknowledged:
        if at.get(appended.sequence) != ids:
            yield f"{appended.sequence}: acknowledged, but something else stands there"
    for event_id in sorted(history.refused & stored_ids):
        yield f"event {event_id} was refused, but it is stored"
    messages = {stored.sequence: (stored.subject, stored.data) for stored in ledger}
    for sequence, seen in history.seen.items():
        if messages.get(sequence) != seen:
            yield f"{sequence}: a reader saw something else"
