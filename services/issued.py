"""The answer to a signing request: Consul's IssuedCert (section 1.7), and its place in the ledger.

A pure function of what the ledger holds, so the same request id gets the same bytes for ever,
whichever signer answers.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Final, assert_never

import msgspec

from events.base import Struct
from events.leaves import LeafIssued
from projections.authority import Issuer
from services.pki import pem


class IssuedCert(Struct, omit_defaults=True):
    """What a client gets; the private key never was here."""

    serial_number: str = msgspec.field(name="SerialNumber")  # colon hex
    cert_pem: str = msgspec.field(name="CertPEM")  # the leaf, then its issuers
    service: str | None = msgspec.field(name="Service", default=None)
    service_uri: str | None = msgspec.field(name="ServiceURI", default=None)
    agent: str | None = msgspec.field(name="Agent", default=None)
    agent_uri: str | None = msgspec.field(name="AgentURI", default=None)
    server_uri: str | None = msgspec.field(name="ServerURI", default=None)
    kind: str | None = msgspec.field(name="Kind", default=None)
    kind_uri: str | None = msgspec.field(name="KindURI", default=None)
    valid_after: datetime = msgspec.field(name="ValidAfter")
    valid_before: datetime = msgspec.field(name="ValidBefore")
    create_index: int = msgspec.field(name="CreateIndex")
    modify_index: int = msgspec.field(name="ModifyIndex")
    ledger_sequence: int = msgspec.field(name="LedgerSequence")  # equal to both indexes
    event_id: str = msgspec.field(name="EventID")


_ENCODER: Final = msgspec.json.Encoder()


def issued_cert(leaf: LeafIssued, *, sequence: int, event_id: str, issuer: Issuer) -> bytes:
    """Return the reply for a leaf that the ledger holds as event `event_id` at `sequence`."""
    return _ENCODER.encode(
        IssuedCert(
            serial_number=pem.colon_hex(leaf.serial),
            cert_pem=pem.encode(leaf.certificate) + _chain_pem(issuer.chain),
            **_whose(leaf),
            valid_after=leaf.not_before,
            valid_before=leaf.not_after,
            create_index=sequence,
            modify_index=sequence,
            ledger_sequence=sequence,
            event_id=event_id,
        )
    )


def _whose(leaf: LeafIssued) -> dict[str, str]:
    match leaf.kind:
        case "service":
            return {"service": leaf.name, "service_uri": leaf.identity}
        case "agent":
            return {"agent": leaf.name, "agent_uri": leaf.identity}
        case "gateway":
            return {"kind": "mesh-gateway", "kind_uri": leaf.identity}
        case "server":
            return {"server_uri": leaf.identity}
        case _:
            assert_never(leaf.kind)


@lru_cache(maxsize=64)
def _chain_pem(chain: tuple[bytes, ...]) -> str:
    return "".join(map(pem.encode, chain))
