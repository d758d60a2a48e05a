"""The replicator on a real nats-server: killed, cut off, and as fast as signers need it."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.aio.client import Client

from events.envelope import Stored
from events.ledger import JetStreamLedger
from projections import disk, store
from projections.issuance import IssuanceReader
from projections.verify import Verifier
from services import streams
from services.replicator.rebuild import rebuild
from services.replicator.worker import PACE_SECONDS, replicate
from tests.nats import NatsServer
from tests.unit.projections.test_store import damage
from tests.whole_ledger import SUBJECTS, WholeLedger, small_ledger

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 20.0


@pytest.fixture
async def server(nats_server: NatsServer, nc: Client) -> NatsServer:
    """A server with an empty ledger."""
    await streams.create(nc, SUBJECTS, replicas=1)
    return nats_server


async def append(nc: Client, stored: Iterable[Stored]) -> None:
    """Store entries as they are, right or wrong."""
    for each in stored:
        await nc.request(each.subject, each.data, timeout=5)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def following(nc: Client, path: Path) -> AsyncIterator[IssuanceReader]:
    """A replicator in this process, and a reader of its file."""
    stop = asyncio.Event()
    ledger = JetStreamLedger(nc, SUBJECTS)
    task = asyncio.create_task(replicate(ledger, datacenter="dc1", path=path, stop=stop))
    reader = IssuanceReader(path)
    try:
        yield reader
    finally:
        stop.set()
        reader.close()
        await task


@asynccontextmanager
async def process(
    server: NatsServer, path: Path, *, environment: Mapping[str, str] | None = None
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A replicator as a process of its own."""
    running = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.replicator_process", server.url, str(path)],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.wait(timeout=10)


async def test_kill_9_between_the_rows_and_the_commit_costs_nothing(
    server: NatsServer, nc: Client, tmp_path: Path
) -> None:
    ledger = JetStreamLedger(nc, SUBJECTS)
    path = tmp_path / "projections.sqlite"
    whole = small_ledger().stored
    async with process(server, path):
        await append(nc, whole[:5])
        reader = IssuanceReader(path)
        await until(lambda: reader.position() == 5)

    killed = {"CALEDGER_TESTING_STOP_AT": "replicator.rows_written=KILL"}
    async with process(server, path, environment=killed) as running:
        await append(nc, whole[5:])
        await until(lambda: running.poll() is not None)
        assert running.returncode == -signal.SIGKILL
    assert reader.position() == 5
    assert reader.counts().leaves == 0

    async with process(server, path) as running:
        await until(lambda: reader.position() == len(whole))
        running.terminate()
        await until(lambda: running.poll() is not None)
        assert running.returncode == 0
    reader.close()
    live = list(store.dump(path))
    await rebuild(ledger, datacenter="dc1", path=tmp_path / "rebuilt")
    assert list(store.dump(tmp_path / "rebuilt")) == live


@pytest.mark.parametrize("table", ["meta", "sqlite_autoindex_event_ids_1", "leaves"])
async def test_a_file_that_was_damaged_is_made_anew(
    server: NatsServer, nc: Client, tmp_path: Path, table: str
) -> None:
    path = tmp_path / "projections.sqlite"
    whole = small_ledger()
    await append(nc, whole.stored)
    async with following(nc, path) as reader:
        await until(lambda: reader.position() == whole.last)
    damage(path, table)

    async with process(server, path) as running:
        whole.issue("web", request_id="r-new", signing_key=3)
        await append(nc, whole.stored[-1:])
        await until(lambda: running.poll() is not None or position(path) == whole.last)
        assert running.poll() is None

    await rebuild(JetStreamLedger(nc, SUBJECTS), datacenter="dc1", path=tmp_path / "rebuilt")
    assert list(store.dump(path)) == list(store.dump(tmp_path / "rebuilt"))


def position(path: Path) -> int:
    """How far a file is, 0 while it cannot be read."""
    try:
        return store.read_meta(path).position
    except disk.ProjectionFileError:
        return 0


async def test_a_replicator_survives_the_loss_of_the_server(
    server: NatsServer, nc: Client, tmp_path: Path
) -> None:
    whole = small_ledger().stored
    other = await server.client()
    async with following(nc, tmp_path / "p") as reader:
        await append(other, whole[:5])
        await until(lambda: reader.position() == 5)
        server.kill()
        assert reader.position() == 5
        server.start()
        await server.ready()
        await append(await server.client(), whole[5:])
        await until(lambda: reader.position() == len(whole))


async def test_a_lone_entry_is_in_the_file_without_waiting_for_a_tick(
    server: NatsServer, nc: Client, tmp_path: Path
) -> None:
    """Signers that take over a partition wait for it. A tick a second is only for lost wakes."""
    held = WholeLedger()
    held.begin()
    other = await server.client()
    waits = []
    entries = 20
    async with following(nc, tmp_path / "p") as reader:
        await append(other, held.stored)
        await until(lambda: reader.position() == held.last)
        began = time.perf_counter()
        for number in range(entries):
            await asyncio.sleep(1.5 * PACE_SECONDS)  # quiet
            held.issue("web", request_id=f"r-{number}")
            start = time.perf_counter()
            await append(other, held.stored[-1:])
            await until(lambda: reader.position() == held.last)
            waits.append(time.perf_counter() - start)
        took = time.perf_counter() - began
    median = statistics.median(waits)
    print(f"in the file after {1000 * median:.1f} ms, worst {1000 * max(waits):.1f} ms")

    assert median < 0.5
    assert took < entries - 1, "each was found by a tick: there is one a second"


async def test_what_the_server_holds_is_verified_as_what_was_written(
    server: NatsServer, nc: Client
) -> None:
    whole = small_ledger().stored
    await append(nc, whole)
    ledger = JetStreamLedger(nc, SUBJECTS)
    verifier = Verifier("dc1")

    read = await ledger.read(0)

    assert [each.data for each in read] == [each.data for each in whole]
    assert [fault for each in read for fault in verifier.check(each)] == []
    assert verifier.finish(last_sequence=await ledger.last_sequence()) == []
