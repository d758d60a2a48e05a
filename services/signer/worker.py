"""The signer as a process: a lease, a run id, and what ends it."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Final

import structlog
from nats.aio.client import Client

from projections.issuance import IssuanceReader
from services.config import NodeConfig
from services.keys.buckets import signing_keys
from services.leases import Lease, LeaseLostError, SignerLease
from services.signer.signer import Signer
from services.signer.subscriptions import GIVE_UP_SECONDS
from services.startup import Worker, connected, opened
from services.waiting import cancelled

WITHDRAWAL_SECONDS: Final = 5.0  # at most, for a root-manager to take the partitions back

_log = structlog.get_logger()


async def run(config: NodeConfig, *, stop: asyncio.Event, slot: int = 0) -> None:
    """Be one run of a signer, until told to stop.

    Whatever ends it otherwise is raised (LeaseLostError, OutcomeUnknownError, ...), and the process
    ends: its supervisor starts another run with an id of its own, which takes its partitions.
    A run never takes a second lease: what it knew belongs to its grants.
    """
    async with opened(config, "signer", stop=stop, slot=slot) as worker:
        requests = await connected(config, "signer", what="requests", stop=stop)
        worker.observed.connections.add("requests", requests)
        try:
            with closing(IssuanceReader(config.projections_file)) as index:
                await _serve(worker, requests, index, stop=stop, slot=slot)
        finally:
            await requests.close()


async def _serve(
    worker: Worker, requests: Client, index: IssuanceReader, *, stop: asyncio.Event, slot: int
) -> None:
    config = worker.config
    keystore = signing_keys(worker.nc, worker.subjects, config.keys)
    checked = worker.observed.health.expect("keys", "the signing keys were not checked yet")
    await keystore.check()
    checked()
    value = SignerLease(signer=worker.entropy.ulid(worker.clock.now()), node=config.node, slot=slot)
    lease = Lease(
        worker.nc,
        worker.subjects,
        worker.subjects.signer_lease(value.signer),
        ttl_seconds=config.lease_seconds,
    )
    signer = Signer(
        worker,
        requests=requests,
        keystore=keystore,
        index=index,
        run=value.signer,
        alive=lambda: lease.held,
    )
    if not await lease.take(value):
        raise LeaseLostError(f"somebody holds the lease of {value.signer}")
    _log.info("signer", run=value.signer)
    running = [asyncio.create_task(signer.run()), asyncio.create_task(lease.keep())]
    leaving = asyncio.create_task(_leave(signer, lease, value, stop))
    try:
        await asyncio.wait([*running, leaving], return_when=asyncio.FIRST_COMPLETED)
        for task in (*running, leaving):
            if task.done():
                task.result()
    finally:
        await cancelled(*running, leaving)
    await lease.release()
    await requests.flush()  # the last answers


async def _leave(signer: Signer, lease: Lease, value: SignerLease, stop: asyncio.Event) -> None:
    """Once told to stop, have the partitions moved to others while this run still serves them."""
    await stop.wait()
    signer.settle()
    await lease.put(
        SignerLease(signer=value.signer, node=value.node, slot=value.slot, stopping=True)
    )
    try:
        async with asyncio.timeout(WITHDRAWAL_SECONDS):
            await signer.withdrawn()
    except TimeoutError:
        _log.warning("nobody took the partitions back; stopping all the same")
    await asyncio.sleep(GIVE_UP_SECONDS)  # what is in flight arrives; new ones have a new signer
