"""What the ledger answers to a request id, made again from the rows of the index."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec

from events.base import Struct
from events.leaves import LeafIssued, RefusalCode
from projections.issuance_rows import LeafRow


class IssuedLeaf(Struct):
    """An issued certificate and its place in the ledger."""

    sequence: int
    position: int  # of the event in its entry
    event_id: str
    leaf: LeafIssued
    irregular: str | None  # which rules it breaks; None: it is as it should be


class KeptRefusal(Struct):
    """A durable request's refusal, which is the answer to its request id for ever."""

    sequence: int
    code: RefusalCode
    message: str


Answer = IssuedLeaf | KeptRefusal

LEAF: Final = f"SELECT {', '.join(LeafRow.__struct_fields__)} FROM leaves "  # noqa: S608  # our names
REFUSED: Final = (
    "SELECT sequence, code, message FROM refusals"
    " WHERE identity = ? AND request_id = ? AND durable = 1 ORDER BY sequence, position LIMIT 1"
)
_NAMES: Final = msgspec.json.Decoder(tuple[str, ...])


def kept_refusal(columns: tuple[Any, ...]) -> KeptRefusal:
    """Return a refusal that is kept, from the columns of `REFUSED`."""
    sequence, code, message = columns
    return KeptRefusal(sequence=sequence, code=code, message=message)


def issued(columns: tuple[Any, ...]) -> IssuedLeaf:
    """Make the event again from a row, whose columns are LeafRow's fields in their order."""
    sequence, position, event_id, _stored, request_id, identity, kind, name, *more = columns
    serial, key_id, issuer_key_id, not_before, not_after, _expires, certificate, *more = more
    csr_sha256, signer, grant_sequence, requester, dns, ip, irregular = more
    return IssuedLeaf(
        sequence=sequence,
        position=position,
        event_id=event_id,
        leaf=LeafIssued(
            request_id=request_id,
            identity=identity,
            kind=kind,
            name=name,
            serial=serial,
            key_id=key_id,
            issuer_key_id=issuer_key_id,
            not_before=datetime.fromisoformat(not_before),
            not_after=datetime.fromisoformat(not_after),
            certificate=certificate,
            csr_sha256=csr_sha256,
            signer=signer,
            grant_sequence=grant_sequence,
            requester=requester,
            dns=_NAMES.decode(dns),
            ip=_NAMES.decode(ip),
        ),
        irregular=irregular,
    )
