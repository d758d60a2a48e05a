"""A real nats-server with operator, accounts, users and streams, as `caledger init` makes them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final, Self

from nats.aio.client import Client

from services import streams, transport
from services.clock import SystemClock
from services.keys.kek import KeyEncryptionKey
from services.nats_access import contexts, provision, revocation, tls, users
from services.nats_access.layout import NatsLayout
from services.nats_access.permissions import CA, WORKERS, Role
from services.nats_access.server_process import ServerProcess
from tests.nats import free_port

DATACENTER: Final = "dc1"
KEK: Final = KeyEncryptionKey(bytes(range(32)))
CLOCK: Final = SystemClock()


class AccessServer:
    """One server of datacenter dc1, with everything that belongs to it in `data`."""

    def __init__(self, data: Path, *, secure: bool = False) -> None:
        self.data = data
        self.layout: NatsLayout = provision.provision(data, DATACENTER, KEK)
        self.subjects = self.layout.subjects
        self.port = free_port()
        self.tls = (
            tls.ensure(
                self.layout.tls,
                listen="127.0.0.1",
                kek=KEK,
                datacenter=DATACENTER,
                now=CLOCK.now(),
            )
            if secure
            else None
        )
        self.ca = self.tls.ca if self.tls else None
        self.url = f"{'tls' if secure else 'nats'}://127.0.0.1:{self.port}"
        config = provision.write_server_conf(
            self.layout, node="n1", listen="127.0.0.1", port=self.port, tls=self.tls
        )
        contexts.write_all(self.layout, url=self.url, ca=self.ca)
        self.log = data / "nats-server.log"
        self._log = self.log.open("wb")
        self.process = ServerProcess(
            config, address="127.0.0.1", port=self.port, log=self._log.fileno()
        )
        self._clients: list[Client] = []

    async def __aenter__(self) -> Self:
        await self.process.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(client.close() for client in self._clients))
        self.process.kill()
        self._log.close()

    async def create_streams(self) -> None:
        """Make the streams, as the user `init`."""
        await streams.create(await self.connect("init"), self.subjects, replicas=1)

    async def restart(self) -> None:
        """Stop the server, and start it again on the same data."""
        await self.process.stop()
        await self.process.start()

    def creds(self, user: str) -> Path:
        """Return the creds of a worker or of a user of CLIENTS."""
        workers = {role.value for role in (*CA, *WORKERS, Role.SYS)}
        return self.layout.creds(user) if user in workers else self.layout.client_creds(user)

    async def connect(self, user: str, refused: list[str] | None = None) -> Client:
        """Connect as a user; what it may not do is collected in `refused`."""
        client = await transport.connect(
            [self.url],
            creds=self.creds(user),
            ca=self.ca,
            name=f"test {user}",
            on_permission_error=None if refused is None else refused.append,
        )
        self._clients.append(client)
        return client

    async def client(self, name: str, *sign: str, refused: list[str] | None = None) -> Client:
        """Add a user who may sign for these, and connect as it."""
        self.add_user(name, sign)
        return await self.connect(name, refused)

    def add_user(
        self, name: str, sign: Sequence[str], *, expires: timedelta | None = None
    ) -> users.UserFiles:
        """Add a user of CLIENTS."""
        return users.add_user(
            self.layout,
            name,
            sign=sign,
            expires=expires,
            url=self.url,
            ca=self.ca,
            kek=KEK,
            clock=CLOCK,
        )

    async def revoke(self, name: str) -> None:
        """Revoke a user of CLIENTS."""
        await revocation.revoke_user(
            self.layout, name, kek=KEK, servers=[self.url], ca=self.ca, clock=CLOCK
        )


@asynccontextmanager
async def access_server(
    *, secure: bool = False, with_streams: bool = True
) -> AsyncIterator[AccessServer]:
    """Run a server for one test."""
    with tempfile.TemporaryDirectory(prefix="caledger-access-") as folder:
        async with AccessServer(Path(folder), secure=secure) as server:
            if with_streams:
                await server.create_streams()
            yield server
