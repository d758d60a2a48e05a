"""Nobody between client and server can talk either out of TLS."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import nats
import pytest
from nats.aio.client import Client

from services import transport
from services.nats_access import tls
from tests.access import CLOCK, DATACENTER, KEK, AccessServer, access_server

TLS_HANDSHAKE = 0x16  # the first byte of a TLS connection (RFC 8446, 5.1)
SECRETS = (b"CONNECT", b"jwt", b"sig", b"PING")


class Proxy:
    """What an attacker on the way can do: pass on, or greet in the server's place.

    The forged greeting is the server's own, with all that it says of TLS taken back.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self.forging = True
        self.received: list[bytes] = []  # what clients sent while it was forging, each connection
        self.forged = asyncio.Semaphore(0)
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()
        await self._listener.wait_closed()

    def cut(self) -> None:
        for writer in self._open:
            writer.close()

    async def attempts(self, number: int) -> None:
        """Wait until that many clients have been greeted by the forgery, from now on."""
        for _ in range(number):
            await asyncio.wait_for(self.forged.acquire(), 20)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        forging = self.forging
        with suppress(OSError):
            upstream, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
            self._open.add(to_server)
            if forging:
                await self._forge(reader, writer, upstream, to_server)
            else:
                await asyncio.gather(_pipe(reader, to_server), _pipe(upstream, writer))
            to_server.close()
        writer.close()

    async def _forge(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        greeting = json.loads((await upstream.readline()).removeprefix(b"INFO "))
        for key in ("tls_required", "tls_available", "tls_verify"):
            greeting.pop(key, None)
        writer.write(b"INFO " + json.dumps(greeting).encode() + b"\r\n")
        received = b""
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(3):
                while data := await reader.read(4096):
                    received += data
                    if b"PING\r\n" in received:  # a client that was taken in
                        writer.write(b"PONG\r\n")
        self.received.append(received)
        self.forged.release()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def secure() -> AsyncIterator[AccessServer]:
    async with access_server(secure=True, with_streams=False) as server:
        yield server


@pytest.fixture
async def proxy(secure: AccessServer) -> AsyncIterator[Proxy]:
    async with Proxy(secure.port) as between:
        yield between


def nothing_in_the_clear(proxy: Proxy) -> bool:
    return all(
        (not sent or sent[0] == TLS_HANDSHAKE) and not any(word in sent for word in SECRETS)
        for sent in proxy.received
    )


async def connected(nc: Client) -> None:
    async with asyncio.timeout(20):
        while not nc.is_connected:
            await asyncio.sleep(0.02)


async def connect(secure: AccessServer, port: int, **options: Any) -> Client:
    return await transport.connect(
        [f"tls://127.0.0.1:{port}"],
        creds=secure.creds("admin"),
        ca=secure.ca,
        name="test",
        **options,
    )


async def test_the_proxy_takes_in_a_client_that_obeys_greetings(
    secure: AccessServer, proxy: Proxy
) -> None:
    """What nats-py does by itself: without this, the other tests could not fail."""
    naive = await nats.connect(
        f"tls://127.0.0.1:{proxy.port}",
        user_credentials=str(secure.creds("admin")),
        tls=ssl.create_default_context(cafile=str(secure.ca)),
        allow_reconnect=False,
    )
    await naive.close()
    await proxy.attempts(1)

    assert not nothing_in_the_clear(proxy)


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_a_client_refuses_a_greeting_in_clear_text(
    secure: AccessServer, proxy: Proxy, scheme: str
) -> None:
    with pytest.raises(transport.NotSecureError):
        await transport.connect(
            [f"{scheme}://127.0.0.1:{proxy.port}"],
            creds=secure.creds("admin"),
            ca=secure.ca,
            name="test",
        )

    await proxy.attempts(1)
    assert nothing_in_the_clear(proxy)


async def test_a_worker_waits_until_it_can_speak_to_the_server_itself(
    secure: AccessServer, proxy: Proxy
) -> None:
    waiting = asyncio.create_task(connect(secure, proxy.port, wait=True))
    await proxy.attempts(3)
    assert not waiting.done()

    proxy.forging = False
    nc = await asyncio.wait_for(waiting, 20)

    await nc.flush()
    await nc.close()
    assert nothing_in_the_clear(proxy)


async def test_a_connection_that_was_cut_refuses_a_greeting_in_clear_text(
    secure: AccessServer, proxy: Proxy
) -> None:
    proxy.forging = False
    nc = await connect(secure, proxy.port)
    subscription = await nc.subscribe(secure.subjects.roots_changed)
    await nc.flush()

    proxy.forging = True
    proxy.cut()
    await proxy.attempts(3)
    assert nc.is_reconnecting

    proxy.forging = False
    await connected(nc)
    await subscription.unsubscribe()
    await nc.close()
    assert nothing_in_the_clear(proxy)


class Gossip:
    """A server that greets properly, and names another one; then it is gone."""

    def __init__(self, names: str, context: ssl.SSLContext | None = None) -> None:
        self._info = {
            "server_id": "G",
            "version": "2.15.1",
            "max_payload": 1048576,
            "headers": True,
        }
        self._info |= {"tls_required": context is not None, "connect_urls": [names]}
        self._context = context
        self._open: list[asyncio.StreamWriter] = []
        self.gone = False
        self.refused = asyncio.Semaphore(0)

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port: int = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.leave()
        await self._listener.wait_closed()

    def leave(self) -> None:
        self.gone = True
        for writer in self._open:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.append(writer)
        if self.gone:
            self.refused.release()
        else:
            writer.write(b"INFO " + json.dumps(self._info).encode() + b"\r\n")
            with suppress(OSError):
                while line := await reader.readline():
                    if line == b"PING\r\n":
                        writer.write(b"PONG\r\n")
        writer.close()


async def test_a_server_that_was_learned_of_is_spoken_to_in_tls_only(
    secure: AccessServer, proxy: Proxy
) -> None:
    """Servers name each other's addresses; one that greets in clear text gets nothing."""
    files = secure.tls
    assert files is not None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    async with Gossip(f"127.0.0.1:{proxy.port}", context) as server:
        nc = await connect(secure, server.port)
        assert [url.port for url in nc.discovered_servers] == [proxy.port]

        server.leave()
        await proxy.attempts(3)

        assert not nc.is_connected
        await nc.close()
    assert nothing_in_the_clear(proxy)


async def test_in_clear_text_no_other_machine_is_spoken_to_whatever_a_greeting_names() -> None:
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(b"a connection")
        writer.close()

    elsewhere = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = elsewhere.sockets[0].getsockname()[1]
    # 0.0.0.0 is no loopback address, and yet reaches this machine: so this test would hear of it.
    async with elsewhere, Gossip(f"0.0.0.0:{port}") as server:
        nc = await transport.connect(
            [f"nats://127.0.0.1:{server.port}"], creds=None, ca=None, name="test"
        )
        assert [url.port for url in nc.discovered_servers] == [port]

        server.leave()
        for _ in range(4):
            await asyncio.wait_for(server.refused.acquire(), 20)

        await nc.close()
    assert heard == []


async def test_closing_does_not_wait_for_a_server_that_is_being_forged(
    secure: AccessServer, proxy: Proxy
) -> None:
    proxy.forging = False
    nc = await connect(secure, proxy.port)
    proxy.forging = True
    proxy.cut()
    await proxy.attempts(1)
    await nc.publish("anything", b"what was waiting to be sent")

    await asyncio.wait_for(nc.close(), 5)

    assert nc.is_closed
    assert nothing_in_the_clear(proxy)


async def test_a_client_in_clear_text_gets_nothing_from_a_server_with_tls(
    secure: AccessServer,
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", secure.port)
    greeting = await asyncio.wait_for(reader.readline(), 5)
    writer.write(b'CONNECT {"verbose":true}\r\nPING\r\n')

    answer = await asyncio.wait_for(reader.read(), 10)

    assert json.loads(greeting.removeprefix(b"INFO "))["tls_required"]
    assert b"PONG" not in answer
    assert b"+OK" not in answer
    writer.close()


async def test_a_server_that_another_ca_vouches_for_is_refused(
    secure: AccessServer, tmp_path: Path
) -> None:
    other = tls.ensure(tmp_path, listen="::1", kek=KEK, datacenter=DATACENTER, now=CLOCK.now())

    with pytest.raises(transport.NotSecureError):
        await transport.connect([secure.url], creds=secure.creds("admin"), ca=other.ca, name="test")


async def test_an_address_that_the_certificate_does_not_name_is_refused(
    secure: AccessServer,
) -> None:
    with pytest.raises(transport.NotSecureError):
        await transport.connect(
            [f"tls://[::ffff:127.0.0.1]:{secure.port}"],
            creds=secure.creds("admin"),
            ca=secure.ca,
            name="test",
        )


@pytest.mark.parametrize("server", ["nats://192.0.2.1:4222", "ws://127.0.0.1:80", "nats://", "x"])
async def test_an_address_that_would_not_be_secure_is_refused_without_a_connection(
    server: str,
) -> None:
    with pytest.raises(transport.SetupError):
        await transport.connect([server], creds=None, ca=None, name="test", wait=True)


async def test_workers_find_the_server_again_after_it_was_killed(secure: AccessServer) -> None:
    nc = await secure.connect("admin")
    for _ in range(3):
        secure.process.kill()
        await secure.process.start()
        await connected(nc)
        await nc.flush()
