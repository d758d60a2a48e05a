"""Real nats-servers for tests, which can be killed, stopped and started again where they were."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from nats.aio.client import Client
from nats.errors import Error as NatsError

from events.subjects import Subjects
from services.nats_access.route import Route, Transport

BINARY = Path(sys.executable).parent / "nats-server"
READY_SECONDS = 30.0
PR_SET_PDEATHSIG = 1


# Below those that the operating system gives to outgoing connections (Linux: from 32768, others:
# from 49152): one of those may be a client's before the server that it was chosen for listens.
# Each of pytest-xdist's processes has its own, so that none takes what waits for another's server.
_PROCESSES = 8
_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PROCESSES
_OURS = range(10_000 + _PROCESS, 32_000, _PROCESSES)
_PORTS = itertools.cycle(random.sample(_OURS, len(_OURS)))


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free, and that this process has not given away lately."""
    for port in _PORTS:
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("the ports never end")


class NatsServer:
    """One nats-server with JetStream, its data below `folder`.

    Clients need no credentials and land in account CA, which hears `ca.varz` as in production.
    As the server is killed and started again it keeps its port and its data.
    """

    def __init__(
        self,
        folder: Path,
        *,
        datacenter: str = "dc1",
        sync_always: bool = True,
        name: str = "n0",
        cluster: str = "",
    ) -> None:
        self.folder = folder / name
        self.name = name
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._subjects = Subjects(datacenter)
        self._sync_always = sync_always
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[Client] = []

    @property
    def log(self) -> str:
        """What the server wrote so far."""
        return (self.folder / "log").read_text()

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start the process; `ready` (and `client`) wait until it serves."""
        assert self._process is None, "it is running"
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "server.conf"
        config.write_text(self._configuration())
        self._process = subprocess.Popen(
            [str(BINARY), "-c", str(config), "-l", str(self.folder / "log")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,
        )

    def kill(self) -> None:
        """End the process as `kill -9` does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the process as an operator does."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Stop the process where it stands (SIGSTOP); returns once it does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let a paused process go on (SIGCONT)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def ready(self) -> None:
        """Return once JetStream answers."""
        nc = await connect([self.url])
        try:
            await _answers(nc, "$JS.API.INFO", {}, self)
        finally:
            await nc.close()

    async def client(self, **options: Any) -> Client:
        """Return a connection that reconnects for ever; closed when the server is left."""
        nc = await connect([self.url], **options)
        self._clients.append(nc)
        return nc

    async def __aenter__(self) -> Self:
        self.start()
        try:
            await self.ready()
        except BaseException:
            self.kill()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for nc in self._clients:
            await nc.close()
        if self.running:
            self.kill()

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.send_signal(signal.SIGCONT)  # else a paused one never hears SIGTERM
        self._process.wait(timeout=30)
        self._process = None

    def _configuration(self) -> str:
        mappings = json.dumps(
            self._subjects.sign_mappings() | self._subjects.submit_mappings(), indent=2
        )
        return f"""
server_name: {self.name}
listen: "127.0.0.1:{self.port}"
ping_interval: 1s
ping_max: 2
jetstream {{
  store_dir: "{self.folder / "jetstream"}"
  {"sync_interval: always" if self._sync_always else ""}
  limits {{ batch {{ max_inflight_per_stream: 400, timeout: "2s" }} }}
}}
accounts {{
  SYS {{
    users: [{{ user: sys, password: sys }}]
    exports: [{{ service: "$SYS.REQ.SERVER.PING.VARZ", response_type: stream }}]
  }}
  CA {{
    jetstream: enabled
    users: [{{ user: ca, password: ca }}]
    imports: [{{
      service: {{ account: SYS, subject: "$SYS.REQ.SERVER.PING.VARZ" }}
      to: "{self._subjects.varz}"
    }}]
    mappings: {mappings}
  }}
}}
system_account: SYS
no_auth_user: ca
{self._cluster}
"""


class NatsCluster:
    """Three servers that replicate each other's streams; used as `NatsServer` is."""

    def __init__(
        self,
        folder: Path,
        *,
        datacenter: str = "dc1",
        sync_always: Sequence[bool] = (True, True, True),
    ) -> None:
        routes = [free_port() for _ in sync_always]
        self.servers = [
            NatsServer(
                folder,
                datacenter=datacenter,
                sync_always=always,
                name=f"n{index}",
                cluster=_cluster(index, routes),
            )
            for index, always in enumerate(sync_always)
        ]
        self._clients: list[Client] = []

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def server(self, name: str) -> NatsServer:
        """Return the server of this name, as the leader of a stream is named."""
        return next(server for server in self.servers if server.name == name)

    async def ready(self) -> None:
        """Return once a stream can have a replica on every server."""
        nc = await connect(self.urls)
        probe = {"name": "PROBE", "subjects": ["probe"], "num_replicas": len(self.servers)}
        try:
            await _answers(nc, "$JS.API.STREAM.CREATE.PROBE", probe, *self.servers)
            await _answers(nc, "$JS.API.STREAM.DELETE.PROBE", {}, *self.servers)
        finally:
            await nc.close()

    async def client(self, *, first: int = 0, **options: Any) -> Client:
        """Return a connection to the `first` server, or to another while that one is away."""
        urls = self.urls[first:] + self.urls[:first]
        nc = await connect(urls, dont_randomize=True, **options)
        self._clients.append(nc)
        return nc

    async def __aenter__(self) -> Self:
        for server in self.servers:
            server.start()
        try:
            await self.ready()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for nc in self._clients:
            await nc.close()
        for server in self.servers:
            if server.running:
                server.kill()


async def connect(urls: Sequence[str], **options: Any) -> Client:
    """Connect to the first server that answers, within READY_SECONDS; quiet about reconnects."""
    defaults: dict[str, Any] = {
        "error_cb": _quiet,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.05,
        "connect_timeout": 1,
    }
    nc = _Client(urls)
    async with asyncio.timeout(READY_SECONDS):
        await nc.connect(list(urls), **{**defaults, **options})
    return nc


async def leader_of(nc: Client, stream: str) -> str:
    """Return the name of the server that leads a stream, once there is one."""
    while True:
        cluster = (await ask_api(nc, f"STREAM.INFO.{stream}")).get("cluster")
        if isinstance(cluster, dict) and cluster.get("leader"):
            return str(cluster["leader"])
        await asyncio.sleep(0.1)


async def ask_api(nc: Client, name: str) -> Mapping[str, object]:
    """Return what JetStream's API answers; nothing where it does not."""
    with suppress(NatsError):
        answer: Mapping[str, object] = json.loads((await nc.request(f"$JS.API.{name}")).data)
        return answer
    return {}


class _Client(Client):
    """nats-py's client with our transport: its own forgets to close what a server hung up on."""

    def __init__(self, urls: Sequence[str]) -> None:
        super().__init__()
        self._transport = Transport(Route.plan(urls, ca=None))

    async def flush(self, timeout: int = 10) -> None:
        """Be a barrier: nats-py's first ping overtakes what still waits to be sent."""
        await super().flush(timeout)
        await super().flush(timeout)


async def _answers(nc: Client, subject: str, body: object, *servers: NatsServer) -> None:
    """Ask until the answer is no error."""
    last: object = None
    try:
        async with asyncio.timeout(READY_SECONDS):
            while True:
                try:
                    reply = await nc.request(subject, json.dumps(body).encode(), timeout=2)
                except (NatsError, TimeoutError) as error:
                    last = error
                else:
                    answer = json.loads(reply.data)
                    if "error" not in answer:
                        return
                    last = answer
                await asyncio.sleep(0.05)
    except TimeoutError:
        logs = "\n".join(server.log[-2000:] for server in servers)
        raise AssertionError(f"{subject}: {last}\n{logs}") from None


async def _quiet(_: Exception) -> None:
    """Lost connections are what these tests are about."""


def _cluster(index: int, ports: list[int]) -> str:
    routes = [f"nats://127.0.0.1:{port}" for i, port in enumerate(ports) if i != index]
    return f"""
cluster {{
  name: test
  listen: "127.0.0.1:{ports[index]}"
  routes: {json.dumps(routes)}
}}
"""


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
