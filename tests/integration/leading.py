"""A datacenter for tests of those who lead: a real server, workers inside and outside."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from nats.aio.client import Client

from events.catalogue import AnyEvent
from events.envelope import Entry, decode_entry
from events.leadership import LeadershipAcquired
from events.ledger import JetStreamLedger
from events.subjects import Subjects
from projections.authority import AuthorityState
from services import streams
from services.buckets import bucket
from services.clock import Clock, SystemClock, SystemEntropy
from services.config import KeysSection, NatsSection, NodeConfig
from services.following import AuthorityFollower
from services.leader_elector.worker import LeaderElector
from services.leases import LeaderLease, Lease, SignerLease
from services.root_manager.decide import Acting
from services.root_manager.worker import RootManager
from services.stamping import Stamper
from services.startup import Worker
from tests.nats import NatsServer

ROOT = Path(__file__).parents[2]
SUBJECTS = Subjects("dc1")
WAIT_SECONDS = 20.0
KEKS = {"root": "ab" * 32, "signing": "cd" * 32}


class LateClock(SystemClock):
    """The machine's clock, some time later."""

    def __init__(self, by: timedelta) -> None:
        self._by = by

    def now(self) -> datetime:
        return super().now() + self._by


def on_plain_server(nc: Client, config: NodeConfig, *, clock: Clock | None = None) -> Worker:
    """Return what a worker works with where there are no accounts."""
    return Worker(
        nc=nc,
        subjects=SUBJECTS,
        ledger=JetStreamLedger(nc, SUBJECTS),
        config=config,
        clock=clock or SystemClock(),
    )


class Site:
    """A datacenter without anybody in it."""

    def __init__(self, server: NatsServer, nc: Client, folder: Path) -> None:
        self.server = server
        self.nc = nc
        self.folder = folder
        self.ledger = JetStreamLedger(nc, SUBJECTS)
        self.stamper = Stamper("/caledger/dc1/test/test", SystemClock(), SystemEntropy())
        self.processes: list[subprocess.Popen[bytes]] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[Self]:
        for name, text in KEKS.items():
            path = folder / f"{name}.kek"
            path.write_text(text)
            path.chmod(0o600)
        async with NatsServer(folder) as server:
            nc = await server.client()
            await streams.create(nc, SUBJECTS, replicas=1)
            site = cls(server, nc, folder)
            try:
                yield site
            finally:
                for process in site.processes:
                    process.kill()
                    process.wait()

    def config(self, node: str, *, lease_seconds: int = 1, **keys: str) -> NodeConfig:
        named = {name: f"file:{self.folder / f'{name}.kek'}" for name in KEKS} | keys
        return NodeConfig(
            datacenter="dc1",
            node=node,
            data=self.folder / node,
            nats=NatsSection(servers=(self.server.url,), creds=self.folder),
            keys=KeysSection(signing=named["signing"], root=named["root"]),
            lease_seconds=lease_seconds,
        )

    async def elector(self, node: str, *, lease_seconds: int = 1) -> LeaderElector:
        return LeaderElector(
            on_plain_server(
                await self.server.client(), self.config(node, lease_seconds=lease_seconds)
            )
        )

    async def root_manager(
        self, node: str, *, clock: Clock | None = None, **keys: str
    ) -> RootManager:
        nc = await self.server.client()
        config = self.config(node, lease_seconds=1, **keys)
        return RootManager(on_plain_server(nc, config, clock=clock))

    def start(
        self, worker: str, node: str, *, stop_at: str = "", lease_seconds: int = 1
    ) -> subprocess.Popen[bytes]:
        """Start a worker as a process of its own; `stop_at` as in services.breakpoints."""
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.integration.leading_process",
                *(worker, node, self.server.url, str(self.folder), str(lease_seconds)),
            ],
            cwd=ROOT,
            env={**os.environ, "CALEDGER_TESTING_STOP_AT": stop_at},
        )
        self.processes.append(process)
        return process

    async def lead(self, node: str, *, ttl_seconds: int = 60) -> Acting:
        """Make a node the leader as its elector would, whoever leads; return what it acts under."""
        state = await self.state()
        values = bucket(self.nc, SUBJECTS.lease_bucket)
        held = await values.get(SUBJECTS.leader_lease())
        if held is not None and held.data is not None:
            await values.purge(SUBJECTS.leader_lease(), expected=held.revision)
        lease = Lease(self.nc, SUBJECTS, SUBJECTS.leader_lease(), ttl_seconds=ttl_seconds)
        holder = SystemEntropy().ulid(SystemClock().now())
        term = state.term + 1
        assert await lease.take(LeaderLease(node=node, term=0, holder=holder))
        await self.acquired(node, term=term)
        await lease.put(LeaderLease(node=node, term=term, holder=holder))
        return Acting(node=node, term=term)

    async def acquired(self, node: str, *, term: int) -> None:
        """Record that a node leads, and nothing else."""
        event = LeadershipAcquired(node=node, term=term, lease_revision=1)
        await self.ledger.append_authority(
            [self.stamper.stamp(event, subject=node)],
            term=term,
            expected_sequence=(await self.state()).position,
        )

    async def signer(self, node: str, slot: int, *, ttl_seconds: int = 60) -> Lease:
        """Take the lease of a new signer."""
        run = SystemEntropy().ulid(SystemClock().now())
        lease = Lease(self.nc, SUBJECTS, SUBJECTS.signer_lease(run), ttl_seconds=ttl_seconds)
        assert await lease.take(SignerLease(signer=run, node=node, slot=slot))
        return lease

    async def reconnected(self) -> None:
        """Wait until this process's connection is there again."""
        await self.server.ready()
        async with asyncio.timeout(WAIT_SECONDS):
            while not self.nc.is_connected:
                await asyncio.sleep(0.01)

    async def state(self) -> AuthorityState:
        return await AuthorityFollower(self.ledger, "dc1").catch_up()

    async def entries(self) -> list[Entry]:
        """Return the whole ledger."""
        return [
            decode_entry(stored, datacenter="dc1")
            for stored in await self.ledger.read(0, limit=1000)
        ]

    async def events(self) -> list[AnyEvent]:
        return [recorded.event for entry in await self.entries() for recorded in entry.events]

    async def until(
        self, condition: Callable[[AuthorityState], bool], *, seconds: float = WAIT_SECONDS
    ) -> AuthorityState:
        """Wait until what the ledger says fulfils a condition."""
        state = await self.state()
        try:
            async with asyncio.timeout(seconds):
                while not condition(state):
                    await asyncio.sleep(0.01)
                    state = await self.state()
        except TimeoutError:
            raise AssertionError(f"not within {seconds} s: {state}") from None
        return state


@asynccontextmanager
async def running(*workers: LeaderElector | RootManager) -> AsyncIterator[asyncio.Event]:
    """Run workers in this process; setting the event, or leaving, stops them."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(worker.run(stop))
        try:
            yield stop
        finally:
            stop.set()


async def ended(process: subprocess.Popen[bytes], *, by: signal.Signals | None = None) -> None:
    """Wait until a process has ended, by this signal or with exit code 0."""
    code = await asyncio.to_thread(process.wait, WAIT_SECONDS)
    assert code == (-by if by is not None else 0)


def leader_is(node: str) -> Callable[[AuthorityState], bool]:
    return lambda state: state.leader is not None and state.leader.node == node


def partitions(state: AuthorityState) -> Mapping[str, Sequence[int]]:
    return {signer: grant.assignment.partitions for signer, grant in state.signers.items()}
