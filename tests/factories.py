"""Builders for tests: what the outside sends us. Every default can be overridden.

Keys are made once for a run and kept: RSA keys cost up to seconds.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

from events.base import KeyType, Struct
from projections.bundle import BundleRoot
from services.pki import certificates, der, leaf, spiffe

CLUSTER_ID: Final = "11111111-2222-3333-4444-555555555555"
TRUST_DOMAIN: Final = f"{CLUSTER_ID}.consul"
DATACENTER: Final = "dc1"
WEB: Final = f"spiffe://{TRUST_DOMAIN}/ns/default/dc/{DATACENTER}/svc/web"
NOW: Final = datetime(2026, 8, 1, 12, 0, 0, tzinfo=UTC)
SERIAL: Final = (1 << 127) | 0x0123456789ABCDEF

EXTENSION_REQUEST: Final = bytes.fromhex("06092a864886f70d01090e")  # PKCS #9
MICROSOFT_EXTENSION_REQUEST: Final = bytes.fromhex("060a2b06010401823702010e")

PrivateKey = (
    ec.EllipticCurvePrivateKey
    | rsa.RSAPrivateKey
    | dsa.DSAPrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)
CaPrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

LEAF_KINDS: Final = ("p256", "p384", "rsa2048", "rsa3072", "rsa4096")
CA_KINDS: Final = ("p256", "p384", "rsa2048", "rsa3072", "rsa4096")

_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "p224": ec.SECP224R1(),
    "p256": ec.SECP256R1(),
    "p384": ec.SECP384R1(),
    "p521": ec.SECP521R1(),
    "secp256k1": ec.SECP256K1(),
    "brainpool256": ec.BrainpoolP256R1(),
}


def ca_key(kind: str = "p256", number: int = 0) -> CaPrivateKey:
    """Return the `number`-th EC or RSA key of a kind (`p256`, `rsa2048`, ...), always the same."""
    key = leaf_key(kind, number)
    assert isinstance(key, CaPrivateKey)
    return key


def leaf_key(kind: str = "p256", number: int = 0) -> PrivateKey:
    """Return the `number`-th key of a kind, good or bad, always the same in one run."""
    return _key(kind, number)


@cache
def _key(kind: str, number: int) -> PrivateKey:
    del number  # tells keys of one kind apart in the cache
    if kind in _CURVES:
        return ec.generate_private_key(_CURVES[kind])
    if bits := re.fullmatch(r"rsa(\d+)(?:e(\d+))?", kind):
        return rsa.generate_private_key(int(bits[2] or 65537), int(bits[1]))
    match kind:
        case "dsa":
            return dsa.generate_private_key(2048)
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "ed448":
            return ed448.Ed448PrivateKey.generate()
        case _:
            raise AssertionError(f"no key of kind {kind}")


def pem_of(data: bytes, label: str = "CERTIFICATE REQUEST") -> bytes:
    """Return DER as PEM."""
    body = base64.encodebytes(data).decode()
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n".encode()


def private_pem(key: PrivateKey) -> bytes:
    """Return a private key in PKCS #8, for a program that wants to use it."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def csr(
    *,
    uri: str = WEB,
    key: PrivateKey | None = None,
    names: Sequence[x509.GeneralName] | None = None,
    critical: bool = True,
    common_name: str | None = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    digest: hashes.SHA224 | hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None = None,
) -> bytes:
    """Return the DER of a signing request; `names` replaces the one URI, empty for no SAN."""
    key = key or leaf_key()
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    san = [x509.UniformResourceIdentifier(uri)] if names is None else list(names)
    if san:
        builder = builder.add_extension(x509.SubjectAlternativeName(san), critical)
    for extension, is_critical in extensions:
        builder = builder.add_extension(extension, is_critical)
    hashless = isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    algorithm = None if hashless else digest or hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


def raw_csr(
    *extensions: bytes,
    key: CaPrivateKey | None = None,
    attributes: Sequence[bytes] = (EXTENSION_REQUEST,),
    version: int = 0,
) -> bytes:
    """Return a well signed request with extensions as given, which no library would write.

    Each of `extensions` is the DER of an Extension; all are in each attribute of these types.
    """
    key = key or ca_key()
    asked = der.tlv(0x31, der.tlv(der.SEQUENCE, b"".join(extensions)))
    info = der.tlv(
        der.SEQUENCE,
        der.tlv(der.INTEGER, bytes((version,)))
        + der.tlv(der.SEQUENCE, b"")
        + certificates.spki_of(key.public_key())
        + der.tlv(0xA0, b"".join(der.tlv(der.SEQUENCE, oid + asked) for oid in attributes)),
    )
    return signed(info, key)  # the same three parts as in a certificate


def san_extension(*names: bytes, critical: bool = True) -> bytes:
    """Return a SAN extension whose names are URIs of these bytes."""
    value = der.tlv(der.SEQUENCE, b"".join(der.tlv(0x86, name) for name in names))
    flag = bytes.fromhex("0101ff") if critical else b""
    return der.tlv(
        der.SEQUENCE, bytes.fromhex("0603551d11") + flag + der.tlv(der.OCTET_STRING, value)
    )


def csr_pem(*, uri: str = WEB, key: PrivateKey | None = None) -> bytes:
    """Return a good signing request in PEM, as a client sends it."""
    return pem_of(csr(uri=uri, key=key))


def sign_with(key: CaPrivateKey, message: bytes) -> bytes:
    """Sign as every KeyStore does: SHA-256, ECDSA or RSASSA-PKCS1-v1_5."""
    if isinstance(key, rsa.RSAPrivateKey):
        from cryptography.hazmat.primitives.asymmetric import padding

        return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def key_type_of(key: CaPrivateKey) -> KeyType:
    """Return how the events call the type of a key."""
    return certificates.key_type_and_bits(key.public_key())[0]


def signed(tbs: bytes, signer: CaPrivateKey) -> bytes:
    """Return the certificate: `tbs`, signed by this key."""
    return certificates.assemble(tbs, sign_with(signer, tbs), key_type_of(signer))


def root(
    *,
    key: CaPrivateKey | None = None,
    trust_domain: str = TRUST_DOMAIN,
    common_name: str | None = None,
    serial: int = SERIAL,
    not_before: datetime = NOW - certificates.CA_BACKDATE,
    not_after: datetime = NOW + timedelta(days=3650),
) -> bytes:
    """Return a self-signed root, DER."""
    key = key or ca_key()
    tbs = certificates.root_tbs(
        public_key=key.public_key(),
        trust_domain=trust_domain,
        common_name=common_name or certificates.common_name("pri", CLUSTER_ID, "5eed" * 8),
        serial=serial,
        not_before=not_before,
        not_after=not_after,
    )
    return signed(tbs, key)


def bundle_root(root_id: str, certificates: str) -> BundleRoot:
    """Return an active root of a trust bundle; only its id and its PEM say something."""
    return BundleRoot(
        id=root_id,
        name="root",
        serial_number=1,
        serial_number_hex="01",
        signing_key_id="k",
        external_trust_domain=CLUSTER_ID,
        not_before=NOW,
        not_after=NOW,
        root_cert=certificates,
        intermediate_certs=None,
        active=True,
        private_key_type="ec",
        private_key_bits=256,
        create_index=2,
        modify_index=2,
    )


def intermediate(
    *,
    key: CaPrivateKey | None = None,
    issuer: bytes | None = None,
    issuer_key: CaPrivateKey | None = None,
    trust_domain: str = TRUST_DOMAIN,
    common_name: str | None = None,
    serial: int = SERIAL + 1,
    not_before: datetime = NOW - certificates.CA_BACKDATE,
    not_after: datetime = NOW + timedelta(days=365),
) -> bytes:
    """Return an intermediate below `issuer` (a root of `issuer_key`), DER."""
    issuer_key = issuer_key or ca_key()
    tbs = certificates.intermediate_tbs(
        public_key=(key or ca_key(number=1)).public_key(),
        issuer=issuer or root(key=issuer_key),
        trust_domain=trust_domain,
        common_name=common_name or certificates.common_name("sec", CLUSTER_ID, "0dd5" * 8),
        serial=serial,
        not_before=not_before,
        not_after=not_after,
    )
    return signed(tbs, issuer_key)


def leaf_certificate(
    *,
    issuer: bytes,
    issuer_key: CaPrivateKey,
    key: CaPrivateKey | None = None,
    uri: str = WEB,
    serial: int = SERIAL + 2,
    now: datetime = NOW,
    ttl_seconds: int = 72 * 3600,
    dns: Sequence[str] = (),
    ip: Sequence[str] = (),
) -> bytes:
    """Return a leaf of this issuer, made as a signer makes it, DER."""
    public_key = (key or ca_key(number=2)).public_key()
    template = leaf.LeafTemplate(issuer)
    not_before, not_after = leaf.validity(
        now,
        ttl_seconds=ttl_seconds,
        issuer_not_before=template.not_before,
        issuer_not_after=template.not_after,
    )
    tbs = template.tbs(
        serial=serial,
        spki=certificates.spki_of(public_key),
        key_id=certificates.key_id(public_key),
        uri=uri,
        not_before=not_before,
        not_after=not_after,
        dns=dns,
        ip=ip,
    )
    return signed(tbs, issuer_key)


class Hierarchy(Struct):
    """A root and the intermediate below it that signs leaves, with their keys' numbers."""

    root: bytes
    root_key: tuple[str, int]
    intermediate: bytes
    signing_key: tuple[str, int]

    def leaf(
        self,
        *,
        key: CaPrivateKey | None = None,
        uri: str = WEB,
        serial: int = SERIAL + 2,
        now: datetime = NOW,
        ttl_seconds: int = 72 * 3600,
    ) -> bytes:
        """Return a leaf signed by the intermediate, DER."""
        return leaf_certificate(
            issuer=self.intermediate,
            issuer_key=ca_key(*self.signing_key),
            key=key,
            uri=uri,
            serial=serial,
            now=now,
            ttl_seconds=ttl_seconds,
        )


def hierarchy(
    *, root_kind: str = "p256", signing_kind: str = "p256", now: datetime = NOW
) -> Hierarchy:
    """Return a root and an intermediate that are good at `now`."""
    top, below = ca_key(root_kind), ca_key(signing_kind, 1)
    begin = now - certificates.CA_BACKDATE
    anchor = root(key=top, not_before=begin, not_after=now + timedelta(days=3650))
    return Hierarchy(
        root=anchor,
        root_key=(root_kind, 0),
        intermediate=intermediate(
            key=below,
            issuer=anchor,
            issuer_key=top,
            not_before=begin,
            not_after=now + timedelta(days=365),
        ),
        signing_key=(signing_kind, 1),
    )


def service_uri(
    name: str = "web", *, trust_domain: str = TRUST_DOMAIN, dc: str = DATACENTER
) -> str:
    """Return a service's SPIFFE id."""
    return spiffe.service_id(trust_domain, dc, name)
