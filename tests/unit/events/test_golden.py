"""A stored sample of every event type that was ever shipped decodes for ever, to the same facts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from events.catalogue import AUTHORITY_TYPES, GRANT_TYPES, TYPES, UPCASTERS
from events.envelope import Stored, decode_entry
from events.subjects import Subjects

GOLDEN = Path(__file__).parents[2] / "golden" / "events"
SUBJECTS = Subjects("dc1")
SIGNER = "01K20000000000000000000EVN"
SAMPLES = sorted(GOLDEN.glob("*.json"))


def test_every_type_has_a_sample() -> None:
    """A new type or version needs a new file; an old file is never changed."""
    assert {path.stem for path in SAMPLES} == {*TYPES, *UPCASTERS}


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_stored_sample_decodes_to_all_that_it_says(path: Path) -> None:
    kind = TYPES[path.stem]
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
    assert msgspec.json.decode(msgspec.json.encode(recorded.event)) == said[0]["data"]
    assert msgspec.json.decode(msgspec.json.encode(recorded.envelope)) == said[0]
    assert msgspec.json.decode(recorded.raw) == said[0]
