"""What goes on for ever says so (architecture, section 5), and not at every turn."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

AGAIN_SECONDS: Final = 5.0  # between two lines of one wait

_log = structlog.get_logger()


class Loudly:
    """One wait or one row of tries, and when it was last told of."""

    def __init__(self, waiting_for: str, *, patience: float = 0.0, **where: object) -> None:
        """Begin; nothing is told for `patience` seconds. `where` goes into each line."""
        self._waiting_for = waiting_for
        self._where = where
        self._next = asyncio.get_running_loop().time() + patience

    def still(self, reason: str) -> None:
        """Tell that it is not over and why, where the last line is AGAIN_SECONDS old."""
        now = asyncio.get_running_loop().time()
        if now >= self._next:
            self._next = now + AGAIN_SECONDS
            _log.warning(self._waiting_for, reason=reason, **self._where)
