"""JSON Schemas of all that is written down or sent."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from events.catalogue import TYPES
from events.envelope import EVENTS_MAX, Envelope
from projections.bundle import Roots
from services.client import ErrorReply, SigningRequest
from services.issued import IssuedCert

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, Any]:
    """Return one document: an entry, and by name everything that it and the replies consist of."""
    kinds = list(TYPES.values())
    others = [SigningRequest, IssuedCert, ErrorReply, Roots]
    references, components = msgspec.json.schema_components(
        [Envelope, *others, *kinds], ref_template="#/$defs/{name}"
    )
    envelope, *rest = references
    data = dict(zip(TYPES, rest[len(others) :], strict=True))
    events = [
        {
            "allOf": [envelope],
            "properties": {"type": {"const": name}, "data": reference},
        }
        for name, reference in data.items()
    ]
    return {
        "$schema": DRAFT,
        "title": "caledger",
        "description": "An entry of the ledger: a CloudEvents 1.0 batch of events that happened "
        "together.",
        "type": "array",
        "minItems": 1,
        "maxItems": EVENTS_MAX,
        "items": {"oneOf": events},
        "replies": dict(
            zip(("request", "issued", "error", "roots"), rest[: len(others)], strict=True)
        ),
        "$defs": components,
    }
