"""The replicator: carries the ledger to where it is read, the node's projections file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import structlog

from events.log import GapError, Ledger, LedgerError
from projections.store import NoProjectionsError, StaleProjectionsError, read_meta
from services.config import NodeConfig
from services.replicator.rebuild import RebuildRunningError, rebuild
from services.replicator.replica import Replica
from services.startup import open_worker
from services.waiting import cancelled

# After a wake nothing may be there yet: a message is heard before every copy has it.
LOOK_AGAIN_SECONDS: Final = (0.002, 0.01, 0.05)

_log = structlog.get_logger()


async def run(config: NodeConfig, *, stop: asyncio.Event, slot: int = 0) -> None:
    """Keep the node's projections file until told to stop.

    Survives the loss of NATS. Raises UnknownEventTypeError, GapError or ProjectionFileError where
    going on would make rows that are not what the ledger says.
    """
    del slot  # one a node
    worker = await open_worker(config, "replicator")
    try:
        await replicate(
            worker.ledger, datacenter=config.datacenter, path=config.projections_file, stop=stop
        )
    finally:
        await worker.nc.close()


async def replicate(ledger: Ledger, *, datacenter: str, path: Path, stop: asyncio.Event) -> None:
    """Follow a ledger into a file; see `run`.

    It is stopped by cancelling it: rows and position change together or not at all.
    """
    working = asyncio.create_task(_replicate(ledger, datacenter=datacenter, path=path))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        await cancelled(working, stopping)


async def _replicate(ledger: Ledger, *, datacenter: str, path: Path) -> None:
    woken = ledger.woken()
    while True:
        try:
            # After every failure the file is checked against the ledger anew: a server that comes
            # back may have lost what it had.
            async with await _open(ledger, datacenter=datacenter, path=path) as replica:
                _log.info("following the ledger", position=replica.position, file=str(path))
                await _follow(replica, woken)
        except GapError:
            raise
        except (LedgerError, NoProjectionsError, RebuildRunningError) as error:
            _log.warning("cannot go on now, trying again", reason=str(error))
            await anext(woken)


async def _open(ledger: Ledger, *, datacenter: str, path: Path) -> Replica:
    """Return the replica in `path`, made anew first where there is none that we can go on with."""
    try:
        read_meta(path)
    except (NoProjectionsError, StaleProjectionsError) as reason:
        _log.info("building the projections file", reason=str(reason))
        await rebuild(ledger, datacenter=datacenter, path=path)
    return Replica(ledger, datacenter=datacenter, path=path)


async def _follow(replica: Replica, woken: AsyncIterator[None]) -> None:
    """Fold what comes, until the file is replaced."""
    while True:
        for wait in (0.0, *LOOK_AGAIN_SECONDS):
            await asyncio.sleep(wait)
            if replica.replaced():
                _log.info("the projections file was replaced")
                return
            advanced = False
            while await replica.advance():
                advanced = True
            if advanced:
                break
        await anext(woken)
