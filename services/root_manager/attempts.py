"""What fails is tried again, after ever longer pauses, and never costs leadership (Consul, 3.2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

import structlog

from events.base import Struct
from events.catalogue import UnknownEventTypeError
from events.log import LedgerError
from projections.issuance import WentBackError
from services.clock import Clock
from services.config import ConfigError
from services.keys.interface import KeyStoreError
from services.pki.certificates import CertificateError
from services.refusals import RefusedError

PAUSE_SECONDS: Final = 2.0  # after the first failure; then twice as long each time
PAUSE_SECONDS_MAX: Final = 256.0
PROVIDER_ERRORS: Final = (
    KeyStoreError,
    CertificateError,
    ConfigError,
    RefusedError,
    WentBackError,  # the node's projections are made anew
)

NO_PROVIDERS: Final = (
    LedgerError,  # the world failed, or this run must end (`OutcomeUnknownError`, `GapError`)
    UnknownEventTypeError,  # newer software is needed: this run must end
    AssertionError,  # nobody knows what is true any more: so must it after an append cut off
)
"""What goes on to who runs this, whoever was at work."""

log = structlog.get_logger()


class Failure(Struct):
    """Why something that is due is not done."""

    what: str
    reason: str
    count: int
    since: datetime
    again_at: datetime


class Attempts:
    """Remembers what failed, for as long as this process runs."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: dict[str, Failure] = {}

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Return what fails now."""
        return tuple(self._failures.values())

    def forgive(self) -> None:
        """Try everything again at once: the configuration is another."""
        self._failures.clear()

    def forget(self, what: str) -> None:
        """Try this again at once, or never: it may not be due any more."""
        self._failures.pop(what, None)

    async def attempt(self, what: str, action: Callable[[], Awaitable[object]]) -> bool:
        """Do it unless it failed just now; return whether it was done.

        What a provider raises is logged and remembered; what nobody expects, with its traceback.
        Raises NO_PROVIDERS alone.
        """
        failed = self._failures.get(what)
        now = self._clock.now()
        if failed is not None and now < failed.again_at:
            return False
        try:
            await action()
        except NO_PROVIDERS:
            raise
        except PROVIDER_ERRORS as error:
            pause = self._failed(what, str(error), now)
            log.error("failed", what=what, error=str(error), again_in=pause)  # noqa: TRY400 - no fault of ours
            return False
        except Exception as error:
            pause = self._failed(what, f"{type(error).__name__}: {error}", now)
            log.exception("failed", what=what, again_in=pause)
            return False
        self._failures.pop(what, None)
        return True

    def _failed(self, what: str, reason: str, now: datetime) -> float:
        """Remember a failure; return after how many seconds it is tried again."""
        before = self._failures.get(what)
        count = before.count + 1 if before is not None else 1
        pause: float = min(PAUSE_SECONDS * 2 ** min(count - 1, 16), PAUSE_SECONDS_MAX)
        self._failures[what] = Failure(
            what=what,
            reason=reason,
            count=count,
            since=before.since if before is not None else now,
            again_at=now + timedelta(seconds=pause),
        )
        return pause
