"""Making a node's folder: what `caledger init` does, and `caledger dev` before anything else.

Each step leaves something whole that the next run finds and keeps, so a crash anywhere is finished
by running it again. Streams are made once, ever: a marker says that they were.
"""

from __future__ import annotations

import json
import secrets  # noqa: TID251 - key-encryption keys are made here, once, and decide nothing
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlparse

from nats.aio.client import Client

from events.subjects import Subjects
from services import config, streams, transport
from services.breakpoints import reached
from services.clock import SystemClock
from services.config import NodeConfig
from services.keys.interface import WrongKeyEncryptionKeyError
from services.keys.kek import KeyEncryptionKey
from services.keys.kek import load as load_kek
from services.nats_access import contexts, provision, route, server_process, tls
from services.nats_access.files import write_atomically
from services.nats_access.layout import NatsLayout
from services.node_file import (
    DEFAULT_DATACENTER,
    DEFAULT_PORT,
    NodeOptions,
    config_file,
    settle,
    write,
)

KEKS: Final = ("root", "signing", "nats")


def server_conf(data: Path) -> Path:
    """Return the configuration of the node's own nats-server."""
    return NatsLayout(data, DEFAULT_DATACENTER).server_conf


def nats_kek(data: Path) -> KeyEncryptionKey:
    """Return the key that seals NATS's own seeds; raises KeyEncryptionKeyError."""
    return _load_kek(data / "keys" / "nats.kek")


async def set_up(options: NodeOptions) -> NodeConfig:
    """Make what is missing of a node's folder, streams included; return its configuration.

    Repeating it changes nothing but where the server listens. Raises ContradictionError for options
    that the folder was not made with, ConfigError, WrongKeyEncryptionKeyError for a key-encryption
    key that is not the folder's, SeedError, SetupError, TransportError: nothing that was there
    before is changed by then.
    """
    made = _marker(options.data).exists()
    node = settle(options)
    _make_keks(options.data, made=made)
    reached("init.keks")
    layout = provision.provision(options.data, node.datacenter, nats_kek(options.data), in_use=made)
    _write_server(layout, node, advertise=options.advertise)
    write(options.data, node)
    reached("init.configured")
    node = config.load(config_file(options.data))
    if not made:
        await _make_streams(options, layout, node)
    elif node.embedded is None:
        await _check(node)
    else:  # it shows its streams to each worker that starts
        _see_store(options.data, layout)
    return node


def _write_server(layout: NatsLayout, node: NodeConfig, *, advertise: tuple[str, ...]) -> None:
    """Write the server's configuration, its TLS files, and the contexts that lead to it.

    For a server elsewhere it is what that may be started with; where its TLS is not ours, only
    accounts.conf, which it has to include, is written.
    """
    ours = node.nats.ca in (None, layout.transport_ca) or node.embedded is not None
    url, *others = (urlparse(server) for server in node.nats.servers)
    host = url.hostname or "127.0.0.1"
    advertise = (*advertise, *(other.hostname for other in others if other.hostname))
    listen = host if route.is_loopback(host) else "0.0.0.0"  # noqa: S104 - with TLS only
    if node.embedded is not None:
        listen = host = node.embedded.listen
        advertise = node.embedded.advertise
    if ours:
        files = None
        if node.nats.ca is not None:
            files = tls.ensure(
                layout.tls.resolve(),  # nats-server takes it relative to where it is started
                listen=host,
                kek=nats_kek(layout.data),
                datacenter=layout.datacenter,
                now=SystemClock().now(),
                advertise=advertise,
            )
        provision.write_server_conf(
            layout, node=node.node, listen=listen, port=url.port or DEFAULT_PORT, tls=files
        )
    contexts.write_all(layout, url=",".join(node.nats.servers), ca=node.nats.ca)


def _make_keks(data: Path, *, made: bool) -> None:
    """Make the key-encryption keys of a new folder; one that is lost is never made again.

    What names a key (`NAME.check`, no secret) stays beside it: a wrong one is told before anything
    is started, when nobody has taken the lead or folded a row yet.
    """
    files = [data / "keys" / f"{name}.kek" for name in KEKS]
    for file in files:  # all of them, before one is used or made
        if file.exists():
            _refuse_other(file, data)
        elif made or _check_file(file).exists():
            raise config.ConfigError(
                f"{file} is missing: without it, what it sealed cannot be opened any more. "
                "Put it back; a new one would not help"
            )
    for file in files:
        if not file.exists():
            write_atomically(file, f"{secrets.token_hex(32)}\n".encode(), mode=0o600)
        if not made and not _check_file(file).exists():
            write_atomically(_check_file(file), f"{_load_kek(file).check.hex()}\n".encode())


def _refuse_other(file: Path, data: Path) -> None:
    """Raise WrongKeyEncryptionKeyError for a key that what is beside it does not name."""
    check = _load_kek(file).check.hex()
    if _check_file(file).exists() and _check_file(file).read_text().strip() != check:
        raise WrongKeyEncryptionKeyError(
            f"{file} is not the key-encryption key that {data} was made with; nothing was "
            "changed: put the right one back"
        )


def _check_file(kek: Path) -> Path:
    return kek.with_suffix(".check")


def _load_kek(file: Path) -> KeyEncryptionKey:
    return load_kek(f"file:{file}")


async def _make_streams(options: NodeOptions, layout: NatsLayout, node: NodeConfig) -> None:
    """Make the streams, with a server that runs just for this where there is none elsewhere."""
    if node.embedded is None:
        await _create(options, node)
    else:
        log = layout.folder / "init.log"
        with log.open("ab") as out:
            server = server_process.ServerProcess(
                layout.server_conf, address=node.embedded.reach, port=node.embedded.port, log=out
            )
            try:
                await server.start()
                await _create(options, node)
            except server_process.ServerError as error:
                raise streams.SetupError(f"{error} ({log})") from error
            finally:
                await server.stop()
    reached("init.streams_made")
    marker = {"replicas": options.replicas, "made": SystemClock().now().isoformat()}
    write_atomically(_marker(options.data), json.dumps(marker).encode())


async def _create(options: NodeOptions, node: NodeConfig) -> None:
    async with _connected(node) as (nc, subjects):
        await streams.create(
            nc,
            subjects,
            replicas=options.replicas,
            duplicate_window=node.duplicate_window_seconds,
        )


def _see_store(data: Path, layout: NatsLayout) -> None:
    """Raise SetupError where the folder of our own server has lost the ledger that was made."""
    store = layout.folder / "jetstream"
    stream = layout.subjects.ledger_stream
    if next(store.glob(f"*/streams/{stream}"), None) is None:
        raise streams.SetupError(
            f"{store} does not hold {stream}, which was made ({_marker(data)}); it is never made "
            "again: put the folder back as it was, or begin anew with another --data"
        )


async def _check(node: NodeConfig) -> None:
    """See that what was made is there; it is never made again, since that could delete it."""
    async with _connected(node) as (nc, subjects):
        await streams.check(nc, subjects, duplicate_window=node.duplicate_window_seconds)


@asynccontextmanager
async def _connected(node: NodeConfig) -> AsyncIterator[tuple[Client, Subjects]]:
    """Connect to servers that lose no acknowledged write; raises SetupError, TransportError."""
    subjects = Subjects(node.datacenter)
    nc = await transport.connect(
        node.nats.servers,
        creds=node.creds_file("init"),
        ca=node.nats.ca,
        name="caledger init",
    )
    try:
        await streams.check_durability(nc, subjects)
        yield nc, subjects
    finally:
        await nc.close()


def _marker(data: Path) -> Path:
    """Return what says that the streams were made: they are never made over existing data."""
    return data / "nats" / "streams.made"
