"""Key-encryption keys: where they come from, and sealing with them (AES-256-GCM)."""

from __future__ import annotations

import hmac
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.keys.interface import KeyStoreError

NONCE_BYTES: Final = 12  # NIST SP 800-38D, 5.2.1.1
CHECK_BYTES: Final = 16
FILE_BYTES_MAX: Final = 1024

_HEX = re.compile(rb"[0-9a-fA-F]{64}")


class KeyEncryptionKeyError(KeyStoreError):
    """There is no usable key-encryption key where the configuration says."""


class SealBrokenError(KeyStoreError):
    """What was sealed does not open: it, or what it is bound to, was changed."""


class KeyEncryptionKey:
    """A secret of 32 bytes; what it seals and how it names itself are derived from it (HKDF)."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != 32:
            raise KeyEncryptionKeyError("a key-encryption key has 32 bytes (64 hex characters)")
        self._aead = AESGCM(_derive(secret, b"caledger sealing v1", 32))
        self.check = _derive(secret, b"caledger check v1", CHECK_BYTES)
        """Names the key without telling anything of it: kept beside what it sealed."""

    def __repr__(self) -> str:
        return "KeyEncryptionKey()"

    def is_named(self, check: bytes) -> bool:
        """Tell whether this is the key that wrote `check` beside what it sealed."""
        return hmac.compare_digest(self.check, check)

    def seal(self, plain: bytes, *, bound_to: bytes) -> bytes:
        """Return nonce and ciphertext; it opens only with the same `bound_to`."""
        nonce = os.urandom(NONCE_BYTES)  # never decides anything: no part of a simulation
        return nonce + self._aead.encrypt(nonce, plain, bound_to)

    def open(self, sealed: bytes, *, bound_to: bytes) -> bytes:
        """Return what was sealed; raises SealBrokenError."""
        try:
            return self._aead.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound_to)
        except (InvalidTag, ValueError):
            raise SealBrokenError("what was sealed does not open: it was changed") from None


def load(
    source: str,
    *,
    environ: Mapping[str, str] = os.environ,  # noqa: TID251  # this is the edge
) -> KeyEncryptionKey:
    """Read a key-encryption key: `file:PATH`, `env:NAME` or `credential:NAME` (systemd).

    Each holds 64 hex characters. A file that others than its owner may read is refused. Raises
    KeyEncryptionKeyError, whose text never shows what was read.
    """
    scheme, _, name = source.partition(":")
    match scheme:
        case "file":
            text = _read(Path(name), owner_only=True)
        case "env":
            text = environ.get(name, "").encode()
        case "credential":
            folder = environ.get("CREDENTIALS_DIRECTORY", "")
            if not folder or not re.fullmatch(r"[A-Za-z0-9._-]+", name) or name.strip(".") == "":
                raise KeyEncryptionKeyError(f"{source}: there is no such systemd credential")
            text = _read(Path(folder) / name, owner_only=False)
        case _:
            raise KeyEncryptionKeyError("a key is named file:PATH, env:NAME or credential:NAME")
    if not _HEX.fullmatch(text.strip()):
        raise KeyEncryptionKeyError(f"{source} does not hold 64 hex characters")
    return KeyEncryptionKey(bytes.fromhex(text.strip().decode()))


def _read(path: Path, *, owner_only: bool) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if owner_only and mode & 0o077:
                raise KeyEncryptionKeyError(
                    f"{path} may be read or written by others than its owner: chmod 600 {path}"
                )
            return file.read(FILE_BYTES_MAX)
    except OSError as error:
        raise KeyEncryptionKeyError(f"{path}: {error.strerror}") from error


def _derive(secret: bytes, purpose: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=purpose).derive(secret)
