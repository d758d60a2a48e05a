"""The leader-elector: one a node; holds the leader's lease if it can, and records that it leads."""

from __future__ import annotations

import asyncio
from typing import Final, Literal

import structlog

from events.log import GapError, LedgerError, OutcomeUnknownError
from projections.authority import AuthorityState
from services.breakpoints import reached
from services.config import NodeConfig
from services.deciding import Decided, Deciding
from services.following import AuthorityFollower
from services.leader_elector import decide
from services.leases import LeaderLease, Lease, LeaseLostError
from services.stamping import Stamper, source
from services.startup import Worker, opened
from services.waiting import any_set, cancelled, set_by

TRY_SECONDS: Final = 0.25  # between two looks at a lease that another holds
LOOK_SECONDS: Final = 1.0  # between two looks at the ledger should nothing be heard

log = structlog.get_logger()


async def run(config: NodeConfig, *, stop: asyncio.Event, slot: int = 0) -> None:
    """Run until `stop` is set, then give up the lead at once."""
    async with opened(config, "leader-elector", stop=stop, slot=slot) as worker:
        await LeaderElector(worker).run(stop)


class LeaderElector:
    """One run of a node's leader-elector."""

    def __init__(self, worker: Worker) -> None:
        self._nc = nc = worker.nc
        self._subjects = subjects = worker.subjects
        config, clock, entropy = worker.config, worker.clock, worker.entropy
        self._node = config.node
        self._lease_seconds = config.lease_seconds
        self._follower = AuthorityFollower(worker.ledger, subjects.datacenter)
        self._deciding = Deciding(worker.ledger, self._follower)
        self._stamper = Stamper(
            source(subjects.datacenter, "leader-elector", config.node), clock, entropy
        )
        self._holder = entropy.ulid(clock.now())
        self._lease = Lease(nc, subjects, subjects.leader_lease(), ttl_seconds=config.lease_seconds)
        self._term = 0  # that this run recorded, or tried to
        self._leading = False
        worker.observed.metrics.gauge(
            "caledger_leader_lease_held",
            "1 while this node holds the leader's lease.",
            lambda: self._leading,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Try for the lease, lead while it is held, until `stop` is set.

        Raises OutcomeUnknownError, GapError or UnknownEventTypeError: this run must end.
        """
        woken = await set_by(self._nc, self._subjects.live_authority)
        while not stop.is_set():
            try:
                if await self._lease.take(self._value(term=0)):
                    await self._lead(woken, stop)
            except (OutcomeUnknownError, GapError):
                raise
            except LedgerError as error:  # the world failed: again, for ever, loudly
                log.warning("cannot lead now", node=self._node, error=str(error))
            if self._deciding.unknown and not stop.is_set():
                raise OutcomeUnknownError("an append was cut off when the lead ended")
            await any_set(stop, timeout=TRY_SECONDS)

    async def _lead(self, woken: asyncio.Event, stop: asyncio.Event) -> None:
        """Lead until the lease is lost or `stop` is set; the lease is held by nobody then."""
        reached("leader_elector.lease_won")
        self._leading = True
        keeping = asyncio.create_task(self._lease.keep())
        leading = asyncio.create_task(self._stay_leader(woken))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({keeping, leading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._leading = False
            await cancelled(leading, keeping, stopping)
            await self._give_up("shutdown" if stop.is_set() else "lease_lost")
        for task in (keeping, leading):
            if not task.cancelled() and (error := task.exception()) is not None:
                if not isinstance(error, LeaseLostError):
                    raise error
                log.warning("the lead is lost", node=self._node, error=str(error))

    async def _stay_leader(self, woken: asyncio.Event) -> None:
        """See to it that the ledger says so, too, and go on looking.

        It may stop saying so while the lease is held: an append that another elector had in flight
        when it lost the lease can still be stored, as long as it is the first after its fold.
        """
        while True:
            woken.clear()
            await self._record()
            await any_set(woken, timeout=LOOK_SECONDS)

    async def _record(self) -> None:
        while await self._deciding.carry_out(self._acquired) is not None:
            reached("leader_elector.acquired")
            log.info("leading", node=self._node, term=self._term)
        if self._lease.value != self._value(term=self._term):
            await self._lease.put(self._value(term=self._term))

    def _acquired(self, state: AuthorityState) -> Decided | None:
        """Decide that this node leads, unless the ledger says so and its last append is whole.

        A new term also takes back the grants of an append that is not, so that the root-manager
        gives others: on an idle ledger nothing else would ever come after it.
        """
        leads = decide.leads(state, node=self._node, term=self._term)
        if leads and not self._follower.torn:
            return None
        if not self._lease.held:  # we were stopped for longer than it lives
            raise LeaseLostError("the lease is lost")
        event = decide.acquire(state, node=self._node, lease_revision=self._lease.revision)
        self._term = event.term
        return Decided(events=[self._stamper.stamp(event, subject=self._node)], term=event.term)

    async def _give_up(self, reason: Literal["shutdown", "lease_lost"]) -> None:
        """Record the end of the term if the ledger still knows it, and free the lease.

        Not where an append was cut off: nothing is decided before its outcome is known (rule 6).
        """
        try:
            async with asyncio.timeout(self._lease_seconds):
                if not self._deciding.unknown:
                    await self._release(reason)
        except (LedgerError, TimeoutError) as error:
            log.warning("the end of the lead is not recorded", node=self._node, error=str(error))
        finally:
            await self._lease.release()

    async def _release(self, reason: Literal["shutdown", "lease_lost"]) -> None:
        def released(state: AuthorityState) -> Decided | None:
            event = decide.release(state, node=self._node, term=self._term, reason=reason)
            if event is None:
                return None
            return Decided(events=[self._stamper.stamp(event, subject=self._node)], term=event.term)

        if await self._deciding.carry_out(released) is not None:
            log.info("not leading any more", node=self._node, term=self._term, reason=reason)

    def _value(self, *, term: int) -> LeaderLease:
        return LeaderLease(node=self._node, term=term, holder=self._holder)
