"""What the signers did: certificates issued, requests refused."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, get_args

from msgspec import Meta

from events.base import (
    INT_MAX,
    Event,
    KeyId,
    Moment,
    RequestId,
    Sequence,
    Serial,
    Sha256,
    Struct,
    Ulid,
)

RefusalCode = Literal[
    "malformed",
    "too_large",
    "bad_signature",
    "uri_count",
    "email_san",
    "san_not_allowed",
    "identity_mismatch",
    "wrong_trust_domain",
    "wrong_datacenter",
    "key_not_allowed",
    "bad_name",
    "bad_request_id",
    "request_id_conflict",
    "not_found",
    "pending",
    "rate_limited",
    "not_ready",
    "internal",
    "bad_config",
    "conflict",
    "busy",
]
"""The closed list of error codes that a client can see (architecture, section 6).

The last three are the CA manager's: a configuration (or what goes with it) that cannot be used; a
CA that is not what a command was made for any more; a CA in a state in which it does not do this.
"""

IdentityKind = Literal["service", "agent", "gateway", "server"]
IDENTITY_KINDS: Final[tuple[IdentityKind, ...]] = get_args(IdentityKind)


class LeafIssued(Event):
    """A certificate exists. Durable before the certificate leaves the signer."""

    TYPE: ClassVar[str] = "caledger.leaf.issued.v1"
    request_id: RequestId | None  # None: the client named none, so nothing can be asked for again
    identity: str  # SPIFFE id
    kind: IdentityKind
    name: str  # what the subject names: the service, the node; "" for gateway and server
    serial: Serial
    key_id: KeyId  # of the leaf's own public key
    issuer_key_id: KeyId
    not_before: Moment
    not_after: Moment
    certificate: bytes  # DER; base64 on the wire
    csr_sha256: Sha256  # of the DER
    signer: Ulid
    grant_sequence: Sequence
    requester: str | None  # NATS user key of who asked, as the server told it
    dns: tuple[str, ...] = ()  # names beside the SPIFFE id
    ip: tuple[str, ...] = ()


class LeafRefused(Event):
    """A signing request was refused; nothing was signed."""

    TYPE: ClassVar[str] = "caledger.leaf.refused.v1"
    request_id: RequestId | None
    identity: Annotated[str, Meta(max_length=2048)] | None  # as far as it is known
    code: RefusalCode
    message: Annotated[str, Meta(max_length=1024)]
    signer: Ulid
    grant_sequence: Sequence
    requester: str | None
    durable: bool = False  # it was submitted to be kept: the request id's answer is this, for ever


class RefusalCount(Struct):
    """How often one requester was refused for one reason."""

    code: RefusalCode
    requester: str | None
    count: Annotated[int, Meta(ge=1, le=INT_MAX)]


class LeafRefusalsCounted(Event):
    """Refusals beyond what is recorded one by one, summed."""

    TYPE: ClassVar[str] = "caledger.leaf.refusals_counted.v1"
    signer: Ulid
    grant_sequence: Sequence
    since: Moment
    until: Moment
    counts: tuple[RefusalCount, ...]
