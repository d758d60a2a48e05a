"""Durable requests: left once, done once, whatever dies in between; their command line."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509

from services.asking import NoAnswerError
from services.cli.common import Exit
from services.client import CaClient
from services.refusals import RefusedError
from services.transport import TransportError
from tests.factories import csr as new_csr
from tests.factories import csr_pem, pem_of
from tests.scenarios.caledger import PROGRAMS, Caledger, Ran, alive
from tests.scenarios.checking import none_double, replay

FETCH_SECONDS = 30.0
REQUESTS = 200
ROUNDS = 3
IDENTITIES = 40


async def fetched(dev: Caledger, request_id: str, *whose: str) -> Ran:
    """Fetch as a person does: again while it is pending."""
    async with asyncio.timeout(FETCH_SECONDS):
        while True:
            ran = await dev.run("sign", *whose, "--fetch", request_id)
            if "pending" not in ran.err:
                return ran


def names_of(file: Path) -> tuple[list[str], list[str], list[str]]:
    """Return URIs, DNS names and addresses of a certificate."""
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        sans.get_values_for_type(x509.UniformResourceIdentifier),
        sans.get_values_for_type(x509.DNSName),
        [str(address) for address in sans.get_values_for_type(x509.IPAddress)],
    )


@pytest.mark.slow
async def test_the_command_line_asks_for_every_kind_of_identity_now_and_durably(
    tmp_path: Path,
) -> None:
    async with Caledger(tmp_path, "--signers", "1") as dev:
        for whose, stem in (
            (("agent", "node-1"), "agent.node-1"),
            (("gateway",), "gateway.dc1"),
            (("server",), "server.dc1"),
        ):
            ran = await dev.run("sign", *whose)
            assert ran.code == 0, ran
            assert (tmp_path / stem / f"{stem}-key.pem").exists()
        domain = names_of(tmp_path / "gateway.dc1" / "gateway.dc1.pem")[0][0].split("/")[2]
        assert names_of(tmp_path / "gateway.dc1" / "gateway.dc1.pem") == (
            [f"spiffe://{domain}/gateway/mesh/dc/dc1"],
            [],
            [],
        )
        assert names_of(tmp_path / "agent.node-1" / "agent.node-1.pem") == (
            [f"spiffe://{domain}/agent/client/dc/dc1/id/node-1"],
            ["localhost"],
            ["127.0.0.1", "::1"],
        )
        assert names_of(tmp_path / "server.dc1" / "server.dc1.pem") == (
            [f"spiffe://{domain}/agent/server/dc/dc1"],
            ["localhost", f"server.dc1.peering.{domain}"],
            ["127.0.0.1", "::1"],
        )
        ran = await dev.run("sign", "server", "--no-names", "--out", "alone")
        assert names_of(tmp_path / "alone" / "server.dc1.pem")[1:] == ([], []), ran

        # the durable form; its key waits until it is fetched
        ran = await dev.run("sign", "service", "web", "--durable")
        assert ran.code == 0, ran
        request_id = ran.out.strip()
        assert f"--fetch {request_id}" in ran.err
        assert not (tmp_path / "web" / "web.pem").exists()
        ran = await fetched(dev, request_id, "service", "web")
        assert ran.code == 0, ran
        key = (tmp_path / "web" / "web-key.pem").read_bytes()
        (tmp_path / "web" / "web.pem").unlink()
        ran = await fetched(dev, request_id, "service", "web")
        assert ran.code == 0, ran
        assert (tmp_path / "web" / "web-key.pem").read_bytes() == key
        assert sorted(file.name for file in (tmp_path / "web").iterdir()) == [
            "web-key.pem",
            "web-roots.pem",
            "web.pem",
        ]
        told = json.loads((await dev.run("sign", "gateway", "--durable", "--json")).out)
        ran = await fetched(dev, told["request_id"], "gateway")
        assert ran.code == 0, ran

        # a CSR made elsewhere, and one that is never signed
        uri = f"spiffe://{domain}/ns/default/dc/dc1/svc/db"
        for name, csr in (("good", csr_pem(uri=uri)), ("bad", csr_pem(uri=uri + "x"))):
            (tmp_path / f"{name}.csr").write_bytes(csr)
            arguments = ("--csr", f"{name}.csr", "--request-id", name, "--durable")
            ran = await dev.run("sign", "service", "db", *arguments)
            assert (ran.code, ran.out) == (0, f"{name}\n"), ran
        ran = await fetched(dev, "good", "service", "db")
        assert ran.code == 0, ran
        assert not (tmp_path / "db" / "db-key.pem").exists()
        for _ in range(2):
            ran = await fetched(dev, "bad", "service", "db")
            assert (ran.code, "refused: identity_mismatch" in ran.err) == (Exit.FAULT, True), ran
        ran = await dev.run("sign", "service", "db", "--fetch", "unknown")
        assert (ran.code, "refused: not_found" in ran.err) == (Exit.FAULT, True), ran
        ran = await dev.run("sign", "service", "db", "--fetch", "a", "--durable")
        assert ran.code == Exit.USAGE, ran
        ran = await dev.run("ledger", "verify")
        assert ran.code == 0, ran


async def left(client: CaClient, name: str, csr: str, request_id: str) -> None:
    """Leave a request, again until it is acknowledged."""
    while True:
        with suppress(NoAnswerError, RefusedError, TransportError):
            await client.submit(name, csr, request_id=request_id, timeout=2.0)
            return
        await asyncio.sleep(0.2)


@pytest.mark.slow
async def test_nothing_that_was_left_is_lost_or_done_twice_while_everything_is_killed(
    tmp_path: Path,
) -> None:
    """Goal: an acknowledged durable request gets exactly one certificate, whatever dies.

    Method: 200 requests of 40 services, one in twenty of which can never be signed, are left while
    every program (nats-server, all workers) is killed with kill -9 in any order, three times each;
    then the supervisor and everything at once, and it is started again. Each is acknowledged before
    its client goes on. Then each must be fetched by its id, and the ledger has each once.
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    acknowledged: list[int] = []
    dev = Caledger(tmp_path)
    await dev.start()
    try:
        client = await dev.client()
        domain = json.loads(await client.stored_roots())["TrustDomain"]

        async def leave(number: int) -> None:
            name = f"service-{number % IDENTITIES}"
            uri = f"spiffe://{domain}/ns/default/dc/dc1/svc/{name}"
            csr = pem_of(new_csr(uri=uri + ("-other" if number % 20 == 0 else "")))
            await left(client, name, csr.decode(), f"r-{number}")
            acknowledged.append(number)
            await asyncio.sleep(0.2)

        async def leave_all(first: int) -> None:
            for number in range(first, REQUESTS, 4):
                await leave(number)

        leaving = [asyncio.create_task(leave_all(first)) for first in range(4)]
        for program in chance.sample(PROGRAMS * ROUNDS, len(PROGRAMS) * ROUNDS):
            with suppress(FileNotFoundError, ProcessLookupError, ValueError):
                dev.kill(program)
            await asyncio.sleep(chance.uniform(0.1, 1.0))
        await asyncio.gather(*leaving)
        assert len(acknowledged) == REQUESTS

        pids = [dev.supervisor, *dev.pids().values()]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await dev.wait()
        await asyncio.sleep(0.2)
        assert not any(alive(pid) for pid in pids)
        await dev.close_clients()
        await dev.start()

        client = await dev.client()
        outcome = {number: await got(client, number) for number in acknowledged}
        refused = {number for number, code in outcome.items() if code is not None}
        assert refused == set(range(0, REQUESTS, 20))
        assert {outcome[number] for number in refused} == {"identity_mismatch"}
        ledger = await replay(dev)
        none_double(ledger)
        assert len(ledger.leaves) == REQUESTS - len(refused)
        ran = await dev.run("ledger", "verify")
        assert ran.code == 0, ran
    except BaseException:
        print(dev.log[-8000:])
        raise
    finally:
        await dev.stop()


async def got(client: CaClient, number: int) -> str | None:
    """Return why a request was refused, None once it has its certificate."""
    async with asyncio.timeout(FETCH_SECONDS):
        while True:
            try:
                await client.lookup(f"service-{number % IDENTITIES}", request_id=f"r-{number}")
            except RefusedError as error:
                if error.code not in ("pending", "not_ready", "rate_limited"):
                    return error.code
            else:
                return None
            await asyncio.sleep(0.05)
