"""Certificate revocation lists (RFC 5280, section 5), as our issuers sign them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from events.base import Struct
from events.revocation import RevocationReason
from services.pki import certificates

AROUND_BYTES: Final = 256  # at most: versions, algorithms, numbers, times and headers of a list
SERIAL_BITS_MAX: Final = 159  # of 20 octets; the first bit is the sign
REASON_BYTES: Final = 14  # of an entry's extensions, where the reason is the only one
GENERALIZED_FROM: Final = 2050  # UTCTime before that year (RFC 5280, 5.1.2.6)


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


def is_serial(number: int) -> bool:
    """Say whether it can be on a list: at most 20 octets, and above 0 (RFC 5280, 4.1.2.2).

    A signer that lies can write others into the ledger: they must not stop the list.
    """
    return 0 < number < 1 << SERIAL_BITS_MAX


def bytes_most(issuer: bytes, entries: Iterable[Entry]) -> int:
    """Return how long (bytes of DER) a list may get, before it is signed: some bytes too many.

    Each entry is counted exactly. What is around them is the name and the key id of `issuer`, a DER
    certificate, and a signature by its key, which is as long as the key: less than the certificate;
    and then numbers and times.
    """
    return len(issuer) + AROUND_BYTES + sum(map(entry_bytes, entries))


def entry_bytes(entry: Entry) -> int:
    """Return how long (bytes of DER) an entry is (RFC 5280, 5.1)."""
    serial = 2 + entry.serial.bit_length() // 8 + 1
    at = 2 + (len("YYMMDDHHMMSSZ") if entry.at.year < GENERALIZED_FROM else len("YYYYMMDDHHMMSSZ"))
    reason = 0 if entry.reason == "unspecified" else REASON_BYTES
    return 2 + serial + at + reason


def assemble(tbs_list: bytes, signature: bytes, issuer: bytes) -> bytes:
    """Return the DER list of what was signed, and the signature of the issuer's key."""
    key_type, _ = certificates.key_type_and_bits(certificates.public_key_of(issuer))
    return certificates.assemble(tbs_list, signature, key_type)


def _revoked(entry: Entry) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(entry.serial).revocation_date(entry.at)
    if entry.reason != "unspecified":  # RFC 5280, 5.3.1: absent rather than unspecified
        builder = builder.add_extension(x509.CRLReason(REASONS[entry.reason]), critical=False)
    return builder.build()
