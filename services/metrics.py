"""What a worker tells Prometheus: one registry a run, passed in; docs/metrics.md names all of it.

Values that exist already (a position, a number of partitions) are read when they are asked for, in
the thread of who asks: `read` takes what it needs from one immutable object and never waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Final, TypeVar

import structlog
from nats.aio.client import Client
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from services import transport
from services.clock import Clock

T = TypeVar("T")

NAN: Final = math.nan  # what a gauge says that has no value now: Prometheus shows no stale one
CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_log = structlog.get_logger()


class Metrics:
    """The registry of one run of a worker, and how its metrics are made."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._failed: set[str] = set()  # gauges that were told of

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """Make a counter; its name gets `_total` behind it."""
        return Counter(name, text, labels, registry=self.registry)

    def histogram(self, name: str, text: str) -> Histogram:
        """Make a histogram of seconds."""
        return Histogram(name, text, buckets=SECONDS, registry=self.registry)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Make a gauge that is read whenever it is asked for; NaN, told once, where that fails."""
        Gauge(name, text, registry=self.registry).set_function(lambda: self._read(name, read, NAN))

    def gauges(
        self, name: str, text: str, label: str, read: Callable[[], Mapping[str, float]]
    ) -> None:
        """Make one gauge for each key of what is read."""
        self.registry.register(_Gauges(name, text, label, lambda: self._read(name, read, {})))

    def process(self, **told: str) -> None:
        """Tell of the process: memory, CPU time, file descriptors, and what it is."""
        # A second series for each counter: when it was made.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it does not say its type
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        Gauge(
            "caledger_worker", "Which worker this is.", tuple(told), registry=self.registry
        ).labels(**told).set(1)

    def encoded(self) -> bytes:
        """Return everything, in Prometheus's text format."""
        return generate_latest(self.registry)

    def _read(self, name: str, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except Exception as error:  # one that cannot be read must not cost all the others
            if name not in self._failed:
                self._failed.add(name)
                _log.warning("failed to emit metric", metric=name, error=repr(error))
            return otherwise


class Connections:
    """The worker's connections to nats-server, and the certificates that those show."""

    def __init__(self, metrics: Metrics, *, node: str, clock: Clock) -> None:
        self._connections: dict[str, Client] = {}
        self._node = node
        self._clock = clock
        metrics.registry.register(_Connected(self._connections))
        metrics.gauges(
            "caledger_agent_tls_cert_expiry_seconds",
            "Seconds until the TLS certificate of the nats-server in use expires; NaN without TLS.",
            "node",
            lambda: {self._node: self.expiry_seconds()},
        )

    def add(self, name: str, nc: Client) -> None:
        """Tell of one more."""
        self._connections[name] = nc

    def expiry_seconds(self) -> float:
        """Return in how many seconds the first of the servers' certificates expires, or NaN."""
        validity, now = self.validity(), self._clock.now()
        return NAN if validity is None else (validity[1] - now).total_seconds()

    def validity(self) -> tuple[datetime, datetime] | None:
        """Return from when until when the first of them is valid; None without TLS."""
        shown = [transport.server_validity(nc) for nc in [*self._connections.values()]]
        return min((one for one in shown if one), key=lambda one: one[1], default=None)


class _Gauges(Collector):
    def __init__(
        self, name: str, text: str, label: str, read: Callable[[], Mapping[str, float]]
    ) -> None:
        self._name = name
        self._text = text
        self._label = label
        self._told = read

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(self._name, self._text, labels=(self._label,))
        for value, number in self._told().items():
            family.add_metric([value], number)
        yield family


class _Connected(Collector):
    def __init__(self, connections: Mapping[str, Client]) -> None:
        self._connections = connections

    def collect(self) -> Iterator[Metric]:
        connected = GaugeMetricFamily(
            "caledger_nats_connected", "1 while connected to nats-server.", labels=("connection",)
        )
        again = CounterMetricFamily(
            "caledger_nats_reconnects",
            "How often a lost connection to nats-server was made again.",
            labels=("connection",),
        )
        for name, nc in [*self._connections.items()]:
            connected.add_metric([name], float(nc.is_connected))
            again.add_metric([name], float(nc.stats["reconnects"]))
        yield connected
        yield again
