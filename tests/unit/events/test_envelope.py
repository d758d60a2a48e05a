"""Entries: what was written is read back, and anything else is void, never half of something."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from events.catalogue import AnyEvent, UnknownEventTypeError
from events.envelope import (
    ENTRY_BYTES_MAX,
    EVENTS_MAX,
    Entry,
    NewEvent,
    Stored,
    VoidEntryError,
    VoidKind,
    decode_entry,
    encode_entry,
)
from events.leadership import LeadershipReleased
from events.leaves import LeafRefused
from events.signers import GrantWithdrawn, SignersAssigned
from events.subjects import Subjects

SUBJECTS = Subjects("dc1")
SIGNER = "01K20000000000000000000EVN"
NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
REFUSED = LeafRefused(
    request_id="r-1",
    identity=None,
    code="malformed",
    message="no PEM-encoded data found",
    signer=SIGNER,
    grant_sequence=4,
    requester=None,
)
RELEASED = LeadershipReleased(node="n1", term=3, reason="shutdown")
WITHDRAWN = GrantWithdrawn(signer=SIGNER, reason="lost")


def ulid(number: int) -> str:
    return f"01K2{number:022d}"


ASSIGNED = SignersAssigned(
    assignments=(), granted=(ulid(1), ulid(2)), withdrawn=(ulid(3),), reason="left"
)


def stamped(event: AnyEvent, number: int = 1, **overrides: Any) -> NewEvent:
    new = NewEvent(
        id=f"01K1{number:022d}",
        source="/caledger/dc1/signer/n1",
        subject="spiffe://x.consul/ns/default/dc/dc1/svc/web",
        time=NOW,
        event=event,
        correlation_id="op-1",
        causation_id="r-1",
    )
    return replace(new, **overrides)


def decode(data: bytes, subject: str = SUBJECTS.leaves(SIGNER)) -> Entry:
    stored = Stored(sequence=9, subject=subject, stored=NOW, data=data)
    return decode_entry(stored, datacenter="dc1")


def edited(data: bytes, /, **changes: Any) -> bytes:
    """Return an entry with other attributes in its first envelope; None takes one out."""
    events = msgspec.json.decode(data)
    events[0] = {key: v for key, v in {**events[0], **changes}.items() if v is not None}
    return msgspec.json.encode(events)


LEAVES = encode_entry([stamped(REFUSED)])
AUTHORITY = encode_entry([stamped(RELEASED)], term=3, expected_sequence=8)


moments = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(st.lists(st.builds(stamped, st.just(REFUSED), subject=texts, time=moments), min_size=1))
def test_what_is_written_is_read_back(written: list[NewEvent]) -> None:
    written = [replace(new, id=f"01K1{number:022d}") for number, new in enumerate(written)]

    entry = decode(encode_entry(written))

    assert [each.event for each in entry.events] == [each.event for each in written]
    assert [each.position for each in entry.events] == list(range(len(written)))
    for recorded, new in zip(entry.events, written, strict=True):
        envelope = recorded.envelope
        assert (envelope.id, envelope.subject, envelope.time) == (new.id, new.subject, new.time)
        assert (envelope.correlationid, envelope.causationid) == ("op-1", "r-1")


def test_an_events_bytes_are_those_that_were_stored() -> None:
    """Hashes are over them: white space, order and unknown attributes stay as they are."""
    event = LEAVES[1:-1].replace(b'"source":', b'"mood" : "good",  "source":')

    entry = decode(b"[ " + event + b" ]")

    assert entry.events[0].raw == event


def test_an_authority_entry_says_its_term_and_what_it_expects() -> None:
    data = encode_entry([stamped(ASSIGNED)], term=3, expected_sequence=8, messages=4)

    entry = decode(data, SUBJECTS.authority)

    envelope = entry.events[0].envelope
    assert (envelope.term, envelope.expectedsequence, entry.messages) == (3, 8, 4)


def decided(*events: AnyEvent, messages: int | None) -> bytes:
    stamps = [stamped(event, number) for number, event in enumerate(events, 1)]
    return encode_entry(stamps, term=3, expected_sequence=8, messages=messages)


@pytest.mark.parametrize("messages", [None, 1])
def test_an_authority_entry_that_changes_no_grant_is_one_message(messages: int | None) -> None:
    assert decode(decided(RELEASED, messages=messages), SUBJECTS.authority).messages == 1


@pytest.mark.parametrize(
    "data",
    [
        decided(RELEASED, messages=2),
        decided(RELEASED, messages=1000),
        decided(ASSIGNED, messages=None),
        decided(ASSIGNED, messages=1),
        decided(ASSIGNED, messages=3),
        decided(ASSIGNED, messages=5),
        decided(ASSIGNED, ASSIGNED, messages=4),
        decided(ASSIGNED, ASSIGNED, messages=7),
        decided(replace(ASSIGNED, granted=(ulid(1), ulid(1))), messages=4),
        decided(replace(ASSIGNED, withdrawn=(ulid(1),)), messages=4),
    ],
)
def test_an_authority_entry_that_is_not_of_as_many_messages_as_it_says_is_void(
    data: bytes,
) -> None:
    with pytest.raises(VoidEntryError) as void:
        decode(data, SUBJECTS.authority)

    assert void.value.kind == "atomic"


def test_an_entry_is_as_large_as_it_may_be_and_no_larger() -> None:
    assert encode_entry([stamped(REFUSED, number) for number in range(EVENTS_MAX)])
    with pytest.raises(ValueError, match="holds 1 to 1000 events"):
        encode_entry([])
    with pytest.raises(ValueError, match="holds 1 to 1000 events"):
        encode_entry([stamped(REFUSED, number) for number in range(EVENTS_MAX + 1)])
    with pytest.raises(ValueError, match=f"at most {ENTRY_BYTES_MAX} bytes"):
        encode_entry([stamped(REFUSED, subject="x" * ENTRY_BYTES_MAX)])


@pytest.mark.parametrize(
    ("data", "subject", "kind"),
    [
        (b"", SUBJECTS.leaves(SIGNER), "malformed"),
        (b"garbage", SUBJECTS.leaves(SIGNER), "malformed"),
        (b"\xff\xfe", SUBJECTS.leaves(SIGNER), "malformed"),
        (b"{}", SUBJECTS.leaves(SIGNER), "malformed"),
        (b"[]", SUBJECTS.leaves(SIGNER), "malformed"),
        (b"[1]", SUBJECTS.leaves(SIGNER), "malformed"),
        (b"[" * 100_000, SUBJECTS.leaves(SIGNER), "malformed"),
        (LEAVES + b"x", SUBJECTS.leaves(SIGNER), "malformed"),
        (edited(LEAVES, specversion="2.0"), SUBJECTS.leaves(SIGNER), "malformed"),
        (edited(LEAVES, id="1"), SUBJECTS.leaves(SIGNER), "malformed"),
        (edited(LEAVES, source=""), SUBJECTS.leaves(SIGNER), "malformed"),
        (edited(LEAVES, time="yesterday"), SUBJECTS.leaves(SIGNER), "malformed"),
        (edited(LEAVES, time="2026-08-01T12:00:00"), SUBJECTS.leaves(SIGNER), "malformed"),
        (edited(LEAVES, data=None), SUBJECTS.leaves(SIGNER), "malformed"),
        (edited(LEAVES, data={}), SUBJECTS.leaves(SIGNER), "malformed"),
        (edited(LEAVES, data="x"), SUBJECTS.leaves(SIGNER), "malformed"),
        (edited(AUTHORITY, term=None), SUBJECTS.authority, "malformed"),
        (edited(AUTHORITY, term=0), SUBJECTS.authority, "malformed"),
        (edited(AUTHORITY, expectedsequence=None), SUBJECTS.authority, "malformed"),
        (edited(AUTHORITY, expectedsequence=2**63), SUBJECTS.authority, "malformed"),
        (edited(AUTHORITY, messages=1001), SUBJECTS.authority, "malformed"),
        (LEAVES, SUBJECTS.authority, "subject"),
        (LEAVES, SUBJECTS.grant(SIGNER), "subject"),
        (LEAVES, "ca.dc2.ledger.leaves.S", "subject"),
        (LEAVES, "ca.dc1.ledger.other", "subject"),
        (AUTHORITY, SUBJECTS.leaves(SIGNER), "subject"),
        (encode_entry([stamped(WITHDRAWN)]), SUBJECTS.leaves(SIGNER), "subject"),
        (encode_entry([stamped(REFUSED), stamped(REFUSED)]), SUBJECTS.leaves(SIGNER), "event_id"),
        (
            encode_entry([stamped(REFUSED), stamped(WITHDRAWN, 2)]),
            SUBJECTS.leaves(SIGNER),
            "subject",
        ),
    ],
)
def test_what_is_not_well_formed_is_void(data: bytes, subject: str, kind: VoidKind) -> None:
    with pytest.raises(VoidEntryError) as void:
        decode(data, subject)

    assert void.value.kind == kind


def test_the_events_of_one_authority_entry_agree() -> None:
    data = encode_entry([stamped(RELEASED), stamped(RELEASED, 2)], term=3, expected_sequence=8)
    for changes in ({"term": 4}, {"expectedsequence": 7}, {"messages": 2}):
        with pytest.raises(VoidEntryError, match="disagree"):
            decode(edited(data, **changes), SUBJECTS.authority)


def test_f3_an_event_of_an_unknown_type_is_not_void_but_stops() -> None:
    with pytest.raises(UnknownEventTypeError, match=r"caledger\.leaf\.refused\.v2"):
        decode(edited(LEAVES, type="caledger.leaf.refused.v2"))


@given(st.binary(max_size=200))
def test_f19_any_bytes_are_void_or_an_entry(data: bytes) -> None:
    with pytest.raises(VoidEntryError):
        decode(data)


@given(st.data())
def test_f19_damaged_bytes_are_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    damaged = bytearray(LEAVES)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))

    try:
        entry = decode(bytes(damaged))
    except (VoidEntryError, UnknownEventTypeError):
        return

    assert isinstance(entry.events[0].event, LeafRefused)
