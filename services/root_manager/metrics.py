"""What a root-manager tells Prometheus; what only the leader knows is NaN elsewhere (section 8)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final, get_args

from projections.authority import AuthorityState, CaState
from services.clock import Clock
from services.metrics import NAN, Metrics
from services.observed import Observed
from services.pki import certificates
from services.root_manager.assignment import unassigned
from services.root_manager.expiry import root_ends
from services.root_manager.manager import CaManager

LOOK_SECONDS_MAX: Final = 15.0  # between two looks of a leader, however long a turn takes
STATES: Final = (*get_args(CaState), "INITIALIZING")


class Leading:
    """Whether this node leads, as far as it was seen lately: the ledger and the lease say so.

    After LOOK_SECONDS_MAX without a look it does not: the lease is another's by then.
    """

    def __init__(self) -> None:
        self._seen: tuple[int, float] | None = None  # the term, and when it was seen to hold
        self.alive = 0  # signers

    def seen(self, term: int, *, alive: int) -> None:
        """Take note that it leads."""
        self._seen = term, time.monotonic()
        self.alive = alive

    def ended(self) -> None:
        """Take note that it does not."""
        self._seen = None

    @property
    def term(self) -> int | None:
        """Return the term under which it leads; None where it does not."""
        seen = self._seen
        if seen is None or time.monotonic() - seen[1] > LOOK_SECONDS_MAX:
            return None
        return seen[0]


class AuthorityMetrics:
    """One run's."""

    def __init__(
        self,
        observed: Observed,
        *,
        state: Callable[[], AuthorityState],
        manager: CaManager,
        leading: Leading,
        clock: Clock,
    ) -> None:
        self._state = state
        self._manager = manager
        self._leading = leading
        self._clock = clock
        self._active: str | None = None
        self._rotations = observed.metrics.counter(
            "caledger_rotations", "Changes of the active root that this process has seen."
        )
        self.keys_checked = observed.health.expect("keys", "the CA's keys were not checked yet")
        self._followed = observed.health.expect("authority", "the ledger was not followed yet")
        self._of_every_node(observed.metrics)
        self._of_the_leader(observed.metrics)

    def folded(self) -> None:
        """Take note of a new state."""
        self._followed()
        root = self._state().active_root
        active = root.published.root_id if root is not None else None
        if self._active is not None and active != self._active:
            self._rotations.inc()
        self._active = active

    def _of_every_node(self, metrics: Metrics) -> None:
        state = self._state
        metrics.gauge(
            "caledger_authority_position",
            "The last sequence of `authority` that was folded.",
            lambda: state().position,
        )
        metrics.gauge(
            "caledger_is_leader", "1 where this node leads.", lambda: self._leading.term is not None
        )
        metrics.gauge("caledger_leader_term", "The highest term so far.", lambda: state().term)
        metrics.gauge(
            "caledger_trusted_roots", "Roots in the trust bundle.", lambda: len(state().roots)
        )
        metrics.gauges(
            "caledger_ca_state",
            "1 for Consul's state of the CA as it is now.",
            "state",
            self._states,
        )

    def _of_the_leader(self, metrics: Metrics) -> None:
        state, leading, attempts = self._state, self._leading, self._manager.attempts
        metrics.gauge(
            "caledger_mesh_active_root_ca_expiry_seconds",
            "Leader: seconds until the active root expires.",
            lambda: self._left(_root_end(state())),
        )
        metrics.gauge(
            "caledger_mesh_active_signing_ca_expiry_seconds",
            "Leader: seconds until the certificate expires that signs leaves.",
            lambda: self._left(_issuer_end(state())),
        )
        metrics.gauge(
            "caledger_crl_expiry_seconds",
            "Leader: seconds until the first revocation list expires of those who sign now.",
            lambda: self._left(_list_end(state())),
        )
        metrics.gauge(
            "caledger_signers_alive",
            "Leader: signers that hold their leases.",
            lambda: self._of_leader(leading.alive),
        )
        metrics.gauge(
            "caledger_partitions_unassigned",
            "Leader: partitions (of 64) that nobody has a grant for.",
            lambda: self._of_leader(_unassigned(state())),
        )
        metrics.gauge(
            "caledger_provider_failures",
            "Leader: things that are due and fail, for the provider's sake.",
            lambda: self._of_leader(len(attempts.failures)),
        )
        metrics.gauges(
            "caledger_provider_failed_attempts",
            "Leader: how often in a row it failed, by what is due.",
            "what",
            self._failed,
        )

    def _of_leader(self, value: float) -> float:
        return NAN if self._leading.term is None else value

    def _left(self, end: datetime | None) -> float:
        if end is None:
            return NAN
        return self._of_leader((end - self._clock.now()).total_seconds())

    def _states(self) -> Mapping[str, float]:
        now = "INITIALIZING" if self._manager.initialising else self._state().ca_state
        return {state: float(state == now) for state in STATES}

    def _failed(self) -> Mapping[str, float]:
        if self._leading.term is None:
            return {}
        return {failure.what: failure.count for failure in self._manager.attempts.failures}


def _root_end(state: AuthorityState) -> datetime | None:
    root = state.active_root
    return root_ends(root) if root is not None else None


def _issuer_end(state: AuthorityState) -> datetime | None:
    issuer = state.issuer
    return certificates.load(issuer.certificate).not_valid_after_utc if issuer is not None else None


def _list_end(state: AuthorityState) -> datetime | None:
    root = state.active_root
    signing = {state.issuer_key_id, root.published.key_id if root is not None else None}
    lists = (listed for key_id, listed in state.crls.items() if key_id in signing)
    return min((listed.issued.next_update for listed in lists), default=None)


def _unassigned(state: AuthorityState) -> int:
    return len(unassigned(grant.assignment for grant in state.signers.values()))
