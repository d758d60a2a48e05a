"""Making the projections file anew, beside the old one, and putting it in its place."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from events.log import Ledger
from events.loudly import Loudly
from projections import disk, store
from services.following import STALE_PATIENCE_SECONDS, STALE_WAIT_SECONDS
from services.replicator.replica import Replica


class RebuildRunningError(Exception):
    """Another process rebuilds this file just now."""


class RebuildStoppedError(Exception):
    """It was told to stop before the new file was complete; the old one is as it was."""


async def rebuild(
    ledger: Ledger, *, datacenter: str, path: Path, stop: asyncio.Event | None = None
) -> int:
    """Fold the whole ledger, as it is now, into a new file at `path`; return its position.

    The old file serves until the new one is complete: whoever answers from it never sees it go
    back. A replicator that runs meanwhile notices and goes on with the new one. Raises
    RebuildRunningError, RebuildStoppedError, LedgerError, UnknownEventTypeError.
    """
    building = path.with_name(f"{path.name}.rebuilding")
    with _alone(path.with_name(f"{path.name}.lock")):
        disk.delete(building)
        store.create(building, datacenter=datacenter)
        last = await ledger.last_sequence()
        waiting = Loudly("waiting for the rest of the ledger", patience=STALE_PATIENCE_SECONDS)
        async with Replica(ledger, datacenter=datacenter, path=building) as replica:
            while replica.position < last:
                if stop is not None and stop.is_set():
                    raise RebuildStoppedError(f"{building} is at {replica.position} of {last}")
                if not await replica.advance():
                    # Our copy lags behind the leader's, or the last append is not whole: whoever
                    # leads then sees to it that something comes after it.
                    waiting.still(f"{replica.position} of {last} is there and whole")
                    await asyncio.sleep(STALE_WAIT_SECONDS)
            position = replica.position
        disk.move(building, path)
    return position


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RebuildRunningError(f"{lock} is held: the file is being rebuilt") from error
        yield
