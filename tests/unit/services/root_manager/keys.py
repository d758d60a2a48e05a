"""Keys of real cryptography that are kept nowhere."""

from __future__ import annotations

from datetime import datetime

from events.authority import CAConfig, IntermediateInstalled, KeyCreated, KeyPurpose
from services.clock import SystemEntropy
from services.keys.interface import (
    KeyNotFoundError,
    KeySpec,
    KeyStore,
    PrivateKey,
    PublicKey,
    StoredKey,
)
from services.keys.sealed import generate
from services.pki import certificates
from services.root_manager.ceremony import Ceremony, name_authority
from services.root_manager.commands import Initialise
from tests.clocks import FixedClock
from tests.factories import NOW, sign_with


class KeysInMemory:
    """Implements KeyStore."""

    def __init__(self, purpose: KeyPurpose = "root", *, clock: FixedClock | None = None) -> None:
        self._purpose: KeyPurpose = purpose
        self._keys: dict[str, tuple[PrivateKey, StoredKey]] = {}
        self._revision = 0
        self.clock = clock or FixedClock(NOW)

    async def create(self, spec: KeySpec) -> PublicKey:
        self._purpose = spec.purpose
        return await self.keep(generate(spec))

    async def keep(self, private: PrivateKey) -> PublicKey:
        key_id = certificates.key_id(private.public_key())
        self._revision += 1
        stored = StoredKey(
            key_id=key_id,
            purpose=self._purpose,
            created=self.clock.now(),
            revision=self._revision,
        )
        self._keys[key_id] = (private, stored)
        return private.public_key()

    async def share(self, key_id: str, other: KeyStore) -> None:
        await other.keep(self._find(key_id))

    async def public(self, key_id: str) -> PublicKey:
        return self._find(key_id).public_key()

    async def sign(self, key_id: str, message: bytes) -> bytes:
        return sign_with(self._find(key_id), message)

    async def destroy(self, key: StoredKey) -> None:
        if (held := self._keys.get(key.key_id)) is not None and held[1] == key:
            del self._keys[key.key_id]

    def private(self, key_id: str) -> PrivateKey:
        """Return a key itself; raises KeyNotFoundError."""
        return self._find(key_id)

    async def stored(self) -> list[StoredKey]:
        return [stored for _, stored in self._keys.values()]

    def _find(self, key_id: str) -> PrivateKey:
        if key_id not in self._keys:
            raise KeyNotFoundError(key_id)
        return self._keys[key_id][0]


async def made(
    config: CAConfig,
    *,
    trust_domain: str | None = None,
    now: datetime = NOW,
    root_keys: KeyStore | None = None,
    signing_keys: KeyStore | None = None,
) -> Initialise:
    """Make a new authority of datacenter dc1."""
    ceremony = Ceremony(
        root_keys=root_keys or KeysInMemory("root"),
        signing_keys=signing_keys or KeysInMemory("signing"),
        clock=FixedClock(now),
        entropy=SystemEntropy(),
    )
    return await ceremony.authority(name_authority("dc1", trust_domain, SystemEntropy()), config)


def intermediate_of(made: Initialise) -> IntermediateInstalled:
    """Return the intermediate that signs leaves of a new authority."""
    assert isinstance(made.leaf_signer.selected, IntermediateInstalled)
    return made.leaf_signer.selected


def signing_key_of(made: Initialise) -> KeyCreated:
    """Return the key that signs leaves of a new authority."""
    assert made.leaf_signer.key is not None
    return made.leaf_signer.key
