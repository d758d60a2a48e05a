"""One user sends all that the server takes; the others get their certificates all the same."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio
from ulid import ULID

from tests.scenarios import reading
from tests.scenarios.caledger import PROGRAMS, Caledger

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

ROOT: Final = Path(__file__).parents[2]
FLOOD_SECONDS: Final = 8.0
ANSWER_SECONDS: Final = 8.0  # of the client's 10; alone it takes 10 ms


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dev(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Caledger]:
    """One `caledger dev` with one signer, which hears the flood as well as the rest."""
    async with Caledger(tmp_path_factory.mktemp("floods"), "--signers", "1") as running:
        added = await running.run("user", "add", "shop", "--sign", "service.junk")
        assert added.code == 0, added
        yield running


@pytest.mark.parametrize("kind", ["garbage", "look-ups", "headers"])
async def test_f16_a_flood_of_one_user_costs_others_latency_and_the_signer_nothing(
    dev: Caledger, kind: str
) -> None:
    """Goal: refused and repeated requests, and header blocks of 900 kB, neither end the signer (its
    lease, its appends) nor keep another user's certificate for longer than our client waits.

    Method: `shop`, who may only ask for service junk, sends for eight seconds as fast as the server
    takes it; meanwhile the admin asks for certificates of service web, one after the other.
    """
    asker = await reading.Asker.of(await dev.client())
    loop = asyncio.get_running_loop()
    running = {program: dev.pid(program) for program in PROGRAMS if program != "signer-1"}
    flood = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.scenarios.flood", f"nats://127.0.0.1:{dev.port}"),
        *(str(dev.data / "nats" / "context" / "shop.creds"), kind, str(FLOOD_SECONDS)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    waits = []
    while flood.returncode is None:
        began = loop.time()
        await asker.sign("web", str(ULID()), timeout=ANSWER_SECONDS)
        waits.append(loop.time() - began)
        await asyncio.sleep(0.1)
    out, _ = await flood.communicate()

    print(
        f"{kind}: {int(out) / FLOOD_SECONDS:.0f} a second; {len(waits)} certificates meanwhile, "
        f"p50 {sorted(waits)[len(waits) // 2]:.2f} s, longest {max(waits):.2f} s"
    )
    assert flood.returncode == 0
    assert len(waits) > 1
    assert {program: dev.pid(program) for program in running} == running
