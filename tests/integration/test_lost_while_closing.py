"""A connection that is lost while it is closed is closed, and nothing else."""

from __future__ import annotations

import asyncio

from services.client import CaClient

INFO = (
    b'INFO {"server_id":"x","version":"2.12.0","proto":1,"headers":true,"max_payload":1048576}\r\n'
)
PAYLOAD = bytes(1_000_000)


async def test_a_server_that_dies_while_a_client_closes_is_no_error() -> None:
    """It has not read all yet, so closing waits; then its machine resets the connection."""
    connected: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO)
        while not (await reader.readline()).startswith(b"PING"):
            pass
        writer.write(b"PONG\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket can
        connected.put_nowait(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = await CaClient.connect([f"nats://127.0.0.1:{port}"], datacenter="dc1", creds=None)
    writer = await asyncio.wait_for(connected.get(), 5)
    for _ in range(20):
        asking = asyncio.create_task(client.nc.publish("x", PAYLOAD))
        await asyncio.wait({asking}, timeout=0.1)
    closing = asyncio.create_task(client.close())
    await asyncio.wait({closing}, timeout=0.2)
    assert not closing.done()

    server.close()
    writer.transport.abort()

    await asyncio.wait_for(closing, 5)
    asking.cancel()
    await asyncio.wait({asking})
