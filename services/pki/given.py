"""A root's key and certificate that the operator brings: read, and checked as no verifier forgives.

Consul checks neither that they belong together nor that the certificate is a CA (section 5.2); what
it accepts then fails at the first leaf, or at the first rotation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from services.keys.interface import PrivateKey
from services.pki import certificates
from services.pki.certificates import CertificateError
from services.wording import moment

CHAIN_MAX: Final = 8

_KEY_BLOCKS: Final = {"EC PRIVATE KEY", "RSA PRIVATE KEY", "PRIVATE KEY"}
_BLOCK: Final = re.compile(r"-----BEGIN ([^\r\n-]+)-----")
_LOCKED: Final = "4,ENCRYPTED"  # RFC 1421, 4.6.1.1: how OpenSSL's own form of it begins
_STRONG: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


def read_key(pem: str) -> PrivateKey:
    """Read a CA's private key; raises CertificateError, with Consul's texts (section 2.4).

    The key's text is in no error.
    """
    if (begin := _BLOCK.search(pem)) is None:
        raise CertificateError("no PEM-encoded data found")
    if begin[1] not in _KEY_BLOCKS:
        first = "; decrypt it first (openssl pkey)" if "ENCRYPTED" in begin[1] else ""
        raise CertificateError(f"unknown PEM block type for signing key: {begin[1][:40]}{first}")
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        why = "it is encrypted: decrypt it first (openssl pkey)" if _LOCKED in pem else "damaged?"
        raise CertificateError(f"the private key cannot be read: {why}") from None
    match key:
        case ec.EllipticCurvePrivateKey(curve=ec.SECP256R1() | ec.SECP384R1()):
            return key
        case rsa.RSAPrivateKey(key_size=2048 | 3072 | 4096):
            if key.public_key().public_numbers().e == 65537:
                return key
    raise CertificateError(
        "no CA key may be of this kind: P-256, P-384, or RSA of 2048, 3072 or 4096 bits with the "
        "exponent 65537"
    )


def read_chain(pem: str) -> tuple[bytes, ...]:
    """Read a CA's certificate and those above it, DER; raises CertificateError."""
    if (begin := _BLOCK.search(pem)) is None:
        raise CertificateError("no PEM-encoded data found")
    if begin[1] != "CERTIFICATE":
        raise CertificateError("first PEM-block should be CERTIFICATE type")
    with certificates.reading("not a certificate"):
        chain = x509.load_pem_x509_certificates(pem.encode())
    if len(chain) > CHAIN_MAX:
        raise CertificateError(f"a chain has at most {CHAIN_MAX} certificates, not {len(chain)}")
    for certificate in chain:
        certificates.check_readable(certificate)
    return tuple(certificate.public_bytes(serialization.Encoding.DER) for certificate in chain)


def check_root(
    chain: Sequence[bytes], key: PrivateKey, *, cas_below: int, now: datetime, until: datetime
) -> None:
    """Raise CertificateError unless leaves can be issued below this root.

    `chain`: its certificate, then those above it up to a self-signed one. `cas_below`: how many CAs
    are to stand between it and a leaf. It must be valid now and `until`, when the first leaves
    expire.
    """
    root = certificates.load(chain[0])
    if certificates.key_id(certificates.public_key_of(chain[0])) != certificates.key_id(
        key.public_key()
    ):
        raise CertificateError(
            "the private key is not the root certificate's (the root's own is the first of the "
            "chain, then comes what is above it)"
            if len(chain) > 1
            else "the private key is not the root certificate's"
        )
    _check_path_lengths(chain, cas_below)
    _check_signs(root, chain[0])
    if not now < root.not_valid_after_utc:
        raise CertificateError(
            "root expired: certificate expired, expiration date: "
            f"{moment(root.not_valid_after_utc)}"
        )
    if root.not_valid_before_utc > now:
        raise CertificateError(f"the root is not valid before {moment(root.not_valid_before_utc)}")
    loaded = [certificates.load(certificate) for certificate in chain]
    if (end := min(one.not_valid_after_utc for one in loaded)) < until:
        raise CertificateError(
            f"the root, or one above it, expires at {moment(end)}, before its leaves do"
        )
    _check_order(loaded)


def _check_path_lengths(chain: Sequence[bytes], cas_below: int) -> None:
    """Raise CertificateError unless all of a chain are CAs that allow so many CAs below it."""
    allowed = certificates.cas_allowed_below(chain)
    if allowed is None or allowed >= cas_below:
        return
    if allowed < 0:
        raise CertificateError(
            "the chain is longer than a path length in it allows: no verifier would take the root"
        )
    raise CertificateError(
        f"the root's path length is {allowed}, or one above it allows no more: no intermediate may "
        "stand below it (set LeafSigner to root)"
    )


def _check_signs(root: x509.Certificate, der: bytes) -> None:
    """Raise CertificateError unless a certificate is a CA that may sign certificates, and lists."""
    certificates.subject_key_id(der)
    if not 0 < root.serial_number < 1 << 160:
        raise CertificateError("the root's serial number is not one of RFC 5280, 4.1.2.2")
    if not list(root.subject):
        raise CertificateError("the root has no subject (RFC 5280, 4.1.2.6)")
    try:
        usage = root.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return  # RFC 5280, 4.2.1.3: then any
    if not (usage.key_cert_sign and usage.crl_sign):
        raise CertificateError("the root's key usage must have keyCertSign and cRLSign")


def _check_order(chain: Sequence[x509.Certificate]) -> None:
    """Raise CertificateError unless each is signed by the next, and the last by itself."""
    for place, (lower, upper) in enumerate([*pairwise(chain), (chain[-1], chain[-1])]):
        try:
            lower.verify_directly_issued_by(upper)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            if lower is upper:
                raise CertificateError(
                    "the chain does not end with a self-signed certificate: many verifiers take no "
                    "other for a trust anchor"
                ) from error
            raise CertificateError(
                f"certificate {place + 1} of the chain is not signed by the next one (the root is "
                "the first, then comes what is above it)"
            ) from error
        if lower is not upper and not isinstance(lower.signature_hash_algorithm, _STRONG):
            raise CertificateError(
                f"certificate {place + 1} of the chain is signed with a weak hash"
            )
