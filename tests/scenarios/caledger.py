"""A whole datacenter for tests: `caledger dev` as a stranger starts it, in a folder of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from services.cli.common import find
from services.client import CaClient
from tests.nats import free_port

READY_SECONDS = 60.0
STOP_SECONDS = 30.0
LOOK_EVERY_SECONDS = 0.02
WORKERS = ("leader-elector", "root-manager", "replicator", "signer-0", "signer-1")
PROGRAMS = ("nats-server", *WORKERS)


class Ran:
    """A command that has ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


async def run(
    *arguments: str | Path,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> Ran:
    """Run the `caledger` command to its end."""
    command = (sys.executable, "-m", "services.cli", *map(str, arguments))
    return await _to_its_end(*command, cwd=cwd, environment=environment or {}, timeout=timeout)


async def shell(script: str, *, cwd: Path, timeout: float = 60.0) -> Ran:
    """Run what a document shows; `caledger` is ours."""
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return await _to_its_end("bash", "-euc", script, cwd=cwd, environment=path, timeout=timeout)


async def _to_its_end(
    *command: str, cwd: Path, environment: Mapping[str, str], timeout: float
) -> Ran:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**clean_environment(), **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


def clean_environment() -> dict[str, str]:
    """Return our environment without what points a client somewhere."""
    ours = ("NATS_", "CALEDGER_", "XDG_CONFIG")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


class Datacenter:
    """A node's folder in `folder`/data whose servers run: who asks it, and commands on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._clients: list[CaClient] = []

    async def client(self, user: str = "admin") -> CaClient:
        """Connect as a user of account CLIENTS; closed when it stops."""
        target = find(data=self.data, context=None, user=user, datacenter=None, environment={})
        client = await CaClient.connect(
            target.servers, datacenter=target.datacenter, creds=target.creds, ca=target.ca
        )
        self._clients.append(client)
        return client

    async def run(
        self,
        *arguments: str | Path,
        environment: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> Ran:
        """Run a `caledger` command on this node, in `folder`."""
        settings = {"CALEDGER_DATA": str(self.data), **(environment or {})}
        return await run(*arguments, cwd=self.folder, environment=settings, timeout=timeout)

    async def close_clients(self) -> None:
        """Close what `client` opened."""
        for client in self._clients:
            await client.close()
        self._clients.clear()


class Caledger(Datacenter):
    """`caledger dev` on `folder`/data; entered, it is ready; left, no process is left.

    Programs are named as in PROGRAMS. `environment` reaches every worker (breakpoints).
    `no_restart`: programs that are not started again once they died.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        no_restart: Sequence[str] = (),
        port: int | None = None,
    ) -> None:
        super().__init__(folder)
        self.log_file = folder / "dev.log"
        self._out_file = folder / "dev.out"
        self.port = port or free_port()
        self._arguments = arguments
        self._environment = {**clean_environment(), **(environment or {})}
        if no_restart:
            self._environment["CALEDGER_TESTING_NO_RESTART"] = ",".join(no_restart)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> str:
        """What it wrote on stderr so far."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    @property
    def out(self) -> str:
        """What it wrote on stdout so far."""
        return self._out_file.read_text() if self._out_file.exists() else ""

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return None if self._process is None else self._process.returncode

    @property
    def supervisor(self) -> int:
        """The process id of `caledger dev` itself."""
        assert self._process is not None
        return self._process.pid

    async def launch(self) -> None:
        """Start it; it is not ready yet."""
        with self.log_file.open("ab") as log, self._out_file.open("wb") as out:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.cli",
                "dev",
                "--data",
                str(self.data),
                "--nats-port",
                str(self.port),
                *self._arguments,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=log,
            )

    async def start(self) -> None:
        """Start it, and return once it says that it is ready."""
        await self.launch()
        await self.until(lambda: "ready " in self.out, READY_SECONDS, "it was never ready")

    async def until(self, holds: object, timeout: float, otherwise: str) -> None:
        """Wait for a condition, as long as the process runs."""
        assert callable(holds)
        deadline = asyncio.get_running_loop().time() + timeout
        while not holds():
            gone = self.code is not None
            if gone or asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"{otherwise} (exit code {self.code})\n{self.log[-6000:]}")
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    def pid(self, program: str) -> int:
        """The process id of a program that the supervisor runs."""
        return int((self.data / "run" / f"{program}.pid").read_text())

    def pids(self) -> dict[str, int]:
        """The process ids of all programs that run now."""
        found = {}
        for file in sorted((self.data / "run").glob("*.pid")):
            with contextlib.suppress(FileNotFoundError):  # it has just ended
                found[file.stem] = int(file.read_text())
        return found

    def kill(self, program: str, how: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a program; return its process id."""
        pid = self.pid(program)
        os.kill(pid, how)
        return pid

    async def restarted(self, program: str, *, instead_of: int, timeout: float = 30.0) -> int:
        """Wait until the supervisor runs a program again; return its new process id."""

        def again() -> bool:
            try:
                return self.pid(program) != instead_of
            except (FileNotFoundError, ValueError):
                return False

        await self.until(again, timeout, f"{program} was not started again")
        return self.pid(program)

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it as an operator does; return its exit code."""
        await self.close_clients()
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(how)
        try:
            return await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            raise AssertionError(f"it does not stop\n{self.log[-6000:]}") from None

    async def wait(self, timeout: float = 60.0) -> int:
        """Wait until it ends by itself; return its exit code."""
        assert self._process is not None
        try:
            return await asyncio.wait_for(self._process.wait(), timeout)
        except TimeoutError:
            raise AssertionError(f"it does not end\n{self.log[-6000:]}") from None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            print(self.log[-10_000:])  # pytest shows it with the failure
        await self._end()

    async def _end(self) -> None:
        pids = self.pids() if (self.data / "run").exists() else {}
        if self._process is not None:
            try:
                await self.stop()
            finally:
                if self._process.returncode is None:
                    self._process.kill()
                    await self._process.wait()
                for pid in pids.values():
                    if alive(pid):  # paused by a test, or orphaned
                        os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Say whether a process runs (one that has ended and waits for its parent does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
