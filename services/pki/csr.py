"""Signing requests: read, verified and checked against what their sender may have.

Hostile until `check` returns. What it returns comes from the request whose signature it verified,
and nothing else of a request is ever used: not its subject, not its other extensions (failure F2).
"""

from __future__ import annotations

import binascii
import hashlib
import re
from typing import Final, Never

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from events.base import Struct
from events.leaves import RefusalCode
from services.keys.interface import PublicKey
from services.pki import spiffe
from services.pki.certificates import spki_of
from services.refusals import RefusedError

MAX_BYTES: Final = 64 * 1024
MESSAGE_MAX: Final = 1000  # characters; a refusal may repeat what the request said

_BEGIN = re.compile(rb"^-----BEGIN ([^-\r\n]*)-----", re.MULTILINE)
_BLOCK = re.compile(
    rb"-----BEGIN CERTIFICATE REQUEST-----[ \t]*\r?\n([A-Za-z0-9+/=\r\n \t]*)"
    rb"-----END CERTIFICATE REQUEST-----\s*"
)
_DER_SEQUENCE: Final = b"\x30"
_NO_PEM: Final = "no PEM-encoded data found"
_NEITHER: Final = 'no signing request: send PEM, DER, or JSON {"csr": PEM, "request_id": ID}'
_EXTENSION_REQUESTS = (
    x509.ObjectIdentifier("1.2.840.113549.1.9.14"),  # PKCS #9
    x509.ObjectIdentifier("1.3.6.1.4.1.311.2.1.14"),  # Microsoft's name for the same
)
_SIGNATURE_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_RSA_BITS = range(2048, 4096 + 1)
_RSA_EXPONENT: Final = 65537
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)  # what cryptography raises for a structure that is no signing request


class CheckedCsr(Struct):
    """What may be signed: the sender holds this key, and the name asked for is the sender's."""

    spki: bytes  # DER SubjectPublicKeyInfo, as it stands in the request
    key_id: str
    csr_sha256: str  # hex, of the DER


def read(body: bytes) -> bytes:
    """Return the DER of a signing request in PEM or DER; raises RefusedError.

    PEM is what Consul takes, minus what may follow the first block: a sender who means two requests
    does not get an answer to one.
    """
    if len(body) > MAX_BYTES:
        raise _refused("too_large", f"a signing request has at most {MAX_BYTES} bytes")
    if body.startswith(_DER_SEQUENCE):
        return body
    begin = _BEGIN.search(body)
    if begin is None:
        raise _refused("malformed", _NO_PEM if _is_text(body) else _NEITHER)
    if begin[1] != b"CERTIFICATE REQUEST":
        raise _refused("malformed", "first PEM-block should be CERTIFICATE REQUEST type")
    block = _BLOCK.fullmatch(body, begin.start())
    if block is None:
        raise _refused("malformed", "the PEM block is not whole, or something follows it")
    try:
        return binascii.a2b_base64(block[1].translate(None, b"\r\n \t"), strict_mode=True)
    except binascii.Error as error:
        raise _refused("malformed", f"the PEM block is not base64: {error}") from error


def _is_text(body: bytes) -> bool:
    """Say whether somebody meant to send PEM."""
    return bool(body.strip()) and body.isascii() and b"\0" not in body


def check(der: bytes, *, identity: str, trust_domain: str, datacenter: str) -> CheckedCsr:
    """Return what to certify of a request for exactly this identity; raises RefusedError.

    `identity` is the SPIFFE id that the sender may ask for, of this trust domain and datacenter.
    The checks are Consul's in Consul's order and words (section 2.5), and those that it leaves out:
    the signature (H8), the kind of key, names beside the URI, the exact text of the URI.
    """
    if len(der) > MAX_BYTES:
        raise _refused("too_large", f"a signing request has at most {MAX_BYTES} bytes")
    try:
        request = x509.load_der_x509_csr(der)
    except _UNREADABLE as error:
        _malformed(error)
    key = _accepted_key(request)  # first: verifying with a huge key costs time (failure F19)
    _verify_signature(request)
    uri = _only_uri(_names(request))
    _check_uri(uri, identity=identity, trust_domain=trust_domain, datacenter=datacenter)
    spki = spki_of(key)
    if spki not in der:
        raise _refused("malformed", "the public key is not written in its one canonical form")
    return CheckedCsr(
        spki=spki,
        key_id=hashlib.sha256(spki).hexdigest(),
        csr_sha256=hashlib.sha256(der).hexdigest(),
    )


def _accepted_key(request: x509.CertificateSigningRequest) -> PublicKey:
    """Return the key if it is of a kind that all our verifiers take (architecture 8)."""
    try:
        key = request.public_key()
    except UnsupportedAlgorithm as error:
        raise _refused("key_not_allowed", f"unsupported key: {error}") from error
    except _UNREADABLE as error:
        _malformed(error)
    match key:
        case ec.EllipticCurvePublicKey():
            if isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
                return key
            found = f"EC {key.curve.name}"
        case rsa.RSAPublicKey():
            exponent = key.public_numbers().e
            if key.key_size in _RSA_BITS and exponent == _RSA_EXPONENT:
                return key
            found = f"RSA {key.key_size} with exponent {exponent:#x}"
        case _:
            found = type(key).__name__.removesuffix("PublicKey")
    raise _refused(
        "key_not_allowed",
        f"keys are EC P-256 or P-384, or RSA 2048 to 4096 with exponent 65537, not {found}",
    )


def _verify_signature(request: x509.CertificateSigningRequest) -> None:
    try:
        strong = isinstance(request.signature_hash_algorithm, _SIGNATURE_HASHES)
        valid = strong and request.is_signature_valid
    except _UNREADABLE as error:
        raise _refused("bad_signature", f"CSR signature cannot be verified: {error}") from error
    if not strong:
        raise _refused("bad_signature", "CSR signature needs SHA-256, SHA-384 or SHA-512")
    if not valid:
        raise _refused("bad_signature", "CSR signature does not verify with its own key")


def _names(request: x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    """Return all subject alternative names; more than one list of extensions is no request."""
    try:
        asked = [each for each in request.attributes if each.oid in _EXTENSION_REQUESTS]
        if len(asked) > 1:
            raise _refused("malformed", "more than one extension request")
        san = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    except _UNREADABLE as error:
        _malformed(error)
    return list(san.value)


def _only_uri(names: list[x509.GeneralName]) -> str:
    if len(names) == 1 and type(names[0]) is x509.UniformResourceIdentifier:
        return names[0].value  # the good case first: abstract classes are slow to ask
    uris = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    if len(uris) != 1:
        raise _refused("uri_count", f"CSR SAN contains an invalid number of URIs: {len(uris)}")
    if any(isinstance(name, x509.RFC822Name) for name in names):
        raise _refused("email_san", "CSR SAN does not allow specifying email addresses")
    if len(names) != 1:
        raise _refused("san_not_allowed", "CSR SAN does not allow names other than one URI")
    return uris[0]


def _check_uri(uri: str, *, identity: str, trust_domain: str, datacenter: str) -> None:
    if uri == identity:
        return  # which is of our trust domain and datacenter; all below says what else it is
    if len(uri) > spiffe.MAX_LENGTH:
        raise _refused("identity_mismatch", "SPIFFE ID in CSR is too long")
    try:
        asked = spiffe.parse(uri)
    except spiffe.SpiffeIdError as error:
        raise _refused("identity_mismatch", str(error)) from error
    if isinstance(asked, spiffe.ServerId | spiffe.SigningId):
        raise _refused(
            "identity_mismatch", "SPIFFE ID in CSR must be a service, mesh-gateway, or agent ID"
        )
    if not isinstance(asked, spiffe.AgentId) and asked.datacenter != datacenter:
        _differs("wrong_datacenter", "datacenter", asked.datacenter, datacenter)
    if asked.trust_domain.lower() != trust_domain:
        _differs("wrong_trust_domain", "trust domain", asked.trust_domain, trust_domain)
    raise _refused("identity_mismatch", f"SPIFFE ID in CSR is {uri}, not {identity}")


def _differs(code: RefusalCode, what: str, theirs: str, ours: str) -> Never:
    raise _refused(code, f"SPIFFE ID in CSR from a different {what}: {theirs}, we are {ours}")


def _malformed(error: Exception) -> Never:
    raise _refused("malformed", f"not a signing request: {error}") from error


def _refused(code: RefusalCode, message: str) -> RefusedError:
    """Return the refusal in plain ASCII of bounded length: it goes into headers and the ledger."""
    return RefusedError(code, message.encode("unicode_escape").decode("ascii")[:MESSAGE_MAX])
