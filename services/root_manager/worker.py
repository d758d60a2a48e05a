"""The root-manager: the CA manager of a datacenter; one a node, acts while its node leads."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from events.authority import CAConfig
from events.log import GapError, LedgerError, OutcomeUnknownError
from projections.authority import AuthorityState
from services.breakpoints import reached
from services.config import NodeConfig
from services.deciding import Decided, Deciding
from services.following import AuthorityFollower
from services.keys.buckets import root_keys, signing_keys
from services.leases import Leases, read_leases
from services.root_manager import ceremony
from services.root_manager.assignment import SignerRun
from services.root_manager.decide import (
    Acting,
    AssignSigners,
    Command,
    Initialise,
    decide,
    leads,
)
from services.root_manager.roots import RootChanges, RootsService
from services.root_manager.stamped import stamped
from services.root_manager.unrecorded import destroy_unrecorded
from services.stamping import Stamper, source
from services.startup import Worker, opened
from services.waiting import any_set, cancelled, set_by

LEASES_SECONDS: Final = 0.25  # between two looks at the leases while its node leads
LEASES_SHARE: Final = 10  # pauses are so many times longer than reading many leases took
FOLLOW_SECONDS: Final = 1.0  # between two looks at the ledger should nothing be heard
RETRY_SECONDS: Final = 1.0  # after the world failed
SWEEP_SECONDS: Final = 600.0  # between two looks for keys that were never recorded
MADE_SECONDS: Final = 600.0  # what was made and not recorded is used; below unrecorded.AGE_MIN

log = structlog.get_logger()


async def run(config: NodeConfig, *, stop: asyncio.Event, slot: int = 0) -> None:
    """Run until `stop` is set."""
    del slot  # a node has one
    async with opened(config, "root-manager", stop=stop) as worker:
        await RootManager(worker).run(stop)


class RootManager:
    """One run of a node's root-manager."""

    def __init__(self, worker: Worker) -> None:
        """Open the key stores; raises KeyEncryptionKeyError."""
        self._nc = nc = worker.nc
        self._subjects = subjects = worker.subjects
        self._config = config = worker.config
        self._clock = worker.clock
        self._entropy = worker.entropy
        self._root_keys = root_keys(nc, subjects, config.keys)
        self._signing_keys = signing_keys(nc, subjects, config.keys)
        self._follower = AuthorityFollower(worker.ledger, subjects.datacenter)
        self._deciding = Deciding(worker.ledger, self._follower)
        self._roots = RootsService(nc, subjects)
        self._changes = RootChanges(nc, subjects)
        self._stamper = Stamper(
            source(subjects.datacenter, "root-manager", config.node), worker.clock, worker.entropy
        )
        self._made: tuple[Initialise, float] | None = None  # and the loop's time
        self._published: tuple[int, int] | None = None  # (term, bundle sequence) seen out
        self._unreadable: set[str] = set()  # keys of the lease bucket that were told of already
        self._swept = (0, 0.0)  # (term, the loop's time)

    async def run(self, stop: asyncio.Event) -> None:
        """Follow `authority`, answer, and act while this node leads, until `stop` is set.

        Raises WrongKeyEncryptionKeyError before anything is changed; OutcomeUnknownError, GapError
        or UnknownEventTypeError: this run must end.
        """
        await self._root_keys.check()
        await self._signing_keys.check()
        following = asyncio.create_task(self._follow(stop))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
            # What is under way may end; where it does not, it is cut off like by a crash.
            await asyncio.wait({following}, timeout=self._config.lease_seconds)
        finally:
            await cancelled(following, stopping)
        if not following.cancelled():
            following.result()

    async def act(self, acting: Acting, leases: Leases) -> None:
        """Do everything that is due, under a lease that was read: each step decides for itself."""
        state = await self._follower.catch_up()
        if leads(state, acting) and state.configuration is None:
            await self._initialise(acting)
        await self._publish_roots(acting)
        alive = tuple(
            SignerRun(
                signer=lease.signer, node=lease.node, slot=lease.slot, stopping=lease.stopping
            )
            for lease in leases.signers
        )
        await self.carry_out(acting, AssignSigners(alive=alive))
        await self._sweep(acting)

    async def carry_out(self, acting: Acting, command: Command) -> bool:
        """Fold, decide, append (`Deciding.carry_out`); return whether anything was appended."""

        def decided(state: AuthorityState) -> Decided | None:
            decision = decide(state, acting, command)
            if not decision.events:
                return None
            reached("root_manager.decided")
            events, grants = stamped(decision, self._stamper, datacenter=state.datacenter)
            return Decided(events=events, term=acting.term, grants=grants)

        if await self._deciding.carry_out(decided) is None:
            return False
        reached("root_manager.appended")
        return True

    async def _follow(self, stop: asyncio.Event) -> None:
        woken = await set_by(self._nc, self._subjects.live_authority)
        while not stop.is_set():
            woken.clear()
            try:
                pause = await self._look()
            except (OutcomeUnknownError, GapError):
                raise
            except LedgerError as error:  # the world failed: again, for ever, loudly
                log.warning("cannot go on now", node=self._config.node, error=str(error))
                pause = RETRY_SECONDS
            await any_set(woken, stop, timeout=pause)

    async def _look(self) -> float:
        """Fold what is new, show it, act where this node leads; return when to look again."""
        state = await self._follower.catch_up()
        await self._roots.show(state)
        if state.leader is None or state.leader.node != self._config.node:
            return FOLLOW_SECONDS
        began = self._time()
        leases = await read_leases(self._nc, self._subjects)
        reading = self._time() - began
        pause = min(max(LEASES_SECONDS, LEASES_SHARE * reading), FOLLOW_SECONDS)
        if unknown := set(leases.unreadable) - self._unreadable:
            log.warning("leases that are none of ours", keys=sorted(unknown))
        self._unreadable = set(leases.unreadable)
        held = leases.leader
        if held is not None and held.term > 0:
            acting = Acting(node=held.node, term=held.term)
            if leads(state, acting):
                await self.act(acting, leases)
        return pause

    async def _initialise(self, acting: Acting) -> None:
        """Make the authority; what was made is kept for the next try, should this one fail."""
        if self._made is None or self._time() - self._made[1] > MADE_SECONDS:
            config = self._config
            names = ceremony.name_authority(
                config.datacenter, config.initial.trust_domain, self._entropy
            )
            made = await ceremony.make_authority(
                names,
                CAConfig(csr_max_per_second=config.initial.csr_max_per_second),
                root_keys=self._root_keys,
                signing_keys=self._signing_keys,
                now=self._clock.now(),
                entropy=self._entropy,
            )
            self._made = (made, self._time())
        initialise, _ = self._made
        if await self.carry_out(acting, initialise):
            trust_domain = initialise.configured.trust_domain
            log.info("a new authority", trust_domain=trust_domain, root=initialise.root.root_id)

    async def _publish_roots(self, acting: Acting) -> None:
        state = self._follower.state
        current = (acting.term, state.bundle_sequence)
        if self._published == current or not leads(state, acting):
            return
        await self._roots.show(
            state
        )  # first: who hears of a change and asks must not get an older one
        if await self._changes.publish(state):
            log.info("roots published", ledger_sequence=state.bundle_sequence)
        reached("root_manager.roots_published")
        self._published = current

    async def _sweep(self, acting: Acting) -> None:
        """Clean up when a term begins, and now and then."""
        term, at = self._swept
        if term == acting.term and self._time() - at < SWEEP_SECONDS:
            return
        self._swept = (acting.term, self._time())
        await destroy_unrecorded(
            [self._root_keys, self._signing_keys], self._follower, now=self._clock.now()
        )

    @staticmethod
    def _time() -> float:
        return asyncio.get_running_loop().time()
