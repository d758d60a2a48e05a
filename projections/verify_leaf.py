"""Whether one issued certificate is what its event says, and verifies as it would have then."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import verification

from events.base import utc
from events.leaves import LeafIssued
from projections.authority import AuthorityState, Issuer
from projections.unreadable import UNREADABLE

LeafCheck = Literal["leaf_fields", "leaf_signature", "leaf_chain"]

_STORES_MAX: Final = 16


class LeafVerifier:
    """Verifies leaves; keeps what it made of the roots and issuers that it saw."""

    def __init__(self) -> None:
        self._stores: OrderedDict[tuple[bytes, ...], verification.Store] = OrderedDict()
        self._issuers: dict[bytes, x509.Certificate] = {}

    def broken(self, leaf: LeafIssued, state: AuthorityState) -> Iterator[tuple[LeafCheck, str]]:
        """Yield what is wrong with a leaf that was issued in this state (about 300 us)."""
        try:
            certificate = x509.load_der_x509_certificate(leaf.certificate)
            issuer = state.issuers.get(leaf.issuer_key_id)
            yield from _fields(leaf, certificate, self._key_named_by(issuer, leaf))
        except UNREADABLE as error:
            yield "leaf_fields", f"its certificate cannot be read: {error}"
            return
        if issuer is None:
            yield "leaf_chain", f"its issuer {leaf.issuer_key_id} is not known"
            return
        try:
            signer = self._issuer(issuer.certificate)
            if not _signed(certificate, signer):
                yield "leaf_signature", "its signature is not its issuer's"
                return
            if (
                certificate.not_valid_after_utc > signer.not_valid_after_utc
                or certificate.not_valid_before_utc < signer.not_valid_before_utc
            ):
                yield "leaf_chain", "is valid when its issuer is not"
            self._verify(certificate, [self._issuer(der) for der in issuer.chain], state)
        except (*UNREADABLE, verification.VerificationError) as error:
            yield "leaf_chain", f"does not verify against the bundle of its time: {error}"

    def _key_named_by(self, issuer: Issuer | None, leaf: LeafIssued) -> str | None:
        """Return how a leaf has to name its issuer's key.

        A root that was given may name its key otherwise than we do (RFC 5280, 4.2.1.2).
        """
        if issuer is None:
            return leaf.issuer_key_id
        return _subject_key(self._issuer(issuer.certificate).extensions) or leaf.issuer_key_id

    def _verify(
        self, leaf: x509.Certificate, chain: list[x509.Certificate], state: AuthorityState
    ) -> None:
        roots = tuple(root.published.certificate for root in state.roots.values())
        if not roots:
            raise ValueError("nothing is trusted")
        (
            verification.PolicyBuilder()
            .store(self._store(roots))
            .time(leaf.not_valid_before_utc)
            .build_client_verifier()
            .verify(leaf, chain)
        )

    def _store(self, roots: tuple[bytes, ...]) -> verification.Store:
        if roots not in self._stores:
            self._stores[roots] = verification.Store([self._issuer(root) for root in roots])
            if len(self._stores) > _STORES_MAX:
                self._stores.popitem(last=False)
        return self._stores[roots]

    def _issuer(self, der: bytes) -> x509.Certificate:
        if der not in self._issuers:
            self._issuers[der] = x509.load_der_x509_certificate(der)
        return self._issuers[der]


def _signed(leaf: x509.Certificate, issuer: x509.Certificate) -> bool:
    key, algorithm = issuer.public_key(), leaf.signature_hash_algorithm
    if algorithm is None:
        return False
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(leaf.signature, leaf.tbs_certificate_bytes, ec.ECDSA(algorithm))
            case rsa.RSAPublicKey():
                key.verify(
                    leaf.signature, leaf.tbs_certificate_bytes, padding.PKCS1v15(), algorithm
                )
            case _:
                return False
    except InvalidSignature:
        return False
    return True


def _fields(
    leaf: LeafIssued, certificate: x509.Certificate, issuer_named: str | None
) -> Iterator[tuple[LeafCheck, str]]:
    extensions = certificate.extensions
    said = {
        "serial": leaf.serial,
        "key id": leaf.key_id,
        "public key": leaf.key_id,
        "issuer's key id": issuer_named,
        "names": [
            *(f"DNS:{name}" for name in leaf.dns),
            *(f"IP:{address}" for address in leaf.ip),
            leaf.identity,
        ],
        "start": utc(leaf.not_before),
        "end": utc(leaf.not_after),
    }
    written = {
        "serial": f"{certificate.serial_number:x}",
        "key id": _subject_key(extensions),
        "public key": _key_id(certificate),
        "issuer's key id": _authority_key(extensions),
        "names": _names(extensions),
        "start": certificate.not_valid_before_utc,
        "end": certificate.not_valid_after_utc,
    }
    different = [
        f"{name}: the event says {value}, its certificate {written[name]}"
        for name, value in said.items()
        if written[name] != value
    ]
    if different:
        yield "leaf_fields", "; ".join(different)


def _key_id(certificate: x509.Certificate) -> str:
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def _subject_key(extensions: x509.Extensions) -> str | None:
    try:
        found = extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return None
    return found.value.digest.hex()


def _authority_key(extensions: x509.Extensions) -> str | None:
    try:
        found = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        return None
    return (found.value.key_identifier or b"").hex()


def _names(extensions: x509.Extensions) -> list[str] | None:
    """Return all of the subject's alternative names: one that the event does not say differs."""
    try:
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return None
    return [_name(name) for name in found.value]


def _name(name: x509.GeneralName) -> str:
    match name:
        case x509.UniformResourceIdentifier(value=uri):
            return uri
        case x509.DNSName(value=dns):
            return f"DNS:{dns}"
        case x509.IPAddress(value=address):
            return f"IP:{address}"
        case _:
            return repr(name)
