"""What scenarios read of a datacenter, and how they ask it for certificates."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from nats.aio.client import Client

from events.catalogue import AnyEvent
from events.envelope import Recorded, Stored, VoidEntryError, decode_entry
from events.leadership import LeadershipAcquired
from events.leaves import LeafIssued
from services import config, transport
from services.client import CaClient
from services.pki import spiffe
from tests.factories import csr_pem

DATACENTER: Final = "dc1"

E = TypeVar("E", bound=AnyEvent)


async def stored(client: CaClient) -> list[Stored]:
    """Return every message of the ledger, as a user who may read it."""
    return [message async for message in client.replay()]


async def recorded(client: CaClient) -> list[Recorded]:
    """Return every event of the ledger; a void entry has none."""
    found: list[Recorded] = []
    for message in await stored(client):
        try:
            found += decode_entry(message, datacenter=DATACENTER).events
        except VoidEntryError:
            continue
    return found


async def events_of(client: CaClient, kind: type[E]) -> list[E]:
    """Return every event of one type."""
    return [each.event for each in await recorded(client) if isinstance(each.event, kind)]


async def issued(client: CaClient) -> list[LeafIssued]:
    """Return every certificate on the ledger."""
    return await events_of(client, LeafIssued)


async def terms(client: CaClient) -> list[tuple[str, int]]:
    """Return who acquired the lead, under which terms, in order."""
    return [(event.node, event.term) for event in await events_of(client, LeadershipAcquired)]


async def trust_domain(client: CaClient) -> str:
    """Return the trust domain, as the trust bundle says it."""
    domain: str = json.loads(await client.roots())["TrustDomain"]
    return domain


class Asker:
    """Asks for certificates of services, with good signing requests."""

    def __init__(self, client: CaClient, domain: str) -> None:
        self.client = client
        self.domain = domain
        self.waits: list[float] = []  # seconds, of each answer

    @classmethod
    async def of(cls, client: CaClient) -> Asker:
        return cls(client, await trust_domain(client))

    def uri(self, service: str) -> str:
        return spiffe.service_id(self.domain, DATACENTER, service)

    def csr(self, service: str) -> str:
        return csr_pem(uri=self.uri(service)).decode()

    async def sign(
        self, service: str, request_id: str, *, csr: str | None = None, timeout: float = 30.0
    ) -> dict[str, Any]:
        """Return the reply to a good request; asked again under its id until it is answered."""
        began = asyncio.get_running_loop().time()
        reply = await self.client.sign(
            service, csr or self.csr(service), request_id=request_id, timeout=timeout
        )
        self.waits.append(asyncio.get_running_loop().time() - began)
        told: dict[str, Any] = json.loads(reply)
        return told

    @asynccontextmanager
    async def all_the_while(self, name: str) -> AsyncIterator[None]:
        """Ask for one service after the other; fails if a single one is not answered."""
        enough = asyncio.Event()

        async def ask() -> None:
            number = 0
            while not enough.is_set():
                await self.sign(f"{name}-{number}", f"{name}-{number}")
                number += 1
                await asyncio.sleep(0.01)

        asking = asyncio.create_task(ask())
        try:
            yield
        finally:
            enough.set()
            await asking


@asynccontextmanager
async def as_worker(data: Path, worker: str) -> AsyncIterator[Client]:
    """Connect with the rights of one of a node's workers, or of `init`."""
    node = config.load(data / "caledger.toml")
    nc = await transport.connect(
        node.nats.servers, creds=node.creds_file(worker), ca=node.nats.ca, name=f"test {worker}"
    )
    try:
        yield nc
    finally:
        await nc.close()


async def last_sequences(data: Path, streams: Sequence[str]) -> dict[str, int]:
    """Return the last sequence of each stream; -1 where there is no such stream."""
    found = {}
    async with as_worker(data, "init") as nc:
        for stream in streams:
            reply = json.loads((await nc.request(f"$JS.API.STREAM.INFO.{stream}", b"")).data)
            found[stream] = -1 if "error" in reply else reply["state"]["last_seq"]
    return found
