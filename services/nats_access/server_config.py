"""What nats-server is started with: one server, or one of a cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.nats_access.route import is_loopback

CONTROL_LINE_BYTES: Final = 64 * 1024  # nats-server's default is 4 KiB: some 30 identities

# What no quoted string holds as it stands; lone surrogates are a path's bytes that are no UTF-8.
_ESCAPED: Final = re.compile(r'["\\\x00-\x1f\x7f\udc80-\udcff]')


class ClearTextError(Exception):
    """A listener that other machines reach would speak in clear text."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of a server: its transport CA, its certificate, its key."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class Cluster:
    """The other servers; their streams are replicated among all."""

    name: str
    listen: str
    port: int
    routes: Sequence[str]  # HOST:PORT of each server's cluster listener, its own included or not


@dataclass(frozen=True)
class Server:
    """One server. Relative paths are relative to the folder that its configuration is in."""

    name: str  # unique in a cluster
    datacenter: str
    listen: str  # address
    port: int
    store: Path  # nats-server makes a folder `jetstream` in it: the ledger's bytes
    accounts_conf: str  # the file that says whom it trusts, relative to this configuration
    tls: TlsFiles | None = None
    cluster: Cluster | None = None


def render(server: Server) -> str:
    """Return the configuration of a server.

    Raises ClearTextError where an address that is not loopback would be served without TLS.
    """
    _refuse_clear_text(server)
    blocks = [
        f"server_name: {_text(server.name)}",
        f"listen: {_text(_address(server.listen, server.port))}",
        "# A silent cut is noticed within seconds, not when TCP gives up.",
        'ping_interval: "1s"',
        "ping_max: 2",
        "# A user shows its token in one line, and the token names all that it may sign for.",
        f"max_control_line: {CONTROL_LINE_BYTES}",
        _jetstream(server),
        f"include {_text(server.accounts_conf)}",
    ]
    if server.tls is not None:
        # A client that does not begin with TLS is greeted after this time, and told to; ours begin
        # with it. ("auto" is 50 ms: too short for a client on a busy machine.)
        blocks.append(_tls(server.tls, 'handshake_first: "250ms"'))
    if server.cluster is not None:
        blocks.append(_cluster(server.cluster, server.tls))
    return "\n".join(blocks) + "\n"


def render_accounts(
    *, operator: str, system_account: str, accounts: Mapping[str, str], resolver: Path
) -> str:
    """Return whom a server trusts: the operator's token, and those of accounts by public key.

    The resolver keeps accounts that are pushed while it runs in a folder of its own, where a newer
    token replaces an older one.
    """
    preload = "\n".join(f"  {account}: {token}" for account, token in accounts.items())
    return (
        f"operator: {operator}\n"
        f"system_account: {system_account}\n"
        f"resolver {{ type: full, dir: {_text(str(resolver))} }}\n"
        f"resolver_preload {{\n{preload}\n}}\n"
    )


def _refuse_clear_text(server: Server) -> None:
    listeners = [server.listen, *([server.cluster.listen] if server.cluster else [])]
    for address in listeners:
        if server.tls is None and not is_loopback(address):
            raise ClearTextError(
                f"{address} is not a loopback address: other machines reach it, so it needs TLS"
            )


def _jetstream(server: Server) -> str:
    # sync_interval: the default flushes every two minutes, and loses acknowledged appends.
    # limits: abandoned batches must not keep a rotation from being appended (nats.md, 11).
    return (
        "jetstream {\n"
        f"  store_dir: {_text(str(server.store))}\n"
        f"  domain: {_text(server.datacenter)}\n"
        "  sync_interval: always\n"
        '  limits { batch { max_inflight_per_stream: 400, timeout: "2s" } }\n'
        "}"
    )


def _cluster(cluster: Cluster, tls: TlsFiles | None) -> str:
    routes = ", ".join(_text(f"nats-route://{route}") for route in cluster.routes)
    lines = [
        "cluster {",
        f"  name: {_text(cluster.name)}",
        f"  listen: {_text(_address(cluster.listen, cluster.port))}",
        f"  routes: [{routes}]",
    ]
    if tls is not None:
        lines.append(f"  {_tls(tls, 'verify: true')}")  # servers show each other certificates
    return "\n".join([*lines, "}"])


def _tls(tls: TlsFiles, also: str) -> str:
    return (
        f"tls {{ cert_file: {_text(str(tls.certificate))}, key_file: {_text(str(tls.key))}, "
        f'ca_file: {_text(str(tls.ca))}, min_version: "1.2", {also} }}'
    )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _text(value: str) -> str:
    r"""Quote a value: nats-server takes UTF-8 as it stands, a byte as `\xHH`, none of JSON's."""
    return f'"{_ESCAPED.sub(_byte, value)}"'


def _byte(found: re.Match[str]) -> str:
    return f"\\x{ord(found[0]) & 0xFF:02x}"
