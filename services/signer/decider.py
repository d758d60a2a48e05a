"""What becomes of one request: answered, refused, left to wait, or signed under the grant."""

from __future__ import annotations

import asyncio
from typing import Final

from projections.answers import Answer
from services.breakpoints import reached
from services.refusals import RefusedError
from services.signer import decide
from services.signer.batch import GroupCommit
from services.signer.desk import Desk
from services.signer.grantee import Grantee
from services.signer.intake import Intake
from services.signer.limits import Limits, Turns
from services.signer.memory import Memory
from services.signer.metrics import SignerMetrics
from services.signer.pending import Pending
from services.signer.refused import RefusalRecord
from services.signer.replies import Replies
from services.signer.window import Window
from services.signer.work import Decided, TurnedDown, Work

BUSY_RETRY_SECONDS: Final = 1.0
TURNED_AWAY_TOLD_PER_SECOND: Final = 1_000
_PENDING: Final = "it waits in the queue of durable requests"


def busy(message: str) -> RefusedError:
    """Return the refusal of who has no room for a request now."""
    return RefusedError("not_ready", message, retry_after=BUSY_RETRY_SECONDS)


class Decider:
    """Decides one request after the other, each with what the index says of its request id."""

    def __init__(
        self,
        *,
        desk: Desk,
        grantee: Grantee,
        memory: Memory,
        pending: Pending,
        limits: Limits,
        turns: Turns,
        refusals: RefusalRecord,
        replies: Replies,
        intake: Intake,
        group: GroupCommit[Work, Decided],
        metrics: SignerMetrics,
    ) -> None:
        self._desk = desk
        self._grantee = grantee
        self._memory = memory
        self._pending = pending
        self._limits = limits
        self._turns = turns
        self._refusals = refusals
        self._replies = replies
        self._intake = intake
        self._group = group
        self._metrics = metrics
        self._telling = Window(TURNED_AWAY_TOLD_PER_SECOND)

    async def turn_away(self, work: Work) -> None:
        """Refuse what there is no room for; of a flood, all are counted and some are told.

        Who hears nothing asks again all the same. Telling all of them took more than half of the
        signer's time, in which it did not hear what others ask (F16).
        """
        if work.submissions or self._telling.room(asyncio.get_running_loop().time()):
            await self.refuse(work, busy("too many requests"))
        else:
            self._metrics.turned_away()
            self._replies.untold(work, "not_ready")

    async def read(self, work: Work) -> bool:
        """Find out what is asked for; False where that is refused."""
        if work.request is not None or work.refused is not None:
            return True
        try:
            self._desk.read(work)
        except RefusedError as refused:
            if self._grantee.standing(work.partition) == "foreign":
                self._intake.put_back(work)
            elif work.submissions and refused.code not in decide.NOT_YET:
                self._desk.read_refused(work, refused)
                return True
            else:
                await self.refuse(work, refused)
            return False
        return True

    async def decide(self, work: Work, known: Answer | None) -> Decided | None:
        """Answer, refuse, let wait for its turn or for another's answer; or sign."""
        try:
            if work.key is not None:
                known = self._memory.recent(work.key) or known
            if work.refused is not None:
                return await self._decide_refused(work, work.refused, known)
            if work.looks_up and known is None and self._intake.holds(work):
                raise RefusedError("pending", _PENDING, retry_after=BUSY_RETRY_SECONDS)
            if known is None and self._pending.join(work):
                return None
            if work.looks_up and known is None and not work.looked:
                if not self._intake.look(work):
                    raise busy("too many look-ups wait for the queue of durable requests")
                return None
            assert work.request is not None
            before = decide.repeated(work.request, work.csr_sha256, known)
            if before is not None:
                self._pending.end(work)
                await self._replies.issued(work, before)
                self._metrics.repeated()
                self._intake.done(work)
                return None
            if self._memory.full:
                raise busy("this node's projections are too far behind")
            self._pending.begin(work)
            self._desk.check(work)
            reached("signer.checked")
            if self._limits.admit(work):
                return await self._desk.sign(
                    work, grant_sequence=self._grantee.holdings.grant_sequence
                )
        except RefusedError as refused:
            return await self.refuse(work, refused)
        self._turns.begin(self._turn(work))
        return None

    async def _decide_refused(
        self, work: Work, refused: RefusedError, known: Answer | None
    ) -> Decided | None:
        """Decide a durable request that cannot be read: what its id got before stands."""
        if known is not None:
            self._intake.done(work)
        elif self._pending.waits(work):
            self._intake.again(work, retry_after=BUSY_RETRY_SECONDS)
        else:
            return await self.refuse(work, refused)
        return None

    async def _turn(self, work: Work) -> None:
        began = asyncio.get_running_loop().time()
        try:
            await self._limits.turn(work)
        except RefusedError as refused:
            await self.refuse(work, refused)
        else:
            self._group.put_first([work])
        finally:
            self._metrics.waited(asyncio.get_running_loop().time() - began)

    async def refuse(self, work: Work, refused: RefusedError) -> TurnedDown | None:
        """Refuse a request; what is returned is to be recorded before it is told.

        That is of a durable one what is true for ever. What may change is tried again.
        """
        self._metrics.refused(refused)
        for_ever = refused.code not in decide.NOT_YET
        before = isinstance(refused, decide.RefusedBeforeError)
        if work.submissions and work.key is not None and for_ever and not before:
            if not self._pending.waits(work):
                self._pending.begin(work)
            return self._desk.turned_down(
                work, refused, grant_sequence=self._grantee.holdings.grant_sequence
            )
        self._pending.end(work)
        await self._replies.refused(work, refused)
        if for_ever:
            self._intake.done(work)
        else:
            self._intake.again(work, retry_after=refused.retry_after)
        self.record_refusals()
        return None

    def record_refusals(self) -> None:
        """Have the refusals that wait recorded soon, if there is a grant to do it under."""
        if self._refusals.waiting and self._grantee.holdings.grant_sequence > 0:
            self._group.nudge()
