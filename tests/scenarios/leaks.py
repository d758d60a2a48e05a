"""Looking for secrets where none may be: what a node keeps, what it says, what its streams hold."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from nats.aio.client import Client

from events.base import Struct
from events.subjects import Subjects
from services import config
from services.keys.buckets import root_keys, signing_keys
from services.nats_access import seeds
from services.nats_access.permissions import streams_of
from services.setup_node import nats_kek
from tests.scenarios.reading import as_worker

SECRET_FILES = ("keys/*.kek", "nats/creds/*.creds", "nats/context/*.creds")


class Secret(Struct):
    """Bytes that may be nowhere, and what they are."""

    what: str
    value: bytes


def forms(value: bytes) -> Iterator[bytes]:
    """Return how bytes may be written: as they are, in hex, in base64 wherever it begins."""
    yield value
    yield value.hex().encode()
    yield value.hex().upper().encode()
    yield value.hex(":").encode()
    for before in range(3):
        text = base64.b64encode(bytes(before) + value)
        text = text[(before * 8 + 5) // 6 : (before + len(value)) * 8 // 6]
        yield text
        yield text.translate(bytes.maketrans(b"+/", b"-_"))


def found(place: bytes, secrets: Sequence[Secret]) -> list[str]:
    """Return which secrets a place holds, in any form: also across line breaks, escaped or not."""
    joined = re.sub(rb"\\+[rn]|[\r\n]", b"", place)
    return [
        secret.what
        for secret in secrets
        if any(form in place or form in joined for form in forms(secret.value))
    ]


def private_key(what: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> list[Secret]:
    """Return what of a private key may not be seen: its secret number, and its PKCS #8.

    Every other form of it (SEC 1, PKCS #1, a PEM of either) has the number's bytes in it.
    """
    others: list[Secret] = []
    if isinstance(key, ec.EllipticCurvePrivateKey):
        number = key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big")
    else:
        number = key.private_numbers().d.to_bytes((key.key_size + 7) // 8, "big").lstrip(b"\0")
        prime = key.private_numbers().p.to_bytes(key.key_size // 16, "big")
        others = [Secret(what=f"{what}: a prime", value=prime)]
    pkcs8 = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return [
        Secret(what=f"{what}: its number", value=number),
        Secret(what=f"{what}: its PKCS #8", value=pkcs8),
        Secret(what=f"{what}: its number in decimals", value=str(int.from_bytes(number)).encode()),
        *others,
    ]


async def of_node(data: Path) -> tuple[list[Secret], list[bytes]]:
    """Return every secret of a node, unsealed; and the public points of the CA's keys."""
    node = config.load(data / "caledger.toml")
    subjects = Subjects(node.datacenter)
    secrets = [
        Secret(what=file.name, value=bytes.fromhex(file.read_text().strip()))
        for file in sorted((data / "keys").glob("*.kek"))
    ]
    secrets += [
        Secret(what=file.name, value=seeds.unseal(file, nats_kek(data)))
        for file in sorted((data / "nats").glob("*/*.sealed"))
    ]
    for file in sorted((data / "nats").glob("*/*.creds")):
        (seed,) = re.findall(rb"^SU[A-Z2-7]{56}$", file.read_bytes(), re.MULTILINE)
        secrets.append(Secret(what=file.name, value=seed))
    public = []
    async with as_worker(data, "root-manager") as nc:
        for keys in (root_keys(nc, subjects, node.keys), signing_keys(nc, subjects, node.keys)):
            for stored in await keys.stored():
                private = await keys._unseal(stored.key_id)
                secrets += private_key(f"{stored.purpose} key", private)
                public.append(
                    private.public_key().public_bytes(
                        serialization.Encoding.DER,
                        serialization.PublicFormat.SubjectPublicKeyInfo,
                    )
                )
    return secrets, public


class _Message(msgspec.Struct):
    hdrs: bytes = b""
    data: bytes = b""


class _Reply(msgspec.Struct):
    message: _Message | None = None


async def streams(data: Path) -> Mapping[str, list[bytes]]:
    """Return every message of every stream of a node, with its headers."""
    async with as_worker(data, "root-manager") as nc:
        return await messages(nc, Subjects(config.load(data / "caledger.toml").datacenter))


async def messages(nc: Client, subjects: Subjects) -> Mapping[str, list[bytes]]:
    """Return every message of every stream that a root-manager may read, with its headers."""
    held: dict[str, list[bytes]] = {}
    for stream in streams_of(subjects):
        info = json.loads((await nc.request(f"$JS.API.STREAM.INFO.{stream}", b"")).data)
        held[stream] = []
        for sequence in range(1, info["state"]["last_seq"] + 1):
            query = json.dumps({"seq": sequence}).encode()
            reply = await nc.request(f"$JS.API.STREAM.MSG.GET.{stream}", query)
            message = msgspec.json.decode(reply.data, type=_Reply).message
            if message is not None:  # else one that was replaced
                held[stream].append(message.hdrs + message.data)
    return held


def files(data: Path) -> Mapping[str, bytes]:
    """Return every file of a node but those that are there to hold a secret."""
    secret = {file for pattern in SECRET_FILES for file in data.glob(pattern)}
    return {
        str(file.relative_to(data)): file.read_bytes()
        for file in sorted(data.rglob("*"))
        if file.is_file() and file not in secret
    }
