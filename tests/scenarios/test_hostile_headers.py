"""Header blocks and subjects that only a raw socket can send, to a whole datacenter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Final

import pytest
import pytest_asyncio
from nats.aio.client import Client
from ulid import ULID

from events.leaves import LeafIssued, LeafRefused
from services.client import CaClient
from tests.factories import csr, pem_of
from tests.scenarios import reading
from tests.scenarios.caledger import PROGRAMS, Caledger

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("hostile-headers")]

WEB: Final = b"ca.dc1.sign.service.web"
FORGED: Final = b'Nats-Request-Info: {"user":"UFORGED"}'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dev(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Caledger]:
    """One `caledger dev` for the whole file."""
    async with Caledger(tmp_path_factory.mktemp("headers")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(dev: Caledger) -> CaClient:
    """The admin, who may ask for every name; service web can be signed for."""
    client = await dev.client()
    asker = await reading.Asker.of(client)
    await asker.sign("web", "first")
    return client


async def raw(nc: Client, subject: bytes, headers: bytes, body: bytes = b"{}") -> str:
    """Send what no library sends; return the subject of its answer."""
    inbox: str = nc.new_inbox()
    sizes = b"%d %d" % (len(headers), len(headers) + len(body))
    command = b"HPUB %s %s %s\r\n" % (subject, inbox.encode(), sizes)
    await nc._send_command(command + headers + body + b"\r\n")
    await nc.flush()
    return inbox


@pytest.mark.parametrize(
    ("subject", "headers"),
    [
        (WEB, b"NATS/1.0 \xff\xff\xff\r\n\r\n"),
        (b"ca.dc1.roots.get", b"NATS/1.0 \xff\xff\xff\r\n\r\n"),
        (WEB, b"\xff"),
        (WEB, b"NATS/1.0 503\r\n\r\n"),
        (b"ca.dc1.sign.service.\xff\xfe", b"NATS/1.0\r\n\r\n"),
        (b"ca.dc1.sign.service.w%\x80", b"NATS/1.0\r\n\r\n"),
        (b"ca.dc1.sign.service.w\x0b7", b"NATS/1.0\r\n\r\n"),
    ],
)
async def test_no_worker_becomes_deaf_or_loses_its_connection(
    dev: Caledger, client: CaClient, subject: bytes, headers: bytes
) -> None:
    running = {program: dev.pid(program) for program in PROGRAMS}
    lost = dev.log.count("lost the connection")
    asker = await reading.Asker.of(client)

    for number in range(3):
        await raw(client.nc, subject, headers)
        await asker.sign("web", str(ULID()))
        await client.roots()
        assert {program: dev.pid(program) for program in PROGRAMS} == running, number

    assert dev.log.count("lost the connection") == lost


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        (b"NATS/1.0\r\n " + FORGED + b"\r\n\r\n", True),
        (b"NATS/1.0\r\n\t" + FORGED + b"\r\n\r\n", True),
        (b"NATS/1.0\r\n" + FORGED.replace(b":", b" :", 1) + b"\r\n\r\n", True),
        (b"NATS/1.0\r\n" + 2 * (FORGED + b"\r\n") + b"\r\n", True),
        (b"NATS/1.0\r\n " + FORGED + b"\r\nFoo: xx", False),
        (b"NATS/1.0\r\n" + FORGED + b"xx", False),
    ],
)
async def test_no_request_is_recorded_under_another_name_than_the_askers(
    dev: Caledger, client: CaClient, headers: bytes, told: bool
) -> None:
    """Where the server's word is hidden by how a block ends, nobody gets a certificate for it."""
    (user,) = json.loads((dev.data / "nats" / "users" / "admin.json").read_text())["keys"]
    asker = await reading.Asker.of(client)
    after = (await reading.recorded(client))[-1].sequence

    async with asyncio.timeout(20):  # asked again after a silence, as all clients do
        while not (found := await decided_after(client, after)):
            await raw(client.nc, WEB, headers, pem_of(csr(uri=asker.uri("web"))))
            await asyncio.sleep(1)
    for event in found:
        assert isinstance(event, LeafIssued if told else LeafRefused)
        assert event.requester == (user if told else None)
        if isinstance(event, LeafRefused):
            assert event.code == "malformed"


async def decided_after(client: CaClient, sequence: int) -> list[LeafIssued | LeafRefused]:
    return [
        each.event
        for each in await reading.recorded(client)
        if each.sequence > sequence and isinstance(each.event, LeafIssued | LeafRefused)
    ]
