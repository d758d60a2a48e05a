"""What a worker decided becomes what it records: ids, times and its own name on each event."""

from __future__ import annotations

from datetime import UTC, datetime

from ulid import ULID

from events.catalogue import AnyEvent
from events.envelope import NewEvent
from services.clock import Clock, Entropy


class Stamper:
    """Stamps the events of one writer: ids only rise, and time never goes back (failure F25)."""

    def __init__(self, source: str, clock: Clock, entropy: Entropy) -> None:
        self._source = source
        self._clock = clock
        self._entropy = entropy
        self._last_id = ""
        self._last_time = datetime.min.replace(tzinfo=UTC)

    def stamp(
        self,
        event: AnyEvent,
        *,
        subject: str,
        correlation_id: str | None = None,
        causation_id: str | None = None,
    ) -> NewEvent:
        """Return the event as it will be recorded.

        Where the clock went back, the last time is used again until the clock has passed it.
        """
        self._last_time = max(self._last_time, self._clock.now())
        event_id = self._entropy.ulid(self._last_time)
        if event_id <= self._last_id:  # in one millisecond only chance orders them
            event_id = str(ULID.from_int(int(ULID.from_str(self._last_id)) + 1))
        self._last_id = event_id
        return NewEvent(
            id=event_id,
            source=self._source,
            subject=subject,
            time=self._last_time,
            event=event,
            correlation_id=correlation_id,
            causation_id=causation_id,
        )


def source(datacenter: str, worker: str, node: str) -> str:
    """Return what `source` says of a worker's events (architecture, section 3)."""
    return f"/caledger/{datacenter}/{worker}/{node}"
