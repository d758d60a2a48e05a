"""JSON Schemas of what the ledger holds: entries, envelopes and every event type, by its name.

https://json-schema.org/draft/2020-12
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from events.catalogue import TYPES
from events.envelope import ENTRY_BYTES_MAX, EVENTS_MAX, Envelope

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
ENTRY: Final = "caledger.entry"
ENVELOPE: Final = "caledger.envelope"

_CLASSES: Final[Mapping[str, str]] = {
    Envelope.__name__: ENVELOPE,
    **{kind.__name__: name for name, kind in TYPES.items()},
}


def schema() -> dict[str, Any]:
    """Return one document: a schema of an entry, and in `$defs` everything that it consists of.

    `$defs` names the data of an event by the event's type (`caledger.leaf.issued.v1`).
    """
    _, components = msgspec.json.schema_components(
        [Envelope, *TYPES.values()], ref_template="#/$defs/{name}"
    )
    definitions = {_CLASSES.get(name, name): _renamed(each) for name, each in components.items()}
    definitions[ENTRY] = {
        "title": ENTRY,
        "description": "One message of the ledger: a CloudEvents 1.0 batch of events that happened"
        f" together, at most {ENTRY_BYTES_MAX} bytes.",
        "type": "array",
        "minItems": 1,
        "maxItems": EVENTS_MAX,
        "items": {"oneOf": [_event(name) for name in TYPES]},
    }
    return {
        "$schema": DRAFT,
        "title": "caledger",
        "$ref": _reference(ENTRY),
        "$defs": dict(sorted(definitions.items())),
    }


def _event(name: str) -> dict[str, Any]:
    """Return the schema of an envelope with the data of this type."""
    return {
        "allOf": [{"$ref": _reference(ENVELOPE)}],
        "properties": {"type": {"const": name}, "data": {"$ref": _reference(name)}},
    }


def _reference(name: str) -> str:
    return f"#/$defs/{name}"


def _renamed(part: Any) -> Any:
    """Return a schema with references by our names instead of those of Python's classes."""
    if isinstance(part, dict):
        return {
            key: _reference(_CLASSES.get(name, name))
            if key == "$ref" and (name := value.rpartition("/")[2])
            else _renamed(value)
            for key, value in part.items()
        }
    return [_renamed(item) for item in part] if isinstance(part, list) else part
