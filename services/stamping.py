"""What a worker decided becomes what it records: ids, times and its own name on each event."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from events.catalogue import AnyEvent
from events.envelope import NewEvent
from services.clock import Clock, Entropy

_BASE32: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's, in the order of ASCII


class Stamper:
    """Stamps the events of one writer: ids only rise, and time never goes back (failure F25)."""

    def __init__(self, source: str, clock: Clock, entropy: Entropy) -> None:
        self._source = source
        self._clock = clock
        self._entropy = entropy
        self._last_id = ""
        self._last_millisecond = -1
        self._last_time = datetime.min.replace(tzinfo=UTC)

    def stamp(
        self, event: AnyEvent, *, subject: str, correlation_id: str | None = None
    ) -> NewEvent:
        """Return the event as it will be recorded; `correlation_id`: of what it belongs to.

        Where the clock went back, the last time is used again until the clock has passed it.
        """
        self._last_time = max(self._last_time, self._clock.now())
        self._last_id = self._next_id(int(self._last_time.timestamp() * 1000))
        return NewEvent(
            id=self._last_id,
            source=self._source,
            subject=subject,
            time=self._last_time,
            event=event,
            correlation_id=correlation_id,
        )

    def _next_id(self, millisecond: int) -> str:
        """Return a higher id; chance makes one for each millisecond, the others follow it."""
        if millisecond == self._last_millisecond:
            return _after(self._last_id)
        self._last_millisecond = millisecond
        event_id = self._entropy.ulid(self._last_time)
        return event_id if event_id > self._last_id else _after(self._last_id)


def _after(ulid: str) -> str:
    """Return the next ULID as text (https://github.com/ulid/spec#monotonicity)."""
    head = ulid.rstrip("Z")
    assert head, "the last ULID there is"
    following = _BASE32[_BASE32.index(head[-1]) + 1]
    return head[:-1] + following + "0" * (len(ulid) - len(head))


def source(datacenter: str, worker: str, node: str) -> str:
    """Return what `source` says of a worker's events (architecture, section 3)."""
    return f"/caledger/{datacenter}/{worker}/{node}"
