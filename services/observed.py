"""What others can see of a run of a worker: its metrics, its health, and where both are served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import structlog

from events.log import LedgerError
from services.clock import Clock, SystemClock
from services.health import BEAT_SECONDS, Health
from services.metrics import NAN, Connections, Metrics
from services.metrics_endpoint import Endpoint
from services.waiting import cancelled

LOOK_SECONDS: Final = 5.0  # between two looks at how far the ledger is
SILENT_SECONDS: Final = 15.0  # of the ledger, after which its worker is not ready

_log = structlog.get_logger()


class Observed:
    """One run's metrics and health; nothing is asked or served unless it is entered."""

    def __init__(self, *, node: str = "", clock: Clock | None = None) -> None:
        self.metrics = Metrics()
        self.health = Health()
        self.connections = Connections(self.metrics, node=node, clock=clock or SystemClock())
        self._served = False
        self._last: tuple[int, float] | None = None  # of the ledger, and when that was told

    @asynccontextmanager
    async def served(self, address: str, port: int | None) -> AsyncIterator[None]:
        """Serve until the block ends; a port that is taken is told, and costs nothing else."""
        if port is None:
            yield
            return
        try:
            endpoint = Endpoint(address, port, metrics=self.metrics, health=self.health)
        except OSError as error:
            reason = error.strerror or str(error)
            _log.error("metrics are not served", address=address, port=port, error=reason)
            yield
            return
        _log.info("metrics are served", address=address, port=port)
        self._served = True
        beating = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            await cancelled(beating)
            await asyncio.to_thread(endpoint.close)

    @asynccontextmanager
    async def following(self, last_sequence: Callable[[], Awaitable[int]]) -> AsyncIterator[None]:
        """Look how far the ledger is, again and again, until the block ends; only where served."""
        self.metrics.gauge(
            "caledger_ledger_last_sequence",
            "The ledger's last sequence, as it was told in the last seconds; NaN where it was not.",
            self.last_sequence,
        )
        self.health.require("ledger", self._silent)
        if not self._served:
            yield
            return
        looking = asyncio.create_task(self._look(last_sequence))
        try:
            yield
        finally:
            await cancelled(looking)

    def last_sequence(self) -> float:
        """Return the ledger's last sequence, NaN where it was not told lately."""
        last = self._last
        if last is None or time.monotonic() - last[1] > SILENT_SECONDS:
            return NAN
        return float(last[0])

    def _silent(self) -> str | None:
        last = self._last
        if last is None:
            return "the ledger was not read yet"
        silent = time.monotonic() - last[1]
        return (
            f"the ledger has not answered for {silent:.0f} s" if silent > SILENT_SECONDS else None
        )

    async def _beat(self) -> None:
        while True:
            self.health.beat()
            await asyncio.sleep(BEAT_SECONDS)

    async def _look(self, last_sequence: Callable[[], Awaitable[int]]) -> None:
        while True:
            with suppress(LedgerError):  # `_silent` tells it
                self._last = await last_sequence(), time.monotonic()
            await asyncio.sleep(LOOK_SECONDS)
