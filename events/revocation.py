"""What is not to be trusted although it has not expired: revoked leaves, and the lists of them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta

from events.base import INT_MAX, Event, KeyId, Moment, RequestId, Serial, Struct

RevocationReason = Literal[
    "unspecified",
    "key_compromise",
    "ca_compromise",
    "affiliation_changed",
    "superseded",
    "cessation_of_operation",
    "privilege_withdrawn",
]
"""Reason codes of RFC 5280, 5.3.1, that a leaf can have for good."""

REVOKED_MAX: Final = 1_000  # leaves in one event
CRL_BYTES_MAX: Final = 600_000  # DER of one list: it fits an entry in base64, and an answer


class RevokedLeaf(Struct):
    """A certificate that was revoked."""

    serial: Serial
    issuer_key_id: KeyId
    identity: str  # SPIFFE id
    not_after: Moment


class LeavesRevoked(Event):
    """These certificates must not be accepted any more. The next list of each issuer says so."""

    TYPE: ClassVar[str] = "caledger.leaves.revoked.v1"
    leaves: Annotated[tuple[RevokedLeaf, ...], Meta(min_length=1, max_length=REVOKED_MAX)]
    reason: RevocationReason
    selected_by: Annotated[str, Meta(max_length=4096)]  # the command's words
    request_id: RequestId | None = None
    requester: str | None = None  # NATS user key of who asked, as the server told it


class CrlIssued(Event):
    """A certificate revocation list (RFC 5280, section 5), as it is served.

    Recorded and not computed again: an ECDSA signature differs each time.
    """

    TYPE: ClassVar[str] = "caledger.crl.issued.v1"
    issuer_key_id: KeyId
    issuer: Literal["root", "intermediate"]
    number: Annotated[int, Meta(ge=1, le=INT_MAX)]  # rises by one for each issuer
    this_update: Moment
    next_update: Moment
    revoked: Annotated[int, Meta(ge=0, le=INT_MAX)]  # entries in it
    crl: Annotated[bytes, Meta(max_length=CRL_BYTES_MAX)]  # DER; base64 on the wire
