"""How every worker begins: connect, and refuse a server or streams that are not right."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
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
from services.observed import Observed
from services.waiting import any_set, cancelled

# Exit codes, as in services.process.Ended.
NOT_DURABLE: Final = 1  # starting it again does not help
CONNECTION_LOST: Final = 3  # start it again

CHECK_SECONDS: Final = 60.0  # between two looks at the servers' durability
CHECK_SOON_SECONDS: Final = 3.0  # where a server did not say

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
    observed: Observed = field(default_factory=Observed)


class StoppedError(Exception):
    """Told to stop before there was a connection: nothing was begun."""


@asynccontextmanager
async def opened(
    config: NodeConfig,
    worker: str,
    *,
    stop: asyncio.Event | None = None,
    slot: int | None = None,
) -> AsyncIterator[Worker]:
    """Connect as `worker` until the block ends, and check the server's durability and every stream.

    Waits for a server that is not there yet, until `stop` is set: raises StoppedError then. Without
    `stop` it does not wait: raises UnreachableError. Raises SetupError where an acknowledged write
    could be lost, or where a stream is missing or differs from what `caledger init` made: no worker
    ever makes one. Durability is checked again after each reconnect, before anything is appended,
    and every minute: a server may come back with other settings, and then the process ends.

    `slot`: of the process that is this worker, whose metrics are served; a command has none.
    """
    observed = Observed(node=config.node)
    port = None if slot is None else config.metrics.port(worker, slot)
    if slot is not None:
        observed.metrics.process(
            worker=worker, node=config.node, slot=str(slot), datacenter=config.datacenter
        )
    async with (
        observed.served(config.metrics.address, port),
        _opened(config, worker, observed, stop) as opened,
    ):
        yield opened


@asynccontextmanager
async def _opened(
    config: NodeConfig, worker: str, observed: Observed, stop: asyncio.Event | None
) -> AsyncIterator[Worker]:
    subjects = Subjects(config.datacenter)
    durability = _Durability(subjects)
    observed.health.require("nats", lambda: "not connected to nats-server yet")
    nc = await connected(
        config,
        worker,
        on_disconnected=durability.lost,
        on_reconnected=durability.reconnected,
        stop=stop,
    )
    watching: asyncio.Task[None] | None = None
    window = config.duplicate_window_seconds
    try:
        await streams.check_durability(nc, subjects)
        await streams.check(nc, subjects, duplicate_window=window)
        observed.health.require(
            "nats", lambda: None if nc.is_connected else "not connected to nats-server"
        )
        observed.connections.add("main", nc)
        observed.health.require("durability", durability.missing)
        watching = asyncio.create_task(durability.watch(nc))
        watching.add_done_callback(_watched)
        ledger = JetStreamLedger(
            nc, subjects, duplicate_window=window, durable=lambda: durability.known
        )
        async with observed.following(ledger.last_sequence):
            yield Worker(nc=nc, subjects=subjects, ledger=ledger, config=config, observed=observed)
    finally:
        if watching is not None:
            await cancelled(watching)
        await nc.close()


async def connected(
    config: NodeConfig,
    worker: str,
    *,
    what: str = "",
    on_disconnected: Callable[[], None] | None = None,
    on_reconnected: Callable[[], Awaitable[None]] | None = None,
    stop: asyncio.Event | None = None,
) -> Client:
    """Return a connection as `worker`, named so and `what` it is for.

    Waits for a server until `stop` is set, or not at all without it; raises StoppedError,
    TransportError.
    """
    connecting = asyncio.create_task(
        transport.connect(
            config.nats.servers,
            creds=config.creds_file(worker),
            ca=config.nats.ca,
            name=" ".join(filter(None, (worker, config.node, what))),
            on_closed=_end_process,
            on_disconnected=on_disconnected,
            on_reconnected=on_reconnected,
            wait=stop is not None,
        )
    )
    stopping = asyncio.create_task((stop or asyncio.Event()).wait())
    try:
        await asyncio.wait({connecting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not connecting.done():
            raise StoppedError
        return connecting.result()
    finally:
        stopping.cancel()
        connecting.cancel()


class _Durability:
    """Whether the servers are known to keep what they acknowledge; looks again and again."""

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        self._again = asyncio.Event()
        self._losses = 0
        self.known = True

    def lost(self) -> None:
        """Take note that the connection is away: who comes back may be another."""
        self._losses += 1
        self.known = False

    async def reconnected(self) -> None:
        """Look again, but not now: nats-py waits for this before it goes on."""
        self._again.set()

    def missing(self) -> str | None:
        """Say so where it is not known."""
        return None if self.known else "whether nats-server keeps what it acknowledges is not known"

    async def watch(self, nc: Client) -> None:
        """Look again whenever it is not known, and every minute; ends the process if they do not.

        A server that does not answer acknowledges nothing either: it holds nobody up, and is asked
        again soon.
        """
        pause = CHECK_SECONDS
        while True:
            await any_set(self._again, timeout=pause)
            self._again.clear()
            losses = self._losses
            pause = CHECK_SECONDS
            try:
                await streams.check_durability(nc, self._subjects)
            except streams.SilentServerError:
                pause = CHECK_SOON_SECONDS
            except streams.SetupError as error:
                if isinstance(error.__cause__, LedgerError):
                    pause = CHECK_SOON_SECONDS  # it is away again
                    continue
                _log.error("ending: what would be acknowledged could be lost", error=str(error))
                os._exit(NOT_DURABLE)
            self.known = self.known or losses == self._losses


def _watched(watching: asyncio.Task[None]) -> None:
    """End where nobody looks any more: nothing would ever be appended again, in silence."""
    if not watching.cancelled() and (error := watching.exception()) is not None:
        _log.error("ending: durability cannot be watched", exc_info=error)
        os._exit(CONNECTION_LOST)


def _end_process(_: transport.TransportError) -> None:
    """End where the server has closed our connection for good, as it does to a user it bars.

    Nothing can be finished or lost without it; whoever is started next asks the ledger.
    """
    _log.error("no worker can go on without its connection; ending")
    os._exit(CONNECTION_LOST)
