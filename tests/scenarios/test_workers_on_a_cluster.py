"""The real workers and the real client on three servers that are killed, paused and deposed."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509

from projections import store
from tests.nats import free_port
from tests.scenarios.caledger import run
from tests.scenarios.checking import check, projections_are_those_built_anew
from tests.scenarios.cluster import Cluster
from tests.scenarios.load import Answer, Load, endless, requests
from tests.scenarios.nemesis import FAULTS, Nemesis

TIMES = 4  # each fault
ANSWERS_BETWEEN_FAULTS = 50
RECOVERY_SECONDS = 90.0  # on a machine that others use as well
DEADLINE_SECONDS = 90.0  # of one request
ASKED_AGAIN = 300
AWAY = "exit code 3"  # "the world failed: start it again", the only ending that servers may cause


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_no_fault_of_a_server_costs_more_than_time(tmp_path: Path) -> None:
    """Goal: on three servers no acknowledged certificate is lost or doubled; nobody has to help.

    Method: docs/cluster.md is followed to the letter. While 16 clients ask for certificates, each
    until it is answered (12 that hear every answer, 4 by `CaClient.sign` as others use it), servers
    are killed (the leader of the ledger's stream, a follower), the leader is stopped for a while,
    and deposed; each 4 times, in any order, and after each the clients must get on. Afterwards
    every request is answered and stands on the ledger once, byte for byte; the same ids asked again
    get the same; the auditor finds no fault; the projections equal those that are built anew; and
    workers have ended, if at all, as who lost its server may, and run.
    """
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    async with Cluster(tmp_path) as cluster, Nemesis.of(cluster, seed) as nemesis:
        loads = [
            await Load.on(
                cluster,
                endless(requests(200, identities=200, label=label)),
                clients=clients,
                deadline=DEADLINE_SECONDS,
                as_ours=as_ours,
            )
            for label, clients, as_ours in (("l", 12, False), ("c", 4, True))
        ]
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as tasks:
            for load in loads:
                tasks.create_task(load.run())
            await _answered(loads)
            for fault in nemesis.plan(TIMES):
                await nemesis.do(fault)
                await _answered(loads)
            for load in loads:
                load.enough()
        seconds = asyncio.get_running_loop().time() - began
        print(f"{dict(nemesis.done)} in {seconds:.0f} s; another server led after {nemesis.moved}")
        for load in loads:
            print(load.figures())
        print(f"workers ended: {dict(cluster.endings())}")

        for load in loads:
            load.all_answered()
        assert nemesis.done == dict.fromkeys(FAULTS, TIMES)
        ledger = await check(cluster, *loads)
        await _asked_again_all_get_the_same(cluster, [a for load in loads for a in load.answers])
        await _projections_reach(cluster, ledger.entries)
        await projections_are_those_built_anew(cluster, cluster.node.projections_file)
        assert {ending.partition(": ")[2] for ending in cluster.endings()} <= {AWAY}
        assert cluster.running()


async def test_init_writes_what_each_server_can_be_started_with_wherever_that_is(
    tmp_path: Path,
) -> None:
    """Goal: step 1 of docs/cluster.md serves all three machines, whatever folder it was run in."""
    hosts = [f"127.0.0.{number}" for number in (1, 2, 3)]
    servers = ",".join(f"tls://{host}:{free_port()}" for host in hosts)

    made = await run("init", "--data", "data", "--server", servers, cwd=tmp_path)

    assert made.code == 3, made
    nats = tmp_path / "data" / "nats"
    certificate = x509.load_pem_x509_certificate((nats / "tls" / "server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(map(ip_address, hosts)) <= set(names.get_values_for_type(x509.IPAddress))
    paths = re.findall(r'"([^"]+[.]pem)"', (nats / "server.conf").read_text())
    assert sorted(paths) == sorted(str(file) for file in (nats / "tls").glob("*.pem"))


async def _answered(loads: Sequence[Load]) -> None:
    """Wait until the clients have got on: the cluster serves."""
    async with asyncio.timeout(RECOVERY_SECONDS):
        await asyncio.gather(*(load.answered(ANSWERS_BETWEEN_FAULTS) for load in loads))


async def _asked_again_all_get_the_same(cluster: Cluster, answers: Sequence[Answer]) -> None:
    some = answers[:: max(1, len(answers) // ASKED_AGAIN)]
    again = await Load.on(cluster, (a.request for a in some), clients=8, as_ours=True)
    await again.run()
    again.all_answered()
    first = {answer.request: answer.issued for answer in some}
    assert {answer.request: answer.issued for answer in again.answers} == first


async def _projections_reach(cluster: Cluster, position: int) -> None:
    async with asyncio.timeout(RECOVERY_SECONDS):
        while store.read_meta(cluster.node.projections_file).position < position:
            await asyncio.sleep(0.05)
