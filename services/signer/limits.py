"""The rate limit of new certificates, as Consul's (section 3.9): burst 1, a wait of 500 ms."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from aiolimiter import AsyncLimiter

from services.refusals import RATE_LIMITED, RefusedError
from services.waiting import cancelled

WAIT_SECONDS: Final = 0.5  # at most, for a turn


class RateLimit:
    """One signer's share of CSRMaxPerSecond."""

    def __init__(self, rate_per_second: float = 0.0) -> None:
        self._rate = 0.0
        self._waiting = 0
        self._limiter: AsyncLimiter | None = None
        self.change(rate_per_second)

    @property
    def off(self) -> bool:
        """Say whether there is no limit."""
        return self._limiter is None

    def change(self, rate_per_second: float) -> None:
        """Take another share; 0 = no limit. Who waits already waits for the old share's turn."""
        if rate_per_second == self._rate:
            return
        self._rate = rate_per_second
        self._limiter = (
            AsyncLimiter(1, time_period=1 / rate_per_second) if rate_per_second > 0 else None
        )

    async def turn(self) -> None:
        """Return when one certificate may be issued.

        Raises RefusedError `rate_limited` after 500 ms, or at once where so many wait already that
        the turn cannot come in time (as Go's limiter, which Consul uses, does). So the number of
        those who wait is bounded by the rate.
        """
        limiter, rate = self._limiter, self._rate  # the share may change while we wait
        if limiter is None:
            return
        if self._waiting >= max(1.0, rate * WAIT_SECONDS):
            raise _limited(rate)
        self._waiting += 1
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await limiter.acquire()
        except TimeoutError:
            raise _limited(rate) from None
        finally:
            self._waiting -= 1


class Turns:
    """Requests that wait for their turn, each in a task of its own."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Queue[asyncio.Task[None]] = asyncio.Queue()

    def begin(self, turn: Coroutine[Any, Any, None]) -> None:
        """Let one more wait."""
        task = asyncio.create_task(turn)
        self._tasks.add(task)
        task.add_done_callback(self._end)

    async def run(self) -> None:
        """Raise what a turn raises: its request is lost, and nobody else would hear of it.

        Until cancelled; then all turns are.
        """
        try:
            while True:
                (await self._ended.get()).result()
        finally:
            await cancelled(*self._tasks)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._ended.put_nowait(task)


def _limited(rate: float) -> RefusedError:
    return RefusedError(
        "rate_limited", RATE_LIMITED, retry_after=round(max(WAIT_SECONDS, 1 / rate), 3)
    )
