"""The node's configuration file: decided from what is asked for and what is there, and written."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Final
from urllib.parse import urlparse

import structlog
from msgspec.structs import replace

from events.base import Struct
from events.subjects import check_datacenter
from services import config
from services.breakpoints import reached
from services.config import (
    EmbeddedSection,
    InitialSection,
    KeysSection,
    MetricsSection,
    NatsSection,
    NodeConfig,
)
from services.nats_access import addresses, route, server_process
from services.nats_access.files import write_atomically
from services.nats_access.layout import NatsLayout
from services.pki import spiffe

DEFAULT_DATACENTER: Final = "dc1"
DEFAULT_PORT: Final = 4222

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
    advertise: tuple[str, ...] = ()  # more names and addresses of the server, for its certificate
    server: str | None = None  # a nats-server that runs elsewhere
    ca: Path | None = None  # its transport CA
    replicas: int = 1
    any_port: bool = True  # take another port where the usual one is taken


def config_file(data: Path) -> Path:
    """Return the node's configuration."""
    return data / "caledger.toml"


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
    write(options.data, node)  # first of all: it pins what the folder is for
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
        nats=_elsewhere(options, datacenter),
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


def _elsewhere(options: NodeOptions, datacenter: str) -> NatsSection:
    """Return how to reach a server that runs elsewhere; with TLS of ours where none is named."""
    servers = tuple((options.server or "nats://127.0.0.1:4222").split(","))
    ca = options.ca
    if ca is None and any(urlparse(server).scheme == "tls" for server in servers):
        ca = NatsLayout(options.data, datacenter).transport_ca
    for server in servers:
        url = urlparse(server)
        if url.scheme not in ("nats", "tls") or not url.hostname:
            raise config.ConfigError(f"{server}: not nats://HOST:PORT or tls://HOST:PORT")
        if ca is None and not route.is_loopback(url.hostname):
            raise config.ConfigError(f"{server} is not on this machine: it needs tls://")
    return NatsSection(servers=servers, creds=options.data / "nats" / "creds", ca=ca)


def _agreeing(node: NodeConfig, options: NodeOptions) -> NodeConfig:
    """Return the folder's configuration; raises ContradictionError where it was made otherwise."""
    asked = {
        "datacenter": (options.datacenter, node.datacenter),
        "trust domain": (
            options.trust_domain and options.trust_domain.lower(),
            node.initial.trust_domain or "<cluster id>.consul",
        ),
        "rate limit": (options.csr_max_per_second, node.initial.csr_max_per_second),
        "server": (options.server, None if node.embedded else ",".join(node.nats.servers)),
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
    advertise = _advertised(options)
    if node.embedded is None:
        return node
    listen = options.listen or node.embedded.listen
    secure = options.tls or node.embedded.tls or not route.is_loopback(listen)
    first = options.port is None and not config_file(options.data).exists()
    wanted = options.port or (DEFAULT_PORT if first else node.embedded.port)
    try:
        port = server_process.free_port(listen, wanted) if options.any_port else wanted
    except server_process.ServerError as error:
        raise config.ConfigError(str(error)) from error
    if port != wanted and options.port is not None:
        raise config.ConfigError(f"port {wanted} of {listen} is taken: name another --nats-port")
    if port != wanted:
        _log.warning("port taken; using another", taken=wanted, port=port)
    if advertise and not secure:
        raise config.ConfigError(
            "--advertise adds names to the server's TLS certificate: it needs --tls, or a --listen "
            "that others reach"
        )
    embedded = EmbeddedSection(
        listen=listen,
        port=port,
        tls=secure,
        advertise=tuple(dict.fromkeys((*node.embedded.advertise, *advertise))),
    )
    ca = NatsLayout(options.data, node.datacenter).transport_ca if secure else None
    return replace(
        node,
        embedded=embedded,
        nats=replace(node.nats, servers=(embedded.url,), ca=ca),
    )


def _advertised(options: NodeOptions) -> list[str]:
    try:
        return [addresses.check(name) for name in options.advertise]
    except ValueError as error:
        raise config.ConfigError(f"--advertise: {error}") from error


def write(data: Path, node: NodeConfig) -> None:
    """Write caledger.toml where it would say something else, with paths relative to it."""
    file = config_file(data)
    if file.exists() and config.load(file) == _absolute(node):
        return
    base = data.resolve()
    trust_domain, first = node.initial.trust_domain, node.initial.ca_config
    lines = [
        "# A node of caledger: read by every worker. Paths are relative to this file's folder.",
        f"datacenter = {_text(node.datacenter)}",
        f"node = {_text(node.node)}  # a name of its own for every machine",
        f"data = {_text(_relative(node.data, base))}",
        f"lease_seconds = {node.lease_seconds}",
        f"duplicate_window_seconds = {node.duplicate_window_seconds}  # of the ledger's stream",
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
        *([f"ca_config = {_text(_relative(first, base))}"] if first else []),
    ]
    if node.metrics != MetricsSection():
        lines += [
            "",
            "[metrics]  # of each worker, over HTTP",
            f"address = {_text(node.metrics.address)}",
            *([f"base_port = {port}"] if (port := node.metrics.base_port) else []),
        ]
    if node.embedded is not None:
        lines += [
            "",
            "[embedded]  # the nats-server that `caledger dev` runs",
            f"listen = {_text(node.embedded.listen)}",
            f"port = {node.embedded.port}",
            f"tls = {str(node.embedded.tls).lower()}",
        ]
        if node.embedded.advertise:
            lines.append(f"advertise = [{', '.join(map(_text, node.embedded.advertise))}]")
    write_atomically(file, "\n".join([*lines, ""]).encode())


def _absolute(node: NodeConfig) -> NodeConfig:
    """Return the configuration as `config.load` would."""
    ca = node.nats.ca
    return replace(
        node,
        data=node.data.resolve(),
        nats=replace(node.nats, creds=node.nats.creds.resolve(), ca=ca.resolve() if ca else None),
        initial=replace(
            node.initial,
            ca_config=node.initial.ca_config.resolve() if node.initial.ca_config else None,
        ),
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
