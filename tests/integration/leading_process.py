"""One worker on a plain test server as a process, to be killed: WORKER NODE URL FOLDER SECONDS."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from services.config import KeysSection, NatsSection, NodeConfig
from services.leader_elector.worker import LeaderElector
from services.root_manager.worker import RootManager
from tests.integration.leading import on_plain_server
from tests.nats import connect

WORKERS: dict[str, type[LeaderElector | RootManager]] = {
    "leader-elector": LeaderElector,
    "root-manager": RootManager,
}


async def main(worker: str, node: str, url: str, folder: Path, lease_seconds: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    config = NodeConfig(
        datacenter="dc1",
        node=node,
        data=folder / node,
        nats=NatsSection(servers=(url,), creds=folder),
        keys=KeysSection(
            signing=f"file:{folder / 'signing.kek'}", root=f"file:{folder / 'root.kek'}"
        ),
        lease_seconds=lease_seconds,
    )
    nc = await connect([url])
    try:
        await WORKERS[worker](on_plain_server(nc, config)).run(stop)
    finally:
        await nc.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5])))
