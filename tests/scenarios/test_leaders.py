"""Who leads: fail-over when a node dies, deposed root-managers, two of everything at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from events.authority import CAConfigured, RootPublished
from events.envelope import Recorded
from events.leadership import LeadershipAcquired
from events.signers import SignersAssigned
from services.cli.common import find
from services.client import CaClient
from services.readiness import until_ready
from tests.scenarios import reading
from tests.scenarios.caledger import Caledger, run
from tests.scenarios.second_node import Node, Server, beside, only_server, stands_still, until

LEASE_SECONDS = 3
LEADERS = ("leader-elector", "root-manager")


async def admin(data: Path) -> CaClient:
    target = find(data=data, context=None, user="admin", datacenter=None, environment={})
    return await CaClient.connect(
        target.servers, datacenter=target.datacenter, creds=target.creds, ca=target.ca
    )


async def acquired_by(client: CaClient, node: str) -> Recorded:
    """Return the event with which this node took the lead, once there is one."""
    async with asyncio.timeout(30):
        while True:
            for each in await reading.recorded(client):
                if isinstance(each.event, LeadershipAcquired) and each.event.node == node:
                    return each
            await asyncio.sleep(0.05)


async def assigned_to(client: CaClient, node: str, *, slots: Sequence[int]) -> None:
    """Return once the last table of signers has just these slots of a node."""
    async with asyncio.timeout(30):
        while True:
            tables = await reading.events_of(client, SignersAssigned)
            if tables and [a.slot for a in tables[-1].assignments if a.node == node] == [*slots]:
                return
            await asyncio.sleep(0.05)


async def both_know_the_roots(client: CaClient, *pids: int) -> None:
    """Return once two root-managers answer with the same roots: each does, whether it leads or not.

    One that was stopped is back then, and has folded the authority. Each is asked while the other
    is stopped: of two answers the server lets the first through to CLIENTS.
    """
    async with asyncio.timeout(30):
        while True:
            answers = [await roots_without(client, pid) for pid in pids]
            if answers[0] == answers[1]:
                return


async def roots_without(client: CaClient, pid: int) -> bytes:
    """Return the roots, from somebody else than this process."""
    os.kill(pid, signal.SIGSTOP)
    try:
        await stands_still(pid)
        return await client.roots(timeout=30)
    finally:
        os.kill(pid, signal.SIGCONT)


def old_after_new(events: Sequence[Recorded], since: Recorded) -> list[Recorded]:
    """Return what was recorded under an older term after a newer one had begun."""
    assert isinstance(since.event, LeadershipAcquired)
    return [
        each
        for each in events
        if each.sequence > since.sequence
        and each.envelope.term is not None
        and each.envelope.term < since.event.term
    ]


@pytest.mark.slow
async def test_another_node_takes_over_from_a_leader_that_is_killed(tmp_path: Path) -> None:
    """kill -9 of leader-elector and root-manager, not started again: the second node leads within
    two leases, under a higher term, and no request waits for it.
    """
    async with (
        Caledger(tmp_path, no_restart=LEADERS) as dev,
        beside(dev.data, tmp_path / "n2", "n2") as second,
    ):
        for worker in (*LEADERS, "replicator"):
            await second.start(worker)
        client = await dev.client()
        asker = await reading.Asker.of(client)
        async with asker.all_the_while("during"):
            await until(lambda: "following the ledger" in second.log, "the second node runs")
            loop = asyncio.get_running_loop()
            began = loop.time()
            for program in LEADERS:
                dev.kill(program)
            before = len(asker.waits)
            taken = await acquired_by(client, "n2")
            took = loop.time() - began
            answered = len(asker.waits) - before
            # What leads now really works: it takes a new signer in.
            await second.start("signer")
            await assigned_to(client, "n2", slots=[0])

        verified = await dev.run("ledger", "verify")
        terms = await reading.terms(client)
        await dev.stop(signal.SIGKILL)  # its signers would wait for a leader that is gone
        print(f"another node led after {took:.2f} s (lease {LEASE_SECONDS} s)")
        print(f"{answered} requests answered meanwhile, the slowest in {max(asker.waits):.3f} s")
        assert took < 2 * LEASE_SECONDS
        assert [term for _, term in terms] == [1, 2]
        assert isinstance(taken.event, LeadershipAcquired)
        assert answered > 5
        assert verified.code == 0, verified


@pytest.mark.slow
@pytest.mark.parametrize("when", ["between decision and append", "with nothing to do"])
async def test_a_root_manager_that_was_stopped_while_another_node_took_over_records_nothing(
    tmp_path: Path, when: str
) -> None:
    """SIGSTOP of the leader's root-manager, kill -9 of its elector, SIGCONT once another leads.

    Stopped by a breakpoint between decision and append, its first try is an append decided under
    the old term; stopped with nothing to do, it folds first. Either way the ledger shows nothing of
    the old term after the new one, and signing goes on.
    """
    armed = tmp_path / "armed"
    armed.touch()  # not yet: the breakpoint works once, when this is gone
    decided = when == "between decision and append"
    breakpoint_ = {
        "CALEDGER_TESTING_STOP_AT": "root_manager.decided=STOP",
        "CALEDGER_TESTING_ONCE": str(armed),
    }
    async with (
        Caledger(tmp_path, environment=breakpoint_, no_restart=LEADERS) as dev,
        beside(dev.data, tmp_path / "n2", "n2") as second,
    ):
        client = await dev.client()
        asker = await reading.Asker.of(client)
        old = dev.pid("root-manager")
        async with asker.all_the_while("during"):
            if decided:
                armed.unlink()
            else:
                os.kill(old, signal.SIGSTOP)
            joining = await second.start("signer", slot=1)  # a decision is due
            await second.start("replicator")
            await stands_still(old)
            assert armed.exists()
            dev.kill("leader-elector")
            _, new = [await second.start(worker) for worker in LEADERS]
            taken = await acquired_by(client, "n2")
            await assigned_to(client, "n2", slots=[1])
            os.kill(old, signal.SIGCONT)
            await both_know_the_roots(client, old, new.pid)
            # More to decide, for whoever thinks that it may: it has folded again by now.
            joining.terminate()
            await second.ended(joining)
            await assigned_to(client, "n2", slots=[])
            await second.start("signer", slot=2)
            await assigned_to(client, "n2", slots=[2])

        recorded = await reading.recorded(client)
        verified = await dev.run("ledger", "verify")
        assert dev.pid("root-manager") == old
        await dev.stop(signal.SIGKILL)  # its signers would wait for a leader that is gone
        print(f"{len(asker.waits)} requests, the slowest answered in {max(asker.waits):.3f} s")
        assert old_after_new(recorded, taken) == []
        assert any(
            isinstance(each.event, SignersAssigned) and each.envelope.term == 2 for each in recorded
        )
        assert verified.code == 0, verified


async def made_once(server: Server) -> None:
    """Wait until there is an authority, and check that it was made once, by one root-manager."""
    client = await admin(server.data)
    try:
        async with asyncio.timeout(30):
            await client.roots(timeout=30)
        recorded = await reading.recorded(client)
    finally:
        await client.close()
    kinds = [type(each.event) for each in recorded]
    assert kinds.count(CAConfigured) == 1
    assert kinds.count(RootPublished) == 1
    verified = await run("ledger", "verify", "--data", server.data, cwd=server.data)
    assert verified.code == 0, verified


async def test_two_nodes_started_at_once_on_an_empty_ledger_make_one_root(tmp_path: Path) -> None:
    """Both electors and both root-managers start together; the ledger holds one authority, of
    whoever leads, and both answer with it.
    """
    async with (
        only_server(tmp_path) as server,
        Node(server.data) as first,
        beside(server.data, tmp_path / "n2", "n2") as second,
    ):
        started = [await node.start(worker) for worker in LEADERS for node in (first, second)]
        await made_once(server)

        client = await admin(server.data)
        assert len(await reading.terms(client)) == 1
        await client.close()
        assert [process.returncode for process in started] == [None] * 4
        assert (first.log + second.log).count("initialized primary datacenter CA") == 1


async def test_two_root_managers_of_one_node_that_both_decided_make_one_root(
    tmp_path: Path,
) -> None:
    """Both are stopped when each has made keys and decided on the empty ledger, and go on together:
    one append is refused, and who it was folds, decides again and does nothing.
    """
    stop = {"CALEDGER_TESTING_STOP_AT": "root_manager.decided=STOP"}  # each once
    async with only_server(tmp_path) as server, Node(server.data) as node:
        both = [
            await node.start(
                "root-manager",
                environment={**stop, "CALEDGER_TESTING_ONCE": str(tmp_path / f"stopped-{number}")},
            )
            for number in range(2)
        ]
        await node.start("leader-elector")
        for process in both:
            await stands_still(process.pid)
        for process in both:
            os.kill(process.pid, signal.SIGCONT)
        client = await admin(server.data)
        await both_know_the_roots(client, *(process.pid for process in both))
        await client.close()
        await made_once(server)

        assert [process.returncode for process in both] == [None, None]
        assert node.log.count("initialized primary datacenter CA") == 1


@pytest.mark.slow
async def test_an_authority_that_was_decided_by_a_deposed_node_is_not_recorded(
    tmp_path: Path,
) -> None:
    """The first leader stops between deciding the new authority and appending it; another node
    takes the lead and makes one; the first goes on: its append is refused.
    """
    stop = {"CALEDGER_TESTING_STOP_AT": "root_manager.decided=STOP"}
    async with (
        only_server(tmp_path) as server,
        Node(server.data) as first,
        beside(server.data, tmp_path / "n2", "n2") as second,
    ):
        elector = await first.start("leader-elector")
        old = await first.start("root-manager", environment=stop)
        await stands_still(old.pid)
        elector.kill()
        _, new = [await second.start(worker) for worker in LEADERS]
        await made_once(server)
        old.send_signal(signal.SIGCONT)
        client = await admin(server.data)
        await both_know_the_roots(client, old.pid, new.pid)
        for worker in ("replicator", "signer"):
            await second.start(worker)
        await until_ready(client)
        terms = await reading.terms(client)
        taken = await acquired_by(client, "n2")
        recorded = await reading.recorded(client)
        await client.close()

        await made_once(server)
        assert [node for node, _ in terms] == [first.name, "n2"]
        assert old_after_new(recorded, taken) == []
        assert old.returncode is None
        assert "initialized primary datacenter CA" not in first.log
