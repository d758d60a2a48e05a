"""The little of DER (X.690) that a certificate is put together from."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from events.base import KeyType

SEQUENCE: Final = 0x30
OCTET_STRING: Final = 0x04
BIT_STRING: Final = 0x03
INTEGER: Final = 0x02

SIGNATURE_ALGORITHM: Final[dict[KeyType, bytes]] = {
    # AlgorithmIdentifier of what a key of this type signs with: ecdsa-with-SHA256 (RFC 5758, 3.2,
    # no parameters), sha256WithRSAEncryption (RFC 4055, section 5, NULL parameters)
    "ec": bytes.fromhex("300a06082a8648ce3d040302"),
    "rsa": bytes.fromhex("300d06092a864886f70d01010b0500"),
}


def tlv(tag: int, content: bytes) -> bytes:
    """Return one element: tag, definite length in the shortest form, content."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def serial_number(value: int) -> bytes:
    """Return a serial number: a positive INTEGER of at most 20 octets (RFC 5280, 4.1.2.2)."""
    assert 0 < value < 1 << 159, "a serial number is positive and has at most 20 octets"
    return tlv(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def time(moment: datetime) -> bytes:
    """Return a Time: UTCTime through the year 2049, then GeneralizedTime (RFC 5280, 4.1.2.5).

    The moment is in UTC; what is below a second is cut off.
    """
    assert moment.utcoffset() is not None, "a moment without a time zone"
    assert not moment.utcoffset(), "a moment that is not in UTC"
    year, month, day, hour, minute, second, *_ = moment.timetuple()
    rest = f"{month:02}{day:02}{hour:02}{minute:02}{second:02}Z"
    if 1950 <= year < 2050:
        return b"\x17\x0d" + f"{year % 100:02}{rest}".encode("ascii")
    return b"\x18\x0f" + f"{year:04}{rest}".encode("ascii")
