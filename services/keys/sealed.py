"""Private keys sealed in a key-value bucket: only holders of the key-encryption key can use one."""

from __future__ import annotations

import asyncio
import hashlib
import re
from contextlib import suppress
from typing import Final, Literal

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from events.authority import KeyPurpose
from events.base import Struct
from services.buckets import LastValues, Value, WrongRevisionError
from services.keys.interface import (
    KeyNotFoundError,
    KeySpec,
    KeyStore,
    KeyStoreError,
    PrivateKey,
    PublicKey,
    StoredKey,
    WrongKeyEncryptionKeyError,
)
from services.keys.kek import KeyEncryptionKey, SealBrokenError

RECORD_BYTES_MAX: Final = 16_384
_KEY_ID: Final = re.compile(r"[0-9a-f]{64}")
_ECDSA: Final = ec.ECDSA(SHA256())
_PKCS1: Final = padding.PKCS1v15()
_SHA256: Final = SHA256()


class SealedKey(Struct):
    """A key as the bucket holds it, under its key id."""

    version: Literal[1] = 1
    check: bytes  # names the key-encryption key
    public: bytes  # DER SubjectPublicKeyInfo; the key id is its SHA-256
    sealed: bytes  # nonce, then the PKCS#8 DER of the private key under AES-256-GCM


class SealedKeyStore:
    """Implements `services.keys.interface.KeyStore` for the keys of one purpose.

    Sealed keys are bound to datacenter, purpose and key id: not to the cluster id (architecture 7),
    which is not known before the first keys are made; the key id alone names a key uniquely.
    Every method raises BucketError, too, where the bucket does not answer.
    """

    def __init__(
        self, bucket: LastValues, kek: KeyEncryptionKey, *, datacenter: str, purpose: KeyPurpose
    ) -> None:
        self._bucket = bucket
        self._kek = kek
        self._datacenter = datacenter
        self._purpose: KeyPurpose = purpose
        self._unsealed: dict[str, PrivateKey] = {}

    async def check(self) -> None:
        """Raise WrongKeyEncryptionKeyError unless every key in the bucket is sealed with ours."""
        for value in await self._values():
            self._record(value)

    async def create(self, spec: KeySpec) -> PublicKey:
        """Make a key pair and keep it; returns once it is durable. Raises KeyStoreError."""
        if spec.purpose != self._purpose:
            raise KeyStoreError(f"this store keeps {self._purpose} keys, not {spec.purpose} keys")
        return await self._store(await asyncio.to_thread(generate, spec))

    async def keep(self, private: PrivateKey) -> PublicKey:
        """Keep a key that somebody gave; returns once it is durable. Repeating it is safe.

        A key that is there is written anew. Raises KeyStoreError.
        """
        return await self._store(private)

    async def share(self, key_id: str, other: KeyStore) -> None:
        """Have another store keep this key, too; raises KeyStoreError."""
        await other.keep(self._unsealed.get(key_id) or await self._unseal(key_id))

    async def public(self, key_id: str) -> PublicKey:
        """Return the public half; raises KeyStoreError."""
        return (self._unsealed.get(key_id) or await self._unseal(key_id)).public_key()

    async def _store(self, private: PrivateKey) -> PublicKey:
        await self.check()  # else the store would hold keys of two key-encryption keys
        public = private.public_key()
        spki = _spki(public)
        key_id = hashlib.sha256(spki).hexdigest()
        before = await self._bucket.get(key_id)
        plain = private.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        record = SealedKey(
            check=self._kek.check,
            public=spki,
            sealed=self._kek.seal(plain, bound_to=self._bound_to(key_id)),
        )
        # What is left of a destroyed one has a revision, too.
        revision = before.revision if before is not None else 0
        await self._bucket.write(key_id, msgspec.json.encode(record), expected=revision)
        self._unsealed[key_id] = private
        return public

    async def sign(self, key_id: str, message: bytes) -> bytes:
        """Sign with SHA-256: ECDSA (a DER signature) or RSASSA-PKCS1-v1_5.

        Raises KeyNotFoundError, WrongKeyEncryptionKeyError, KeyStoreError.
        """
        private = self._unsealed.get(key_id)
        if private is None:
            private = await self._unseal(key_id)
        if isinstance(private, ec.EllipticCurvePrivateKey):
            return private.sign(message, _ECDSA)
        # Of 4096 bits: 5 ms each, in which the loop must renew a lease and hear requests.
        return await asyncio.to_thread(private.sign, message, _PKCS1, _SHA256)

    async def destroy(self, key: StoredKey) -> None:
        """Destroy a key for good, unless it was kept again since it was listed."""
        self._unsealed.pop(key.key_id, None)
        with suppress(WrongRevisionError):
            await self._bucket.purge(key.key_id, expected=key.revision)

    async def stored(self) -> list[StoredKey]:
        """Return every key in the store, this key-encryption key's or not."""
        return [
            StoredKey(
                key_id=value.key,
                purpose=self._purpose,
                created=value.written,
                revision=value.revision,
            )
            for value in await self._values()
        ]

    async def _values(self) -> list[Value]:
        return [value for value in await self._bucket.all() if _KEY_ID.fullmatch(value.key)]

    async def _find(self, key_id: str) -> SealedKey:
        value = await self._bucket.get(_checked(key_id))
        if value is None or value.data is None:
            raise KeyNotFoundError(f"there is no {self._purpose} key {key_id}")
        return self._record(value)

    def _record(self, value: Value) -> SealedKey:
        """Read a record, and see that it is ours and of the key that it stands under."""
        data = value.data or b""
        try:
            record = msgspec.json.decode(data[:RECORD_BYTES_MAX], type=SealedKey)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise SealBrokenError(f"{self._purpose} key {value.key} is no sealed key") from None
        if not self._kek.is_named(record.check):
            raise WrongKeyEncryptionKeyError(
                f"the key-encryption key for {self._purpose} keys is not the one that sealed "
                f"{value.key}; nothing was changed: configure the right one"
            )
        if hashlib.sha256(record.public).hexdigest() != value.key:
            raise SealBrokenError(f"{self._purpose} key {value.key} was changed or moved")
        return record

    async def _unseal(self, key_id: str) -> PrivateKey:
        record = await self._find(key_id)
        plain = self._kek.open(record.sealed, bound_to=self._bound_to(key_id))
        # No test of its primes, which takes a third of a second and the whole process with it: what
        # is sealed was tested or made by us, and nobody else can have sealed it.
        private = serialization.load_der_private_key(
            plain, password=None, unsafe_skip_rsa_key_validation=True
        )
        if not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise SealBrokenError(f"{self._purpose} key {key_id} is of no type that we make")
        if _spki(private.public_key()) != record.public:
            raise SealBrokenError(f"{self._purpose} key {key_id} is another key")
        self._unsealed[key_id] = private
        return private

    def _bound_to(self, key_id: str) -> bytes:
        parts = ("caledger sealed key v1", self._datacenter, self._purpose, key_id)
        return "\0".join(parts).encode()


def generate(spec: KeySpec) -> PrivateKey:
    """Make a key of a kind that a CA may have (architecture, section 8); raises KeyStoreError."""
    match spec.key_type, spec.bits:
        case "ec", 256:
            return ec.generate_private_key(ec.SECP256R1())
        case "ec", 384:
            return ec.generate_private_key(ec.SECP384R1())
        case "rsa", 2048 | 3072 | 4096:
            return rsa.generate_private_key(public_exponent=65537, key_size=spec.bits)
        case _:
            raise KeyStoreError(f"no CA key may be {spec.key_type} of {spec.bits} bits")


def _spki(public: PublicKey) -> bytes:
    return public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _checked(key_id: str) -> str:
    """Return the id, which becomes part of a subject, or raise KeyNotFoundError."""
    if not _KEY_ID.fullmatch(key_id):
        raise KeyNotFoundError(f"{key_id[:80]!r} is no key id")
    return key_id
