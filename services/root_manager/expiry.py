"""Which certificates expire soon, told as Consul tells it: at once, and every hour (section 8)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final, Literal

import structlog

from events.base import Struct
from projections.authority import AuthorityState, Root
from services.clock import Clock
from services.pki import certificates

SOON: Final = timedelta(days=28)
SOON_SHARE: Final = 0.4  # of the life, where that is less
URGENT: Final = timedelta(days=7)
URGENT_SHARE: Final = 0.1
AGAIN_AFTER: Final = timedelta(hours=1)

Validity = tuple[datetime, datetime]

ACTIONS: Final = {
    "root": "manually rotate the root certificate",
    "intermediate": "check caledger logs for rotation issues",
    "agent": "renew nats-server's TLS certificate, and start nats-server again",
}

log = structlog.get_logger()


class Expiring(Struct):
    """A certificate that expires soon, or has expired."""

    cert_type: Literal["root", "intermediate", "agent"]  # agent: of the nats-server in use
    level: Literal["warning", "error"]
    not_after: datetime
    left: timedelta

    @property
    def days(self) -> float:
        """Return how many days are left."""
        return round(self.left / timedelta(days=1), 2)

    @property
    def action(self) -> str:
        """Return what to do."""
        return ACTIONS[self.cert_type]


def root_ends(root: Root) -> datetime:
    """Return until when a root is accepted: no longer than what is above it."""
    return certificates.end_of_chain(root.published.certificate, *root.published.chain)


def expiring(
    state: AuthorityState, now: datetime, *, agent: Validity | None = None
) -> tuple[Expiring, ...]:
    """Return what expires soon: less than 28 days, or 40 % of its life, are left.

    An intermediate is renewed when half of its life is left, or a little later: one that is told
    here was not. `agent`: of the nats-server's certificate.
    """
    return tuple(_soon(state, now, agent))


def _soon(state: AuthorityState, now: datetime, agent: Validity | None) -> Iterator[Expiring]:
    for cert_type, validity in _certificates(state, agent):
        begin, end = validity
        life, left = end - begin, end - now
        if left < min(SOON, life * SOON_SHARE):
            urgent = left < min(URGENT, life * URGENT_SHARE)
            yield Expiring(
                cert_type=cert_type,
                level="error" if urgent else "warning",
                not_after=end,
                left=left,
            )


def _certificates(
    state: AuthorityState, agent: Validity | None
) -> Iterator[tuple[Literal["root", "intermediate", "agent"], Validity]]:
    root, issuer = state.active_root, state.issuer
    if root is not None:
        yield "root", (root.published.not_before, root_ends(root))
        if issuer is not None and issuer.certificate != root.published.certificate:
            certificate = certificates.load(issuer.certificate)
            yield (
                "intermediate",
                (certificate.not_valid_before_utc, certificate.not_valid_after_utc),
            )
    if agent is not None:
        yield "agent", agent


class ExpiryLog:
    """Tells the log, while this node leads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: tuple[int, datetime] | None = None  # in which term, and when

    def tell(self, term: int, soon: Callable[[datetime], Iterable[Expiring]]) -> None:
        """Tell what expires soon, if it is time: at once in each term, and every hour."""
        now = self._clock.now()
        if self._told is not None:
            told, at = self._told
            if told == term and timedelta(0) <= now - at < AGAIN_AFTER:
                return
        self._told = term, now
        for one in soon(now):
            tell = log.error if one.level == "error" else log.warning
            tell(
                "certificate expiring soon",
                cert_type=one.cert_type,
                days_remaining=one.days,
                time_to_expiry=str(one.left),
                expiration=one.not_after.isoformat(),
                suggested_action=one.action,
            )
