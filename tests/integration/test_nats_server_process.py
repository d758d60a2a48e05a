"""nats-server as a child: it is waited for, it is stopped, and it never outlives us."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from services.nats_access import provision
from services.nats_access.server_process import (
    PORT_MAX,
    PORTS_TRIED,
    ServerError,
    ServerProcess,
    free_port,
)
from tests import nats
from tests.access import DATACENTER, KEK


def configured(tmp_path: Path) -> tuple[Path, int]:
    layout = provision.provision(tmp_path, DATACENTER, KEK)
    port = nats.free_port()
    file = provision.write_server_conf(layout, node="n1", listen="127.0.0.1", port=port, tls=None)
    return file, port


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_a_port_that_is_taken_is_replaced_by_the_next_free_one() -> None:
    port = nats.free_port()
    with socket.create_server(("127.0.0.1", port)):
        other = free_port("127.0.0.1", port)

    assert port < other < port + PORTS_TRIED
    assert free_port("127.0.0.1", port) == port


def test_where_the_ports_end_the_operating_system_chooses() -> None:
    with socket.create_server(("127.0.0.1", PORT_MAX)):
        assert free_port("127.0.0.1", PORT_MAX) < PORT_MAX


def test_an_address_that_is_not_this_machines_is_an_error() -> None:
    with pytest.raises(ServerError, match=r"192\.0\.2\.1"):
        free_port("192.0.2.1", 4222)


@pytest.mark.parametrize("paused", [False, True])
async def test_a_server_ends_when_it_is_told_to_also_a_paused_one(
    tmp_path: Path, paused: bool
) -> None:
    config, port = configured(tmp_path)
    server = ServerProcess(config, address="127.0.0.1", port=port)
    await server.start()
    pid = server.pid
    if paused:
        os.kill(pid, signal.SIGSTOP)

    await server.stop(grace=5)

    assert not alive(pid)
    with socket.create_server(("127.0.0.1", port)):
        pass


async def test_a_server_that_cannot_start_is_an_error_at_once(tmp_path: Path) -> None:
    config, port = configured(tmp_path)
    config.write_text("this is no configuration {")

    with pytest.raises(ServerError, match="its log says why"):
        await asyncio.wait_for(ServerProcess(config, address="127.0.0.1", port=port).start(), 10)


async def test_a_server_that_never_greets_is_an_error_and_is_ended(tmp_path: Path) -> None:
    config, _ = configured(tmp_path)
    server = ServerProcess(config, address="127.0.0.1", port=nats.free_port())

    with pytest.raises(ServerError, match="not ready"):
        await server.start(timeout=1)

    assert server.returncode is not None


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
async def test_a_server_ends_with_its_parent_however_that_ends(tmp_path: Path) -> None:
    config, port = configured(tmp_path)
    program = (
        "import asyncio, sys; from pathlib import Path\n"
        "from services.nats_access.server_process import ServerProcess\n"
        "async def main():\n"
        f"    server = ServerProcess(Path({str(config)!r}), address='127.0.0.1', port={port})\n"
        "    await server.start(); print(server.pid, flush=True); await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await asyncio.wait_for(parent.stdout.readline(), 20))
    assert alive(pid)

    parent.kill()
    await parent.wait()

    async with asyncio.timeout(10):
        while alive(pid):
            await asyncio.sleep(0.02)
