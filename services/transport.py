"""How this program reaches nats-server: the one way to connect, for workers and clients alike.

With TLS it is TLS from the first byte. NATS's own order (a greeting in clear text that says whether
TLS is wanted) lets anyone between client and server switch it off; nats-py obeys such a greeting.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog
from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    stop_never,
    wait_exponential_jitter,
)

from events.subjects import Subjects
from services.nats_access import jwt, wire
from services.nats_access.route import (
    RECONNECT_WAIT_SECONDS,
    HungUpError,
    NotPermittedError,
    NotSecureError,
    Route,
    SetupError,
    Transport,
    TransportError,
    UnreachableError,
    is_loopback,
)

CONNECT_TIMEOUT_SECONDS: Final = 5
ATTEMPTS_MORE: Final = 2  # than there are servers, before `connect` gives up
PING_SECONDS: Final = 2  # a server that answers none of two pings is lost
LOG_EVERY_SECONDS: Final = 5.0  # of the same error, while a server is away
SUBJECTS_REMEMBERED_MAX: Final = 1000

__all__ = [
    "NotPermittedError",
    "NotSecureError",
    "SetupError",
    "TransportError",
    "UnreachableError",
    "connect",
    "is_loopback",
]

_REFUSED = re.compile(r'permissions violation for (?:publish|subscription) to "([^"]*)"')

_log = structlog.get_logger()


async def connect(
    servers: Sequence[str],
    *,
    creds: Path | None,
    ca: Path | None,
    name: str,
    on_permission_error: Callable[[str], None] | None = None,
    on_closed: Callable[[TransportError], None] | None = None,
    on_disconnected: Callable[[], None] | None = None,
    on_reconnected: Callable[[], Awaitable[None]] | None = None,
    wait: bool = False,
    timeout: float = CONNECT_TIMEOUT_SECONDS,
) -> Client:
    """Return a connection that reconnects for ever, until it is closed.

    With `ca`, or where an address says `tls://`: TLS 1.2 or newer from the first byte, only with a
    server that the CA (without `ca`: the system's) vouches for, at every reconnect and for every
    server that is learned of. Without: only servers on a loopback address.

    `on_permission_error` hears the subject of every publish or subscription that was refused.
    `on_closed` hears why the connection has ended for good, not by `close`: the server said that it
    must (a user revoked or expired). `on_disconnected` is called before it is tried to
    connect again, `on_reconnected` is awaited after that.
    `wait`: try for ever, and say so; otherwise for `timeout` seconds at most.

    Raises SetupError, and (not with `wait`) UnreachableError, NotSecureError or NotPermittedError.
    """
    route = Route.plan(servers, ca=ca)
    prefix = _inbox_prefix(creds)
    log = _log.bind(connection=name)

    async def once() -> Client:
        client = _Client(
            route, log, on_permission_error, on_closed, on_disconnected, on_reconnected
        )
        await client.open(creds=creds, inbox_prefix=prefix, name=name, timeout=timeout)
        return client

    again: tuple[type[TransportError], ...] = (UnreachableError, NotSecureError, HungUpError)
    if wait:
        again = (*again, NotPermittedError)
    attempts = stop_after_attempt(len(servers) + ATTEMPTS_MORE)
    retrying = AsyncRetrying(
        stop=stop_never if wait else attempts | stop_after_delay(timeout / 2),
        wait=wait_exponential_jitter(multiplier=RECONNECT_WAIT_SECONDS, max=2.0, jitter=0.1),
        retry=retry_if_exception_type(again),
        before_sleep=_say(log) if wait else None,
        reraise=True,
    )
    client: Client = await retrying(once)
    return client


class _Client(Client):
    """nats-py's client, told how we connect, and what to say when something goes wrong."""

    def __init__(
        self,
        route: Route,
        log: structlog.typing.FilteringBoundLogger,
        on_permission_error: Callable[[str], None] | None,
        on_closed: Callable[[TransportError], None] | None,
        on_disconnected: Callable[[], None] | None,
        on_reconnected: Callable[[], Awaitable[None]] | None,
    ) -> None:
        super().__init__()
        self._route = route
        self._log = log
        self._on_permission_error = on_permission_error
        self._on_closed = on_closed
        self._on_disconnected = on_disconnected
        self._on_reconnected = on_reconnected
        self._asked: dict[
            str, str
        ] = {}  # the server's errors are lower case by the time we see them
        self._said: tuple[str, float] = ("", 0.0)
        self._opened = False
        self._ended = False
        self._first_error: Exception | None = None
        self._transport = Transport(route)
        self._ps = wire.WireParser(self)

    async def open(
        self, *, creds: Path | None, inbox_prefix: str, name: str, timeout: float
    ) -> None:
        """Connect once: each server is tried until one answers; raises TransportError."""
        try:
            async with asyncio.timeout(timeout * len(self._route.servers)):
                await self.connect(
                    self._route.servers,
                    name=name,
                    user_credentials=None if creds is None else str(creds),
                    inbox_prefix=inbox_prefix,
                    tls=self._route.context,
                    tls_handshake_first=self._route.context is not None,
                    allow_reconnect=False,  # for the first time, see below
                    max_reconnect_attempts=1,
                    connect_timeout=CONNECT_TIMEOUT_SECONDS,
                    reconnect_time_wait=0,  # `next_server` says how long
                    ping_interval=PING_SECONDS,
                    max_outstanding_pings=2,
                    error_cb=self._failed,
                    disconnected_cb=self._disconnected,
                    reconnected_cb=self._reconnected,
                    closed_cb=self._closed,
                    reconnect_to_server_handler=self._route.next_server,
                )
            if not self.is_connected:  # nats-py returns all the same where it was turned away
                raise ConnectionResetError("the server hung up")
        except (OSError, ValueError, nats_errors.Error) as error:
            cause = self._first_error or error
            await self.close()
            raise _explain(cause, self._route.servers) from error
        self._opened = True
        # nats-py's first connection either never fails or is never repeated: it is ours to repeat.
        self.options["allow_reconnect"] = True
        self.options["max_reconnect_attempts"] = -1

    async def close(self) -> None:
        """Close, as nats-py does."""
        self._ended = True
        await super().close()

    async def drain(self) -> None:
        """Hand over what is on its way, then close, as nats-py does."""
        self._ended = True
        await super().drain()

    async def flush(self, timeout: int = CONNECT_TIMEOUT_SECONDS) -> None:
        """Return once the server has handled all that was sent before.

        nats-py sends its ping ahead of what still waits to be sent: a subscription that was made
        just before is not there yet when the pong comes. The second ping comes after it.
        """
        await super().flush(timeout)
        await super().flush(timeout)

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        reply: str = "",
        headers: dict[str, Any] | None = None,
    ) -> None:
        """Publish, as nats-py does."""
        self._remember(subject)
        await super().publish(subject, payload, reply, headers)

    async def subscribe(self, subject: str, *args: Any, **options: Any) -> Any:
        """Subscribe, as nats-py does."""
        self._remember(subject)
        return await super().subscribe(subject, *args, **options)

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        return wire.read_headers(headers) if headers else None

    def _build_message(
        self,
        sid: int,
        subject: bytes,
        reply: bytes,
        data: bytes,
        headers: dict[str, str] | None,
    ) -> Msg | None:
        """Make a message; None, which drops it, where its subject or reply is not UTF-8."""
        try:
            built: Msg = super()._build_message(sid, subject, reply, data, headers)
        except UnicodeDecodeError:
            self._trouble("a message was dropped: its subject is not UTF-8")
            return None
        return built

    async def _read_loop(self) -> None:
        """Read until the connection is lost or given up: where nothing reads on, it is lost.

        nats-py's own ends on an error that it did not foresee, and the connection stays open, deaf.
        """
        await super()._read_loop()
        if self.is_connected and self._reading_task is asyncio.current_task():
            await self._process_op_err(ConnectionAbortedError("what the server sent is not NATS"))

    def _remember(self, subject: str) -> None:
        if self._on_permission_error is None or subject in self._asked:
            return
        if len(self._asked) >= SUBJECTS_REMEMBERED_MAX:
            self._asked.clear()
        self._asked[subject.lower()] = subject

    async def _failed(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        refused = _REFUSED.search(text)
        if refused is not None:
            subject = self._asked.get(refused.group(1), refused.group(1))
            self._log.warning("not permitted", subject=subject)
            if self._on_permission_error is not None:
                self._on_permission_error(subject)
            return
        if not self._opened:
            self._first_error = error
            return
        self._trouble(text)

    def _trouble(self, text: str) -> None:
        now = asyncio.get_running_loop().time()
        said, at = self._said
        if text != said or now - at >= LOG_EVERY_SECONDS:
            self._said = (text, now)
            self._log.warning("NATS connection in trouble", error=text)

    async def _disconnected(self) -> None:
        if self._opened and not self.is_closed:
            self._log.warning("lost the connection to nats-server; trying again")
            if self._on_disconnected is not None:
                self._on_disconnected()

    async def _reconnected(self) -> None:
        url = self.connected_url
        self._log.warning("connected again", server=url.netloc if url else "")
        if self._on_reconnected is not None:
            await self._on_reconnected()

    async def _closed(self) -> None:
        if not self._opened:
            return
        if self._ended:
            self._log.info("connection closed")
            return
        self._log.error("the server closed the connection", error=str(self.last_error))
        if self._on_closed is not None:
            self._on_closed(_explain(self.last_error or ConnectionError(), self._route.servers))


def server_validity(nc: Client) -> tuple[datetime, datetime] | None:
    """Return from when until when the certificate is valid that the server showed; None: no TLS."""
    by = nc._transport  # noqa: SLF001 - ours, see `_Client`
    told = by.peer_certificate if isinstance(by, Transport) else None
    if not told:
        return None
    begins, ends = (ssl.cert_time_to_seconds(told[name]) for name in ("notBefore", "notAfter"))
    return datetime.fromtimestamp(begins, UTC), datetime.fromtimestamp(ends, UTC)


def _inbox_prefix(creds: Path | None) -> str:
    if creds is None:
        return "_INBOX"
    try:
        return Subjects.inbox_prefix(jwt.user_name(creds))
    except jwt.TokenError as error:
        raise SetupError(str(error)) from error


def _explain(error: Exception, servers: list[str]) -> TransportError:
    where = ", ".join(servers)
    text = str(error) or type(error).__name__
    if isinstance(error, ssl.SSLError):
        return NotSecureError(f"{where}: no TLS with a server that our transport CA knows: {text}")
    if isinstance(error, ConnectionResetError):
        return HungUpError(
            f"{where}: the server hangs up on these credentials; they may be of another caledger's"
        )
    if "authorization" in text.lower() or "authentication" in text.lower():
        return NotPermittedError(f"{where}: the server refuses these credentials: {text}")
    if isinstance(error, TimeoutError | nats_errors.TimeoutError):
        text = "no answer"
    elif isinstance(error, OSError) and error.errno is not None:
        text = os.strerror(error.errno)  # asyncio's own text has the address once more
    return UnreachableError(f"{where}: {text}")


def _say(log: structlog.typing.FilteringBoundLogger) -> Callable[[RetryCallState], None]:
    def say(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning("waiting for nats-server", attempt=state.attempt_number, error=str(error))

    return say
