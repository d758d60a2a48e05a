"""Nodes without a nats-server of their own: each worker a process, as systemd would run them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from services import config
from services.nats_access.server_process import ServerProcess, die_with
from services.node_file import config_file
from services.setup_node import server_conf
from tests.nats import free_port
from tests.scenarios.caledger import alive, clean_environment, run

WAIT_SECONDS: Final = 30.0
LOOK_EVERY_SECONDS: Final = 0.01


class Node:
    """One node's workers; left, none of them is left."""

    def __init__(self, data: Path, *, program: str = "services.cli") -> None:
        """`data`: the node's folder, with its caledger.toml; `program`: the module that is run."""
        self.data = data
        self._program = program
        self.config = config_file(data)
        self.name = config.load(self.config).node
        self._log_file = data / "workers.log"
        self._processes: list[asyncio.subprocess.Process] = []

    @property
    def log(self) -> str:
        """What its workers wrote so far."""
        return self._log_file.read_text() if self._log_file.exists() else ""

    async def start(
        self, worker: str, *, slot: int = 0, environment: Mapping[str, str] | None = None
    ) -> asyncio.subprocess.Process:
        """Start `caledger run WORKER`."""
        with self._log_file.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", self._program, "run", worker),
                *("--config", str(self.config), "--slot", str(slot)),
                env={**clean_environment(), **(environment or {})},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with(os.getpid()),
            )
        self._processes.append(process)
        return process

    async def ended(self, process: asyncio.subprocess.Process) -> int:
        """Return a worker's exit code once it has ended."""
        try:
            return await asyncio.wait_for(process.wait(), WAIT_SECONDS)
        except TimeoutError:
            raise AssertionError(f"it does not end\n{self.log[-6000:]}") from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            print(self.log[-10_000:])  # pytest shows it with the failure
        for process in self._processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


def beside(first: Path, folder: Path, name: str, *, program: str = "services.cli") -> Node:
    """Return another node of the datacenter of `first` (a node's folder), on the same server."""
    known = config.load(config_file(first))
    folder.mkdir()
    text = [
        f"datacenter = {json.dumps(known.datacenter)}",
        f"node = {json.dumps(name)}",
        f"data = {json.dumps(str(folder))}",
        f"lease_seconds = {known.lease_seconds}",
        f"duplicate_window_seconds = {known.duplicate_window_seconds}",
        "[nats]",
        f"servers = {json.dumps(list(known.nats.servers))}",
        f"creds = {json.dumps(str(known.nats.creds))}",
        *([f"ca = {json.dumps(str(known.nats.ca))}"] if known.nats.ca else []),
        "[keys]",
        f"signing = {json.dumps(known.keys.signing)}",
        f"root = {json.dumps(known.keys.root)}",
        "[initial]",
        f"csr_max_per_second = {known.initial.csr_max_per_second}",
    ]
    config_file(folder).write_text("\n".join([*text, ""]))
    return Node(folder, program=program)


class Server:
    """A folder that `caledger init` made, and its nats-server: no worker runs yet."""

    def __init__(self, data: Path, port: int) -> None:
        self.data = data
        self.port = port
        self._log = (data / "nats-server.log").open("wb")
        self._process = ServerProcess(
            server_conf(data), address="127.0.0.1", port=port, log=self._log.fileno()
        )

    async def start(self) -> None:
        await self._process.start()

    async def stop(self) -> None:
        await self._process.stop()

    def close(self) -> None:
        self._process.kill()
        self._log.close()


@asynccontextmanager
async def only_server(folder: Path) -> AsyncIterator[Server]:
    """Make a datacenter whose ledger is empty, and run its nats-server alone."""
    port = free_port()
    data = folder / "data"
    made = await run(
        *("init", "--data", data, "--nats-port", str(port), "--csr-max-per-second", "0"),
        cwd=folder,
    )
    assert made.code == 0, made
    server = Server(data, port)
    try:
        await server.start()
        yield server
    finally:
        server.close()


async def until(condition: Callable[[], bool], what: str, *, seconds: float = WAIT_SECONDS) -> None:
    """Wait until something that can be seen from outside is so."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(LOOK_EVERY_SECONDS)


async def stands_still(pid: int) -> None:
    """Wait until a process is stopped (SIGSTOP)."""

    def stopped() -> bool:
        assert alive(pid), f"process {pid} is gone"
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    await until(stopped, f"process {pid} stands still")
