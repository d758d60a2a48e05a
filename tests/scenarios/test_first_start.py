"""A first start that is cut off at any step is finished, or undone, by the next one."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Final

import pytest

from events.authority import CAConfigured, KeyCreated, RootPublished
from events.subjects import Subjects
from services import config
from services.keys.buckets import root_keys, signing_keys
from tests.nats import free_port
from tests.scenarios import reading
from tests.scenarios.caledger import Caledger, run

SERVICES: Final = Path(__file__).parents[2] / "services"

SEEDS: Final = (
    *("operator", "operator-signing", "ca", "ca-signing", "workers", "workers-signing"),
    *("clients", "clients-signing", "sys", "sys-signing"),
)
TOKENS: Final = ("operator", "sys", "ca", "workers", "clients")
CHAINED: Final = (
    *(f"init.nats_seed_{name}" for name in SEEDS),
    *(f"init.nats_token_{name}" for name in TOKENS),
)
INIT: Final = (
    *("init.pinned", "init.keks", "init.nats_accounts", "init.nats_workers", "init.nats_users"),
    *("init.configured", "init.streams_made"),
)
WORKERS: Final = {
    "leader_elector.lease_won": "leader-elector",
    "leader_elector.acquired": "leader-elector",
    "root_manager.keys_created": "root-manager",
    "root_manager.decided": "root-manager",
    "root_manager.appended": "root-manager",
    "root_manager.roots_published": "root-manager",
    "replicator.rows_written": "replicator",
}
LATER: Final = (  # when there is a root already
    *("signer.", "submission.", "user.", "rotation.", "renewal.", "revocation.", "crls.", "keys."),
    *("roots.", "reissues."),
)


def test_every_step_of_a_first_start_is_here() -> None:
    """The names in the code, `init`'s and those of the workers that run before there is a root."""
    found = {
        step
        for file in SERVICES.rglob("*.py")
        for step in re.findall(r'reached\(f?"([^"]+)"\)', file.read_text())
        if not step.startswith(LATER)
    }

    assert found == {*INIT, *WORKERS, "init.nats_seed_{name}", "init.nats_token_{name}"}


async def becomes_ready(dev: Caledger) -> None:
    """Check, of one that has just said that it is ready, that there is one authority."""
    asker = await reading.Asker.of(await dev.client())
    reply = await asker.sign("web", "first")
    kinds = [type(each.event) for each in await reading.recorded(asker.client)]
    verified = await dev.run("ledger", "verify")

    assert reply["ServiceURI"] == asker.uri("web")
    assert kinds.count(CAConfigured) == 1
    assert kinds.count(RootPublished) == 1
    assert verified.code == 0, verified


async def killed_at(step: str, folder: Path, port: int) -> None:
    """Run `caledger init` up to a step."""
    killed = await run(
        *("init", "--data", folder / "data", "--nats-port", str(port)),
        *("--csr-max-per-second", "0"),
        cwd=folder,
        environment={"CALEDGER_TESTING_STOP_AT": f"{step}=KILL"},
    )
    assert killed.code == -signal.SIGKILL, (step, killed)


@pytest.mark.slow
@pytest.mark.parametrize("step", INIT)
async def test_an_init_killed_at_a_step_is_finished_by_dev(tmp_path: Path, step: str) -> None:
    """kill -9 at one step of `init`; `dev` on the same folder becomes ready, with one root."""
    await killed_at(step, tmp_path, free_port())

    async with Caledger(tmp_path) as dev:
        await becomes_ready(dev)


@pytest.mark.slow
async def test_an_init_killed_at_each_key_and_token_is_finished_by_dev(tmp_path: Path) -> None:
    """kill -9 after each seed and each token, one after the other; each start gets further."""
    port = free_port()
    for step in CHAINED:
        await killed_at(step, tmp_path, port)

    async with Caledger(tmp_path) as dev:
        await becomes_ready(dev)


@pytest.mark.slow
@pytest.mark.parametrize("step", WORKERS)
async def test_a_worker_killed_at_a_step_of_its_first_start_is_followed_by_one_that_finishes(
    tmp_path: Path, step: str
) -> None:
    """kill -9 of the worker at its step, once; its successor makes exactly one authority."""
    once = tmp_path / "once"
    stop = {"CALEDGER_TESTING_STOP_AT": f"{step}=KILL", "CALEDGER_TESTING_ONCE": str(once)}
    async with Caledger(tmp_path, environment=stop) as dev:
        assert once.exists(), "no process came to that step"
        assert re.search(rf"^{WORKERS[step]} +\| was ended by SIGKILL", dev.log, re.MULTILINE)
        await becomes_ready(dev)


async def test_a_root_manager_killed_when_its_keys_are_made_makes_others(tmp_path: Path) -> None:
    """The keys of the first try stay sealed, and no event names them: nobody will ever use them,
    and they are destroyed an hour later (tests/integration/test_root_manager.py has such a clock).
    """
    once = tmp_path / "once"
    stop = {
        "CALEDGER_TESTING_STOP_AT": "root_manager.keys_created=KILL",
        "CALEDGER_TESTING_ONCE": str(once),
    }
    async with Caledger(tmp_path, environment=stop) as dev:
        assert once.exists()
        await becomes_ready(dev)
        node = config.load(dev.data / "caledger.toml")
        subjects = Subjects(node.datacenter)
        async with reading.as_worker(dev.data, "root-manager") as nc:
            stores = (root_keys(nc, subjects, node.keys), signing_keys(nc, subjects, node.keys))
            stored = [{key.key_id for key in await store.stored()} for store in stores]
        recorded = await reading.events_of(await dev.client(), KeyCreated)

        assert [len(keys) for keys in stored] == [2, 2]
        assert [key.purpose for key in recorded] == ["root", "signing"]
        assert all(key.key_id in keys for key, keys in zip(recorded, stored, strict=True))
