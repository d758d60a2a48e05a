"""What the certificate authority is: configuration, keys, roots and intermediates."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from events.base import INT_MAX, Event, KeyId, KeyType, Moment, RequestId, Struct, Token

CertificateDer = bytes  # base64 on the wire

LIFE_SECONDS_MAX = 100 * 8766 * 3600  # of a certificate: 100 years
RATE_MAX = 1e9  # requests a second; what is not finite cannot be told in JSON

Life = Annotated[int, Meta(ge=1, le=LIFE_SECONDS_MAX)]
Rate = Annotated[float, Meta(ge=0, le=RATE_MAX)]

KeyPurpose = Literal["root", "signing"]
LeafSigner = Literal["intermediate", "root"]

Pattern = Annotated[str, Meta(min_length=1, max_length=253)]
"""A DNS name; `{name}`, `{datacenter}` and `{trust_domain}` stand for what is asked for, and a
leading `*.` for any one label."""

Network = Annotated[str, Meta(min_length=1, max_length=43)]
"""An IP address or network in CIDR notation."""


class AllowedNames(Struct):
    """Names that a leaf may carry beside its SPIFFE id."""

    dns: Annotated[tuple[Pattern, ...], Meta(max_length=64)] = ()
    ip: Annotated[tuple[Network, ...], Meta(max_length=64)] = ()


class SanPolicy(Struct):
    """What leaves of each kind may carry; whatever is not listed is refused."""

    service: AllowedNames = AllowedNames()
    agent: AllowedNames = AllowedNames()
    gateway: AllowedNames = AllowedNames()
    server: AllowedNames = AllowedNames()


class CAConfig(Struct):
    """Consul's common provider configuration (section 1.4), with its defaults."""

    leaf_cert_ttl_seconds: Life = 72 * 3600
    intermediate_cert_ttl_seconds: Life = 8760 * 3600
    root_cert_ttl_seconds: Life = 87600 * 3600
    csr_max_per_second: Rate = 50.0  # over all signers; 0 = no limit
    private_key_type: KeyType = "ec"
    private_key_bits: int = 256
    leaf_signer: LeafSigner = "intermediate"
    csr_max_concurrent: Annotated[int, Meta(ge=0, le=INT_MAX)] = 0
    """Requests that are signed at the same time, over all signers; 0 = no limit. Without effect
    where `csr_max_per_second` is set, as in Consul."""
    given_key_id: KeyId | None = None  # of a key that the operator gave (Consul's PrivateKey)
    root_certificates: Annotated[tuple[CertificateDer, ...], Meta(max_length=8)] = ()
    """What the operator gave as Consul's RootCert: the CA whose key that is, then its issuers."""
    skip_validate: bool = False  # Consul's: ranges are not checked
    sans: SanPolicy = SanPolicy()


class CAConfigured(Event):
    """The configuration from here on, whole; a secret is never part of it."""

    TYPE: ClassVar[str] = "caledger.ca.configured.v1"
    cluster_id: str  # UUID; Consul's ClusterID
    trust_domain: str  # lower case; `<cluster_id>.consul` unless it was named
    provider: Literal["consul"]
    config: CAConfig
    force_without_cross_signing: bool = False
    request_id: RequestId | None = None  # of the command that led to it


class KeyCreated(Event):
    """A key pair exists in a key store; if it was made there, nothing else knows its other half."""

    TYPE: ClassVar[str] = "caledger.key.created.v1"
    key_id: KeyId
    key_type: KeyType
    key_bits: int
    purpose: KeyPurpose
    custody: Literal["sealed"]  # how the private half is kept
    origin: Literal["made", "given"] = "made"  # given: the operator has a copy


class KeyShared(Event):
    """A root's key is kept for signers, too: `leaf_signer` is `root` (architecture, section 7)."""

    TYPE: ClassVar[str] = "caledger.key.shared.v1"
    key_id: KeyId


class KeyDestroyed(Event):
    """The key of this purpose is gone for good; of a shared root key only the signers' copy."""

    TYPE: ClassVar[str] = "caledger.key.destroyed.v1"
    key_id: KeyId
    purpose: KeyPurpose


class RootPublished(Event):
    """A root is trusted from here on; it does not sign yet."""

    TYPE: ClassVar[str] = "caledger.root.published.v1"
    root_id: str  # Consul's CARoot.ID: colon-hex SHA-1 of the certificate
    name: str
    key_id: KeyId
    key_type: KeyType
    key_bits: int
    external_trust_domain: str  # Consul's: the bare cluster id
    certificate: CertificateDer
    chain: tuple[CertificateDer, ...] = ()  # up to an external trust anchor, if there is one
    cross_signed: CertificateDer | None = None  # this root's key, signed by the root before it
    not_before: Moment
    not_after: Moment


class RootActivated(Event):
    """The root that the leaves chain up to, from here on."""

    TYPE: ClassVar[str] = "caledger.root.activated.v1"
    root_id: str


class RootRetired(Event):
    """Another root is active from here on; this one is still trusted."""

    TYPE: ClassVar[str] = "caledger.root.retired.v1"
    root_id: str
    rotated_out_at: Moment  # Consul's RotatedOutAt


class RootPruned(Event):
    """The root is not trusted any more."""

    TYPE: ClassVar[str] = "caledger.root.pruned.v1"
    root_id: str
    reason: Literal["unused", "forced", "aborted"]
    live_leaves: Annotated[int, Meta(ge=0, le=INT_MAX)] = 0  # that it cuts off (forced)
    request_id: RequestId | None = None
    requester: str | None = None  # NATS user key of who asked, as the server told it


class RotationStarted(Event):
    """A new root is on its way: published in the same entry, activated later or given up.

    `config` becomes the configuration when it is activated.
    """

    TYPE: ClassVar[str] = "caledger.rotation.started.v1"
    root_id: str  # the new root
    reason: Literal["configured", "asked"]
    config: CAConfig
    force_without_cross_signing: bool = False
    activate_at: Moment  # not before; verifiers have the new root by then
    request_id: RequestId | None = None
    requester: str | None = None


class RotationAborted(Event):
    """The rotation to this root was given up before it was activated."""

    TYPE: ClassVar[str] = "caledger.rotation.aborted.v1"
    root_id: str
    reason: Annotated[str, Meta(max_length=1024)]
    request_id: RequestId | None = None
    requester: str | None = None


class IntermediateRequested(Event):
    """A certificate for this key, to sign leaves of this datacenter, is on its way."""

    TYPE: ClassVar[str] = "caledger.intermediate.requested.v1"
    datacenter: Token
    root_id: str
    signing_key_id: KeyId
    csr: bytes | None = None  # DER; None: the root is this datacenter's own, nobody is asked


class IntermediateInstalled(Event):
    """The certificate that signs this datacenter's leaves from here on; its key is always new."""

    TYPE: ClassVar[str] = "caledger.intermediate.installed.v1"
    datacenter: Token
    root_id: str
    signing_key_id: KeyId
    certificate: CertificateDer
    not_before: Moment
    not_after: Moment


class LeafSignerSelected(Event):
    """A certificate that there is signs leaves from here on: the root itself."""

    TYPE: ClassVar[str] = "caledger.leaf_signer.selected.v1"
    datacenter: Token
    root_id: str
    signing_key_id: KeyId
