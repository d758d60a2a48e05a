"""The signer: hears requests, decides them, records what it signed, and only then replies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from events.log import UnreachableError
from projections.issuance import IssuanceReader, WentBackError
from services.breakpoints import reached
from services.keys.interface import KeyStore
from services.nats_access.asker import may_answer, requester_of
from services.signer.batch import GroupCommit
from services.signer.decider import Decider, busy
from services.signer.desk import Desk
from services.signer.grantee import Grantee
from services.signer.held import Held
from services.signer.holdings import Standing
from services.signer.intake import Intake
from services.signer.limits import Limits, Turns
from services.signer.memory import Memory
from services.signer.metrics import SignerMetrics
from services.signer.pending import Pending
from services.signer.recorder import NotRecordedError, Recorder
from services.signer.refused import RefusalRecord
from services.signer.replies import Replies
from services.signer.submit_queue import SubmitQueue
from services.signer.subscriptions import Subscriptions
from services.signer.work import Decided, Signed, Work, body_of
from services.stamping import Stamper, source
from services.startup import Worker
from services.waiting import cancelled

GATE_SECONDS: Final = 0.005  # between two looks at the projections while requests are held
TICK_SECONDS: Final = 0.1
FOLLOW_SECONDS: Final = 1.0  # between two looks at `authority` that nothing asked for

_log = structlog.get_logger()


class Signer:
    """One run of a signer. Everything that it knows comes from the ledger and the index.

    `requests` is a connection apart from what everything else uses: a flood of requests must not
    cost the lease, nor an append its answer. `alive` says whether this run may still act: it holds
    its lease.
    """

    def __init__(
        self,
        worker: Worker,
        *,
        requests: Client,
        keystore: KeyStore,
        index: IssuanceReader,
        run: str,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        subjects, ledger, clock = worker.subjects, worker.ledger, worker.clock
        self._nc = worker.nc
        self._clock = clock
        self._alive = alive
        self._live_authority = subjects.live_authority
        # what it knows
        self._memory = Memory(index)
        stamper = Stamper(
            source(subjects.datacenter, "signer", worker.config.node), clock, worker.entropy
        )
        self._desk = Desk(
            subjects=subjects,
            signer=run,
            keystore=keystore,
            stamper=stamper,
            clock=clock,
            entropy=worker.entropy,
        )
        self._grantee = Grantee(
            ledger, subjects.datacenter, run=run, desk=self._desk, memory=self._memory
        )
        self._limits = Limits()
        self._refusals = RefusalRecord(run, clock.now())
        self._pending = Pending(ended=self._limits.end)
        self._replies = Replies(
            nc=requests,
            desk=self._desk,
            grantee=self._grantee,
            refusals=self._refusals,
            clock=clock,
            alive=alive,
        )
        self._subscriptions = Subscriptions(requests, subjects, self._hear)
        self._group = GroupCommit[Work, Decided](prepare=self._prepare, commit=self._commit)
        self._held = Held()
        self._turns = Turns()
        self._intake = self._intake_of(worker)
        self._recorder = self._recorder_of(worker, run, stamper)
        self._metrics = self._new_metrics(worker)
        self._decider = self._new_decider()
        self._moved = asyncio.Event()
        self._gated = asyncio.Event()
        self._withdrawn = asyncio.Event()
        self._withdrawn.set()  # until there is a grant
        self._following = asyncio.Lock()  # whoever changes what is granted and subscribed

    def _recorder_of(self, worker: Worker, run: str, stamper: Stamper) -> Recorder:
        return Recorder(
            run,
            worker.ledger,
            grantee=self._grantee,
            refusals=self._refusals,
            memory=self._memory,
            pending=self._pending,
            replies=self._replies,
            stamper=stamper,
            clock=worker.clock,
            follow=self.follow,
            done=self._intake.done,
        )

    def _intake_of(self, worker: Worker) -> Intake:
        return Intake(
            SubmitQueue(worker.nc, worker.subjects),
            holdings=lambda: self._grantee.holdings,
            standing=self._grantee.standing,
            put=self._put,
            put_first=self._group.put_first,
        )

    def _new_metrics(self, worker: Worker) -> SignerMetrics:
        return SignerMetrics(
            worker.observed,
            holdings=lambda: self._grantee.holdings,
            holding=lambda: self.holding,
            durable=lambda: self._intake.waiting,
            authority=lambda: self._grantee.state.position,
        )

    def _new_decider(self) -> Decider:
        return Decider(
            desk=self._desk,
            grantee=self._grantee,
            memory=self._memory,
            pending=self._pending,
            limits=self._limits,
            turns=self._turns,
            refusals=self._refusals,
            replies=self._replies,
            intake=self._intake,
            group=self._group,
            metrics=self._metrics,
        )

    # --- the shell

    async def run(self) -> None:
        """Serve until cancelled.

        Raises what ends this run: LedgerError (OutcomeUnknownError among them), KeyStoreError,
        UnknownEventTypeError. Its successor folds, and knows.
        """
        moved = await self._nc.subscribe(self._live_authority, cb=self._authority_moved)
        loops = (
            self._group.run(),
            self._turns.run(),
            self._follow_for_ever(),
            self._open_gates(),
            self._tick(),
            self._intake.run(),
        )
        tasks = [asyncio.create_task(loop) for loop in loops]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            await cancelled(*tasks)
            if not self._nc.is_closed:
                await moved.unsubscribe()
            await self._subscriptions.close()

    @property
    def holding(self) -> int:
        """Return how many requests wait for this node's projections."""
        return len(self._held)

    def settle(self) -> None:
        """Record what was refused and not recorded yet, while there is a grant to do it under."""
        self._recorder.settle()
        self._group.nudge()

    async def withdrawn(self) -> None:
        """Return once this run holds no grant any more."""
        await self._withdrawn.wait()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if not self._following.locked():
                async with self._following:
                    await self._subscriptions.tidy()
            now = asyncio.get_running_loop().time()
            for work in self._held.late(now):
                await self._decider.refuse(work, busy("this node's projections are behind"))
            for work in self._intake.late(now):
                await self._decider.refuse(
                    work, busy("the queue of durable requests does not answer")
                )
            if self._refusals.sum_is_due(self._clock.now()):
                self._group.nudge()

    # --- following `authority`

    async def _authority_moved(self, _: Msg) -> None:
        self._moved.set()

    async def _follow_for_ever(self) -> None:
        while True:
            try:
                await self.follow()
                self._metrics.followed()
            except UnreachableError as error:
                _log.warning("the ledger does not answer; trying again", error=str(error))
            try:
                async with asyncio.timeout(FOLLOW_SECONDS):
                    await self._moved.wait()
            except TimeoutError:
                pass  # a message may have been missed
            self._moved.clear()

    async def follow(self) -> None:
        """Fold `authority`, and take up what it says of this run.

        What it gains is subscribed to at once and held back until it may be served; what it lost is
        heard a little longer, in silence. Raises as `run` does.
        """
        async with self._following:
            if not await self._grantee.follow():
                return
            held = self._grantee.holdings
            self._limits.change(held)
            await self._subscriptions.listen(held.partitions)
            if held.grant_sequence > 0:
                self._withdrawn.clear()
            else:
                self._withdrawn.set()
            self._decider.record_refusals()
            self._gated.set()

    # --- what has to wait for the index

    async def _open_gates(self) -> None:
        while True:
            await self._gated.wait()
            all_open = self._grantee.open_gates()
            self._group.put_first(self._held.release(self._standing))
            if all_open and not self._held:
                self._gated.clear()
            await asyncio.sleep(GATE_SECONDS)

    def _standing(self, work: Work) -> Standing:
        return self._grantee.standing(work.partition)

    async def _hold(self, work: Work) -> None:
        self._gated.set()
        if not self._held.add(work):
            await self._decider.refuse(
                work, busy("too many requests wait for this node's projections")
            )

    # --- requests

    async def _hear(self, partition: int, message: Msg) -> None:
        if not may_answer(message.reply):
            return
        work = Work(
            subject=message.subject,
            partition=partition,
            body=body_of(message.data),
            requester=requester_of(message.headers),
            heard=asyncio.get_running_loop().time(),
            replies=[message.reply],
        )
        match self._standing(work):
            case "served":
                await self._put(work)
            case "held":
                await self._hold(work)
            case "foreign":
                pass  # silence: its own signer answers

    async def _put(self, work: Work) -> None:
        for left in self._group.put((work,)):
            await self._decider.turn_away(left)

    async def _prepare(self, chunk: Sequence[Work]) -> list[Decided]:
        """Decide some requests: answered, refused, held, dropped, or signed and not recorded.

        All on one look at the index, and under the grant of that moment: a partition that comes
        afterwards may hold what was not seen.
        """
        works = [work for work in chunk if await self._decider.read(work)]
        try:
            known = self._memory.look_up([work.key for work in works if work.key is not None])
        except WentBackError:
            for work in works:
                await self._hold(work)
            return []
        grant_sequence = self._grantee.holdings.grant_sequence
        places = [self._standing(work) for work in works]
        decided = []
        for number, (work, place) in enumerate(zip(works, places, strict=True)):
            if self._grantee.holdings.grant_sequence != grant_sequence:
                self._group.put_first(works[number:])
                break
            if place == "foreign" or not self._alive():
                self._pending.end(work)
                self._intake.put_back(work)
            elif place == "held":
                await self._hold(work)
            elif one := await self._decider.decide(work, known.get(work.key) if work.key else None):
                decided.append(one)
        if any(isinstance(one, Signed) for one in decided):
            reached("signer.signed")
        return decided

    # --- recording

    async def _commit(self, group: Sequence[Decided]) -> None:
        """Record a group, with the refusals that wait; its certificates are given out then."""
        began = asyncio.get_running_loop().time()
        try:
            anew = await self._recorder.record(group)
        except NotRecordedError:
            for one in group:
                await self._decider.refuse(one.work, busy("the ledger accepts no certificates now"))
            return
        self._metrics.recorded(group, anew, began=began, now=asyncio.get_running_loop().time())
        self._group.put_first(anew)
        self._decider.record_refusals()  # more than one entry takes, or not under the grant before
