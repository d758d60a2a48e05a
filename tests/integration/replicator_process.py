"""A replicator on a plain test server as a process, to be killed: URL FILE."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from events.ledger import JetStreamLedger
from events.subjects import Subjects
from services.replicator.worker import replicate
from tests.nats import connect


async def main(url: str, path: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    nc = await connect([url])
    try:
        ledger = JetStreamLedger(nc, Subjects("dc1"))
        await replicate(ledger, datacenter="dc1", path=path, stop=stop)
    finally:
        await nc.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
