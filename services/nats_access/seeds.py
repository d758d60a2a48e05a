"""NATS's own keys (nkeys, Ed25519), and the sealed files that hold their seeds.

They stand outside NATS because NATS needs them to start. A sealed file is a version byte, and what
the `nats` key-encryption key sealed, bound to the purpose of the file: none passes for another.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any, Final

import nkeys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.keys.kek import NONCE_BYTES, KeyEncryptionKey, SealBrokenError
from services.nats_access.files import write_atomically

SEALED_BYTES_MAX: Final = 4096

_VERSION: Final = b"\x01"


class SeedError(Exception):
    """A seed that cannot be had; the text says which file."""


class WrongKeyError(SeedError):
    """This key-encryption key does not open the file; or the file is damaged, which looks alike."""


class Kind(enum.Enum):
    """What a key is for; the first letter of its public half says so."""

    OPERATOR = nkeys.PREFIX_BYTE_OPERATOR
    ACCOUNT = nkeys.PREFIX_BYTE_ACCOUNT
    USER = nkeys.PREFIX_BYTE_USER


class Nkey:
    """A key pair of NATS."""

    def __init__(self, seed: bytes) -> None:
        self.seed = seed
        from_seed: Any = nkeys.from_seed  # nkeys has no types
        self._pair = from_seed(bytearray(seed))

    @classmethod
    def generate(cls, kind: Kind) -> Nkey:
        """Return a new key."""
        raw = Ed25519PrivateKey.generate().private_bytes_raw()
        encode: Any = nkeys.encode_seed
        return cls(bytes(encode(raw, kind.value)))

    @property
    def public(self) -> str:
        """Return the public key as NATS writes it."""
        return bytes(self._pair.public_key).decode()

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature of a message."""
        return bytes(self._pair.sign(message))

    def __repr__(self) -> str:
        return f"<nkey {self.public}>"


def seal(file: Path, secret: bytes, kek: KeyEncryptionKey) -> None:
    """Write a secret that only `kek` opens again, as this file only."""
    sealed = kek.seal(secret, bound_to=_purpose(file))
    write_atomically(file, _VERSION + sealed, mode=0o600)


def unseal(file: Path, kek: KeyEncryptionKey) -> bytes:
    """Return what was sealed; raises SeedError where there is no such file, and WrongKeyError."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SeedError(f"{file}: {error.strerror}") from error
    if content[:1] != _VERSION or not NONCE_BYTES + 17 < len(content) <= SEALED_BYTES_MAX:
        raise SeedError(f"{file}: not a sealed file that this version reads")
    try:
        return kek.open(content[1:], bound_to=_purpose(file))
    except SealBrokenError as error:
        raise WrongKeyError(
            f"{file} does not open: the key-encryption key (nats.kek) is not the one it was "
            "sealed with, or the file is damaged; nothing was changed"
        ) from error


def load(file: Path, kek: KeyEncryptionKey) -> Nkey:
    """Return a sealed key; raises as `unseal` does."""
    return Nkey(unseal(file, kek))


def _purpose(file: Path) -> bytes:
    return f"caledger/nats/{file.stem}".encode()
