"""Three servers of one datacenter over TLS: one operator, and a revocation reaches all."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services import streams, transport
from services.nats_access import contexts, provision, revocation, server_config, tls, users
from services.nats_access.files import write_atomically
from services.nats_access.layout import NatsLayout
from services.nats_access.server_process import ServerProcess
from tests.access import CLOCK, DATACENTER, KEK
from tests.nats import free_port

SERVERS = 3


class SecureCluster:
    """What three machines have that were given copies of one folder after `caledger init`."""

    def __init__(self, layouts: list[NatsLayout], ports: list[int]) -> None:
        self.layouts = layouts
        self.urls = [f"tls://127.0.0.1:{port}" for port in ports]
        self.processes: list[ServerProcess] = []
        self.ca = layouts[0].transport_ca


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[SecureCluster]:
    first = provision.provision(tmp_path / "0", DATACENTER, KEK)
    tls.ensure(first.tls, listen="127.0.0.1", kek=KEK, datacenter=DATACENTER, now=CLOCK.now())
    ports = [free_port() for _ in range(SERVERS)]
    routes = [free_port() for _ in range(SERVERS)]
    for number in range(1, SERVERS):
        shutil.copytree(tmp_path / "0", tmp_path / str(number))
    layouts = [provision.provision(tmp_path / str(n), DATACENTER, KEK) for n in range(SERVERS)]
    made = SecureCluster(layouts, ports)
    contexts.write_all(layouts[0], url=made.urls[0], ca=made.ca)
    async with AsyncExitStack() as stack:
        for number, layout in enumerate(layouts):
            server = server_config.Server(
                name=f"n{number}",
                datacenter=DATACENTER,
                listen="127.0.0.1",
                port=ports[number],
                store=layout.folder,
                accounts_conf="accounts.conf",
                tls=tls.files(layout.tls),
                cluster=server_config.Cluster(
                    name="ca",
                    listen="127.0.0.1",
                    port=routes[number],
                    routes=[f"127.0.0.1:{port}" for port in routes],
                ),
            )
            write_atomically(layout.server_conf, server_config.render(server).encode())
            process = ServerProcess(layout.server_conf, address="127.0.0.1", port=ports[number])
            made.processes.append(process)
            stack.callback(process.kill)
        await asyncio.gather(*(process.start() for process in made.processes))
        yield made


async def test_streams_are_replicated_and_a_revoked_user_is_shut_out_everywhere(
    cluster: SecureCluster,
) -> None:
    layout = cluster.layouts[0]
    init = await transport.connect(
        cluster.urls, creds=layout.creds("init"), ca=cluster.ca, name="init"
    )
    async with asyncio.timeout(30):
        while True:
            try:
                await streams.create(init, layout.subjects, replicas=SERVERS)
                break
            except streams.SetupError:  # no leader of the cluster is elected yet
                await asyncio.sleep(0.1)
    await streams.check_durability(init, layout.subjects)
    files = users.add_user(
        layout,
        "shop",
        sign=["service.shop"],
        expires=None,
        url=cluster.urls[0],
        ca=cluster.ca,
        kek=KEK,
        clock=CLOCK,
    )
    kept = layout.data / "kept.creds"
    kept.write_bytes(files.creds.read_bytes())
    cut = asyncio.Queue[transport.TransportError]()
    for url in cluster.urls:
        await transport.connect(
            [url], creds=kept, ca=cluster.ca, name="shop", on_closed=cut.put_nowait
        )

    await revocation.revoke_user(
        layout, "shop", kek=KEK, servers=cluster.urls, ca=cluster.ca, clock=CLOCK
    )

    async with asyncio.timeout(10):
        for _ in cluster.urls:
            assert isinstance(await cut.get(), transport.NotPermittedError)
    await cluster.processes[2].stop()
    await cluster.processes[2].start()
    with pytest.raises(transport.NotPermittedError):
        await transport.connect([cluster.urls[2]], creds=kept, ca=cluster.ca, name="shop")
    await init.close()
