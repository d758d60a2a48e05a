"""Certificate revocation lists (RFC 5280, section 5), as our issuers sign them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from events.base import Struct
from events.revocation import RevocationReason
from services.pki import certificates


class Entry(Struct):
    """A certificate on the list."""

    serial: int
    at: datetime
    reason: RevocationReason


REASONS: Final[Mapping[RevocationReason, x509.ReasonFlags]] = {
    "unspecified": x509.ReasonFlags.unspecified,
    "key_compromise": x509.ReasonFlags.key_compromise,
    "ca_compromise": x509.ReasonFlags.ca_compromise,
    "affiliation_changed": x509.ReasonFlags.affiliation_changed,
    "superseded": x509.ReasonFlags.superseded,
    "cessation_of_operation": x509.ReasonFlags.cessation_of_operation,
    "privilege_withdrawn": x509.ReasonFlags.privilege_withdrawn,
}


def tbs(
    *,
    issuer: bytes,
    entries: list[Entry],
    number: int,
    this_update: datetime,
    next_update: datetime,
) -> bytes:
    """Return the TBSCertList, to be signed by the key of `issuer`, a DER certificate.

    Raises CertificateError.
    """
    parent = certificates.load(issuer)
    key_type, _ = certificates.key_type_and_bits(certificates.public_key_of(issuer))
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(parent.subject)
        .last_update(this_update)
        .next_update(next_update)
        .add_extension(
            x509.AuthorityKeyIdentifier(certificates.subject_key_id(issuer), None, None),
            critical=False,
        )
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for entry in sorted(entries, key=lambda entry: (entry.at, entry.serial)):
        builder = builder.add_revoked_certificate(_revoked(entry))
    return builder.sign(certificates.throw_away_key(key_type), hashes.SHA256()).tbs_certlist_bytes


def assemble(tbs_list: bytes, signature: bytes, issuer: bytes) -> bytes:
    """Return the DER list of what was signed, and the signature of the issuer's key."""
    key_type, _ = certificates.key_type_and_bits(certificates.public_key_of(issuer))
    return certificates.assemble(tbs_list, signature, key_type)


def _revoked(entry: Entry) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(entry.serial).revocation_date(entry.at)
    if entry.reason != "unspecified":  # RFC 5280, 5.3.1: absent rather than unspecified
        builder = builder.add_extension(x509.CRLReason(REASONS[entry.reason]), critical=False)
    return builder.build()
