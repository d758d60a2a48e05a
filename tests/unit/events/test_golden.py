"""A stored sample of every event type that was ever shipped decodes for ever, to the same facts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.catalogue import AUTHORITY_TYPES, GRANT_TYPES, TYPES, UPCASTERS
from events.envelope import Stored, decode_entry
from events.subjects import Subjects

GOLDEN = Path(__file__).parents[2] / "golden" / "events"
SUBJECTS = Subjects("dc1")
SIGNER = "01K20000000000000000000EVN"
SAMPLES = sorted(GOLDEN.glob("*.json"))


def type_of(path: Path) -> str:
    (event,) = msgspec.json.decode(path.read_bytes())
    return str(event["type"])


def says(told: Any, sample: Any) -> bool:
    """Say whether everything in a sample is told; fields that came later are told as well."""
    if isinstance(sample, dict):
        return all(name in told and says(told[name], value) for name, value in sample.items())
    if isinstance(sample, list):
        return len(told) == len(sample) and all(map(says, told, sample))
    return bool(told == sample)


def test_every_type_has_a_sample() -> None:
    """A new type, version or field needs a new file; an old file is never changed."""
    assert {type_of(path) for path in SAMPLES} == {*TYPES, *UPCASTERS}
    assert all(path.name.startswith(type_of(path)) for path in SAMPLES)


def test_every_field_of_every_type_is_in_a_sample() -> None:
    for name, kind in TYPES.items():
        fields = {
            field
            for path in SAMPLES
            if type_of(path) == name
            for field in msgspec.json.decode(path.read_bytes())[0]["data"]
        }
        assert fields == set(kind.__struct_fields__), name


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_stored_sample_decodes_to_all_that_it_says(path: Path) -> None:
    kind = TYPES[type_of(path)]
    if kind in AUTHORITY_TYPES:
        subject = SUBJECTS.authority
    else:
        subject = SUBJECTS.grant(SIGNER) if kind in GRANT_TYPES else SUBJECTS.leaves(SIGNER)
    data = path.read_bytes()
    said = msgspec.json.decode(data)

    entry = decode_entry(
        Stored(sequence=1, subject=subject, stored=datetime(2026, 8, 1, tzinfo=UTC), data=data),
        datacenter="dc1",
    )

    (recorded,) = entry.events
    assert type(recorded.event) is kind
    assert says(msgspec.json.decode(msgspec.json.encode(recorded.event)), said[0]["data"])
    assert msgspec.json.decode(msgspec.json.encode(recorded.envelope)) == said[0]
    assert msgspec.json.decode(recorded.raw) == said[0]
