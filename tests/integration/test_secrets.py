"""No private key of the CA is anywhere but sealed in its bucket: searched for in every byte."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from services.clock import SystemClock
from services.root_manager.worker import RootManager
from tests.external_ca import GivenCa, given_ca
from tests.factories import ca_key, private_pem
from tests.integration.managing import Managed
from tests.scenarios import leaks
from tests.scenarios.leaks import Secret


@pytest.fixture
async def dc() -> AsyncIterator[Managed]:
    async with Managed.open() as opened:
        yield opened


async def secrets_of(manager: RootManager) -> tuple[list[Secret], list[bytes]]:
    """Return the private keys that a root-manager holds, and the ends of their public halves."""
    secrets, public = [], []
    for store in (manager._root_keys, manager._signing_keys):
        for stored in await store.stored():
            key = await store._unseal(stored.key_id)
            secrets += leaks.private_key(f"{stored.purpose} key {stored.key_id[:8]}", key)
            public.append((await store.public(stored.key_id)).public_numbers())
    return secrets, [_canary(numbers) for numbers in public]


def _canary(numbers: Any) -> bytes:
    """Return bytes of a public key that stand in its certificate as they are."""
    if hasattr(numbers, "n"):
        return bytes(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big"))
    size = (numbers.curve.key_size + 7) // 8
    return bytes(numbers.x.to_bytes(size, "big"))


async def careless(dc: Managed, given: GivenCa, others_key: str) -> list[dict[str, Any]]:
    """Send keys where they do not belong, as operators do; return the refusals."""
    pem, root = given.config["PrivateKey"], given.config["RootCert"]
    bodies: list[dict[str, Any]] = [
        {"Config": {"PrivateKey": others_key, "RootCert": root}},  # not this certificate's
        {"Config": {"PrivateKey": pem[:-60], "RootCert": root}},
        {"Config": {"PrivateKey": pem, "RootCert": pem}},
        {"Config": {"PrivateKey": pem.replace("PRIVATE", "SECRET")}},
        {"Config": {"PrivatKey": pem}},
        {"Config": {pem: "PrivateKey"}},
        {"Config": {"LeafCertTTL": pem, "PrivateKeyType": pem}},
        {"Config": {"PrivateKeyType": pem}},
        {"Config": pem},
        {"Provider": pem},
        {"RequestID": pem},
        {"Config": {"PrivateKey": pem, "PrivateKeyType": "rsa", "RootCert": root}},
    ]
    answers = [await dc.ask(dc.subjects.config_set, body) for body in bodies]
    for subject in (dc.subjects.rotation_start, dc.subjects.rotation_abort):
        answers.append(await dc.ask(subject, {"RequestID": pem}))
        answers.append(await dc.ask(subject, {pem: True}))
    for answer in answers:
        assert answer["error"]["code"] in {"malformed", "bad_config"}, answer
    return answers


async def test_h12_no_private_key_is_in_the_ledger_an_answer_a_log_or_the_servers_files(
    dc: Managed,
) -> None:
    """H12: in Consul root keys are in the log and in snapshots in clear, and GET shows them."""
    now = SystemClock().now().replace(microsecond=0)
    first, second = given_ca(number=30, now=now), given_ca("rsa2048", number=50, now=now)
    others_key = private_pem(ca_key(number=70)).decode()
    answers: list[Any] = []
    with capture_logs() as logged:
        async with dc.running("a") as [manager]:
            await dc.lead("a")
            await dc.initialized()
            for config in (
                first.config,
                {**first.config, "LeafSigner": "root"},  # the signers get a copy of the root's key
                second.config,
                {"PrivateKeyBits": 384},
            ):
                answers.append(await dc.ask(dc.subjects.config_set, {"Config": config}))
                assert "error" not in answers[-1]
                answers.append(told := await dc.ask(dc.subjects.config_get))
                assert told["Config"].get("PrivateKey", "key:").startswith("key:")
            answers.append(await dc.ask(dc.subjects.rotation_start))
            answers += await careless(dc, first, others_key)
            for subject in (dc.subjects.roots_get, dc.subjects.crl_get, dc.subjects.config_get):
                answers.append(await dc.ask(subject))
            secrets, public = await secrets_of(manager)
            held = await leaks.messages(manager._nc, dc.subjects)

    for ca, what in ((first, "first"), (second, "second")):
        secrets += leaks.private_key(f"what was given {what}", ca.key)
    secrets += leaks.private_key("what was refused", ca_key(number=70))
    places: dict[str, list[bytes]] = {
        "answers": [json.dumps(answer).encode() for answer in answers],
        "log": [json.dumps(line, default=str).encode() for line in logged],
        **held,
        **server_files(dc),
    }
    print(f"{len(secrets)} secrets in {sum(map(len, places.values()))} pieces")

    assert len(public) >= 10  # of 5 roots and their intermediates
    for canary in public:  # the search finds what is there, and where
        found = {
            name
            for name, pieces in places.items()
            if any(leaks.found(piece, [Secret(what="public", value=canary)]) for piece in pieces)
        }
        assert dc.subjects.ledger_stream in found
        assert any(name.startswith("nats/") for name in found)
    assert leaked(places, secrets) == set()
    planted = {"x": [b"say: " + json.dumps(private_pem(second.key).decode()).encode()]}
    assert leaked(planted, secrets)


def server_files(dc: Managed) -> Mapping[str, list[bytes]]:
    """Return every file of the server but those that are there to hold a secret."""
    data = dc.access.data
    return {
        str(file.relative_to(data)): [file.read_bytes()]
        for file in data.rglob("*")
        if file.is_file() and file.suffix not in {".kek", ".creds"}
    }


def leaked(places: Mapping[str, list[bytes]], secrets: list[Secret]) -> set[tuple[str, str]]:
    return {
        (name, what)
        for name, pieces in places.items()
        for piece in pieces
        for what in leaks.found(piece, secrets)
    }
