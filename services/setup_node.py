"""Making a node's folder: what `caledger init` does, and `caledger dev` before anything else.

Each step leaves something whole that the next run finds and keeps, so a crash anywhere is finished
by running it again. Streams are made once, ever: a marker says that they were.
"""

from __future__ import annotations

import json
import re
import secrets  # noqa: TID251 - key-encryption keys are made here, once, and decide nothing
import socket
from pathlib import Path
from typing import Final

import structlog
from msgspec.structs import replace

from events.base import Struct
from events.subjects import Subjects, check_datacenter
from services import config, streams, transport
from services.breakpoints import reached
from services.clock import SystemClock
from services.config import EmbeddedSection, InitialSection, KeysSection, NatsSection, NodeConfig
from services.nats_access import contexts, provision, server_process, tls
from services.nats_access.files import write_atomically
from services.nats_access.layout import NatsLayout
from services.pki import spiffe

DEFAULT_DATACENTER: Final = "dc1"
DEFAULT_PORT: Final = 4222
KEKS: Final = ("root", "signing", "nats")

_HEX: Final = re.compile(r"[0-9a-fA-F]{64}")

_log = structlog.get_logger()


class ContradictionError(config.ConfigError):
    """What is asked for is not what the folder was made with."""


class NodeOptions(Struct):
    """What may be asked for; None: what the folder has, or the default for a new one."""

    data: Path
    datacenter: str | None = None
    trust_domain: str | None = None
    csr_max_per_second: float | None = None
    default_csr_max_per_second: float = 50.0  # of a new folder
    listen: str | None = None
    port: int | None = None
    tls: bool = False
    server: str | None = None  # a nats-server that runs elsewhere
    ca: Path | None = None  # its transport CA
    replicas: int = 1
    any_port: bool = True  # take another port where the usual one is taken


def config_file(data: Path) -> Path:
    """Return the node's configuration."""
    return data / "caledger.toml"


def server_conf(data: Path) -> Path:
    """Return the configuration of the node's own nats-server."""
    return NatsLayout(data, DEFAULT_DATACENTER).server_conf


def nats_kek(data: Path) -> bytes:
    """Return the key that seals NATS's own seeds; raises ConfigError."""
    return bytes.fromhex(_read_kek(data / "keys" / "nats.kek"))


async def set_up(options: NodeOptions) -> NodeConfig:
    """Make what is missing of a node's folder, streams included; return its configuration.

    Repeating it changes nothing but where the server listens. Raises ContradictionError for options
    that the folder was not made with, ConfigError, SeedError for a key-encryption key that is not
    the folder's, SetupError, TransportError: nothing that was there before is changed by then.
    """
    made = _marker(options.data).exists()
    node = settle(options)
    _make_keks(options.data, made=made)
    reached("init.keks")
    layout = provision.provision(options.data, node.datacenter, nats_kek(options.data))
    _write_server(layout, node)
    _write_config(options.data, node)
    reached("init.configured")
    if not made:
        await _make_streams(options, layout, config.load(config_file(options.data)))
    return config.load(config_file(options.data))


def settle(options: NodeOptions) -> NodeConfig:
    """Return the configuration that the node is to have: the folder's own, or a new one."""
    file = config_file(options.data)
    if file.exists():
        return _at(_agreeing(config.load(file), options), options)
    foreign = [found.name for found in options.data.iterdir() if found.name != "dev.lock"]
    if foreign:
        raise ContradictionError(
            f"{options.data} holds {foreign[0]} and no caledger.toml: name a new or empty folder"
        )
    node = _at(_new(options), options)
    _write_config(options.data, node)  # first of all: it pins what the folder is for
    reached("init.pinned")
    return node


def _new(options: NodeOptions) -> NodeConfig:
    trust_domain = options.trust_domain
    try:
        if trust_domain is not None:
            trust_domain = spiffe.check_trust_domain(trust_domain)
        datacenter = check_datacenter(options.datacenter or DEFAULT_DATACENTER)
    except ValueError as error:
        raise config.ConfigError(str(error)) from error
    rate = options.csr_max_per_second
    return NodeConfig(
        datacenter=datacenter,
        node=re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:64] or "node",
        data=options.data,
        nats=NatsSection(
            servers=(options.server or "nats://127.0.0.1:4222",),
            creds=options.data / "nats" / "creds",
            ca=options.ca,
        ),
        keys=KeysSection(
            signing=f"file:{options.data / 'keys' / 'signing.kek'}",
            root=f"file:{options.data / 'keys' / 'root.kek'}",
        ),
        initial=InitialSection(
            trust_domain=trust_domain,
            csr_max_per_second=options.default_csr_max_per_second if rate is None else rate,
        ),
        embedded=None if options.server else EmbeddedSection(),
    )


def _agreeing(node: NodeConfig, options: NodeOptions) -> NodeConfig:
    """Return the folder's configuration; raises ContradictionError where it was made otherwise."""
    asked = {
        "datacenter": (options.datacenter, node.datacenter),
        "trust domain": (
            options.trust_domain and options.trust_domain.lower(),
            node.initial.trust_domain or "<cluster id>.consul",
        ),
        "rate limit": (options.csr_max_per_second, node.initial.csr_max_per_second),
        "server": (options.server, None if node.embedded else node.nats.servers[0]),
    }
    for what, (wanted, found) in asked.items():
        if wanted is not None and wanted != found:
            raise ContradictionError(
                f"{options.data} was made with {what} {found}, not {wanted}, which cannot be "
                "changed by starting it again: leave the option out, or name another folder"
            )
    return node


def _at(node: NodeConfig, options: NodeOptions) -> NodeConfig:
    """Return the configuration with the address that the embedded server gets this time."""
    if node.embedded is None:
        return node
    listen = options.listen or node.embedded.listen
    secure = options.tls or node.embedded.tls or not transport.is_loopback(listen)
    first = options.port is None and not config_file(options.data).exists()
    wanted = options.port or (DEFAULT_PORT if first else node.embedded.port)
    port = server_process.free_port(listen, wanted) if options.any_port else wanted
    if port != wanted and options.port is not None:
        raise config.ConfigError(f"port {wanted} of {listen} is taken: name another --nats-port")
    if port != wanted:
        _log.warning("port taken; using another", taken=wanted, port=port)
    embedded = EmbeddedSection(listen=listen, port=port, tls=secure)
    ca = NatsLayout(options.data, node.datacenter).transport_ca if secure else None
    return replace(
        node,
        embedded=embedded,
        nats=replace(node.nats, servers=(embedded.url,), ca=ca),
    )


def _write_server(layout: NatsLayout, node: NodeConfig) -> None:
    """Write the server's configuration, its TLS files, and the contexts that lead to it."""
    embedded = node.embedded or EmbeddedSection(tls=node.nats.ca is not None)
    files = None
    if embedded.tls and node.embedded is not None:
        files = tls.ensure(
            layout.tls,
            listen=embedded.listen,
            kek=nats_kek(layout.data),
            datacenter=layout.datacenter,
            now=SystemClock().now(),
        )
    provision.write_server_conf(
        layout, node=node.node, listen=embedded.listen, port=embedded.port, tls=files
    )
    contexts.write_all(layout, url=node.nats.servers[0], ca=node.nats.ca)


def _make_keks(data: Path, *, made: bool) -> None:
    """Make the key-encryption keys of a new folder; one that is lost is never made again."""
    for name in KEKS:
        file = data / "keys" / f"{name}.kek"
        if file.exists():
            _read_kek(file)
        elif made:
            raise config.ConfigError(
                f"{file} is missing: without it, what it sealed cannot be opened any more. "
                "Put it back; a new one would not help"
            )
        else:
            write_atomically(file, f"{secrets.token_hex(32)}\n".encode(), mode=0o600)


def _read_kek(file: Path) -> str:
    try:
        text = file.read_text().strip()
    except OSError as error:
        raise config.ConfigError(f"{file}: {error.strerror}") from error
    if not _HEX.fullmatch(text):
        raise config.ConfigError(f"{file} holds no key-encryption key: 64 hex characters")
    return text


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
    subjects = Subjects(node.datacenter)
    nc = await transport.connect(
        node.nats.servers,
        creds=node.creds_file("init"),
        ca=node.nats.ca,
        name="caledger init",
    )
    try:
        await streams.check_durability(nc, subjects)
        await streams.create(nc, subjects, replicas=options.replicas)
    finally:
        await nc.close()


def _marker(data: Path) -> Path:
    """Return what says that the streams were made: they are never made over existing data."""
    return data / "nats" / "streams.made"


def _write_config(data: Path, node: NodeConfig) -> None:
    """Write caledger.toml where it would say something else, with paths relative to it."""
    file = config_file(data)
    if file.exists() and config.load(file) == _absolute(node):
        return
    base = data.resolve()
    trust_domain = node.initial.trust_domain
    lines = [
        "# A node of caledger: read by every worker. Paths are relative to this file's folder.",
        f"datacenter = {_text(node.datacenter)}",
        f"node = {_text(node.node)}  # a name of its own for every machine",
        f"data = {_text(_relative(node.data, base))}",
        f"lease_seconds = {node.lease_seconds}",
        "",
        "[nats]",
        f"servers = [{', '.join(map(_text, node.nats.servers))}]",
        f"creds = {_text(_relative(node.nats.creds, base))}",
        *([f"ca = {_text(_relative(node.nats.ca, base))}"] if node.nats.ca else []),
        "",
        "[keys]  # key-encryption keys: file:PATH, env:NAME or credential:NAME (systemd)",
        f"signing = {_text(_relative_key(node.keys.signing, base))}",
        *([f"root = {_text(_relative_key(node.keys.root, base))}"] if node.keys.root else []),
        "",
        "[initial]  # what an empty ledger begins with; without effect afterwards",
        *([f"trust_domain = {_text(trust_domain)}"] if trust_domain else []),
        f"csr_max_per_second = {node.initial.csr_max_per_second:.15g}",
    ]
    if node.embedded is not None:
        lines += [
            "",
            "[embedded]  # the nats-server that `caledger dev` runs",
            f"listen = {_text(node.embedded.listen)}",
            f"port = {node.embedded.port}",
            f"tls = {str(node.embedded.tls).lower()}",
        ]
    write_atomically(file, "\n".join([*lines, ""]).encode())


def _absolute(node: NodeConfig) -> NodeConfig:
    """Return the configuration as `config.load` would."""
    ca = node.nats.ca
    return replace(
        node,
        data=node.data.resolve(),
        nats=replace(node.nats, creds=node.nats.creds.resolve(), ca=ca.resolve() if ca else None),
        keys=KeysSection(
            signing=_absolute_key(node.keys.signing),
            root=_absolute_key(node.keys.root) if node.keys.root else None,
        ),
    )


def _absolute_key(source: str) -> str:
    scheme, _, rest = source.partition(":")
    return f"file:{Path(rest).resolve()}" if scheme == "file" else source


def _relative_key(source: str, base: Path) -> str:
    scheme, _, rest = source.partition(":")
    return f"file:{_relative(Path(rest), base)}" if scheme == "file" else source


def _relative(path: Path, base: Path) -> str:
    resolved = path.resolve()
    return str(resolved.relative_to(base)) if resolved.is_relative_to(base) else str(resolved)


def _text(value: str) -> str:
    """Quote a value: TOML's basic strings take JSON's escapes."""
    return json.dumps(value, ensure_ascii=False)
