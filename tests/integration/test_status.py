"""`caledger status` on a real server: exit code, what it says, and whose answer counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from services.client import CaClient
from services.replicator.worker import replicate
from services.status import Status
from tests.integration.leading import SUBJECTS, Site, partitions, running
from tests.scenarios.caledger import Ran, run


@asynccontextmanager
async def replicating(site: Site, node: str) -> AsyncIterator[None]:
    """Keep a node's projections, with a replicator of its own."""
    stop = asyncio.Event()
    path = site.config(node).projections_file
    async with asyncio.TaskGroup() as group:
        group.create_task(replicate(site.ledger, datacenter="dc1", path=path, stop=stop))
        try:
            yield
        finally:
            stop.set()


async def asked(site: Site, *arguments: str) -> Ran:
    return await run(
        "status", *arguments, cwd=site.folder, environment={"NATS_URL": site.server.url}
    )


async def until(client: CaClient, holds: Callable[[Status], bool]) -> Status:
    async with asyncio.timeout(20):
        while not holds(told := await client.status()):
            pass
    return told


@pytest.mark.slow
async def test_status_says_whether_the_ca_can_sign_and_if_not_why(tmp_path: Path) -> None:
    async with Site.open(tmp_path) as site:
        nobody = await asked(site, "--timeout", "0.5")
        assert nobody.code == 3, nobody
        assert (
            "no root-manager of dc1 answers within 0.5 s: none runs, or none is well" in nobody.err
        )

        client = await CaClient.connect([site.server.url], datacenter="dc1", creds=None)
        leader = await site.elector("a")
        managers = [await site.root_manager("a"), await site.root_manager("b")]
        async with running(*managers), replicating(site, "a"):
            async with running(leader):
                await site.until(lambda state: state.configuration is not None)
                before = await asked(site, "--json")
                assert before.code == 1, before
                assert "cannot sign: no signer has partitions 0-63: no signer is" in before.err
                told: dict[str, Any] = json.loads(before.out)
                assert (told["CanSign"], told["State"]) == (False, "INITIALIZED")
                assert (told["Leader"]["Node"], told["Leader"]["Term"]) == ("a", 1)
                assert told["Leader"]["Since"] <= told["Time"]
                assert told["DurableRequestsWaiting"] == 0
                assert [each["Node"] for each in told["Projections"]] == ["a", "b"]

                lease = await site.signer("a", 0)
                await site.until(lambda state: bool(partitions(state)))
                both = await until(client, lambda told: told.can_sign)
                assert {each.node: each.position > 0 for each in both.projections} == {
                    "a": True,
                    "b": False,
                }
                assert both.faults is not None
                assert (both.faults.void.count, both.faults.irregular.count) == (0, 0)
                await site.nc.request("ca.dc1.submitted.0.service.web", b"{}")
                after = await asked(site)
                assert after.code == 0, after
                assert "INITIALIZED, can sign" in after.out
                assert "0-63" in after.out
                assert "1 durable request waiting" in after.out
                assert after.err == ""

                first = await site.nc.request(SUBJECTS.status_get, b"anything", timeout=5)
                assert json.loads(first.data)["AnsweredBy"] == "a", "the leader's comes first"
                await lease.release()
                gone = await until(client, lambda told: not told.can_sign)
                assert gone.why

            leaderless = await until(client, lambda told: told.leader is None)
            assert "nobody leads" in leaderless.warnings[0].message
            await hostile(site)
            assert not (await client.status()).can_sign
        await client.close()


async def hostile(site: Site) -> None:
    """Ask a hundred times at once, and for an answer on a subject of somebody else's."""
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    await site.nc.subscribe("_INBOX.flood.*", cb=heard.put)
    before = (await site.state()).position
    await site.nc.publish(SUBJECTS.status_get, b"\x00" * 4096, reply=SUBJECTS.authority)
    for number in range(100):
        await site.nc.publish(SUBJECTS.status_get, b"{" * 100, reply=f"_INBOX.flood.{number}")
    async with asyncio.timeout(10):
        answers = {(await heard.get()).subject for _ in range(100)}
    assert len(answers) > 1
    assert (await site.state()).position == before, "it went where it was to go"
