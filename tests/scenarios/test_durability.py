"""What must not be worked on is refused: servers that lose writes, keys that open nothing."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from events.subjects import Subjects
from services import streams
from services.setup_node import server_conf
from tests.nats import free_port
from tests.scenarios import reading
from tests.scenarios.caledger import Caledger, run
from tests.scenarios.second_node import Node, Server, only_server

ALWAYS: Final = "sync_interval: always"
LOSSY: Final = "sync_interval: 2m"
STREAMS: Final = tuple(
    each["name"] for each in streams.stream_settings(Subjects("dc1"), replicas=1)
)
WORKERS: Final = ("leader-elector", "root-manager", "replicator", "signer")


def make_lossy(data: Path) -> None:
    """Edit the server's configuration, as an operator might."""
    file = server_conf(data)
    assert ALWAYS in file.read_text()
    file.write_text(file.read_text().replace(ALWAYS, LOSSY))


def encrypt(data: Path, *, key: str) -> None:
    """Have the server encrypt its streams, as an operator might."""
    file = server_conf(data)
    text = file.read_text()
    plain = text if "cipher" not in text else re.sub(r"  cipher: aes, key: \w+\n", "", text)
    assert ALWAYS in plain
    file.write_text(plain.replace(ALWAYS, f"{ALWAYS}\n  cipher: aes, key: {key}\n"))


def files(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


async def test_init_refuses_a_server_that_may_lose_writes(tmp_path: Path) -> None:
    """`init --server` as its help says: its first run writes what the server needs, the second
    meets a server whose sync_interval was changed, and makes no stream; a third, on a server that
    flushes every write, makes them.
    """
    port = free_port()
    data = tmp_path / "data"
    command = ("init", "--data", data, "--server", f"nats://127.0.0.1:{port}")
    first = await run(*command, cwd=tmp_path)
    assert first.code == 3, first
    make_lossy(data)
    server = Server(data, port)
    try:
        await server.start()
        before = files(data / "nats" / "creds")
        second = await run(*command, cwd=tmp_path)
        made = await reading.last_sequences(data, STREAMS)

        assert second.code == 1, second
        assert "may lose acknowledged writes: set `jetstream { sync_interval: always }`" in (
            second.err
        )
        assert second.err.count("\n") == 1
        assert made == dict.fromkeys(STREAMS, -1)
        assert not (data / "nats" / "streams.made").exists()
        assert files(data / "nats" / "creds") == before

        await server.stop()
        assert ALWAYS in server_conf(data).read_text()  # `init` has written its example anew
        await server.start()
        third = await run(*command, cwd=tmp_path)
        assert third.code == 0, third
        assert await reading.last_sequences(data, STREAMS) == dict.fromkeys(STREAMS, 0)
    finally:
        server.close()


async def test_init_never_makes_streams_again_that_a_server_does_not_show(tmp_path: Path) -> None:
    """A server elsewhere comes back with another JetStream encryption key, and shows no stream.
    Made again, they would delete what is there: `init` says so, and with the right key all is back.
    """
    port = free_port()
    data = tmp_path / "data"
    command = ("init", "--data", data, "--server", f"nats://127.0.0.1:{port}")
    assert (await run(*command, cwd=tmp_path)).code == 3
    server = Server(data, port)
    try:
        encrypt(data, key="right")
        await server.start()
        assert (await run(*command, cwd=tmp_path)).code == 0
        await server.stop()

        encrypt(data, key="wrong")
        await server.start()
        hidden = await reading.last_sequences(data, STREAMS)
        again = await run(*command, cwd=tmp_path)
        after = await reading.last_sequences(data, STREAMS)
        await server.stop()

        encrypt(data, key="right")
        await server.start()
        back = await reading.last_sequences(data, STREAMS)
        fine = await run(*command, cwd=tmp_path)
    finally:
        server.close()

    assert hidden == after == dict.fromkeys(STREAMS, -1)
    assert again.code == 1, again
    assert "may have the wrong JetStream encryption key" in again.err
    assert back == dict.fromkeys(STREAMS, 0)
    assert fine.code == 0, fine


async def test_every_worker_refuses_a_server_that_may_lose_writes(tmp_path: Path) -> None:
    """All streams are there and right, only the server's sync_interval is not: each worker ends
    with exit code 1 and says why, and no stream has changed.
    """
    async with only_server(tmp_path) as server:
        await server.stop()
        make_lossy(server.data)
        await server.start()
        before = await reading.last_sequences(server.data, STREAMS)
        async with Node(server.data) as node:
            for worker in WORKERS:
                said = len(node.log)
                code = await node.ended(await node.start(worker))
                told = node.log[said:]
                assert code == 1, (worker, told)
                assert "may lose acknowledged writes" in told, worker
                assert "Traceback" not in told, worker

        assert await reading.last_sequences(server.data, STREAMS) == before
        assert not (server.data / "projections.sqlite").exists()


@pytest.mark.slow
async def test_dev_sets_its_servers_sync_interval_right_before_it_starts_it(
    tmp_path: Path,
) -> None:
    """`dev` writes server.conf anew at each start, so an edited one is put right. Edited while it
    runs, and nats-server started again with it, every worker looks again once it is connected, and
    so `dev` ends with exit code 1: it says why, and nothing is signed on such a server afterwards.
    """
    made = await run(
        *("init", "--data", tmp_path / "data", "--nats-port", str(free_port())), cwd=tmp_path
    )
    assert made.code == 0, made
    make_lossy(tmp_path / "data")

    async with Caledger(tmp_path) as dev:
        assert ALWAYS in server_conf(dev.data).read_text()
        asker = await reading.Asker.of(await dev.client())
        await asker.sign("web", "before")

        make_lossy(dev.data)
        server = dev.kill("nats-server")
        await dev.restarted("nats-server", instead_of=server)
        code = await dev.wait()

        assert code == 1, dev.log[-3000:]
        assert "may lose acknowledged writes" in dev.log
        assert "it cannot start" in dev.log

    async with Caledger(tmp_path) as dev:
        asker = await reading.Asker.of(await dev.client())
        await asker.sign("web", "after")
        assert (await dev.run("ledger", "verify")).code == 0


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        pytest.param("root", ["root-manager"], marks=pytest.mark.slow, id="root"),
        pytest.param("signing", ["root-manager", "signer"], marks=pytest.mark.slow, id="signing"),
        pytest.param("nats", [], marks=pytest.mark.slow, id="nats"),
    ],
)
async def test_a_wrong_key_encryption_key_changes_nothing_on_disk_or_in_a_stream(
    tmp_path: Path, name: str, workers: list[str]
) -> None:
    """`dev` with another key in one of its three places, and the workers that use it by themselves:
    a clear error and exit code 2; every stream ends where it ended, every file is as it was but the
    server's own, and with the right key everything is as before.
    """
    data = tmp_path / "data"
    async with Caledger(tmp_path) as dev:
        asker = await reading.Asker.of(await dev.client())
        csr = asker.csr("web")
        first = await asker.sign("web", "first", csr=csr)
        roots = await asker.client.roots()
    async with alone(dev):
        sequences = await reading.last_sequences(data, STREAMS)
    kek = data / "keys" / f"{name}.kek"
    right = kek.read_text()
    kek.write_text("ab" * 32 + "\n")
    before = kept(data)

    wrong = await run("dev", "--data", data, "--nats-port", str(dev.port), cwd=tmp_path)

    assert wrong.code == 2, wrong
    assert f"{name}.kek" in wrong.err
    assert "key-encryption key" in wrong.err
    assert "Traceback" not in wrong.err
    assert wrong.out == ""
    assert kept(data) == before
    async with alone(dev), Node(data) as node:
        for worker in workers:
            assert await node.ended(await node.start(worker)) == 1, node.log
            assert f"the key-encryption key for {name} keys is not the one that sealed" in node.log
        assert await reading.last_sequences(data, STREAMS) == sequences
        assert "Traceback" not in node.log
    assert kept(data) == before
    kek.write_text(right)
    async with Caledger(tmp_path, port=dev.port) as dev:
        asker = await reading.Asker.of(await dev.client())
        assert await asker.client.roots() == roots
        assert await asker.sign("web", "first", csr=csr) == first
        assert (await dev.run("ledger", "verify")).code == 0


def kept(data: Path) -> dict[str, str]:
    """Return the digest of every file of a node, but those of nats-server and our own logs."""
    servers = ("nats/jetstream/", "nats/jwt/", "nats/init.log", "nats-server.log", "workers.log")
    return {
        name: digest
        for name, digest in files(data).items()
        if not name.startswith(servers) and name != "dev.lock"  # who holds the folder
    }


@asynccontextmanager
async def alone(dev: Caledger) -> AsyncIterator[None]:
    """Run the nats-server of a `caledger dev` that has ended, and nothing else."""
    server = Server(dev.data, dev.port)
    try:
        await server.start()
        yield
        await server.stop()
    finally:
        server.close()
