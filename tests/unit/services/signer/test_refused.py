"""Refusals: the first of a second one by one, the rest summed, all of it bounded."""

from __future__ import annotations

from datetime import datetime, timedelta

from events.envelope import ENTRY_BYTES_MAX, NewEvent, encode_entry
from events.leaves import LeafRefusalsCounted, LeafRefused, RefusalCode
from events.subjects import NAME_BYTES_MAX
from services.pki.spiffe import service_id
from services.refusals import MESSAGE_CHARS_MAX, clip
from services.signer.batch import LEAVES_BYTES_MAX
from services.signer.recorder import REFUSALS_MAX
from services.signer.refused import (
    RECORDED_PER_SECOND,
    REQUESTERS_MAX,
    WAITING_MAX,
    Refusal,
    RefusalRecord,
)
from tests.factories import NOW, WEB
from tests.ledger import ulid

RUN = ulid()
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


def refusal(code: RefusalCode = "malformed", requester: str | None = "U1") -> Refusal:
    return Refusal(request_id="r1", identity=WEB, code=code, message="no", requester=requester)


def flood(record: RefusalRecord, number: int, now: datetime, requester: str | None = "U1") -> None:
    for _ in range(number):
        record.add(refusal(requester=requester), now)


def test_a_refusal_is_recorded_as_it_was() -> None:
    record = RefusalRecord(RUN, NOW)
    record.add(refusal("uri_count"), NOW)

    assert record.waiting
    assert record.take(NOW, grant_sequence=7, limit=10) == [
        LeafRefused(
            request_id="r1",
            identity=WEB,
            code="uri_count",
            message="no",
            signer=RUN,
            grant_sequence=7,
            requester="U1",
        )
    ]
    assert not record.waiting


def test_ten_a_second_are_recorded_one_by_one_and_the_rest_is_summed_after_a_minute() -> None:
    record = RefusalRecord(RUN, NOW)
    flood(record, 1000, NOW)

    assert len(record.take(NOW, grant_sequence=7, limit=100)) == RECORDED_PER_SECOND
    assert not record.sum_is_due(NOW + MINUTE - SECOND)
    assert record.sum_is_due(NOW + MINUTE)
    [summed] = record.take(NOW + MINUTE, grant_sequence=8, limit=100)
    assert isinstance(summed, LeafRefusalsCounted)
    assert (summed.since, summed.until) == (NOW, NOW + MINUTE)
    assert summed.grant_sequence == 8
    [count] = summed.counts
    assert (count.code, count.requester, count.count) == ("malformed", "U1", 990)
    assert record.take(NOW + 3 * MINUTE, grant_sequence=8, limit=100) == []


def test_the_next_second_has_ten_of_its_own() -> None:
    record = RefusalRecord(RUN, NOW)
    flood(record, 20, NOW)
    flood(record, 20, NOW + SECOND)

    assert len(record.take(NOW + SECOND, grant_sequence=7, limit=100)) == 2 * RECORDED_PER_SECOND


def test_a_clock_that_goes_back_begins_a_new_second_and_no_sum_is_lost() -> None:
    record = RefusalRecord(RUN, NOW)
    flood(record, 20, NOW)
    flood(record, 20, NOW - MINUTE)

    taken = record.take(NOW - MINUTE, grant_sequence=7, limit=100, closing=True)

    [summed] = [event for event in taken if isinstance(event, LeafRefusalsCounted)]
    assert sum(count.count for count in summed.counts) == 20
    assert summed.since <= summed.until


def test_when_the_signer_stops_the_sum_does_not_wait_for_its_minute() -> None:
    record = RefusalRecord(RUN, NOW)
    flood(record, 11, NOW)

    taken = record.take(NOW + SECOND, grant_sequence=7, limit=100, closing=True)

    assert [type(event) for event in taken] == [LeafRefusalsCounted, *[LeafRefused] * 10]


def test_many_requesters_are_told_apart_up_to_a_bound() -> None:
    record = RefusalRecord(RUN, NOW)
    flood(record, RECORDED_PER_SECOND, NOW)
    for number in range(10 * REQUESTERS_MAX):
        flood(record, 1, NOW, requester=f"U{number}")
    record.take(NOW, grant_sequence=7, limit=100)

    [summed] = record.take(NOW + MINUTE, grant_sequence=7, limit=100)

    assert isinstance(summed, LeafRefusalsCounted)
    assert len(summed.counts) == REQUESTERS_MAX + 1
    assert sum(count.count for count in summed.counts) == 10 * REQUESTERS_MAX
    assert next(c for c in summed.counts if c.requester is None).count == 9 * REQUESTERS_MAX


def test_while_nothing_can_be_appended_what_waits_is_bounded_and_the_rest_is_counted() -> None:
    record = RefusalRecord(RUN, NOW)
    for number in range(100):
        flood(record, 10, NOW + number * SECOND)

    end = NOW + 100 * SECOND
    taken = record.take(end, grant_sequence=7, limit=1000)

    refused = [event for event in taken if isinstance(event, LeafRefused)]
    [summed] = [event for event in taken if isinstance(event, LeafRefusalsCounted)]
    assert len(refused) == WAITING_MAX
    assert sum(count.count for count in summed.counts) == 1000 - WAITING_MAX


def test_what_could_not_be_appended_is_recorded_under_the_next_grant() -> None:
    record = RefusalRecord(RUN, NOW)
    flood(record, 15, NOW)
    taken = record.take(NOW + MINUTE, grant_sequence=7, limit=100)

    record.put_back(taken)
    again = record.take(NOW + MINUTE, grant_sequence=9, limit=100)

    assert len(again) == len(taken) == 11
    assert {event.grant_sequence for event in again} == {9}
    [summed] = [event for event in again if isinstance(event, LeafRefusalsCounted)]
    assert (summed.since, summed.counts[0].count) == (NOW, 5)


def test_the_largest_refusals_fit_beside_the_leaves_of_an_entry() -> None:
    identity = service_id("d" * 255, "c" * 64, "\U0001f512" * (NAME_BYTES_MAX // 12))
    record = RefusalRecord(RUN, NOW)
    for number in range(WAITING_MAX + REQUESTERS_MAX):
        worst = Refusal(
            request_id="r" * 64,
            identity=identity,
            code="request_id_conflict",
            message=clip("\U0001f512" * 2 * MESSAGE_CHARS_MAX),
            requester=f"{number:056}",
        )
        record.add(worst, NOW + number * SECOND / RECORDED_PER_SECOND)

    taken = record.take(NOW + 3 * MINUTE, grant_sequence=7, limit=REFUSALS_MAX)

    assert len(taken) == REFUSALS_MAX
    assert isinstance(taken[0], LeafRefusalsCounted)
    events = [
        NewEvent(
            id=ulid(),
            source="s" * 200,
            subject=event.identity or RUN if isinstance(event, LeafRefused) else RUN,
            time=NOW,
            event=event,
        )
        for event in taken
    ]
    assert len(encode_entry(events)) < ENTRY_BYTES_MAX - LEAVES_BYTES_MAX


def test_a_message_holds_no_line_and_nothing_that_takes_six_bytes_to_write() -> None:
    assert clip("a\0b\nc\u2028") == "a\\x00b\\nc\\u2028"
