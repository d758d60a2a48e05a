"""Roots and intermediates: what is signed, and the names and numbers that Consul shows of them.

Nothing here holds a key of the authority. A `*_tbs` function returns the TBSCertificate, the
caller's key store signs it, and `assemble` joins the two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from events.base import KeyType
from projections.unreadable import UNREADABLE
from services.keys.interface import PublicKey
from services.pki import der, spiffe

CA_BACKDATE: Final = timedelta(hours=1)  # for verifiers whose clocks are behind (architecture 8)
LEAF_BACKDATE: Final = timedelta(minutes=1)  # Consul's CertificateTimeDriftBuffer


class CertificateError(ValueError):
    """A certificate that we were given is not one that can issue."""


@contextmanager
def reading(problem: str) -> Iterator[None]:
    """Around what reads a certificate: raises CertificateError for whatever cryptography raises.

    cryptography reads a part of it only when it is asked for, so each may be what is wrong.
    """
    try:
        yield
    except CertificateError:
        raise
    except UNREADABLE as error:
        raise CertificateError(f"{problem}: {error}") from error


def spki_of(public_key: PublicKey) -> bytes:
    """Return the DER SubjectPublicKeyInfo."""
    return public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def key_id(public_key: PublicKey) -> str:
    """Return a key's id: SHA-256 of its SubjectPublicKeyInfo (Consul's, section 2.4)."""
    return hashlib.sha256(spki_of(public_key)).hexdigest()


def key_type_and_bits(public_key: PublicKey) -> tuple[KeyType, int]:
    """Return Consul's PrivateKeyType and PrivateKeyBits."""
    return ("rsa" if isinstance(public_key, rsa.RSAPublicKey) else "ec"), public_key.key_size


def public_key_of(certificate: bytes) -> PublicKey:
    """Return the key that a certificate is for; raises CertificateError for another type."""
    with reading("unsupported key"):
        key = load(certificate).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise CertificateError("unsupported key type")
    return key


def load(certificate: bytes) -> x509.Certificate:
    """Read a DER certificate; raises CertificateError."""
    with reading("not a certificate"):
        return x509.load_der_x509_certificate(certificate)


def check_readable(certificate: x509.Certificate) -> None:
    """Raise CertificateError unless all of a certificate can be read that is ever asked for."""
    with reading("a certificate that cannot be read"):
        _ = certificate.issuer, certificate.subject, list(certificate.extensions)
        _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        _ = certificate.signature_hash_algorithm, certificate.public_key()


def root_id(certificate: bytes) -> str:
    """Return Consul's CARoot.ID: colon-hex SHA-1 of the certificate, a name and no protection."""
    return hashlib.sha1(certificate, usedforsecurity=False).digest().hex(":")


def subject_key_id(certificate: bytes) -> bytes:
    """Return what leaves call their issuer's key; raises CertificateError where it is not said."""
    with reading("no subject key identifier"):
        return (
            load(certificate)
            .extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
            .value.digest
        )


def end_of_chain(*chain: bytes) -> datetime:
    """Return until when certificates (DER) are accepted together: the first that ends, ends all."""
    return min(load(certificate).not_valid_after_utc for certificate in chain)


def path_length(certificate: bytes) -> int | None:
    """Return how many CAs may follow below a CA; None: as many as one likes (RFC 5280, 4.2.1.9).

    Raises CertificateError where it is no CA.
    """
    with reading("not a CA"):
        constraints = load(certificate).extensions.get_extension_for_class(x509.BasicConstraints)
    if not constraints.value.ca:
        raise CertificateError("not a CA: its basic constraints say so")
    return constraints.value.path_length


def cas_allowed_below(chain: Sequence[bytes]) -> int | None:
    """Return how many CAs may follow below the first of a chain; None: as many as one likes.

    Each above it bounds them as well, and those in between count (RFC 5280, 4.2.1.9; self-issued
    ones too, as Go counts them). Below 0: the chain is too long as it is. Raises CertificateError.
    """
    lengths = (path_length(certificate) for certificate in chain)
    left = [length - place for place, length in enumerate(lengths) if length is not None]
    return min(left, default=None)


def common_name(kind: Literal["pri", "sec"], cluster_id: str, token: str) -> str:
    """Return a CA's common name as Consul makes it: unique, for providers that cache by subject.

    `token` is at least 64 random bits in hex.
    """
    return f"{kind}-{_base36(int(token[:16], 16))[:8]}.consul.ca.{cluster_id[:8].lower()}.consul"


def root_tbs(
    *,
    public_key: PublicKey,
    trust_domain: str,
    common_name: str,
    serial: int,
    not_before: datetime,
    not_after: datetime,
) -> bytes:
    """Return the TBSCertificate of a self-signed root (Consul's, section 2.7)."""
    subject = _name(common_name)
    key_digest = bytes.fromhex(key_id(public_key))
    builder = _authority(
        subject=subject,
        issuer=subject,
        public_key=public_key,
        authority_key_digest=key_digest,
        path_length=None,
        trust_domain=trust_domain,
    )
    return _tbs(builder, serial, not_before, not_after, key_type_and_bits(public_key)[0])


def intermediate_tbs(
    *,
    public_key: PublicKey,
    issuer: bytes,
    trust_domain: str,
    common_name: str,
    serial: int,
    not_before: datetime,
    not_after: datetime,
) -> bytes:
    """Return the TBSCertificate of an intermediate that signs leaves and no other CA.

    `issuer` is the DER of the certificate whose key will sign. Unlike Consul's, its subject is not
    empty, and neither is its life longer than its issuer's (H9). Raises CertificateError.
    """
    parent = load(issuer)
    builder = _authority(
        subject=_name(common_name),
        issuer=parent.subject,
        public_key=public_key,
        authority_key_digest=subject_key_id(issuer),
        path_length=0,
        trust_domain=trust_domain,
    )
    return _tbs(
        builder,
        serial,
        max(not_before, parent.not_valid_before_utc),
        min(not_after, parent.not_valid_after_utc),
        key_type_and_bits(public_key_of(issuer))[0],
    )


def cross_signed_tbs(
    *, root: bytes, issuer: bytes, serial: int, not_before: datetime, not_after: datetime
) -> bytes:
    """Return the TBSCertificate that lets who trusts `issuer` alone trust `root`'s key as well.

    The new root's subject, names, key and constraints; the old root's name and key id (Consul's,
    section 2.9). The algorithm is that of the key which signs, not of the old certificate (Consul
    issue 10070). It lives as long as both of them do (H10). Raises CertificateError.
    """
    new, old = load(root), load(issuer)
    builder = (
        x509.CertificateBuilder()
        .subject_name(new.subject)
        .issuer_name(old.subject)
        .public_key(public_key_of(root))
        .add_extension(
            x509.AuthorityKeyIdentifier(subject_key_id(issuer), None, None), critical=False
        )
    )
    for extension in new.extensions:
        if not isinstance(extension.value, x509.AuthorityKeyIdentifier):
            builder = builder.add_extension(extension.value, extension.critical)
    return _tbs(
        builder,
        serial,
        max(not_before, old.not_valid_before_utc, new.not_valid_before_utc),
        min(not_after, old.not_valid_after_utc, new.not_valid_after_utc),
        key_type_and_bits(public_key_of(issuer))[0],
    )


def assemble(tbs: bytes, signature: bytes, signer_key_type: KeyType) -> bytes:
    """Return the DER certificate: what was signed, by what algorithm, the signature."""
    algorithm = der.SIGNATURE_ALGORITHM[signer_key_type]
    return der.tlv(der.SEQUENCE, tbs + algorithm + der.tlv(der.BIT_STRING, b"\0" + signature))


def _authority(
    *,
    subject: x509.Name,
    issuer: x509.Name,
    public_key: PublicKey,
    authority_key_digest: bytes,
    path_length: int | None,
    trust_domain: str,
) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    uri = x509.UniformResourceIdentifier(spiffe.signing_id(trust_domain))
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier(authority_key_digest, None, None), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier(bytes.fromhex(key_id(public_key))), critical=False)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    )


def _tbs(
    builder: x509.CertificateBuilder,
    serial: int,
    not_before: datetime,
    not_after: datetime,
    signer_key_type: KeyType,
) -> bytes:
    return (
        builder.serial_number(serial)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .sign(throw_away_key(signer_key_type), hashes.SHA256())
        .tbs_certificate_bytes
    )


@cache
def throw_away_key(key_type: KeyType) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    """Return a key for pyca's builder, which gives a TBSCertificate only with a signature on it.

    That signature is dropped; only the algorithm's name, which follows the key type, is kept.
    """
    if key_type == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _base36(value: int) -> str:
    digits = ""
    while value:
        value, digit = divmod(value, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"
