"""How certificates and hashes are shown: PEM (RFC 7468) and Consul's colon-hex."""

from __future__ import annotations

from binascii import b2a_base64
from typing import Literal

Label = Literal["CERTIFICATE", "X509 CRL"]

_BYTES_PER_LINE = 48  # 64 characters


def encode(der: bytes, label: Label = "CERTIFICATE") -> str:
    """Return a certificate, or a revocation list, as PEM with a newline at its end."""
    lines = [
        b2a_base64(der[start : start + _BYTES_PER_LINE])
        for start in range(0, len(der), _BYTES_PER_LINE)
    ]
    body = b"".join(lines).decode("ascii")
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n"


def length(der: bytes, label: Label = "CERTIFICATE") -> int:
    """Return how many characters `encode` returns."""
    lines = -(-len(der) // _BYTES_PER_LINE)
    around = len("-----BEGIN -----\n-----END -----\n") + 2 * len(label)
    return around + 4 * -(-len(der) // 3) + lines


def colon_hex(text: str) -> str:
    """Return hex as Consul shows it: lower-case octets joined by colons.

    An odd number of digits (a serial number without its leading zero) is made even.
    """
    padded = text.lower().rjust(len(text) + len(text) % 2, "0")
    return bytes.fromhex(padded).hex(":")
