"""What every key store promises (`services.keys.interface`), and what the sealed one adds."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from nats.aio.client import Client

from events.authority import KeyPurpose
from events.base import KeyType
from events.subjects import Subjects
from services import streams
from services.buckets import LastValues, bucket
from services.keys.interface import (
    KeyNotFoundError,
    KeySpec,
    KeyStore,
    KeyStoreError,
    PublicKey,
    WrongKeyEncryptionKeyError,
)
from services.keys.kek import KeyEncryptionKey, SealBrokenError
from services.keys.sealed import SealedKey, SealedKeyStore, generate
from services.pki import certificates
from tests.nats import NatsServer
from tests.unit.services.root_manager.keys import KeysInMemory

SUBJECTS = Subjects("dc1")
SIGNING = KeySpec(key_type="ec", bits=256, purpose="signing")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path) as running:
        await streams.create(await running.client(), SUBJECTS, replicas=1)
        yield running


@pytest.fixture
async def values(server: NatsServer) -> LastValues:
    return bucket(await server.client(), SUBJECTS.signing_keys_bucket)


@pytest.fixture(params=["sealed", "memory"])
def store(request: pytest.FixtureRequest) -> KeyStore:
    if request.param == "memory":
        return KeysInMemory()
    return sealed(request.getfixturevalue("values"))


def sealed(
    values: LastValues,
    *,
    secret: bytes = bytes(range(32)),
    datacenter: str = "dc1",
    purpose: KeyPurpose = "signing",
) -> SealedKeyStore:
    """Return a store as a process has it that was just started: no key is unsealed yet."""
    return SealedKeyStore(values, KeyEncryptionKey(secret), datacenter=datacenter, purpose=purpose)


def verify(public: PublicKey, signature: bytes, message: bytes) -> None:
    if isinstance(public, rsa.RSAPublicKey):
        public.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
    else:
        public.verify(signature, message, ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize(("key_type", "bits"), [("ec", 256), ("ec", 384), ("rsa", 2048)])
async def test_what_a_key_signs_verifies_with_its_public_half(
    store: KeyStore, key_type: KeyType, bits: int
) -> None:
    public = await store.create(KeySpec(key_type=key_type, bits=bits, purpose="signing"))
    key_id = certificates.key_id(public)

    verify(public, await store.sign(key_id, b"message"), b"message")
    assert certificates.key_type_and_bits(public) == (key_type, bits)


async def test_a_store_lists_its_keys_with_when_they_were_made(store: KeyStore) -> None:
    made = [certificates.key_id(await store.create(SIGNING)) for _ in range(3)]

    listed = await store.stored()

    assert sorted(key.key_id for key in listed) == sorted(made)
    assert {key.purpose for key in listed} == {"signing"}
    assert all(key.created.tzinfo is not None for key in listed)


async def test_a_destroyed_key_is_gone_and_destroying_it_again_is_nothing(store: KeyStore) -> None:
    kept, gone = [certificates.key_id(await store.create(SIGNING)) for _ in range(2)]

    (listed,) = [key for key in await store.stored() if key.key_id == gone]
    for _ in range(2):
        await store.destroy(listed)

    assert [key.key_id for key in await store.stored()] == [kept]
    with pytest.raises(KeyNotFoundError):
        await store.sign(gone, b"message")


async def test_h7_a_key_that_was_kept_again_since_it_was_listed_is_not_destroyed(
    store: KeyStore,
) -> None:
    key = generate(SIGNING)
    key_id = certificates.key_id(await store.keep(key))
    (listed,) = await store.stored()
    await store.keep(key)

    await store.destroy(listed)

    verify(key.public_key(), await store.sign(key_id, b"message"), b"message")
    (again,) = await store.stored()
    await store.destroy(again)
    await store.keep(key)
    await store.destroy(again)
    assert [one.key_id for one in await store.stored()] == [key_id], "made anew after it was gone"


@pytest.mark.parametrize("key_id", ["00" * 32, "", "*", ">", "a.b", "AB" * 32])
async def test_a_key_that_is_not_there_is_not_found(store: KeyStore, key_id: str) -> None:
    with pytest.raises(KeyNotFoundError):
        await store.sign(key_id, b"message")


@pytest.mark.parametrize(("key_type", "bits"), [("ec", 224), ("ec", 521), ("rsa", 1024)])
async def test_a_kind_that_no_ca_may_have_is_refused(
    store: KeyStore, key_type: KeyType, bits: int
) -> None:
    with pytest.raises(KeyStoreError):
        await store.create(KeySpec(key_type=key_type, bits=bits, purpose="signing"))
    assert await store.stored() == []


# What the sealed one adds.


@pytest.mark.parametrize(("key_type", "bits"), [("ec", 256), ("ec", 384), ("rsa", 2048)])
async def test_another_process_with_the_key_encryption_key_can_use_the_key(
    values: LastValues, key_type: KeyType, bits: int
) -> None:
    public = await sealed(values).create(KeySpec(key_type=key_type, bits=bits, purpose="signing"))

    other = sealed(values)

    verify(public, await other.sign(certificates.key_id(public), b"message"), b"message")


async def test_a_sealed_key_survives_a_kill_of_the_server(
    server: NatsServer, values: LastValues
) -> None:
    public = await sealed(values).create(SIGNING)

    server.kill()
    server.start()
    await server.ready()

    again = sealed(bucket(await server.client(), SUBJECTS.signing_keys_bucket))
    verify(public, await again.sign(certificates.key_id(public), b"message"), b"message")


async def test_a_wrong_key_encryption_key_is_said_and_changes_nothing(
    values: LastValues, server: NatsServer
) -> None:
    key_id = certificates.key_id(await sealed(values).create(SIGNING))
    before = await _stream(await server.client())
    wrong = sealed(values, secret=bytes(32))

    for attempt in (
        wrong.check(),
        wrong.sign(key_id, b"message"),
        wrong.create(SIGNING),
    ):
        with pytest.raises(WrongKeyEncryptionKeyError, match="nothing was changed"):
            await attempt

    assert await _stream(await server.client()) == before
    await sealed(values).check()


async def test_a_record_moved_to_another_key_id_is_refused(values: LastValues) -> None:
    """Whoever can write the bucket would make one key sign in another's place."""
    first, second = [certificates.key_id(await sealed(values).create(SIGNING)) for _ in range(2)]
    theirs = await _record(values, second)
    for moved in (
        theirs,
        msgspec.structs.replace(await _record(values, first), sealed=theirs.sealed),
    ):
        await _replace(values, first, moved)

        with pytest.raises(SealBrokenError):
            await sealed(values).sign(first, b"message")


@pytest.mark.parametrize("part", ["public", "sealed"])
async def test_an_altered_record_is_refused(values: LastValues, part: str) -> None:
    key_id = certificates.key_id(await sealed(values).create(SIGNING))
    record = await _record(values, key_id)
    altered = bytearray(getattr(record, part))
    altered[-1] ^= 1
    await _replace(values, key_id, msgspec.structs.replace(record, **{part: bytes(altered)}))

    with pytest.raises(SealBrokenError):
        await sealed(values).sign(key_id, b"message")


@pytest.mark.parametrize("data", [b"x", b"{}", b"[" * 20_000, b'{"version":2}'])
async def test_what_is_no_sealed_key_is_refused(values: LastValues, data: bytes) -> None:
    await values.write("ab" * 32, data, expected=0)

    with pytest.raises(SealBrokenError):
        await sealed(values).sign("ab" * 32, b"message")
    with pytest.raises(SealBrokenError):
        await sealed(values).check()


@pytest.mark.parametrize(("datacenter", "purpose"), [("dc2", "signing"), ("dc1", "root")])
async def test_a_sealed_key_is_bound_to_its_datacenter_and_purpose(
    values: LastValues, datacenter: str, purpose: KeyPurpose
) -> None:
    key_id = certificates.key_id(await sealed(values).create(SIGNING))

    with pytest.raises(SealBrokenError):
        await sealed(values, datacenter=datacenter, purpose=purpose).sign(key_id, b"message")


async def test_a_store_makes_keys_of_its_own_purpose_only(values: LastValues) -> None:
    with pytest.raises(KeyStoreError, match="signing keys, not root keys"):
        await sealed(values).create(KeySpec(key_type="ec", bits=256, purpose="root"))


async def test_signing_does_not_ask_the_server_for_a_key_that_was_used(
    server: NatsServer, values: LastValues
) -> None:
    store = sealed(values)
    public = await store.create(SIGNING)
    server.kill()

    async with asyncio.timeout(1):
        signature = await store.sign(certificates.key_id(public), b"message")

    verify(public, signature, b"message")


async def test_a_key_carries_the_servers_time(values: LastValues) -> None:
    store = sealed(values)
    await store.create(SIGNING)

    (key,) = await store.stored()

    assert abs(datetime.now(UTC) - key.created) < timedelta(minutes=1)


async def _record(values: LastValues, key_id: str) -> SealedKey:
    value = await values.get(key_id)
    assert value is not None
    assert value.data is not None
    return msgspec.json.decode(value.data, type=SealedKey)


async def _replace(values: LastValues, key_id: str, record: SealedKey) -> None:
    value = await values.get(key_id)
    assert value is not None
    await values.write(key_id, msgspec.json.encode(record), expected=value.revision)


async def _stream(nc: Client) -> tuple[int, list[bytes]]:
    """Return how far the bucket's stream is, and all that it holds."""
    name = Subjects.stream_of_bucket(SUBJECTS.signing_keys_bucket)
    info = msgspec.json.decode((await nc.request(f"$JS.API.STREAM.INFO.{name}")).data)
    last = int(info["state"]["last_seq"])
    held = []
    for sequence in range(1, last + 1):
        reply = await nc.request(
            f"$JS.API.STREAM.MSG.GET.{name}", msgspec.json.encode({"seq": sequence})
        )
        held.append(base64.b64decode(msgspec.json.decode(reply.data)["message"]["data"]))
    return last, held
