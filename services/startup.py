"""How every worker begins: connect, and refuse a server or streams that are not right."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog
from nats.aio.client import Client

from events.ledger import JetStreamLedger
from events.log import Ledger, LedgerError
from events.subjects import Subjects
from services import streams, transport
from services.clock import Clock, Entropy, SystemClock, SystemEntropy
from services.config import NodeConfig

# Exit codes, as in services.process.Ended.
NOT_DURABLE: Final = 1  # starting it again does not help
CONNECTION_LOST: Final = 3  # start it again

_log = structlog.get_logger()


@dataclass(frozen=True)
class Worker:
    """What a worker works with."""

    nc: Client
    subjects: Subjects
    ledger: Ledger
    config: NodeConfig
    clock: Clock = field(default_factory=SystemClock)
    entropy: Entropy = field(default_factory=SystemEntropy)


@asynccontextmanager
async def opened(config: NodeConfig, worker: str, *, wait: bool = True) -> AsyncIterator[Worker]:
    """Connect as `worker` until the block ends, and check the server's durability and every stream.

    Waits for a server that is not there yet; without `wait` raises UnreachableError. Raises
    SetupError where an acknowledged write could be lost, or where a stream is missing or differs
    from what `caledger init` made: no worker ever makes one. Durability is checked again after each
    reconnect: a server may come back with other settings, and then the process ends.
    """
    subjects = Subjects(config.datacenter)
    checks: set[asyncio.Task[None]] = set()

    async def reconnected() -> None:
        # nats-py waits for this before it goes on, and the check needs it to go on.
        check = asyncio.create_task(_still_durable(nc, subjects))
        checks.add(check)
        check.add_done_callback(checks.discard)

    nc = await transport.connect(
        config.nats.servers,
        creds=config.creds_file(worker),
        ca=config.nats.ca,
        name=f"{worker} {config.node}",
        on_closed=_end_process,
        on_reconnected=reconnected,
        wait=wait,
    )
    window = config.duplicate_window_seconds
    try:
        await streams.check_durability(nc, subjects)
        await streams.check(nc, subjects, duplicate_window=window)
        ledger = JetStreamLedger(nc, subjects, duplicate_window=window)
        yield Worker(nc=nc, subjects=subjects, ledger=ledger, config=config)
    finally:
        await nc.close()


async def _still_durable(nc: Client, subjects: Subjects) -> None:
    try:
        await streams.check_durability(nc, subjects)
    except streams.SetupError as error:
        if isinstance(error.__cause__, LedgerError):
            return  # it is away again; the next reconnect asks again
        _log.error("ending: what would be acknowledged could be lost", error=str(error))
        os._exit(NOT_DURABLE)


def _end_process() -> None:
    """End where the server has closed our connection for good, as it does to a user it bars.

    Nothing can be finished or lost without it; whoever is started next asks the ledger.
    """
    _log.error("no worker can go on without its connection; ending")
    os._exit(CONNECTION_LOST)
