"""JSON Schemas of all that is written down, and of what clients send and get."""

from __future__ import annotations

from typing import Any

import msgspec

from events.schema import schema
from projections.bundle import Roots
from services.client import SigningRequest
from services.error_reply import ErrorReply
from services.issued import IssuedCert
from services.outcomes import Configuration, Outcome, Planned, RevocationLists
from services.status import Status

MESSAGES = {
    "request": SigningRequest,
    "issued": IssuedCert,
    "error": ErrorReply,
    "roots": Roots,
    "status": Status,
    "outcome": Outcome,
    "planned": Planned,
    "configuration": Configuration,
    "revocation_lists": RevocationLists,
}


def schemas() -> dict[str, Any]:
    """Return `events.schema.schema`, and under `messages` what goes to and from clients."""
    ledger = schema()
    references, components = msgspec.json.schema_components(
        MESSAGES.values(), ref_template="#/$defs/{name}"
    )
    return {
        **ledger,
        "$defs": {**ledger["$defs"], **components},
        "messages": dict(zip(MESSAGES, references, strict=True)),
    }
