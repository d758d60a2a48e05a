"""Clocks for tests."""

from __future__ import annotations

from datetime import datetime, timedelta

from services.clock import Clock


class FixedClock(Clock):
    """A clock that the test moves."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        """Return the moment that it stands at."""
        return self._now

    def forward(self, by: timedelta) -> None:
        """Move it."""
        self._now += by
