"""What every event of one writer carries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ulid import ULID

from events.authority import RootActivated
from services.clock import SystemEntropy
from services.stamping import Stamper, source

NOON = datetime(2026, 8, 1, 12, tzinfo=UTC)
EVENT = RootActivated(root_id="aa:bb")


class Clock:
    def __init__(self, *times: datetime) -> None:
        self._times = iter(times)

    def now(self) -> datetime:
        return next(self._times)


class SameEntropy(SystemEntropy):
    """Always the same random part."""

    def ulid(self, now: datetime) -> str:
        return str(ULID.from_datetime(now))[:10] + "Z" * 16


def test_f25_time_never_goes_back_within_one_writer() -> None:
    clock = Clock(NOON, NOON - timedelta(hours=1), NOON + timedelta(seconds=1))
    stamper = Stamper("/caledger/dc1/w/n", clock, SystemEntropy())

    times = [stamper.stamp(EVENT, subject="s").time for _ in range(3)]

    assert times == [NOON, NOON, NOON + timedelta(seconds=1)]


def test_ids_rise_within_one_millisecond_and_when_the_clock_goes_back() -> None:
    times = [NOON - timedelta(seconds=i % 3) for i in range(200)]
    stamper = Stamper("/caledger/dc1/w/n", Clock(*times), SystemEntropy())

    ids = [stamper.stamp(EVENT, subject="s").id for _ in times]

    assert ids == sorted(set(ids))


def test_an_id_is_never_used_twice_even_if_chance_repeats_itself() -> None:
    stamper = Stamper("/caledger/dc1/w/n", Clock(NOON, NOON, NOON), SameEntropy())

    ids = [stamper.stamp(EVENT, subject="s").id for _ in range(3)]

    assert ids == sorted(set(ids))
    assert all(ULID.from_str(event_id) for event_id in ids)


def test_an_event_says_who_recorded_it_and_what_it_belongs_to() -> None:
    stamper = Stamper(source("dc1", "root-manager", "n1"), Clock(NOON), SystemEntropy())

    new = stamper.stamp(EVENT, subject="aa:bb", correlation_id="c")

    assert new.source == "/caledger/dc1/root-manager/n1"
    assert (new.subject, new.correlation_id, new.causation_id) == ("aa:bb", "c", None)
    assert new.event is EVENT
