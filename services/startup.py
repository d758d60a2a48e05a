"""How every worker begins: connect, and refuse a server or streams that are not right."""

from __future__ import annotations

from dataclasses import dataclass

from nats.aio.client import Client

from events.ledger import JetStreamLedger
from events.subjects import Subjects
from services import streams, transport
from services.config import NodeConfig


@dataclass(frozen=True)
class Worker:
    """What a worker works with."""

    nc: Client
    subjects: Subjects
    ledger: JetStreamLedger


async def open_worker(config: NodeConfig, worker: str) -> Worker:
    """Connect as `worker`, and check the server's durability and every stream.

    Waits for a server that is not there yet. Raises SetupError where an acknowledged write could be
    lost, or where a stream is missing or differs from what `caledger init` made: no worker ever
    makes one.
    """
    subjects = Subjects(config.datacenter)
    nc = await transport.connect(
        config.nats.servers,
        creds=config.creds_file(worker),
        ca=config.nats.ca,
        name=f"{worker} {config.node}",
        wait=True,
    )
    await streams.check_durability(nc, subjects)
    await streams.check(nc, subjects)
    return Worker(nc=nc, subjects=subjects, ledger=JetStreamLedger(nc, subjects))
