"""What cryptography raises for certificates that are none, some of it only when a part is read."""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

UNREADABLE: Final = (
    ValueError,
    OverflowError,
    UnsupportedAlgorithm,  # a curve, say, that cryptography does not know
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
