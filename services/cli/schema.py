"""`caledger schema`: what others need from us, as JSON Schema."""

from __future__ import annotations


def schema() -> None:
    """Print JSON Schemas of every entry of the ledger, every event, and what clients are told.

    Data of an event is described under the event's `type`; certificates are base64 of DER.
    """
    import json

    from services.cli.schemas import schemas

    print(json.dumps(schemas(), indent=2))
