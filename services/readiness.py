"""Whether a signing request for any identity would be answered: asked, not guessed."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Final

from events.base import PARTITIONS
from events.subjects import partition_of
from projections import signers as signers_projection
from services.client import CaClient
from services.refusals import RefusedError

PROBE_ID: Final = "caledger-ready"  # a request id under which nothing is ever issued
LOOKUP_SECONDS: Final = 600.0
SETTLE_SECONDS: Final = 10.0  # at most, for further signers to come after the first
LOOK_EVERY_SECONDS: Final = 0.05


def probe_names() -> list[str]:
    """Return a service name for each partition."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < PARTITIONS:
        name = f"ready-{number}"
        found.setdefault(partition_of("service", name), name)
        number += 1
    return [found[partition] for partition in sorted(found)]


async def until_ready(client: CaClient) -> None:
    """Return once every partition's signer has answered, and the roots are there.

    Looks up a request id that no certificate has: whoever answers `not_found` has a grant for the
    partition and has folded up to it.
    """
    await client.roots(timeout=LOOKUP_SECONDS)
    await asyncio.gather(*(_answered(client, name) for name in probe_names()))


async def until_settled(projections: Path, signers: int) -> None:
    """Return once so many signers have their share of the partitions; soon, if one never comes.

    While a share moves, a request that is sent only once can be lost.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_SECONDS):
            while True:
                if _holders(projections) >= signers:
                    return
                await asyncio.sleep(LOOK_EVERY_SECONDS)


def _holders(projections: Path) -> int:
    try:
        return signers_projection.holders(projections)
    except sqlite3.Error:  # the replicator builds it anew
        return 0


async def _answered(client: CaClient, service: str) -> None:
    try:
        await client.lookup(service, request_id=PROBE_ID, timeout=LOOKUP_SECONDS)
    except RefusedError as refused:
        if refused.code != "not_found":
            raise
