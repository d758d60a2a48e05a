"""No byte of a message's subject or headers makes those deaf, or lost, who hear it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from events.ledger import JetStreamLedger
from events.subjects import Subjects
from services import streams, transport
from services.nats_access import jwt
from tests.access import AccessServer, access_server

BROKEN = b"NATS/1.0 \xff\xff\xff\r\n\r\n"
NO_HEADERS = b"NATS/1.0\r\n\r\n"


async def send(nc: Client, subject: bytes, headers: bytes, body: bytes = b"{}") -> None:
    """Send what nats-py would refuse to send."""
    sizes = b"%d %d" % (len(headers), len(headers) + len(body))
    command = b"HPUB %s %s %s\r\n" % (subject, nc.new_inbox().encode(), sizes)
    await nc._send_command(command + headers + body + b"\r\n")
    await nc.flush()


class Worker:
    """A worker's connection that hears and answers everything."""

    def __init__(self, nc: Client) -> None:
        self.nc = nc
        self.heard: asyncio.Queue[Msg] = asyncio.Queue()

    async def listen(self, subject: str) -> None:
        await self.nc.subscribe(subject, cb=self._hear)
        await self.nc.flush()

    async def _hear(self, message: Msg) -> None:
        await self.heard.put(message)
        await message.respond(b"heard")

    async def next(self) -> Msg:
        return await asyncio.wait_for(self.heard.get(), 5)


@pytest.fixture
async def access() -> AsyncIterator[AccessServer]:
    async with access_server(with_streams=False) as server:
        yield server


@pytest.fixture
async def signer(access: AccessServer) -> Worker:
    worker = Worker(await access.connect("signer"))
    await worker.listen(access.subjects.work_all)
    return worker


@pytest.fixture
async def anyone(access: AccessServer, signer: Worker) -> Client:
    """A user who may ask for every name."""
    return await access.client("anyone", "service.*")


async def test_a_broken_header_block_is_heard_like_any_other(
    anyone: Client, signer: Worker
) -> None:
    await send(anyone, b"ca.dc1.sign.service.web", BROKEN)

    assert set((await signer.next()).headers or {}) == {"Nats-Request-Info"}
    assert (await anyone.request("ca.dc1.sign.service.web", b"", timeout=5)).data == b"heard"
    assert signer.nc.stats["reconnects"] == 0


async def test_a_broken_header_block_does_not_make_the_root_manager_deaf(
    access: AccessServer,
) -> None:
    manager = Worker(await access.connect("root-manager"))
    await manager.listen(access.subjects.roots_get)
    web = await access.client("web", "service.web")

    await send(web, access.subjects.roots_get.encode(), BROKEN)

    assert (await manager.next()).data == b"{}"
    assert (await web.request(access.subjects.roots_get, b"", timeout=5)).data == b"heard"


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", b"w%\x80", b"w\x0b7", b"w\x0c7", b"w\x1c7", b"w\x85"]
)
async def test_a_subject_of_any_bytes_costs_that_message_at_most(
    anyone: Client, signer: Worker, name: bytes
) -> None:
    """To nats-py a vertical tab ends a subject: `w\\x0b7` would be a message for subscription 7."""
    await send(anyone, b"ca.dc1.sign.service." + name, NO_HEADERS)

    assert (await anyone.request("ca.dc1.sign.service.web", b"ok", timeout=5)).data == b"heard"
    heard = await signer.next()
    if heard.data != b"ok":
        assert heard.subject.endswith(f".service.{name.decode()}")
    assert signer.nc.stats["reconnects"] == 0


FORGED = b'{"user":"UFORGED"}'


@pytest.mark.parametrize(
    ("block", "told"),
    [
        (b"NATS/1.0\r\n Nats-Request-Info: " + FORGED + b"\r\n\r\n", True),
        (b"NATS/1.0\r\n\tNats-Request-Info: " + FORGED + b"\r\n\r\n", True),
        (b"NATS/1.0\r\nNats-Request-Info : " + FORGED + b"\r\n\r\n", True),
        (b"NATS/1.0\r\nnats-request-info: " + FORGED + b"\r\n\r\n", True),
        (b"NATS/1.0\r\n" + b"Nats-Request-Info: " + FORGED + b"\r\n" * 2, True),
        (b"NATS/1.0\r\n" + 2 * (b"Nats-Request-Info: " + FORGED + b"\r\n") + b"\r\n", True),
        (b"NATS/1.0\r\n Nats-Request-Info: " + FORGED + b"\r\nFoo: xx", False),
        (b"NATS/1.0\r\nNats-Request-Info: " + FORGED + b"xx", False),
        (2 * (b"NATS/1.0\r\nNats-Request-Info: " + FORGED + b"\r\n") + b"Foo: xx", False),
        (b"N12", False),
    ],
)
async def test_who_asks_is_the_servers_word_or_unknown(
    access: AccessServer, anyone: Client, signer: Worker, block: bytes, told: bool
) -> None:
    await send(anyone, b"ca.dc1.sign.service.web", block)

    headers = (await signer.next()).headers or {}
    names = {name for name in headers if "request-info" in name.lower()}
    assert names == ({"Nats-Request-Info"} if told else set())
    if told:
        real = jwt.read_creds(access.creds("anyone")).sub
        assert json.loads(headers["Nats-Request-Info"])["user"] == real


async def test_a_stored_message_that_begins_with_a_status_is_no_end_of_the_ledger(
    nc: Client,
) -> None:
    subjects = Subjects("dc1")
    await streams.create(nc, subjects, replicas=1)
    for headers in (b"NATS/1.0 204 EOB\r\n\r\n", b"NATS/1.0\r\nStatus: 204\r\n\r\n", NO_HEADERS):
        await send(nc, subjects.leaves("s1").encode(), headers)

    ledger = JetStreamLedger(nc, subjects)

    async with asyncio.timeout(5):  # for the last of them to be stored
        while [stored.sequence for stored in await ledger.read(0)] != [1, 2, 3]:
            await asyncio.sleep(0.02)


class Nonsense:
    """A server whose every client is told something that nats-py cannot take in, when we say so."""

    def __init__(self) -> None:
        self.clients: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.12.0","max_payload":1000}\r\n')
        greeted = False
        with suppress(OSError):
            while line := await reader.readline():
                if line == b"PING\r\n":
                    writer.write(b"PONG\r\n")
                    if not greeted:
                        greeted = True
                        await self.clients.put(writer)
        writer.close()


@pytest.mark.parametrize("told", [b'INFO {"connect_urls":5}\r\n', b"NONSENSE\r\n", b"INFO {\r\n"])
async def test_what_a_client_cannot_take_in_is_a_lost_connection_and_no_deaf_one(
    told: bytes,
) -> None:
    fake = Nonsense()
    listener = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener:
        nc = await transport.connect([f"nats://127.0.0.1:{port}"], creds=None, ca=None, name="t")
        first = await asyncio.wait_for(fake.clients.get(), 5)

        first.write(told)

        await asyncio.wait_for(fake.clients.get(), 5)
        async with asyncio.timeout(5):
            while not nc.is_connected:
                await asyncio.sleep(0.01)
        await nc.flush()
        await nc.close()


@pytest.mark.slow
async def test_credentials_of_another_operator_are_not_permitted(access: AccessServer) -> None:
    async with access_server(with_streams=False) as other:
        for _ in range(5):  # whether nats-py reads the reason or only the end is a race
            with pytest.raises(transport.NotPermittedError):
                await transport.connect(
                    [access.url], creds=other.creds("signer"), ca=None, name="test"
                )
