"""Leaf certificates, from a TBSCertificate prepared once for each issuer.

Filling in a template takes a fraction of the general builder's time, and every leaf that it makes
equals the builder's byte for byte (tests/unit/services/pki/test_leaf.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Final, Literal

from events.base import KeyType, utc
from services.pki import der
from services.pki.certificates import (
    LEAF_BACKDATE,
    key_type_and_bits,
    load,
    public_key_of,
    subject_key_id,
)
from services.refusals import RefusedError

Issuer = Literal["root", "intermediate"]

_VERSION_3: Final = bytes.fromhex("a003020102")
_EMPTY_SUBJECT: Final = bytes.fromhex("3000")
_RSA_SPKI: Final = bytes.fromhex("300d06092a864886f70d0101010500")  # rsaEncryption, NULL

_BASIC_CONSTRAINTS: Final = bytes.fromhex("300c0603551d130101ff04023000")  # critical; CA false
_KEY_USAGE: Final[dict[KeyType, bytes]] = {  # critical
    "ec": bytes.fromhex("300e0603551d0f0101ff040403020780"),  # digitalSignature
    "rsa": bytes.fromhex("300e0603551d0f0101ff0404030205a0"),  # and keyEncipherment
}
_EXTENDED_KEY_USAGE: Final = bytes.fromhex(  # clientAuth, serverAuth
    "301d0603551d250416301406082b0601050507030206082b06010505070301"
)
_SUBJECT_KEY_ID: Final = bytes.fromhex("30290603551d0e04220420")  # then 32 octets
_AUTHORITY_KEY_ID: Final = bytes.fromhex("0603551d23")
_SUBJECT_ALTERNATIVE_NAME: Final = bytes.fromhex("0603551d110101ff")  # critical: no subject
_EXTENSIONS: Final = 0xA3
_KEY_IDENTIFIER: Final = 0x80
_DNS: Final = 0x82
_URI: Final = 0x86
_IP: Final = 0x87


class LeafTemplate:
    """What all leaves of one issuer have in common."""

    def __init__(self, issuer_certificate: bytes) -> None:
        """Prepare for an issuer's DER certificate; raises certificates.CertificateError."""
        issuer = load(issuer_certificate)
        self.issuer_key_type: Final = key_type_and_bits(public_key_of(issuer_certificate))[0]
        self.not_before: Final = issuer.not_valid_before_utc
        self.not_after: Final = issuer.not_valid_after_utc
        self._last: tuple[datetime, datetime, bytes] | None = None
        self._algorithm_and_issuer = (
            der.SIGNATURE_ALGORITHM[self.issuer_key_type] + issuer.subject.public_bytes()
        )
        authority_key_id = der.tlv(_KEY_IDENTIFIER, subject_key_id(issuer_certificate))
        extension = _AUTHORITY_KEY_ID + der.tlv(
            der.OCTET_STRING, der.tlv(der.SEQUENCE, authority_key_id)
        )
        after_usage = _EXTENDED_KEY_USAGE + der.tlv(der.SEQUENCE, extension) + _SUBJECT_KEY_ID
        self._extensions: dict[KeyType, bytes] = {
            key_type: _BASIC_CONSTRAINTS + usage + after_usage
            for key_type, usage in _KEY_USAGE.items()
        }

    def tbs(
        self,
        *,
        serial: int,
        spki: bytes,
        key_id: str,
        uri: str,
        not_before: datetime,
        not_after: datetime,
        dns: Sequence[str] = (),
        ip: Sequence[str] = (),
    ) -> bytes:
        """Return a leaf's TBSCertificate, ready to be signed by the issuer's key.

        `spki` and `key_id` are those of a checked signing request, `uri` is its SPIFFE id in ASCII,
        the times are those of `validity`. Names come in Consul's order (section 2.3).
        """
        others = b"".join(der.tlv(_DNS, name.encode("ascii")) for name in dns)
        others += b"".join(der.tlv(_IP, ip_address(address).packed) for address in ip)
        names = der.tlv(der.SEQUENCE, others + der.tlv(_URI, uri.encode("ascii")))
        extensions = (
            self._extensions[_key_type(spki)]
            + bytes.fromhex(key_id)
            + der.tlv(der.SEQUENCE, _SUBJECT_ALTERNATIVE_NAME + der.tlv(der.OCTET_STRING, names))
        )
        return der.tlv(
            der.SEQUENCE,
            _VERSION_3
            + der.serial_number(serial)
            + self._algorithm_and_issuer
            + self._validity(not_before, not_after)
            + _EMPTY_SUBJECT
            + spki
            + der.tlv(_EXTENSIONS, der.tlv(der.SEQUENCE, extensions)),
        )

    def _validity(self, not_before: datetime, not_after: datetime) -> bytes:
        """Return the Validity; of leaves that follow each other it is the same, objects and all."""
        last = self._last
        if last is None or last[0] is not not_before or last[1] is not not_after:
            encoded = der.tlv(der.SEQUENCE, der.time(not_before) + der.time(not_after))
            self._last = last = not_before, not_after, encoded
        return last[2]


def validity(
    now: datetime,
    *,
    ttl_seconds: int,
    issuer_not_before: datetime,
    issuer_not_after: datetime,
    issuer: Issuer = "intermediate",
) -> tuple[datetime, datetime]:
    """Return a new leaf's NotBefore and NotAfter, in whole seconds.

    It begins a minute ago, for clocks that are behind, and never before its issuer does; it lasts
    `ttl_seconds`, and never longer than its issuer (H9). Raises RefusedError as check_alive does.
    """
    check_alive(now, not_after=issuer_not_after, issuer=issuer)
    not_before = max(utc(now - LEAF_BACKDATE), issuer_not_before)
    return not_before, min(not_before + timedelta(seconds=ttl_seconds), issuer_not_after)


def check_alive(now: datetime, *, not_after: datetime, issuer: Issuer) -> None:
    """Raise RefusedError, not_ready, in Consul's words (section 2.5) once an issuer has expired."""
    if now > not_after:
        raise RefusedError(
            "not_ready",
            f"{issuer} expired: certificate expired, expiration date: "
            f"{not_after.astimezone(UTC):%Y-%m-%d %H:%M:%S +0000 UTC}",
        )


def _key_type(spki: bytes) -> KeyType:
    """Return a key's type from the algorithm that stands at the start of its SPKI."""
    return "rsa" if spki.find(_RSA_SPKI, 0, 24) > 0 else "ec"
