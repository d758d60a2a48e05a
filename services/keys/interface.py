"""What keeps private keys: a store that makes them and signs with them, and never hands one out."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from events.authority import KeyPurpose
from events.base import KeyType, Struct

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class KeySpec(Struct):
    """The kind of key to make."""

    key_type: KeyType
    bits: int  # ec: 256 or 384; rsa: 2048, 3072 or 4096
    purpose: KeyPurpose


class StoredKey(Struct):
    """A key that a store holds."""

    key_id: str
    purpose: KeyPurpose
    created: datetime  # or kept again
    revision: int  # of what the store holds of it: another one when it is kept again


class KeyStoreError(Exception):
    """The store cannot do it; the text says why, and names no key material."""


class KeyNotFoundError(KeyStoreError):
    """The store holds no key of this id (or none that this process may use)."""


class WrongKeyEncryptionKeyError(KeyStoreError):
    """The key-encryption key given does not open what is sealed in the store."""


class KeyStore(Protocol):
    """Makes keys, signs with them, and destroys them; a key is named by its KeyId only."""

    async def create(self, spec: KeySpec) -> PublicKey:
        """Make a key pair and keep it; returns once it is durable."""
        ...

    async def keep(self, private: PrivateKey) -> PublicKey:
        """Keep a key that somebody gave; returns once it is durable. Repeating it is safe.

        A key that is there is kept anew: whoever listed it before cannot destroy it any more.
        """
        ...

    async def share(self, key_id: str, other: KeyStore) -> None:
        """Have another store keep this key, too: those who can use that one can use it then.

        Durable when it returns; repeating it is safe. Raises KeyNotFoundError.
        """
        ...

    async def public(self, key_id: str) -> PublicKey:
        """Return the public half; raises KeyNotFoundError."""
        ...

    async def sign(self, key_id: str, message: bytes) -> bytes:
        """Sign with SHA-256: ECDSA (a DER signature) or RSASSA-PKCS1-v1_5.

        The whole message is given, not its hash. Fast for a key that was used before: fit for the
        hot path. Raises KeyNotFoundError, WrongKeyEncryptionKeyError.
        """
        ...

    async def destroy(self, key: StoredKey) -> None:
        """Destroy a key for good, as it was listed.

        Nothing happens where it is gone, or was kept again since then: who decides to destroy a key
        may stand still until somebody else needs it. So list first, and decide on what is known
        after that.
        """
        ...

    async def stored(self) -> list[StoredKey]:
        """Return every key in the store."""
        ...
