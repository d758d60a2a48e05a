"""The replicator: carries the ledger to where it is read, the node's projections file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog

from events.log import GapError, Ledger, LedgerError
from projections.disk import NoProjectionsError, StaleProjectionsError
from projections.store import read_meta
from services.config import NodeConfig
from services.replicator.metrics import observe
from services.replicator.rebuild import RebuildRunningError, RebuildStoppedError, rebuild
from services.replicator.replica import Replica
from services.startup import opened

# After a wake nothing may be there yet: a message is heard before every copy has it.
LOOK_AGAIN_SECONDS: Final = (0.002, 0.01, 0.05)
# After a batch of many events: under load the next one then takes more, and costs little more. A
# few do not wait for it. A signer that gained partitions under load waits that long, about.
BUSY_EVENTS: Final = 8
PACE_SECONDS: Final = 0.1

_log = structlog.get_logger()


async def run(config: NodeConfig, *, stop: asyncio.Event, slot: int = 0) -> None:
    """Keep the node's projections file until told to stop.

    Survives the loss of NATS. Raises UnknownEventTypeError, GapError or ProjectionFileError where
    going on would make rows that are not what the ledger says.
    """
    async with opened(config, "replicator", stop=stop, slot=slot) as worker:
        observe(worker.observed, config.projections_file)
        await replicate(
            worker.ledger, datacenter=config.datacenter, path=config.projections_file, stop=stop
        )


async def replicate(ledger: Ledger, *, datacenter: str, path: Path, stop: asyncio.Event) -> None:
    """Follow a ledger into a file; see `run`. Stops between two batches."""
    woken = ledger.woken()
    damage: StaleProjectionsError | None = None
    while not stop.is_set():
        try:
            await _make(ledger, datacenter=datacenter, path=path, stop=stop, damage=damage)
            damage = None
            # After every failure the file is checked against the ledger anew: a server that comes
            # back may have lost what it had.
            try:
                async with Replica(ledger, datacenter=datacenter, path=path) as replica:
                    _log.info("following the ledger", position=replica.position, file=str(path))
                    await _follow(replica, woken, stop)
            except StaleProjectionsError as error:
                _log.warning("the projections file cannot be gone on with", reason=str(error))
                damage = error
        except GapError:
            raise
        except RebuildStoppedError:
            return
        except (LedgerError, NoProjectionsError, RebuildRunningError) as error:
            _log.warning("cannot go on now, trying again", reason=str(error))
            await _wake(woken, stop)


async def _make(
    ledger: Ledger,
    *,
    datacenter: str,
    path: Path,
    stop: asyncio.Event,
    damage: StaleProjectionsError | None,
) -> None:
    """Make the file anew where there is none that we can go on with.

    `damage`: what came to light as the file was used. Raises StaleProjectionsError where the new
    file is damaged as well: that is the disk's.
    """
    try:
        if damage is not None:
            raise damage
        read_meta(path)
    except (NoProjectionsError, StaleProjectionsError) as reason:
        _log.info("building the projections file", reason=str(reason))
        await rebuild(ledger, datacenter=datacenter, path=path, stop=stop)


async def _follow(replica: Replica, woken: AsyncIterator[None], stop: asyncio.Event) -> None:
    """Fold what comes, until told to stop or until the file is replaced."""
    while not stop.is_set():
        for wait in (0.0, *LOOK_AGAIN_SECONDS):
            await asyncio.sleep(wait)
            if replica.replaced():
                _log.info("the projections file was replaced")
                return
            advanced = False
            while not stop.is_set() and (events := await replica.advance()):
                advanced = True
                if events >= BUSY_EVENTS:
                    await _pause(stop)
            if advanced:
                break
        await _wake(woken, stop)


async def _pause(stop: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(PACE_SECONDS):
            await stop.wait()


async def _wake(woken: AsyncIterator[None], stop: asyncio.Event) -> None:
    """Return when there may be something new to read, or when told to stop."""
    coming: asyncio.Future[Any] = asyncio.ensure_future(anext(woken))
    stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if coming.done():
            coming.result()
    finally:
        for waiting in (coming, stopping):
            waiting.cancel()
        await asyncio.wait({coming, stopping})
