"""Whether a process is alive and ready: asked by another thread, told by who works."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

BEAT_SECONDS: Final = 1.0  # between two turns of the event loop that are taken note of
DEAD_SECONDS: Final = 10.0  # without one: the loop stands still

Missing = Callable[[], str | None]
"""Says what is missing, None where nothing is."""


class Health:
    """What has to hold for a process to be ready. It begins alive."""

    def __init__(self) -> None:
        self._conditions: dict[str, Missing] = {}
        self._beaten = time.monotonic()

    def require(self, name: str, missing: Missing) -> None:
        """Name a condition; it is looked at whenever somebody asks, in his thread."""
        self._conditions[name] = missing

    def expect(self, name: str, missing: str) -> Callable[[], None]:
        """Name something that is to happen once; returns what to call when it has."""
        met: list[None] = []
        self.require(name, lambda: None if met else missing)
        return lambda: met.append(None) if not met else None

    def beat(self) -> None:
        """Take note that the event loop runs."""
        self._beaten = time.monotonic()

    @property
    def alive(self) -> bool:
        """Say whether the event loop ran lately."""
        return time.monotonic() - self._beaten < DEAD_SECONDS

    def missing(self) -> dict[str, str]:
        """Return what is missing, by the condition's name; nothing where the process is ready."""
        asked = {name: missing() for name, missing in [*self._conditions.items()]}
        return {name: reason for name, reason in asked.items() if reason is not None}
