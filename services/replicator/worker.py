"""The replicator: carries the ledger to where it is read, the node's projections file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import structlog

from events.log import GapError, Ledger, LedgerError
from projections.store import NoProjectionsError, StaleProjectionsError, read_meta
from services.config import NodeConfig
from services.replicator.rebuild import RebuildRunningError, rebuild
from services.replicator.replica import Replica
from services.startup import open_worker

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
    """Follow a ledger into a file; see `run`."""
    async with aclosing(_until(stop, ledger.woken())) as woken:
        while not stop.is_set():
            try:
                async with await _open(ledger, datacenter=datacenter, path=path) as replica:
                    _log.info("following the ledger", position=replica.position, file=str(path))
                    await _follow(replica, woken, stop)
            except GapError:
                raise
            except (LedgerError, NoProjectionsError, RebuildRunningError) as error:
                _log.warning("cannot go on now, trying again", reason=str(error))
                await anext(woken, None)


async def _open(ledger: Ledger, *, datacenter: str, path: Path) -> Replica:
    """Return the replica in `path`, made anew first where there is none that we can go on with."""
    try:
        read_meta(path)
    except (NoProjectionsError, StaleProjectionsError) as reason:
        _log.info("building the projections file", reason=str(reason))
        await rebuild(ledger, datacenter=datacenter, path=path)
    return Replica(ledger, datacenter=datacenter, path=path)


async def _follow(replica: Replica, woken: AsyncIterator[None], stop: asyncio.Event) -> None:
    """Fold what comes, until told to stop or until the file is replaced."""
    while not stop.is_set():
        for wait in (0.0, *LOOK_AGAIN_SECONDS):
            await asyncio.sleep(wait)
            if replica.replaced():
                _log.info("the projections file was replaced")
                return
            advanced = False
            while not stop.is_set() and await replica.advance():
                advanced = True
            if advanced:
                break
        await anext(woken, None)


async def _until(stop: asyncio.Event, source: AsyncIterator[None]) -> AsyncGenerator[None, None]:
    """Yield what `source` yields, until told to stop: also while it yields nothing."""
    stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    try:
        while True:
            coming: asyncio.Future[Any] = asyncio.ensure_future(anext(source))
            await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                coming.cancel()
                await asyncio.wait({coming})
                return
            coming.result()
            yield
    finally:
        stopping.cancel()
