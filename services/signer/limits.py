"""One signer's shares of CSRMaxPerSecond and CSRMaxConcurrent, as Consul's limits (section 3.9).

CSRMaxPerSecond wins where both are set. Who finds no turn waits 500 ms at most, and hears Consul's
text then. What was issued before costs no turn: limits are asked only before a new signature.

**Rate.** The shares that are granted at one time sum up to CSRMaxPerSecond
(`root_manager/assignment.py`), and a token that a share has brought is worth one certificate under
whatever share follows. A share that begins, begins *without* a token: a partition's signer before
may just have used its own. So however often signers come and go, all of them together never sign
more than the rate allows, but for the one token that each of them may have saved up (Consul's burst
of 1). The price: the first certificate after a start waits for 1/share seconds, where Consul's
does not.
(What a signer admits in the milliseconds before it hears of a smaller share is signed again under
the new grant, and has had its token.)

**Concurrency.** A signature is under way from its admission until it is recorded, or its request
has ended otherwise (refused, or left to another signer). Signatures are recorded in groups, so a
whole group ends at once. Who is under way when a share gets smaller stays so, as in Consul; nobody
is admitted before their number is below the share.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final

from services.refusals import RATE_LIMITED, RefusedError
from services.signer.holdings import Holdings
from services.signer.work import Work
from services.waiting import cancelled

WAIT_SECONDS: Final = 0.5  # at most, for a turn
WAITING_MAX: Final = 2_048  # requests
WAITING_BYTES_MAX: Final = 16 * 1024 * 1024
RETRY_SECONDS_MAX: Final = 3_600.0  # that a refusal tells to wait
TIMER_SECONDS: Final = 0.001  # the event loop's timers are not finer
_ROUNDING: Final = 1e-9  # of a token: sums of floats


class Bucket:
    """Tokens that come at a rate, at most one in store; whoever asks tells what time it is.

    Moments are seconds of one clock that never goes back.
    """

    def __init__(self) -> None:
        self.rate = 0.0  # tokens a second
        self._level = 0.0
        self._at = 0.0  # what came until then is in `_level`

    def change(self, rate: float, now: float, *, waiting: int = 0) -> None:
        """Let tokens come at another rate; a part of one that came already counts.

        While the rate is 0 none come, and none are kept.
        """
        self._fill(now, waiting)
        self.rate = rate
        if rate == 0:
            self._level = 0.0

    def take(self, now: float, *, waiting: int = 0) -> bool:
        """Take a token, if there is one.

        While somebody waits, a timer that comes late loses none: there is one for each who waits.
        """
        self._fill(now, waiting)
        if self._level < 1 - _ROUNDING:
            return False
        self._level -= 1
        return True

    def seconds_until(self, tokens: int, now: float, *, waiting: int = 0) -> float:
        """Return how long it takes, at this rate, until so many have come; the rate is not 0."""
        self._fill(now, waiting)
        return (tokens - self._level) / self.rate

    def _fill(self, now: float, waiting: int) -> None:
        self._level = min(self._level + (now - self._at) * self.rate, max(1.0, waiting))
        self._at = now


class Limits:
    """Who may begin a signature now, and who waits for that."""

    def __init__(self) -> None:
        self._bucket = Bucket()
        self._concurrent = 0
        self._unlimited = False  # nothing may begin before there is a grant
        self._under_way: set[Work] = set()  # only where their number is limited
        self._waiting: deque[tuple[Work, asyncio.Future[None]]] = deque()
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Return how many wait for their turn."""
        return len(self._waiting)

    def change(self, held: Holdings) -> None:
        """Take up the shares of a grant, or of none; who waits now waits for these."""
        granted = held.grant_sequence > 0
        rate = held.rate_per_second if granted else 0.0
        self._bucket.change(rate, _now(), waiting=self.waiting)
        self._concurrent = held.concurrent if granted and rate == 0 else 0
        self._unlimited = granted and rate == 0 and self._concurrent == 0
        self._serve()

    def admit(self, work: Work) -> bool:
        """Let a signature begin, unless it has to wait; once admitted it stays so."""
        if not work.admitted and not self._waiting and self._may_begin():
            self._begin(work)
        return work.admitted

    async def turn(self, work: Work) -> None:
        """Return when the signature may begin: it is admitted then.

        Raises RefusedError `rate_limited` after 500 ms, or at once where the turn cannot come in
        time (as Go's limiter, which Consul uses, does) or too many wait.
        """
        if self.admit(work):
            return
        if not self._room_for(work):
            raise self._limited()
        mine = asyncio.get_running_loop().create_future()
        place = (work, mine)
        self._waiting.append(place)
        self._waiting_bytes += work.size
        self._wake_later()
        try:
            await asyncio.wait([mine], timeout=WAIT_SECONDS)
        finally:
            if not mine.done():
                self._waiting.remove(place)
                self._waiting_bytes -= work.size
        if not mine.done():
            raise self._limited()

    def end(self, work: Work) -> None:
        """Take note that nothing of this request is under way any more; again is no fault.

        Should it be decided once more, it is admitted anew.
        """
        work.admitted = False
        if work in self._under_way:
            self._under_way.remove(work)
            self._serve()

    def _serve(self) -> None:
        while self._waiting and self._may_begin():
            work, mine = self._waiting.popleft()
            self._waiting_bytes -= work.size
            self._begin(work)
            mine.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake_later()

    def _wake_later(self) -> None:
        """Look again when the next token comes."""
        if self._waiting and self._timer is None and self._bucket.rate > 0:
            seconds = self._bucket.seconds_until(1, _now(), waiting=self.waiting)
            seconds = min(max(TIMER_SECONDS, seconds), WAIT_SECONDS)  # nobody waits longer
            self._timer = asyncio.get_running_loop().call_later(seconds, self._serve)

    def _may_begin(self) -> bool:
        if self._bucket.rate > 0:
            return self._bucket.take(_now(), waiting=self.waiting)
        return self._unlimited or len(self._under_way) < self._concurrent

    def _begin(self, work: Work) -> None:
        work.admitted = True
        if self._concurrent > 0:
            self._under_way.add(work)

    def _room_for(self, work: Work) -> bool:
        if self.waiting >= WAITING_MAX or self._waiting_bytes + work.size > WAITING_BYTES_MAX:
            return False
        if self._bucket.rate > 0:
            turn = self._bucket.seconds_until(self.waiting + 1, _now(), waiting=self.waiting)
            return turn <= WAIT_SECONDS
        return True

    def _limited(self) -> RefusedError:
        rate = self._bucket.rate
        seconds = min(max(WAIT_SECONDS, 1 / rate), RETRY_SECONDS_MAX) if rate > 0 else WAIT_SECONDS
        return RefusedError("rate_limited", RATE_LIMITED, retry_after=round(seconds, 3))


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


def _now() -> float:
    return asyncio.get_running_loop().time()
