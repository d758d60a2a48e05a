"""How every worker begins: connect, and refuse a server or streams that are not right."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

import structlog
from nats.aio.client import Client

from events.ledger import JetStreamLedger
from events.subjects import Subjects
from services import streams, transport
from services.config import NodeConfig

CONNECTION_LOST: Final = 3  # exit code: the world failed, start it again (services.process.Ended)

_log = structlog.get_logger()


@dataclass(frozen=True)
class Worker:
    """What a worker works with."""

    nc: Client
    subjects: Subjects
    ledger: JetStreamLedger


async def open_worker(config: NodeConfig, worker: str, *, wait: bool = True) -> Worker:
    """Connect as `worker`, and check the server's durability and every stream.

    Waits for a server that is not there yet; without `wait` raises UnreachableError. Raises
    SetupError where an acknowledged write could be lost, or where a stream is missing or differs
    from what `caledger init` made: no worker ever makes one.
    """
    subjects = Subjects(config.datacenter)
    nc = await transport.connect(
        config.nats.servers,
        creds=config.creds_file(worker),
        ca=config.nats.ca,
        name=f"{worker} {config.node}",
        on_closed=_end_process,
        wait=wait,
    )
    try:
        await streams.check_durability(nc, subjects)
        await streams.check(nc, subjects)
    except streams.SetupError:
        await nc.close()
        raise
    return Worker(nc=nc, subjects=subjects, ledger=JetStreamLedger(nc, subjects))


def _end_process() -> None:
    """End where the server has closed our connection for good, as it does to a user it bars.

    Nothing can be finished or lost without it; whoever is started next asks the ledger.
    """
    _log.error("no worker can go on without its connection; ending")
    os._exit(CONNECTION_LOST)
