"""What the certificate authority is: configuration, keys, roots and intermediates."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from events.base import Event, KeyId, KeyType, Moment, Struct, Token

CertificateDer = bytes  # base64 on the wire

LIFE_SECONDS_MAX = 100 * 8766 * 3600  # of a certificate: 100 years
RATE_MAX = 1e9  # requests a second; what is not finite cannot be told in JSON

Life = Annotated[int, Meta(ge=1, le=LIFE_SECONDS_MAX)]
Rate = Annotated[float, Meta(ge=0, le=RATE_MAX)]

KeyPurpose = Literal["root", "signing"]
LeafSigner = Literal["intermediate", "root"]


class CAConfig(Struct):
    """Consul's common provider configuration (section 1.4), with its defaults."""

    leaf_cert_ttl_seconds: Life = 72 * 3600
    intermediate_cert_ttl_seconds: Life = 8760 * 3600
    root_cert_ttl_seconds: Life = 87600 * 3600
    csr_max_per_second: Rate = 50.0  # over all signers; 0 = no limit
    private_key_type: KeyType = "ec"
    private_key_bits: int = 256
    leaf_signer: LeafSigner = "intermediate"


class CAConfigured(Event):
    """The configuration from here on, whole; a secret is never part of it."""

    TYPE: ClassVar[str] = "caledger.ca.configured.v1"
    cluster_id: str  # UUID; Consul's ClusterID
    trust_domain: str  # lower case; `<cluster_id>.consul` unless it was named
    provider: Literal["consul"]
    config: CAConfig
    force_without_cross_signing: bool = False


class KeyCreated(Event):
    """A key pair exists in a key store; its private half is known to nothing else."""

    TYPE: ClassVar[str] = "caledger.key.created.v1"
    key_id: KeyId
    key_type: KeyType
    key_bits: int
    purpose: KeyPurpose
    custody: Literal["sealed"]  # how the private half is kept


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


class IntermediateInstalled(Event):
    """The certificate that signs this datacenter's leaves from here on; its key is always new."""

    TYPE: ClassVar[str] = "caledger.intermediate.installed.v1"
    datacenter: Token
    root_id: str
    signing_key_id: KeyId
    certificate: CertificateDer
    not_before: Moment
    not_after: Moment
