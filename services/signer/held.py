"""Requests that wait until the node's projections are as far as their partition's grant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from services.signer.holdings import Standing
from services.signer.work import Work

HELD_MAX: Final = 2_048
HELD_BYTES_MAX: Final = 16 * 1024 * 1024
HELD_SECONDS_MAX: Final = 5.0


class Held:
    """A bounded room: nobody waits in it for long (failure F16)."""

    def __init__(self) -> None:
        self._works: list[Work] = []
        self._bytes = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._works)

    def add(self, work: Work) -> bool:
        """Let one more wait; False where there is no room."""
        if len(self._works) >= HELD_MAX or self._bytes >= HELD_BYTES_MAX:
            return False
        self._works.append(work)
        self._bytes += work.size
        return True

    def all(self) -> frozenset[Work]:
        """Return those that wait."""
        return frozenset(self._works)

    def release(self, standing: Callable[[Work], Standing]) -> list[Work]:
        """Take out those that need not wait any more, in their order."""
        return self._take(lambda work: standing(work) != "held")

    def late(self, now: float) -> list[Work]:
        """Take out those that have waited too long; `now` is of the loop's clock."""
        return self._take(lambda work: work.heard < now - HELD_SECONDS_MAX)

    def _take(self, wanted: Callable[[Work], bool]) -> list[Work]:
        taken = [work for work in self._works if wanted(work)]
        if taken:
            gone = set(taken)
            self._works = [work for work in self._works if work not in gone]
            self._bytes -= sum(work.size for work in taken)
        return taken
