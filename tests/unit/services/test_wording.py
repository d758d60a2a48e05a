"""How numbers and moments are written for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from services.wording import counted, moment


def test_one_thing_is_not_told_as_several() -> None:
    assert [counted(number, "leaf", "leaves") for number in (0, 1, 2)] == [
        "0 leaves",
        "1 leaf",
        "2 leaves",
    ]
    assert [counted(number, "fault") for number in (1, 2)] == ["1 fault", "2 faults"]


def test_a_moment_is_told_in_utc_to_the_second() -> None:
    at = datetime(2026, 8, 1, 12, 0, 0, 999_999, tzinfo=UTC)

    assert moment(at) == "2026-08-01 12:00:00Z"
    assert moment(at.astimezone(timezone(timedelta(hours=2)))) == moment(at)
