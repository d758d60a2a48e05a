"""The HTTP endpoint of a worker: /metrics, /healthz and /readyz, and nothing else.

In threads of its own, so that it answers also while the event loop stands still, and that whoever
asks holds up nobody. What comes is hostile: GET only, few at a time, each for a short time.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Final

import structlog

from services.health import Health
from services.metrics import CONTENT_TYPE, Metrics

PORT_MAX: Final = 65_535
CONNECTIONS_MAX: Final = 8
SILENCE_SECONDS: Final = 2.0  # of who asks
CONNECTION_SECONDS: Final = 10.0  # from its beginning to its end, however fast it trickles
POLL_SECONDS: Final = 0.2  # a stop takes that long at most

_log = structlog.get_logger()


class Endpoint:
    """Serves one worker's metrics and health until it is closed."""

    def __init__(self, address: str, port: int, *, metrics: Metrics, health: Health) -> None:
        """Listen; raises OSError where that cannot be done. Port 0: any that is free."""
        if not 0 <= port <= PORT_MAX:  # the system would take another
            raise OSError(f"{port} is no port")
        self._server = _Server(address, port, metrics=metrics, health=health)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": POLL_SECONDS},
            name="metrics",
            daemon=True,
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """Return the port."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop, and cut off who still asks. Blocks for POLL_SECONDS, about."""
        self._server.shutdown()
        self._thread.join()
        self._server.cut_off()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 16

    def __init__(self, address: str, port: int, *, metrics: Metrics, health: Health) -> None:
        self.metrics = metrics
        self.health = health
        self._open: dict[socket.socket, float] = {}  # until when each may stay
        self._lock = threading.Lock()
        family, _, _, _, where = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self.address_family = family
        super().__init__(where[:2], _Handler)  # type: ignore[arg-type]  # of what families there are

    def server_bind(self) -> None:
        """Bind, and no more: http.server's own also asks the DNS what this machine is called."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "caledger", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or hang up where there are too many."""
        with self._lock:
            full = len(self._open) >= CONNECTIONS_MAX
            if not full:
                self._open[request] = time.monotonic() + CONNECTION_SECONDS
        if full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close one."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut off who stays too long."""
        self.cut_off(time.monotonic())

    def cut_off(self, now: float | None = None) -> None:
        """Cut off who stays longer than `now`; everybody without it."""
        with self._lock:
            for request, until in self._open.items():
                if now is None or until <= now:
                    with suppress(OSError):
                        request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of who hung up, and log in one line what is ours."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            _log.error("a question for metrics could not be answered", error=repr(error))


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = SILENCE_SECONDS
    server_version = "caledger"
    sys_version = ""

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/metrics":
                self._send(HTTPStatus.OK, CONTENT_TYPE, self.server.metrics.encoded())
            case "/healthz":
                alive = self.server.health.alive
                self._tell(alive, {"alive": alive})
            case "/readyz":
                missing = self.server.health.missing()
                self._tell(not missing, {"ready": not missing, "missing": missing})
            case _:
                self._send(HTTPStatus.NOT_FOUND, "text/plain", b"/metrics, /healthz, /readyz\n")

    def _tell(self, good: bool, body: dict[str, object]) -> None:
        status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
        self._send(status, "application/json", json.dumps(body).encode() + b"\n")

    def _send(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing: anybody could fill the log."""
