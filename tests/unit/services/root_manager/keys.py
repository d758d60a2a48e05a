"""Keys of real cryptography that are kept nowhere."""

from __future__ import annotations

from datetime import datetime

from services.keys.interface import KeyNotFoundError, KeySpec, PublicKey, StoredKey
from services.keys.sealed import PrivateKey, generate
from services.pki import certificates
from tests.factories import NOW, sign_with


class KeysInMemory:
    """Implements KeyStore; `clock` is when the next key is made."""

    def __init__(self) -> None:
        self._keys: dict[str, tuple[PrivateKey, StoredKey]] = {}
        self.clock: datetime = NOW

    async def create(self, spec: KeySpec) -> PublicKey:
        private = generate(spec)
        key_id = certificates.key_id(private.public_key())
        stored = StoredKey(key_id=key_id, purpose=spec.purpose, created=self.clock)
        self._keys[key_id] = (private, stored)
        return private.public_key()

    async def sign(self, key_id: str, message: bytes) -> bytes:
        return sign_with(self._find(key_id), message)

    async def destroy(self, key_id: str) -> None:
        self._keys.pop(key_id, None)

    async def stored(self) -> list[StoredKey]:
        return [stored for _, stored in self._keys.values()]

    def _find(self, key_id: str) -> PrivateKey:
        if key_id not in self._keys:
            raise KeyNotFoundError(key_id)
        return self._keys[key_id][0]
