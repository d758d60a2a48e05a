"""Event types: closed, versioned, and old ones told as the new ones are."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.catalogue import (
    AUTHORITY_TYPES,
    CODEC,
    GRANT_TYPES,
    LEAF_TYPES,
    TYPES,
    EventCodec,
    UnknownEventTypeError,
)
from events.leadership import LeadershipReleased

RELEASED = msgspec.json.encode(LeadershipReleased(node="n1", term=3, reason="shutdown"))


def test_every_type_is_in_one_family_and_has_a_versioned_name() -> None:
    families = [AUTHORITY_TYPES, GRANT_TYPES, LEAF_TYPES]

    assert sum(map(len, families)) == len(TYPES)
    assert frozenset().union(*families) == frozenset(TYPES.values())
    assert all(name.startswith("caledger.") and name.endswith(".v1") for name in TYPES)


def test_f3_an_unknown_type_is_never_taken_for_a_known_one() -> None:
    for name in ("caledger.leadership.released.v2", "caledger.leadership.released", "", "LEAF"):
        with pytest.raises(UnknownEventTypeError, match="newer software"):
            CODEC.decode(name, RELEASED)


@given(st.text(max_size=40))
def test_f3_no_text_is_a_type_but_those_of_the_catalogue(name: str) -> None:
    if name not in TYPES:
        with pytest.raises(UnknownEventTypeError):
            CODEC.decode(name, RELEASED)


def test_f3_data_of_another_type_is_refused() -> None:
    for name in TYPES:
        if name != LeadershipReleased.TYPE:
            with pytest.raises(msgspec.ValidationError):
                CODEC.decode(name, RELEASED)


def test_unknown_fields_are_ignored() -> None:
    data = {**msgspec.json.decode(RELEASED), "mood": "good"}

    decoded = CODEC.decode(LeadershipReleased.TYPE, msgspec.json.encode(data))

    assert decoded == LeadershipReleased(node="n1", term=3, reason="shutdown")


def _from_v1(told: dict[str, Any]) -> dict[str, Any]:
    return {"name": told["host"], "epoch": told["epoch"]}


def _from_v2(told: dict[str, Any]) -> dict[str, Any]:
    return {"node": told["name"], "term": told["epoch"], "reason": "shutdown"}


OLD = EventCodec(
    upcasters={
        "test.released.v1": ("test.released.v2", _from_v1),
        "test.released.v2": (LeadershipReleased.TYPE, _from_v2),
    }
)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("test.released.v1", {"host": "n1", "epoch": 3}),
        ("test.released.v2", {"name": "n1", "epoch": 3}),
        (LeadershipReleased.TYPE, {"node": "n1", "term": 3, "reason": "shutdown"}),
    ],
)
def test_every_old_version_is_told_as_the_newest(name: str, data: dict[str, Any]) -> None:
    decoded = OLD.decode(name, msgspec.json.encode(data))

    assert decoded == LeadershipReleased(node="n1", term=3, reason="shutdown")


def test_what_an_upcaster_makes_is_checked_like_everything_else() -> None:
    with pytest.raises(msgspec.ValidationError):
        OLD.decode("test.released.v2", b'{"name": "n1", "epoch": 0}')


def test_f3_an_upcaster_to_a_type_that_is_not_known_stops() -> None:
    codec = EventCodec(upcasters={"test.a.v1": ("test.a.v2", lambda told: told)})

    with pytest.raises(UnknownEventTypeError):
        codec.decode("test.a.v1", b"{}")


def test_numbers_fit_in_64_bits() -> None:
    """A larger one would stop every database that an entry is written to."""
    data = {**msgspec.json.decode(RELEASED), "term": 2**63}

    with pytest.raises(msgspec.ValidationError):
        CODEC.decode(LeadershipReleased.TYPE, msgspec.json.encode(data))


def test_no_identifier_ends_with_a_line_break() -> None:
    data = {**msgspec.json.decode(RELEASED), "node": "n1\n"}

    with pytest.raises(msgspec.ValidationError):
        CODEC.decode(LeadershipReleased.TYPE, msgspec.json.encode(data))
