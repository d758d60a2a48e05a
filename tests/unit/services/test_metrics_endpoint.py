"""The HTTP endpoint of a worker on a real port: what it tells, and what it does not put up with."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from structlog.testing import capture_logs

from events.log import UnreachableError
from services import health, metrics_endpoint
from services.health import Health
from services.metrics import CONTENT_TYPE, Metrics
from services.metrics_endpoint import CONNECTIONS_MAX, Endpoint
from services.observed import Observed
from tests.nats import free_port


class Serving:
    """An endpoint, and who asks it."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.address = address
        self.metrics = Metrics()
        self.health = Health()
        self.endpoint = Endpoint(address, 0, metrics=self.metrics, health=self.health)

    def get(self, path: str, method: str = "GET") -> tuple[int, str, str]:
        """Return status, content type and body."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        request = urllib.request.Request(f"http://{host}:{self.endpoint.port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read().decode()

    def connect(self) -> socket.socket:
        return socket.create_connection((self.address, self.endpoint.port), timeout=10)


@pytest.fixture
def serving() -> Iterator[Serving]:
    made = Serving()
    yield made
    made.endpoint.close()


def test_metrics_are_told_in_prometheus_text_format(serving: Serving) -> None:
    serving.metrics.counter("caledger_things", "Things.", "kind").labels('a"\n').inc(3)
    serving.metrics.gauge("caledger_half", "Half.", lambda: 0.5)

    status, content_type, body = serving.get("/metrics?x=y")

    assert (status, content_type) == (200, CONTENT_TYPE)
    assert "# HELP caledger_half Half.\n# TYPE caledger_half gauge\ncaledger_half 0.5\n" in body
    assert 'caledger_things_total{kind="a\\"\\n"} 3.0\n' in body


def test_a_gauge_that_cannot_be_read_costs_no_other(serving: Serving) -> None:
    def fails() -> float:
        raise KeyError("x")

    serving.metrics.gauge("caledger_bad", "Bad.", fails)
    serving.metrics.gauges("caledger_bads", "Bad.", "kind", lambda: {"a": fails()})
    serving.metrics.gauge("caledger_good", "Good.", lambda: 1)

    with capture_logs() as lines:
        bodies = {serving.get("/metrics")[2] for _ in range(3)}

    [body] = bodies
    assert "caledger_bad NaN\n" in body
    assert "caledger_good 1.0\n" in body
    assert [(line["event"], line["metric"]) for line in lines] == [
        ("failed to emit metric", "caledger_bad"),
        ("failed to emit metric", "caledger_bads"),
    ]


def test_readiness_says_what_is_missing(serving: Serving) -> None:
    met = serving.health.expect("keys", "the keys were not checked yet")
    connected = [False]
    serving.health.require("nats", lambda: None if connected[0] else "not connected")

    status, content_type, body = serving.get("/readyz")
    assert (status, content_type) == (503, "application/json")
    assert json.loads(body) == {
        "ready": False,
        "missing": {"keys": "the keys were not checked yet", "nats": "not connected"},
    }
    met()
    assert serving.get("/readyz")[0] == 503
    connected[0] = True
    assert serving.get("/readyz")[0::2] == (200, '{"ready": true, "missing": {}}\n')
    connected[0] = False
    assert json.loads(serving.get("/readyz")[2])["missing"] == {"nats": "not connected"}


def test_a_loop_that_stands_still_is_not_alive(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert serving.get("/healthz")[0::2] == (200, '{"alive": true}\n')

    monkeypatch.setattr(health, "DEAD_SECONDS", 0.0)
    assert serving.get("/healthz")[0] == 503

    monkeypatch.setattr(health, "DEAD_SECONDS", 10.0)
    serving.health.beat()
    assert serving.get("/healthz")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "X" * 200])
def test_nothing_but_get_is_answered(serving: Serving, method: str) -> None:
    assert serving.get("/metrics", method)[0] == 501
    assert serving.get("/metrics")[0] == 200


@pytest.mark.parametrize("path", ["/", "/metricsx", "/metrics/", "/../etc/passwd", "/%2e%2e/"])
def test_nothing_else_is_there(serving: Serving, path: str) -> None:
    assert serving.get(path)[0] == 404


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\xff" * 100 + b"\r\n\r\n",
        b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"\r\n",
        b"",
    ],
    ids=["noise", "long", "headers", "version", "blank", "nothing"],
)
def test_what_is_no_request_costs_nothing(serving: Serving, sent: bytes) -> None:
    with serving.connect() as connection, suppress(OSError):
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            pass
    assert serving.get("/metrics")[0] == 200


def test_who_sends_nothing_or_trickles_is_cut_off(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_endpoint, "CONNECTION_SECONDS", 0.3)
    with serving.connect() as connection:
        began = time.monotonic()
        ended = False
        while not ended:
            assert time.monotonic() - began < 5
            try:
                connection.sendall(b"G")
                connection.settimeout(0.05)
                ended = connection.recv(1024) == b""
            except TimeoutError:
                pass  # not cut off yet
            except OSError:
                ended = True
    assert time.monotonic() - began >= 0.2


def test_who_comes_when_too_many_are_there_is_hung_up_on(serving: Serving) -> None:
    crowd = [serving.connect() for _ in range(CONNECTIONS_MAX)]
    try:
        deadline = time.monotonic() + 5
        while threading.active_count() < CONNECTIONS_MAX + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        with serving.connect() as late, suppress(ConnectionResetError):
            late.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert late.recv(1024) == b""
    finally:
        for connection in crowd:
            connection.close()
    deadline = time.monotonic() + 5
    while True:  # as soon as the others are seen to have gone
        with suppress(OSError):
            if serving.get("/metrics")[0] == 200:
                return
        assert time.monotonic() < deadline


def test_closing_cuts_off_who_still_asks() -> None:
    serving = Serving()
    with serving.connect() as connection:
        time.sleep(0.05)
        serving.endpoint.close()
        with suppress(ConnectionResetError):
            assert connection.recv(1024) == b""
    with pytest.raises(OSError, match="refused"):
        serving.connect()


def test_it_listens_on_ipv6_as_well() -> None:
    with ipv6():
        serving = Serving("::1")
        try:
            assert serving.get("/healthz")[0] == 200
        finally:
            serving.endpoint.close()


@contextmanager
def ipv6() -> Iterator[None]:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    yield


async def test_a_port_that_is_taken_is_told_and_costs_nothing_else() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        for wanted in (port, 70_000):
            with capture_logs() as lines:
                async with Observed().served("127.0.0.1", wanted):
                    pass

            assert [(line["event"], line["port"]) for line in lines] == [
                ("metrics are not served", wanted)
            ]


async def test_a_worker_whose_ledger_is_silent_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.observed.LOOK_SECONDS", 0.01)
    observed = Observed()
    answers = [True]

    async def last_sequence() -> int:
        if not answers[0]:
            raise UnreachableError("away")
        return 7

    async with observed.served("127.0.0.1", free_port()), observed.following(last_sequence):
        while observed.health.missing():
            await asyncio.sleep(0.01)
        assert observed.last_sequence() == 7
        answers[0] = False
        monkeypatch.setattr("services.observed.SILENT_SECONDS", 0.05)
        while not observed.health.missing():
            await asyncio.sleep(0.01)
        assert observed.health.missing()["ledger"].startswith("the ledger has not answered")
        assert math.isnan(observed.last_sequence())


async def test_what_is_not_served_asks_the_ledger_nothing() -> None:
    async def last_sequence() -> int:
        raise AssertionError

    observed = Observed()
    async with observed.served("127.0.0.1", None), observed.following(last_sequence):
        await asyncio.sleep(0.02)
