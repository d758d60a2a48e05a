"""Which key store is whose: root keys and signing keys never share a bucket or a sealing key."""

from __future__ import annotations

from nats.aio.client import Client

from events.subjects import Subjects
from services.buckets import bucket
from services.config import KeysSection
from services.keys import kek
from services.keys.sealed import SealedKeyStore


def signing_keys(nc: Client, subjects: Subjects, keys: KeysSection) -> SealedKeyStore:
    """Return the keys that sign leaves; raises KeyEncryptionKeyError."""
    return SealedKeyStore(
        bucket(nc, subjects.signing_keys_bucket),
        kek.load(keys.signing),
        datacenter=subjects.datacenter,
        purpose="signing",
    )


def root_keys(nc: Client, subjects: Subjects, keys: KeysSection) -> SealedKeyStore:
    """Return the roots' keys, which only a root-manager can open; raises KeyEncryptionKeyError."""
    if keys.root is None:
        raise kek.KeyEncryptionKeyError("a root-manager needs keys.root in its configuration")
    return SealedKeyStore(
        bucket(nc, subjects.root_keys_bucket),
        kek.load(keys.root),
        datacenter=subjects.datacenter,
        purpose="root",
    )
