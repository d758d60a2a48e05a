"""Signing requests: read, verified and checked against what their sender may have.

Hostile until `check` returns. What it returns comes from the request whose signature it verified,
and nothing else of a request is ever used: not its subject, not its other extensions (failure F2).
"""

from __future__ import annotations

import binascii
import hashlib
import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Never

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from events.authority import AllowedNames
from events.base import Struct
from events.leaves import IdentityKind, RefusalCode
from services.keys.interface import PublicKey
from services.pki import sans, spiffe
from services.pki.certificates import spki_of
from services.refusals import RefusedError

MAX_BYTES: Final = 64 * 1024
NAMES_MAX: Final = 32  # beside each other in one request
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
    dns: tuple[str, ...] = ()  # in lower case, none twice
    ip: tuple[str, ...] = ()


class Asker(Struct):
    """Whom a certificate is for, and which names its sender may have beside the SPIFFE id."""

    identity: str  # SPIFFE id, of this trust domain and datacenter
    kind: IdentityKind
    name: str
    trust_domain: str
    datacenter: str
    allowed: AllowedNames = AllowedNames()


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


def check(der: bytes, asker: Asker) -> CheckedCsr:
    """Return what to certify of a request for exactly this identity; raises RefusedError.

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
    names = _names(request)
    _check_uri(_only_uri(names), asker)
    dns, ip = _others(names, asker) if len(names) > 1 else ((), ())
    spki = spki_of(key)
    if spki not in der:
        raise _refused("malformed", "the public key is not written in its one canonical form")
    return CheckedCsr(
        spki=spki,
        key_id=hashlib.sha256(spki).hexdigest(),
        csr_sha256=hashlib.sha256(der).hexdigest(),
        dns=dns,
        ip=ip,
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
    return uris[0]


def _others(names: list[x509.GeneralName], asker: Asker) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return DNS names and addresses that the sender may have; what it may not have is refused."""
    if len(names) > NAMES_MAX:
        raise _refused("san_not_allowed", f"CSR SAN has more than {NAMES_MAX} names")
    dns: dict[str, None] = {}
    ip: dict[str, None] = {}
    for name in names:
        match name:
            case x509.UniformResourceIdentifier():
                pass
            case x509.DNSName(value=asked):
                dns[_allowed_name(asked.lower(), asker)] = None
            case x509.IPAddress(value=IPv4Address() | IPv6Address() as address):
                if not sans.allows_address(asker.allowed, address):
                    _not_allowed(str(address), asker)
                ip[str(address)] = None
            case _:
                raise _refused(
                    "san_not_allowed", "CSR SAN allows a URI, DNS names and addresses only"
                )
    return tuple(dns), tuple(ip)


def _allowed_name(asked: str, asker: Asker) -> str:
    if not sans.allows_name(
        asker.allowed,
        asked,
        name=asker.name,
        datacenter=asker.datacenter,
        trust_domain=asker.trust_domain,
    ):
        _not_allowed(asked, asker)
    return asked


def _not_allowed(asked: str, asker: Asker) -> Never:
    raise _refused(
        "san_not_allowed",
        f"CSR SAN {asked} is not allowed for {asker.kind} {asker.name}".rstrip()
        + ": the CA's configuration says which names are",
    )


def _check_uri(uri: str, asker: Asker) -> None:
    if uri == asker.identity:
        return  # which is of our trust domain and datacenter; all below says what else it is
    identity, trust_domain, datacenter = asker.identity, asker.trust_domain, asker.datacenter
    if len(uri) > spiffe.MAX_LENGTH:
        raise _refused("identity_mismatch", "SPIFFE ID in CSR is too long")
    try:
        asked = spiffe.parse(uri)
    except spiffe.SpiffeIdError as error:
        raise _refused("identity_mismatch", str(error)) from error
    if isinstance(asked, spiffe.SigningId) or (
        isinstance(asked, spiffe.ServerId) and asker.kind != "server"
    ):
        raise _refused(
            "identity_mismatch", "SPIFFE ID in CSR must be a service, mesh-gateway, or agent ID"
        )
    if isinstance(asked, spiffe.AgentId):
        # Agents ask before they know the trust domain; theirs is replaced (Consul, step 7).
        if _in_trust_domain(uri, asked.trust_domain, trust_domain) == identity:
            return
    elif asked.datacenter != datacenter:
        _differs("wrong_datacenter", "datacenter", asked.datacenter, datacenter)
    elif asked.trust_domain.lower() != trust_domain:
        _differs("wrong_trust_domain", "trust domain", asked.trust_domain, trust_domain)
    raise _refused("identity_mismatch", f"SPIFFE ID in CSR is {uri}, not {identity}")


def _in_trust_domain(uri: str, host: str, trust_domain: str) -> str:
    """Return the same path in another trust domain, where the URI is nothing but host and path."""
    return uri.replace(f"spiffe://{host}/", f"spiffe://{trust_domain}/", 1)


def _differs(code: RefusalCode, what: str, theirs: str, ours: str) -> Never:
    raise _refused(code, f"SPIFFE ID in CSR from a different {what}: {theirs}, we are {ours}")


def _malformed(error: Exception) -> Never:
    raise _refused("malformed", f"not a signing request: {error}") from error


def _refused(code: RefusalCode, message: str) -> RefusedError:
    """Return the refusal in plain ASCII of bounded length: it goes into headers and the ledger."""
    return RefusedError(code, message.encode("unicode_escape").decode("ascii")[:MESSAGE_MAX])
