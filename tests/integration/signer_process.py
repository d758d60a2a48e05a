"""A signer on a plain test server as a process, to be stopped and killed: URL FILE RUN."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from projections.issuance import IssuanceReader
from tests.integration.signing import Datacenter
from tests.nats import connect


async def main(url: str, projections: Path, run: str) -> None:
    nc = await connect([url])
    dc = Datacenter(nc, projections.parent)
    signer = dc.new_signer(nc, IssuanceReader(projections), run)
    await signer.follow()
    print("ready", flush=True)
    await signer.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
