"""A datacenter with accounts and users, where the test decides which root-manager's node leads."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from events.base import Event
from events.catalogue import AnyEvent
from events.envelope import decode_entry
from events.leadership import LeadershipAcquired
from events.ledger import JetStreamLedger
from projections.authority import AuthorityState
from services.buckets import bucket
from services.clock import SystemClock, SystemEntropy
from services.config import KeysSection, NatsSection, NodeConfig
from services.following import AuthorityFollower
from services.leases import LeaderLease, Lease
from services.root_manager.worker import RootManager
from services.stamping import Stamper
from services.startup import Worker
from tests.access import AccessServer, access_server

WAIT_SECONDS = 20.0
KEKS = {"root": "ab" * 32, "signing": "cd" * 32}


class Managed:
    """A datacenter of which only what root-managers do goes on by itself."""

    def __init__(self, access: AccessServer, elector: Client, admin: Client) -> None:
        self.access = access
        self.subjects = access.subjects
        self.admin = admin
        self._elector = elector
        self._ledger = JetStreamLedger(elector, access.subjects)
        self._lease: Lease | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Self]:
        async with access_server() as access:
            for name, text in KEKS.items():
                path = access.data / f"{name}.kek"
                path.write_text(text)
                path.chmod(0o600)
            elector, admin = (
                await access.connect("leader-elector"),
                await access.connect("admin"),
            )
            yield cls(access, elector, admin)

    def config(self, node: str) -> NodeConfig:
        folder: Path = self.access.data
        return NodeConfig(
            datacenter=self.subjects.datacenter,
            node=node,
            data=folder / node,
            nats=NatsSection(servers=(self.access.url,), creds=folder),
            keys=KeysSection(
                signing=f"file:{folder / 'signing.kek'}", root=f"file:{folder / 'root.kek'}"
            ),
            lease_seconds=1,
        )

    @asynccontextmanager
    async def running(self, *nodes: str) -> AsyncIterator[tuple[RootManager, ...]]:
        """Run root-managers of these nodes, with the credentials of theirs."""
        managers = []
        for node in nodes:
            nc = await self.access.connect("root-manager")
            ledger = JetStreamLedger(nc, self.subjects)
            worker = Worker(nc=nc, subjects=self.subjects, ledger=ledger, config=self.config(node))
            managers.append(RootManager(worker))
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for manager in managers:
                group.create_task(manager.run(stop))
            try:
                yield tuple(managers)
            finally:
                stop.set()

    async def lead(self, node: str) -> None:
        """Let a node lead from now on, as its elector would."""
        state = await self.state()
        values = bucket(self._elector, self.subjects.lease_bucket)
        key = self.subjects.leader_lease()
        held = await values.get(key)
        if held is not None and held.data is not None:
            await values.purge(key, expected=held.revision)
        self._lease = Lease(self._elector, self.subjects, key, ttl_seconds=60)
        holder = SystemEntropy().ulid(SystemClock().now())
        assert await self._lease.take(LeaderLease(node=node, term=0, holder=holder))
        stamper = Stamper("/caledger/dc1/test/test", SystemClock(), SystemEntropy())
        event = LeadershipAcquired(node=node, term=state.term + 1, lease_revision=1)
        await self._ledger.append_authority(
            [stamper.stamp(event, subject=node)],
            term=state.term + 1,
            expected_sequence=(await self.state()).position,
        )
        await self._lease.put(LeaderLease(node=node, term=state.term + 1, holder=holder))

    def user_key(self, user: str) -> str:
        """Return a user's public key, as its credentials have it."""
        token = self.access.creds(user).read_text().split("-----")[2].strip()
        claims = token.split(".")[1]
        decoded = base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4))
        return str(json.loads(decoded)["sub"])

    async def state(self) -> AuthorityState:
        return await AuthorityFollower(self._ledger, self.subjects.datacenter).catch_up()

    async def events(self) -> list[AnyEvent]:
        """Return everything that the ledger holds."""
        return [
            recorded.event
            for stored in await self._ledger.read(0, limit=1000)
            for recorded in decode_entry(stored, datacenter=self.subjects.datacenter).events
        ]

    async def count(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in await self.events())

    async def until(self, condition: Callable[[AuthorityState], bool]) -> AuthorityState:
        """Wait until what the ledger says fulfils a condition."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition(state := await self.state()):
                await asyncio.sleep(0.02)
        return state

    async def initialized(self) -> AuthorityState:
        """Wait until there is an authority with everything that belongs to it."""
        return await self.until(
            lambda state: state.ca_state == "INITIALIZED" and len(state.crls) >= 2
        )

    async def ask(
        self, subject: str, body: dict[str, Any] | None = None, *, by: Client | None = None
    ) -> dict[str, Any]:
        """Ask as soon as somebody hears it, as the administrator unless told; return the answer."""
        told: dict[str, Any] = json.loads((await self.message(subject, body, by=by)).data)
        return told

    async def message(
        self, subject: str, body: dict[str, Any] | None = None, *, by: Client | None = None
    ) -> Msg:
        data = b"" if body is None else json.dumps(body).encode()
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                try:
                    return await (by or self.admin).request(subject, data, timeout=WAIT_SECONDS)
                except NoRespondersError:
                    await asyncio.sleep(0.02)
