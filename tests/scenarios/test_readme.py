"""What the README shows works as it stands there."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args

import pytest
import pytest_asyncio

from events.leaves import RefusalCode
from tests.scenarios import examples
from tests.scenarios.caledger import Caledger, clean_environment
from tests.scenarios.examples import example

README = examples.README.read_text()

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("readme")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dev(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Caledger]:
    async with Caledger(tmp_path_factory.mktemp("readme")) as running:
        yield running


async def out_of(dev: Caledger, *command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=dev.folder,
        env={
            **clean_environment(),
            "CALEDGER_DATA": str(dev.data),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, out.decode()
    return out.decode()


async def test_the_five_minutes_end_with_a_verified_certificate(dev: Caledger) -> None:
    out = await out_of(dev, "bash", "-euc", example(examples.README, "five-minutes.sh"))

    assert "web/web.pem: OK" in out
    assert "no faults" in out


async def test_the_python_client_signs_watches_and_replays(dev: Caledger) -> None:
    (dev.folder / "client.py").write_text(example(examples.README, "client.py"))

    out = await out_of(dev, sys.executable, "client.py")
    again = await out_of(dev, sys.executable, "client.py")

    assert again.startswith("serial ")
    assert re.search(r"^serial [0-9a-f:]{50} at sequence \d+$", out, re.MULTILINE)
    assert re.search(r"^trusted: \['[0-9a-f:]{59}'\]$", out, re.MULTILINE)
    assert out.count("caledger.leaf.issued.v1") >= 1
    assert "1 ['caledger.leadership.acquired.v1']" in out


async def test_a_csr_made_with_openssl_is_signed(dev: Caledger) -> None:
    await out_of(dev, "bash", "-euc", example(examples.README, "csr.sh"))

    signed = await dev.run("sign", "service", "api", "--csr", "api.csr")

    assert signed.code == 0, signed


async def test_the_ca_is_administrated_as_shown(dev: Caledger) -> None:
    await out_of(dev, "bash", "-euc", example(examples.README, "five-minutes.sh"))

    out = await out_of(dev, "bash", "-euc", example(examples.README, "administrate.sh"))

    assert "after/web.pem: OK" in out
    assert "certificate revoked" in out


async def test_a_durable_request_is_fetched_as_shown(dev: Caledger) -> None:
    await out_of(dev, "bash", "-euc", example(examples.README, "durable.sh"))

    assert (dev.folder / "batch" / "batch.pem").exists()


async def test_the_users_shown_are_added_and_shut_out(dev: Caledger) -> None:
    out = await out_of(dev, "bash", "-euc", example(examples.README, "users.sh"))

    assert "shop is shut out" in out


async def test_every_option_is_named_somewhere() -> None:
    """Those of whole commands; each command's --help says what they do."""
    from typer.main import get_command

    from services.cli.app import app

    def options(command: object) -> set[str]:
        own = {
            name
            for option in getattr(command, "params", [])
            if not getattr(option, "hidden", False)
            for name in option.opts
            if name.startswith("--")
        }
        return own.union(*(options(one) for one in getattr(command, "commands", {}).values()))

    unnamed = {name for name in options(get_command(app)) if name not in README}

    assert unnamed <= {"--install-completion", "--show-completion", "--help"}


async def test_every_error_code_is_explained() -> None:
    assert [code for code in get_args(RefusalCode) if f"`{code}`" not in README] == []


async def test_every_file_of_a_node_is_explained(dev: Caledger) -> None:
    """The settings table says of each what it is, and what is lost with it."""
    found = {
        path.name
        for folder in (dev.data, dev.data / "nats", dev.data / "keys")
        for path in folder.iterdir()
    }
    unexplained = {name for name in found if name not in README}
    sidecars = {name for name in unexplained if name.startswith("projections.sqlite-")}

    assert unexplained - sidecars == set()
