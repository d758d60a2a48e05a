"""What a user is told when something is away, and that nothing is left in between."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.node_file import config_file
from tests.factories import WEB, csr
from tests.nats import free_port
from tests.scenarios.caledger import WORKERS, Caledger, clean_environment, run

STOP_SECONDS = 5.0


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """Stop a process for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("worker", sorted({name.rstrip("-01") for name in WORKERS}))
async def test_a_worker_that_waits_for_a_server_stops_at_the_first_sigterm(
    tmp_path: Path, worker: str
) -> None:
    data = tmp_path / "data"
    made = await run("init", "--data", data, "--nats-port", str(free_port()), cwd=tmp_path)
    assert made.code == 0, made
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "run", worker, "--config", str(config_file(data))),
        env=clean_environment(),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(20):
        while b"waiting for nats-server" not in (line := await process.stderr.readline()):
            assert line, "it has ended"

    process.terminate()
    async with asyncio.timeout(STOP_SECONDS):
        await process.communicate()

    assert process.returncode == 0


async def test_a_ledger_that_was_lost_is_never_made_again_and_init_says_so(tmp_path: Path) -> None:
    data = tmp_path / "data"
    options = ("--data", data, "--nats-port", str(free_port()))
    assert (await run("init", *options, cwd=tmp_path)).code == 0
    shutil.rmtree(data / "nats" / "jetstream")

    init = await run("init", *options, cwd=tmp_path)
    dev = await run("dev", *options, cwd=tmp_path)

    assert (init.code, dev.code) == (1, 1)
    for told in (init.err, dev.err):
        assert "does not hold CA_LEDGER_dc1" in told
        assert "put the folder back" in told
    assert not (data / "nats" / "jetstream").exists()


@pytest.mark.slow
async def test_a_user_who_is_revoked_while_the_server_is_away_is_listed_as_revoked(
    tmp_path: Path,
) -> None:
    async with Caledger(tmp_path) as dev:
        assert (await dev.run("user", "add", "shop", "--sign", "service.shop")).code == 0

    revoked = await dev.run("user", "revoke", "shop")
    listed = (await dev.run("user", "list")).out

    assert revoked.code == 3, revoked
    (line,) = [line for line in listed.splitlines() if line.startswith("revoked ")]
    assert " shop " in line
    await dev.start()
    try:
        assert (await dev.run("sign", "service", "shop", "--user", "shop")).code == 4
        assert (await dev.run("user", "revoke", "shop")).code == 0
        assert not (dev.data / "nats" / "context" / "shop.creds").exists()
    finally:
        await dev.stop()


@pytest.mark.slow
async def test_who_is_away_or_forbidden_is_told_in_time_and_by_the_right_code(
    tmp_path: Path,
) -> None:
    """A server that takes connections and says nothing; a root-manager that stands still; a user
    who is shut out while watching; a refusal, as JSON.
    """
    async with Caledger(tmp_path) as dev:
        loop = asyncio.get_running_loop()
        with paused(dev.pid("root-manager")):
            signed = await dev.run("sign", "service", "web")
        key = await dev.run("sign", "service", "web", "--csr", "none.csr", "--json")
        (dev.folder / "bad.csr").write_bytes(csr(uri=WEB))
        refused = await dev.run("sign", "service", "web", "--csr", "bad.csr", "--json")
        assert (await dev.run("user", "add", "shop", "--sign", "service.shop")).code == 0
        watching = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.cli", "roots", "watch", "--json", "--user", "shop"),
            env={**clean_environment(), "CALEDGER_DATA": str(dev.data)},
            stdout=asyncio.subprocess.PIPE,
        )
        assert watching.stdout is not None
        assert await watching.stdout.readline(), "it shows what there is"
        assert (await dev.run("user", "revoke", "shop")).code == 0
        await watching.communicate()
        with paused(dev.pid("nats-server")):
            began = loop.time()
            silent = await dev.run("sign", "service", "web", "--timeout", "2")
            took = loop.time() - began

        assert silent.code == 3, silent
        assert "no answer" in silent.err
        assert took < 5
        assert signed.code == 0, signed
        assert key.code == 2, key
        assert refused.code == 1, refused
        assert json.loads(refused.out)["error"]["code"] == "wrong_trust_domain"
        assert watching.returncode == 4
