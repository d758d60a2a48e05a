"""What a signer tells Prometheus; counted by groups where it can be, as each count takes a lock."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from services.observed import Observed
from services.refusals import RefusedError
from services.signer.holdings import Holdings
from services.signer.work import Decided, Signed, Work

_NOT_THERE: Final = frozenset({"not_found", "pending"})


class SignerMetrics:
    """One run's."""

    def __init__(
        self,
        observed: Observed,
        *,
        holdings: Callable[[], Holdings],
        holding: Callable[[], int],
        durable: Callable[[], int],
        authority: Callable[[], int],
    ) -> None:
        metrics = observed.metrics
        self._issued = metrics.counter(
            "caledger_signatures_issued", "Certificates that were recorded and given out."
        )
        self._repeated = metrics.counter(
            "caledger_requests_repeated", "Requests that were answered with what the ledger held."
        )
        self._refused = metrics.counter(
            "caledger_requests_refused", "Requests that were refused, by error code.", "code"
        )
        self._turned_away = self._refused.labels("not_ready")
        self._not_there = metrics.counter(
            "caledger_lookups_unanswered",
            "Look-ups of request ids that have no certificate, or none yet, by error code.",
            "code",
        )
        self._sign = metrics.histogram(
            "caledger_sign_seconds", "From a request that is heard to its new certificate's reply."
        )
        self._append = metrics.histogram(
            "caledger_append_seconds", "From a group that is signed to its last reply."
        )
        self._turn = metrics.histogram(
            "caledger_rate_limit_wait_seconds", "What requests waited for the rate limit."
        )
        metrics.gauge(
            "caledger_partitions_held",
            "Partitions (of 64) that this signer has a grant for.",
            lambda: len(holdings().partitions),
        )
        metrics.gauge(
            "caledger_requests_waiting_for_projections",
            "Requests that wait until this node's projections reach to the signer's grant.",
            holding,
        )
        metrics.gauge(
            "caledger_durable_requests_waiting",
            "Durable requests of this signer's partitions that wait in their queue.",
            durable,
        )
        metrics.gauge(
            "caledger_authority_position",
            "The last sequence of `authority` that was folded.",
            authority,
        )
        self.followed = observed.health.expect("authority", "the ledger was not followed yet")

    def recorded(
        self, group: Sequence[Decided], anew: Collection[Work], *, began: float, now: float
    ) -> None:
        """Count a group that was committed, but for what is to be decided anew."""
        dropped = {id(work) for work in anew}
        answered = [
            one.work for one in group if isinstance(one, Signed) and id(one.work) not in dropped
        ]
        if not answered:
            return
        self._append.observe(now - began)
        self._issued.inc(len(answered))
        for work in answered:
            self._sign.observe(now - work.heard)

    def repeated(self) -> None:
        """Count a request whose answer was on the ledger already."""
        self._repeated.inc()

    def refused(self, refused: RefusedError) -> None:
        """Count a refusal; apart from these, a look-up that finds nothing: nobody was refused."""
        counter = self._not_there if refused.code in _NOT_THERE else self._refused
        counter.labels(refused.code).inc()

    def turned_away(self) -> None:
        """Count a refusal for want of room: cheap, as a flood is many of them."""
        self._turned_away.inc()

    def waited(self, seconds: float) -> None:
        """Take note of how long a request waited for its turn, whether it came or not."""
        self._turn.observe(seconds)
