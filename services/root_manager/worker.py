"""The root-manager: the CA manager of a datacenter; one a node, acts while its node leads."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from nats.errors import Error as NatsError

from events.log import GapError, LedgerError, OutcomeUnknownError
from projections.issuance import IssuanceReader
from services.breakpoints import reached
from services.config import NodeConfig
from services.following import AuthorityFollower
from services.keys.buckets import root_keys, signing_keys
from services.leases import Leases, read_leases
from services.root_manager.administration import Administration
from services.root_manager.assignment import SignerRun
from services.root_manager.configuration import initial
from services.root_manager.decide import Acting, leads
from services.root_manager.expiry import ExpiryLog, expiring
from services.root_manager.hearing import Hearing
from services.root_manager.manager import CaManager
from services.root_manager.metrics import AuthorityMetrics, Leading
from services.root_manager.questions import Questions
from services.root_manager.reporting import Reporting
from services.root_manager.roots import RootChanges
from services.root_manager.tools import Tools, Turn
from services.stamping import Stamper, source
from services.startup import Worker, opened
from services.waiting import any_set, cancelled, set_by

LEASES_SECONDS: Final = 0.25  # between two looks at the leases while its node leads
LEASES_SHARE: Final = 10  # pauses are so many times longer than reading many leases took
FOLLOW_SECONDS: Final = 1.0  # between two looks at the ledger should nothing be heard
RETRY_SECONDS: Final = 1.0  # after the world failed

log = structlog.get_logger()


async def run(config: NodeConfig, *, stop: asyncio.Event, slot: int = 0) -> None:
    """Run until `stop` is set."""
    async with opened(config, "root-manager", stop=stop, slot=slot) as worker:
        await RootManager(worker).run(stop)


class RootManager:
    """One run of a node's root-manager."""

    def __init__(self, worker: Worker) -> None:
        """Open the key stores; raises KeyEncryptionKeyError."""
        self._nc = nc = worker.nc
        self._subjects = subjects = worker.subjects
        self._config = config = worker.config
        self._root_keys = root_keys(nc, subjects, config.keys)
        self._signing_keys = signing_keys(nc, subjects, config.keys)
        self._follower = AuthorityFollower(worker.ledger, subjects.datacenter)
        self._questions = Questions(nc, subjects)
        self._changes = RootChanges(nc, subjects)
        self._index = IssuanceReader(config.projections_file)
        self.tools = self._new_tools(worker)
        self.manager = CaManager(
            self.tools,
            initial=lambda: initial(config.initial, now=worker.clock.now()),
            trust_domain=config.initial.trust_domain,
            publish=self._publish_roots,
            tell_reissue=self._tell_reissue,
        )
        observed = worker.observed
        self._leading = Leading()
        self._metrics = AuthorityMetrics(
            observed,
            state=lambda: self._follower.state,
            manager=self.manager,
            leading=self._leading,
            clock=worker.clock,
        )
        self._expiry = ExpiryLog(worker.clock)
        self._connections = observed.connections
        self._reporting = Reporting(
            nc,
            subjects,
            node=config.node,
            ledger=worker.ledger,
            manager=self.manager,
            index=self._index,
            projections=config.projections_file,
            connections=observed.connections,
        )
        self._folded = asyncio.Event()  # once, at least
        self._asked = asyncio.Event()
        self._hearing = Hearing(
            nc, Administration(self.manager, subjects), wake=self._asked.set, show=self._show
        )
        self._published: tuple[int, int] | None = None  # (term, bundle sequence) seen out
        self._unreadable: set[str] = set()  # keys of the lease bucket that were told of already

    def _new_tools(self, worker: Worker) -> Tools:
        datacenter = worker.subjects.datacenter
        return Tools(
            datacenter=datacenter,
            ledger=worker.ledger,
            follower=self._follower,
            root_keys=self._root_keys,
            signing_keys=self._signing_keys,
            index=self._index,
            stamper=Stamper(
                source(datacenter, "root-manager", worker.config.node),
                worker.clock,
                worker.entropy,
            ),
            clock=worker.clock,
            entropy=worker.entropy,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Follow `authority`, answer, and act while this node leads, until `stop` is set.

        Raises WrongKeyEncryptionKeyError before anything is changed; OutcomeUnknownError, GapError
        or UnknownEventTypeError: this run must end.
        """
        await self._root_keys.check()
        await self._signing_keys.check()
        self._metrics.keys_checked()
        following = asyncio.create_task(self._follow(stop))
        reporting = asyncio.create_task(self._report())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait(
                {following, reporting, stopping}, return_when=asyncio.FIRST_COMPLETED
            )
            if reporting.done():
                reporting.result()
            # What is under way may end; where it does not, it is cut off like by a crash.
            await asyncio.wait({following}, timeout=self._config.lease_seconds)
        finally:
            await cancelled(following, reporting, stopping)
            self._index.close()
        if not following.cancelled():
            following.result()

    async def act(self, acting: Acting, leases: Leases) -> None:
        """Do everything that is due, under a lease that was read: each step decides for itself."""
        alive = tuple(
            SignerRun(
                signer=lease.signer, node=lease.node, slot=lease.slot, stopping=lease.stopping
            )
            for lease in leases.signers
        )
        turn = Turn(acting=acting, alive=alive)
        await self._hearing.carry_out(turn)
        await self.manager.act(turn)

    async def _follow(self, stop: asyncio.Event) -> None:
        woken = await set_by(self._nc, self._subjects.live_authority)
        await self._hearing.listen()
        while not stop.is_set():
            woken.clear()
            self._asked.clear()
            try:
                pause = await self._look()
            except (OutcomeUnknownError, GapError):
                raise
            except LedgerError as error:  # the world failed: again, for ever, loudly
                log.warning("cannot go on now", node=self._config.node, error=str(error))
                pause = RETRY_SECONDS
            await any_set(woken, self._asked, stop, timeout=pause)

    async def _look(self) -> float:
        """Fold what is new, show it, act where this node leads; return when to look again."""
        state = await self._follower.catch_up()
        await self._show()
        self._metrics.folded()
        self._folded.set()
        if state.leader is None or state.leader.node != self._config.node:
            self._hearing.forget()
            self._leading.ended()
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
                self._leading.seen(acting.term, alive=len(leases.signers))
                await self.act(acting, leases)
                self._tell_expiry(acting.term)
                return pause
        self._leading.ended()
        return pause

    async def _show(self) -> None:
        await self._questions.show(self._follower.state)

    async def _report(self) -> None:
        await self._folded.wait()
        await self._reporting.run()

    def _tell_expiry(self, term: int) -> None:
        state, agent = self._follower.state, self._connections.validity()
        self._expiry.tell(term, lambda now: expiring(state, now, agent=agent))

    async def _publish_roots(self, turn: Turn) -> None:
        """Bring the bundle out; returns once everybody can read it."""
        state = self._follower.state
        current = (turn.acting.term, state.bundle_sequence)
        if self._published == current or not leads(state, turn.acting):
            return
        # First: who hears of a change and asks must not get an older one.
        await self._show()
        if await self._changes.publish(state):
            log.info("roots published", ledger_sequence=state.bundle_sequence)
        reached("root_manager.roots_published")
        self._published = current

    async def _tell_reissue(self, body: bytes) -> None:
        try:
            await self._nc.publish(self._subjects.reissue, body)
        except NatsError as error:  # who misses it learns it from the list
            log.warning("who is to ask anew could not be told", error=str(error) or repr(error))

    @staticmethod
    def _time() -> float:
        return asyncio.get_running_loop().time()
