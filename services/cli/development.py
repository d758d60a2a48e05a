"""The whole of `caledger dev`: one folder, one nats-server, every worker."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from services.cli.common import CliError, Exit
from services.client import CaClient
from services.clock import SystemClock
from services.config import NodeConfig
from services.nats_access import provision, server_process, users
from services.node_file import NodeOptions, config_file
from services.readiness import probe_names, until_ready, until_settled
from services.setup_node import nats_kek, server_conf, set_up
from services.supervisor import Program, Supervisor, until
from services.transport import UnreachableError

LOOK_EVERY_SECONDS: Final = 0.05
LEFT_OVER_LOOKS: Final = 200

_NATS_LOG: Final = re.compile(
    r"\[\d+\] [\d/]+ (?P<time>[\d:]+)\.\d+ \[(?P<level>[A-Z]{3})\] (?P<text>.*)"
)
_NATS_NEWS: Final = re.compile(
    r"Version:|Listening|ready|Shutdown\.\.\.|Exiting|revoked", re.IGNORECASE
)
NO_RESTART: Final = "CALEDGER_TESTING_NO_RESTART"  # programs, by name, joined by commas


async def run_dev(
    options: NodeOptions, *, signers: int, colors: bool, metrics_port: int | None = None
) -> None:
    """Set the folder up where that is needed, and run everything until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with one_at_a_time(options.data):
        stop_left_over(options.data)
        config = await until(stop, set_up(options))
        if config is None:
            return
        if config.embedded is None:
            raise CliError(
                f"the nats-server of {options.data} runs elsewhere: start the workers of this node "
                f"with `caledger run WORKER --config {config_file(options.data)}`",
                Exit.USAGE,
            )
        supervisor = Supervisor(
            stages(config, options.data, signers=signers, colors=colors, metrics_port=metrics_port),
            pids=options.data / "run",
            out=sys.stderr,
            colors=colors,
        )
        for line in (_about_rate(config), *users.away(provision.load(options.data))):
            supervisor.say("dev", line)
        await supervisor.run(stop, ready=lambda: _say_ready(config, options.data, signers))


def stages(
    config: NodeConfig,
    data: Path,
    *,
    signers: int,
    colors: bool,
    metrics_port: int | None = None,
) -> list[list[Program]]:
    """Return what runs on a node, as the supervisor starts it; stopped the other way round.

    Signers are the first to stop: while the others run, they give their partitions back.
    """
    unattended = os.environ.get(NO_RESTART, "").split(",")
    style = "color" if colors else "plain"
    command = (sys.executable, "-m", "services.cli", "run")
    metrics = () if metrics_port is None else ("--metrics-port", str(metrics_port))
    options = ("--config", str(config_file(data)), "--log-format", style, "--with-parent", *metrics)

    def worker(worker: str, *arguments: str, name: str | None = None) -> Program:
        name = name or worker
        argv = (*command, worker, *arguments, *options)
        return Program(name=name, argv=argv, restart=name not in unattended)

    server = Program(
        name="nats-server",
        argv=tuple(server_process.command(server_conf(data.resolve()))),  # see stop_left_over
        restart="nats-server" not in unattended,
        retell=_of_nats_server,
    )
    return [
        [server],
        [worker("leader-elector"), worker("root-manager"), worker("replicator")],
        [worker("signer", "--slot", str(i), name=f"signer-{i}") for i in range(signers)],
    ]


def _of_nats_server(line: str) -> str | None:
    """Retell a line of nats-server's log: no banner, no date, and of its plain news the few."""
    match = _NATS_LOG.fullmatch(line)
    if match is None or match["level"] != "INF":
        return line if match is None else f"{match['time']} [{match['level']}] {match['text']}"
    return f"{match['time']} {match['text']}" if _NATS_NEWS.search(match["text"]) else None


async def _say_ready(config: NodeConfig, data: Path, signers: int) -> None:
    """Ask until every partition answers and stays where it is, then say so on stdout, in one line.

    Asked again when all signers have come: only then is it they who answer.
    """
    creds = data / "run" / "ready.creds"
    users.issue_ready(
        provision.load(data),
        creds,
        services=probe_names(),
        kek=nats_kek(data),
        clock=SystemClock(),
    )
    try:
        client = await _connected(config, creds)
        try:
            await until_ready(client)
            await until_settled(config.projections_file, signers)
            await until_ready(client)
        finally:
            await client.close()
    finally:
        creds.unlink()
    print(f"ready {config.nats.servers[0]} datacenter={config.datacenter} data={data}", flush=True)


async def _connected(config: NodeConfig, creds: Path) -> CaClient:
    while True:
        try:
            return await CaClient.connect(
                config.nats.servers, datacenter=config.datacenter, creds=creds, ca=config.nats.ca
            )
        except UnreachableError:
            await asyncio.sleep(LOOK_EVERY_SECONDS)  # it has just been started


def _about_rate(config: NodeConfig) -> str:
    rate = config.initial.csr_max_per_second
    if rate == 0:
        return (
            "the rate limit of signing requests is off (Consul's default is 50 a second); "
            "to have one, start a new folder with --csr-max-per-second 50"
        )
    return f"at most {rate:g} signing requests a second"


@contextmanager
def one_at_a_time(data: Path) -> Iterator[None]:
    """Hold the folder, made where it is missing; raises CliError where another caledger does."""
    try:
        str(data.absolute()).encode()
    except UnicodeEncodeError:
        raise CliError(f"{str(data)!a} is no UTF-8: name another folder", Exit.USAGE) from None
    if data.exists() and not data.is_dir():
        raise CliError(f"{data} is a file: name a folder", Exit.USAGE)
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(data / "dev.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise CliError(
            f"{data} cannot be the folder of a node: {error.filename}: {error.strerror}", Exit.USAGE
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise CliError(
                f"{data} is in use by another caledger (process {holder or 'unknown'})",
                Exit.USAGE,
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def stop_left_over(data: Path) -> None:
    """End a nats-server that a supervisor left behind when it was killed itself.

    On Linux it ends by itself; elsewhere two servers on one store would damage it.
    """
    import subprocess
    import time

    file = data / "run" / "nats-server.pid"
    try:
        pid = int(file.read_text())
    except (OSError, ValueError):
        return
    for _ in range(LEFT_OVER_LOOKS):
        told = subprocess.run(
            ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False
        )
        if not _runs_on(told.stdout, server_conf(data.resolve())):
            return
        os.kill(pid, signal.SIGTERM)
        time.sleep(LOOK_EVERY_SECONDS)
    raise CliError(f"a nats-server on {data} does not end: process {pid}", Exit.FAULT)


def _runs_on(command: bytes, conf: Path) -> bool:
    """Tell whether this is the command line of a server with this configuration, its last argument.

    A process id is used again: it may be another folder's server by now.
    """
    return command.rstrip(b"\n").endswith(b" --config " + os.fsencode(conf))
