"""Where a connection to nats-server may go: by TLS from the first byte, or on this machine only."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import ParseResult, urlparse

from nats.aio.client import Server
from nats.aio.transport import TcpTransport

RECONNECT_WAIT_SECONDS: Final = 0.1
TLS_CLOSE_SECONDS: Final = 1.0  # a server that is stopped says no goodbye


class TransportError(Exception):
    """No connection; the text says why."""


class UnreachableError(TransportError):
    """No server answered in time."""


class NotSecureError(TransportError):
    """The connection would be in clear text, or to a server that our transport CA does not know."""


class NotPermittedError(TransportError):
    """The server does not know these credentials, or they have expired or were revoked."""


class HungUpError(NotPermittedError):
    """The server ended the connection while it was being made.

    So it ends one whose credentials it refuses, and often before its reason has been read: our next
    bytes were on their way to it. A server that is being stopped does it as well, but only once.
    """


class SetupError(TransportError):
    """Files or addresses that cannot be used; trying again does not help."""


def tls_context(ca: Path | None) -> ssl.SSLContext:
    """Return what our connections require: TLS 1.2, the server's name, and this CA only.

    Raises SetupError where the CA's file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        if ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cafile=str(ca))
    except OSError as error:  # SSLError is one
        raise SetupError(f"transport CA {ca}: {error.strerror or error}") from error
    return context


def is_loopback(host: str) -> bool:
    """Say whether an address never leaves this machine; of names only `localhost` does."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Route:
    """Where to connect, and how."""

    def __init__(self, servers: list[str], context: ssl.SSLContext | None) -> None:
        self.servers = servers
        self.context = context
        self._hosts = [urlparse(server).hostname for server in servers]
        self._turn = 0

    @classmethod
    def plan(cls, servers: Sequence[str], *, ca: Path | None) -> Route:
        """Return how to reach these servers; raises SetupError for one that would not be secure."""
        urls = [urlparse(server if "://" in server else f"nats://{server}") for server in servers]
        if not urls:
            raise SetupError("no server is named")
        for url in urls:
            if url.scheme not in ("nats", "tls") or not url.hostname:
                raise SetupError(f"{url.geturl()}: not nats://HOST:PORT or tls://HOST:PORT")
        secure = ca is not None or any(url.scheme == "tls" for url in urls)
        for url in urls:
            if not secure and not is_loopback(url.hostname or ""):
                raise SetupError(
                    f"{url.geturl()} is not on this machine: clear text is refused; use tls:// "
                    "and the transport CA (ca.pem of the server's folder)"
                )
        return cls([url.geturl() for url in urls], tls_context(ca) if secure else None)

    def next_server(
        self, known: list[Server], _info: dict[str, Any]
    ) -> tuple[Server | None, float]:
        """Choose where to reconnect: round robin, and in clear text on this machine only.

        nats-py adds whatever addresses a server's greeting names to those it tries.
        """
        if self.context is None:
            known = [server for server in known if is_loopback(server.uri.hostname or "")]
        self._turn += 1
        return known[self._turn % len(known)], RECONNECT_WAIT_SECONDS

    def certified_name(self, host: str | None) -> str | None:
        """Return the name that a server's certificate must have.

        A server that was learned of by its address has the name of the one that we were told of.
        """
        if host in self._hosts or host is None:
            return host
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return host
        return self._hosts[0]


class Transport(TcpTransport):
    """A connection that is TLS from its first byte, or in clear text for good.

    nats-py's own is upgraded when a greeting says so, and where that fails it waits for ever when
    it is closed; it also leaves open what failed.
    """

    def __init__(self, route: Route) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nats-py does not say its type
        self._route = route

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """Connect, and agree on TLS; raises ssl.SSLError, OSError or TimeoutError."""
        if self._io_writer is not None:
            self._io_writer.close()
        context = self._route.context
        self._io_reader, self._io_writer = await asyncio.wait_for(
            asyncio.open_connection(
                host=uri.hostname,
                port=uri.port,
                limit=buffer_size,
                ssl=context,
                server_hostname=context and self._route.certified_name(uri.hostname),
                ssl_shutdown_timeout=context and TLS_CLOSE_SECONDS,
            ),
            connect_timeout,
        )

    @property
    def peer_certificate(self) -> dict[str, Any] | None:
        """Return the server's certificate as `ssl` decodes it, of the last handshake; or None."""
        writer = self._io_writer
        told: dict[str, Any] | None = writer.get_extra_info("peercert") if writer else None
        return told

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: int,
    ) -> None:
        """Do nothing where it is TLS already; raises ssl.SSLError where it is not."""
        if self._route.context is None:
            raise ssl.SSLError(1, "this server requires TLS; its transport CA was not named")

    def writelines(self, payload: list[bytes]) -> None:
        """Write; what is lost with a connection that is gone is found missing by its reader.

        nats-py writes what is left when it is closed, also where there is no connection.
        """
        if self._io_writer is not None and not self._io_writer.is_closing():
            self._io_writer.writelines(payload)

    async def drain(self) -> None:
        """Wait until the machine has taken what was written, or the connection is gone."""
        if self._io_writer is not None and not self._io_writer.is_closing():
            with suppress(ConnectionError):
                await self._io_writer.drain()

    def __bool__(self) -> bool:
        """Say that this is the transport, so that nats-py makes none of its own."""
        return True
