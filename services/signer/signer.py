"""The signer: hears requests, decides them, records what it signed, and only then replies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from events.envelope import NewEvent
from events.leaves import LeafRefusalsCounted, LeafRefused
from events.log import ConflictError, Ledger, LedgerError, NotAcceptedError, UnreachableError
from events.subjects import Subjects
from projections.authority import AuthorityState, SignerGrant
from projections.issuance import IssuanceReader, IssuedLeaf, WentBackError
from services.breakpoints import reached
from services.clock import Clock, Entropy
from services.following import AuthorityFollower
from services.issued import issued_cert
from services.keys.interface import KeyStore
from services.refusals import RefusedError
from services.signer import decide, holdings
from services.signer.answer import refusal
from services.signer.batch import GroupCommit
from services.signer.desk import Desk
from services.signer.holdings import Holdings
from services.signer.limits import RateLimit
from services.signer.memory import Memory
from services.signer.refused import RefusalRecord
from services.signer.subscriptions import Subscriptions
from services.signer.work import REPLIES_MAX, Signed, Work, body_of, may_answer
from services.stamping import Stamper, source
from services.waiting import cancelled

HELD_MAX: Final = 2_048  # requests that wait for the node's projections
HELD_SECONDS_MAX: Final = 5.0
GATE_SECONDS: Final = 0.005  # between two looks at the projections while requests are held
TICK_SECONDS: Final = 0.1
FOLLOW_SECONDS: Final = 1.0  # between two looks at `authority` that nothing asked for
REFUSALS_MAX: Final = 100  # in one entry, beside its leaves
BUSY_RETRY_SECONDS: Final = 1.0

_log = structlog.get_logger()


class GrantOvertakenError(LedgerError):
    """Our grant's subject moved on, and no authority entry says so: this run can record nothing."""


class Signer:
    """One run of a signer. Everything that it knows comes from the ledger and the index.

    `alive` says whether this run may still speak: it holds its lease.
    """

    def __init__(
        self,
        *,
        nc: Client,
        subjects: Subjects,
        ledger: Ledger,
        keystore: KeyStore,
        index: IssuanceReader,
        clock: Clock,
        entropy: Entropy,
        node: str,
        run: str,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        self._nc = nc
        self._ledger = ledger
        self._clock = clock
        self._run = run
        self._alive = alive
        self._stamper = Stamper(source(subjects.datacenter, "signer", node), clock, entropy)
        self._desk = Desk(
            subjects=subjects,
            signer=run,
            keystore=keystore,
            stamper=self._stamper,
            clock=clock,
            entropy=entropy,
        )
        self._follower = AuthorityFollower(ledger, subjects.datacenter, folded=self._folded)
        self._following = asyncio.Lock()
        self._grants: list[SignerGrant | None] = []  # as each authority entry left it
        self._holdings = Holdings()
        self._moved = asyncio.Event()
        self._withdrawn = asyncio.Event()
        self._gated = asyncio.Event()
        self._memory = Memory(index)
        self._limit = RateLimit()
        self._refusals = RefusalRecord(run, clock.now())
        self._subscriptions = Subscriptions(nc, subjects, self._hear)
        self._live_authority = subjects.live_authority
        self._group = GroupCommit[Work, Signed](prepare=self._prepare, commit=self._commit)
        self._held: list[Work] = []
        self._pending: dict[tuple[str, str], Work] = {}  # by identity and request id
        self._turns: set[asyncio.Task[None]] = set()
        self._closing = False

    # --- the shell

    async def run(self) -> None:
        """Serve until cancelled.

        Raises what ends this run: LedgerError (OutcomeUnknownError among them), KeyStoreError,
        UnknownEventTypeError. Its successor folds, and knows.
        """
        moved = await self._nc.subscribe(self._live_authority, cb=self._authority_moved)
        loops = (
            self._group.run(),
            self._follow_for_ever(),
            self._open_gates(),
            self._tick(),
        )
        tasks = [asyncio.create_task(loop) for loop in loops]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            await cancelled(*tasks, *self._turns)
            if not self._nc.is_closed:
                await moved.unsubscribe()
                await self._subscriptions.close()

    @property
    def holding(self) -> int:
        """Return how many requests wait for this node's projections."""
        return len(self._held)

    def settle(self) -> None:
        """Record what was refused and not recorded yet, while there is a grant to do it under."""
        self._closing = True
        self._group.nudge()

    async def withdrawn(self) -> None:
        """Return once this run holds no grant any more."""
        await self._withdrawn.wait()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            await self._subscriptions.tidy()
            await self._give_up_held()
            if self._refusals.sum_is_due(self._clock.now()):
                self._group.nudge()

    # --- following `authority`

    async def _authority_moved(self, _: Msg) -> None:
        self._moved.set()

    def _folded(self, state: AuthorityState) -> None:
        self._grants.append(state.signers.get(self._run))

    async def _follow_for_ever(self) -> None:
        while True:
            try:
                await self.follow()
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
        heard a little longer, in silence.
        """
        async with self._following:
            before = self._follower.state.position
            state = await self._follower.catch_up()
            if not self._grants and state.position == before:
                return
            held = self._holdings
            for grant in self._grants:
                held = holdings.changed(held, grant)
            self._grants.clear()
            await self._desk.take_up(state, held)
            if held is not self._holdings:
                _log.info(
                    "grant",
                    sequence=held.grant_sequence,
                    partitions=len(held.partitions),
                    to_wait_for=len(held.gates),
                    rate_per_second=held.rate_per_second,
                )
            self._holdings = held
            self._limit.change(held.rate_per_second)
            await self._subscriptions.listen(held.partitions)
            if held.grant_sequence > 0:
                self._withdrawn.clear()
            else:
                self._withdrawn.set()
            self._gated.set()

    # --- what has to wait for the index

    async def _open_gates(self) -> None:
        while True:
            await self._gated.wait()
            self._release()
            if not self._holdings.gates and not self._held:
                self._gated.clear()
            await asyncio.sleep(GATE_SECONDS)

    def _release(self) -> None:
        """Let those requests go on that need not be held any more."""
        self._holdings = self._memory.known(self._holdings)
        held, self._held = self._held, []
        self._group.put_first([w for w in held if self._standing(w) != "held"])
        self._held = [w for w in held if self._standing(w) == "held"]

    def _standing(self, work: Work) -> holdings.Standing:
        place = holdings.standing(self._holdings, work.partition)
        return "held" if place == "served" and self._memory.lost else place

    async def _hold(self, work: Work) -> None:
        if len(self._held) >= HELD_MAX:
            await self._refuse(work, _busy("too many requests wait for this node's projections"))
        else:
            self._held.append(work)
            self._gated.set()

    async def _give_up_held(self) -> None:
        limit = asyncio.get_running_loop().time() - HELD_SECONDS_MAX
        late = [work for work in self._held if work.heard < limit]
        self._held = [work for work in self._held if work.heard >= limit]
        for work in late:
            await self._refuse(work, _busy("this node's projections are behind"))

    # --- requests

    async def _hear(self, partition: int, message: Msg) -> None:
        if not may_answer(message.reply):
            return
        work = Work(
            subject=message.subject,
            partition=partition,
            body=body_of(message.data),
            headers=message.headers,
            heard=asyncio.get_running_loop().time(),
            replies=[message.reply],
        )
        match self._standing(work):
            case "served":
                for left in self._group.put((work,)):
                    await self._refuse(left, _busy("too many requests"))
            case "held":
                await self._hold(work)
            case "foreign":
                pass  # silence: its own signer answers

    async def _prepare(self, chunk: Sequence[Work]) -> list[Signed]:
        """Decide some requests: answered, refused, held, dropped, or signed and not recorded."""
        readable = [work for work in chunk if await self._read(work)]
        try:
            known = self._memory.look_up([work.key for work in readable if work.key is not None])
        except WentBackError:
            for work in readable:
                await self._hold(work)
            return []
        signed = []
        for work in readable:
            try:
                one = await self._decide(work, known.get(work.key) if work.key else None)
            except RefusedError as refused:
                await self._refuse(work, refused)
            else:
                signed += [one] if one is not None else []
        if signed:
            reached("signer.signed")
        return signed

    async def _read(self, work: Work) -> bool:
        """Find out what is asked for; False where that is all that is to be done."""
        if work.request is None:
            try:
                self._desk.read(work)
            except RefusedError as refused:
                if self._standing(work) != "foreign":
                    await self._refuse(work, refused)
                return False
        return True

    async def _decide(self, work: Work, known: IssuedLeaf | None) -> Signed | None:
        """Decide one request on what the ledger holds for it.

        From here to the signature nothing else runs: the grant is the one that the partition was
        looked for in.
        """
        place = self._standing(work)
        if place == "foreign" or not self._alive():
            self._forget(work)
            return None
        if place == "held":
            await self._hold(work)
            return None
        if self._joined(work):
            return None
        assert work.request is not None
        if work.key is not None:
            known = self._memory.recent(work.key) or known
        before = decide.repeated(work.request, work.csr_sha256, known)
        if before is not None:
            self._forget(work)
            await self._answer(work, before)
            return None
        if self._memory.full:
            raise _busy("this node's projections are too far behind")
        if work.key is not None:
            self._pending[work.key] = work
        self._desk.check(work)
        reached("signer.checked")
        if self._limit.off or work.admitted:
            return await self._desk.sign(work, grant_sequence=self._holdings.grant_sequence)
        turn = asyncio.create_task(self._turn(work))
        self._turns.add(turn)
        turn.add_done_callback(self._turns.discard)
        return None

    def _joined(self, work: Work) -> bool:
        """Let a request wait for the answer to an earlier one of its request id."""
        first = self._pending.get(work.key) if work.key is not None else None
        if first is None or first is work:
            return False
        assert work.request is not None
        if work.request.csr_der is not None:
            decide.same_csr(work.request.request_id, work.csr_sha256, first.csr_sha256)
        room = REPLIES_MAX - len(first.replies)
        first.replies += [reply for reply in work.replies if reply not in first.replies][:room]
        return True

    async def _turn(self, work: Work) -> None:
        try:
            await self._limit.turn()
        except RefusedError as refused:
            await self._refuse(work, refused)
        else:
            work.admitted = True
            self._group.put_first([work])

    # --- recording

    async def _commit(self, group: Sequence[Signed]) -> None:
        """Record what was signed and refused as one entry, then reply to each.

        A signature of another grant than the current one is dropped, and its request decided anew.
        """
        grant_sequence = self._holdings.grant_sequence
        stale = [one.work for one in group if one.leaf.grant_sequence != grant_sequence]
        if stale:
            self._group.put_first(stale)
            group = [one for one in group if one.leaf.grant_sequence == grant_sequence]
        refusals = self._refusals_to_record(grant_sequence)
        events = [one.event for one in group] + [self._stamp(one) for one in refusals]
        if not events:
            return
        try:
            appended = await self._ledger.append_leaves(
                self._run, events, grant_sequence=grant_sequence
            )
        except ConflictError as conflict:
            self._refusals.put_back(refusals)
            await self._overtaken(conflict, grant_sequence)
            self._group.put_first([one.work for one in group])
        except NotAcceptedError as error:
            _log.error("the ledger does not accept what was signed; dropped", error=str(error))
            for one in group:
                await self._refuse(one.work, _busy("the ledger does not accept new certificates"))
        else:
            if group:
                reached("signer.appended")
            await self._reply(group, appended.sequence)
            if group:
                reached("signer.replied")

    async def _overtaken(self, conflict: ConflictError, grant_sequence: int) -> None:
        """Learn of the grant that came before our append: signatures under the old one are void."""
        _log.info("append refused: the grant has changed", reason=str(conflict))
        await self.follow()
        if self._holdings.grant_sequence == grant_sequence:
            raise GrantOvertakenError(f"{conflict}, but no authority entry says so")

    def _refusals_to_record(self, grant_sequence: int) -> list[LeafRefused | LeafRefusalsCounted]:
        if grant_sequence == 0:
            return []
        return self._refusals.take(
            self._clock.now(),
            grant_sequence=grant_sequence,
            limit=REFUSALS_MAX,
            closing=self._closing,
        )

    def _stamp(self, event: LeafRefused | LeafRefusalsCounted) -> NewEvent:
        identity = event.identity if isinstance(event, LeafRefused) else None
        return self._stamper.stamp(event, subject=identity or self._run)

    # --- replies

    async def _reply(self, group: Sequence[Signed], sequence: int) -> None:
        if not group:
            return
        reached("signer.appended")
        issued = [
            IssuedLeaf(
                sequence=sequence,
                position=position,  # leaves stand first in their entry
                event_id=one.event.id,
                leaf=one.leaf,
                irregular=None,
            )
            for position, one in enumerate(group)
        ]
        for one, now in zip(group, issued, strict=True):
            self._memory.remember(now)  # before the first reply lets anyone ask again
            self._forget(one.work)
        for one, now in zip(group, issued, strict=True):
            await self._answer(one.work, now)
        reached("signer.replied")

    async def _answer(self, work: Work, issued: IssuedLeaf) -> None:
        issuer = self._follower.state.issuers.get(issued.leaf.issuer_key_id)
        if issuer is None:  # the index is ahead of our fold
            await self._refuse(work, _busy("the issuer is not known here yet"))
            return
        body = issued_cert(
            issued.leaf, sequence=issued.sequence, event_id=issued.event_id, issuer=issuer
        )
        await self._send(work, body)

    async def _refuse(self, work: Work, refused: RefusedError) -> None:
        """Tell why not, at once, and have it recorded: nothing was signed that could be lost."""
        self._forget(work)
        if refused.code != "not_found":  # a look-up that finds nothing was answered, not refused
            self._refusals.add(self._desk.refusal(work, refused), self._clock.now())
            if self._refusals.waiting:
                self._group.nudge()
        body, headers = refusal(refused)
        await self._send(work, body, headers)

    async def _send(self, work: Work, body: bytes, headers: dict[str, str] | None = None) -> None:
        for reply in work.replies:
            try:
                await self._nc.publish(reply, body, headers=headers)
            except NatsError as error:  # who asked asks again, under the same request id
                _log.warning("an answer could not be sent", error=str(error) or repr(error))

    def _forget(self, work: Work) -> None:
        """Nobody waits for this work any more."""
        if work.key is not None and self._pending.get(work.key) is work:
            del self._pending[work.key]


def _busy(message: str) -> RefusedError:
    return RefusedError("not_ready", message, retry_after=BUSY_RETRY_SECONDS)
