"""Leaders of two nodes on three nats-servers, each of which is killed in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path

import pytest
from nats.aio.client import Client

from events.authority import RootPublished
from events.envelope import decode_entry
from events.leadership import LeadershipAcquired
from events.ledger import JetStreamLedger
from events.log import LedgerError
from projections.authority import AuthorityState
from services import streams
from services.clock import SystemClock, SystemEntropy
from services.config import KeysSection, NatsSection, NodeConfig
from services.following import AuthorityFollower
from services.leader_elector.worker import LeaderElector
from services.leases import Lease, SignerLease
from services.root_manager.worker import RootManager
from tests.integration.leading import KEKS, SUBJECTS, on_plain_server, running
from tests.nats import NatsCluster


@pytest.mark.slow
async def test_whichever_server_is_killed_somebody_leads_and_there_is_one_authority(
    nats_cluster: NatsCluster, tmp_path: Path
) -> None:
    nc = await nats_cluster.client()
    await streams.create(nc, SUBJECTS, replicas=3)
    workers = [
        worker
        for index, node in enumerate(("a", "b"))
        for worker in await _node(nats_cluster, tmp_path, node, index)
    ]
    follower = AuthorityFollower(JetStreamLedger(nc, SUBJECTS), "dc1")

    async with running(*workers):
        for server in nats_cluster.servers:
            await _a_new_signer_is_granted(nc, follower)
            server.kill()
            await _a_new_signer_is_granted(nc, follower)
            server.start()
            await server.ready()
        state = await _a_new_signer_is_granted(nc, follower)

    stored = await JetStreamLedger(nc, SUBJECTS).read(0, limit=1000)
    events = [
        recorded.event
        for message in stored
        for recorded in decode_entry(message, datacenter="dc1").events
    ]
    terms = [event.term for event in events if isinstance(event, LeadershipAcquired)]
    assert state.last_void is None
    assert terms == list(range(1, len(terms) + 1))
    assert [type(event) for event in events].count(RootPublished) == 1


async def _node(
    cluster: NatsCluster, folder: Path, node: str, first: int
) -> tuple[LeaderElector, RootManager]:
    for name, text in KEKS.items():
        path = folder / f"{name}.kek"
        path.write_text(text)
        path.chmod(0o600)
    config = NodeConfig(
        datacenter="dc1",
        node=node,
        data=folder / node,
        nats=NatsSection(servers=tuple(cluster.urls), creds=folder),
        keys=KeysSection(
            signing=f"file:{folder / 'signing.kek'}", root=f"file:{folder / 'root.kek'}"
        ),
        lease_seconds=2,
    )
    clients = [await cluster.client(first=first) for _ in range(2)]
    return (
        LeaderElector(on_plain_server(clients[0], config)),
        RootManager(on_plain_server(clients[1], config)),
    )


async def _a_new_signer_is_granted(nc: Client, follower: AuthorityFollower) -> AuthorityState:
    """Wait until a signer that just came has a grant: then somebody leads, and acts."""
    run = SystemEntropy().ulid(SystemClock().now())
    async with asyncio.timeout(60):
        lease = Lease(nc, SUBJECTS, SUBJECTS.signer_lease(run), ttl_seconds=60)
        value = SignerLease(signer=run, node="a", slot=0)
        while not await _tried(lease.take(value)):
            await asyncio.sleep(0.1)
        while True:
            try:
                state = await follower.catch_up()
            except LedgerError:
                continue  # no quorum for a moment; it asked for some seconds already
            if run in state.signers:
                return state
            await asyncio.sleep(0.05)


async def _tried(taking: Coroutine[None, None, bool]) -> bool:
    try:
        return await taking
    except LedgerError:
        return False
