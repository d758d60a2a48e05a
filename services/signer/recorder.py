"""What was signed and refused goes on the ledger as one entry; only then is it replied."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from events.envelope import NewEvent
from events.leaves import LeafRefusalsCounted, LeafRefused
from events.log import ConflictError, Ledger, LedgerError, NotAcceptedError
from services.breakpoints import reached
from services.clock import Clock
from services.signer.grantee import Grantee
from services.signer.memory import Memory
from services.signer.pending import Pending
from services.signer.refused import RefusalRecord
from services.signer.replies import Replies
from services.signer.work import Decided, Signed, Work
from services.stamping import Stamper

# In one entry, beside its leaves, which leave a quarter of it (`batch.LEAVES_BYTES_MAX`): a refusal
# has up to 4 kB (a message, and an identity twice), and the sum of the rest up to 40 kB.
REFUSALS_MAX: Final = 45

_log = structlog.get_logger()


class GrantOvertakenError(LedgerError):
    """Our grant's subject moved on, and no authority entry says so: this run can record nothing."""


class NotRecordedError(Exception):
    """The ledger does not accept what was signed; nobody has got it."""


class Recorder:
    """Appends under this run's grant, and replies to each whose certificate is durable.

    `follow` folds `authority` and takes up what it says of this run; `done` hears of each request
    whose answer is durable.
    """

    def __init__(
        self,
        run: str,
        ledger: Ledger,
        *,
        grantee: Grantee,
        refusals: RefusalRecord,
        memory: Memory,
        pending: Pending,
        replies: Replies,
        stamper: Stamper,
        clock: Clock,
        follow: Callable[[], Awaitable[None]],
        done: Callable[[Work], None],
    ) -> None:
        self._run = run
        self._ledger = ledger
        self._grantee = grantee
        self._refusals = refusals
        self._memory = memory
        self._pending = pending
        self._replies = replies
        self._stamper = stamper
        self._clock = clock
        self._follow = follow
        self._done = done
        self._closing = False

    def settle(self) -> None:
        """Record all refusals from now on, also those whose sum is not due yet."""
        self._closing = True

    async def record(self, group: Sequence[Decided]) -> list[Work]:
        """Record what was signed and refused, then reply; return what is to be decided anew.

        That is what was signed under another grant than the current one: its signatures are
        dropped. Raises NotRecordedError where the stream stores none of it, GrantOvertakenError,
        OutcomeUnknownError.
        """
        grant_sequence = self._grantee.holdings.grant_sequence
        anew = [one.work for one in group if one.grant_sequence != grant_sequence]
        group = [one for one in group if one.grant_sequence == grant_sequence]
        refusals = self._refusals_to_record(grant_sequence)
        events = [one.event for one in group] + [self._stamp(one) for one in refusals]
        if not events:
            return anew
        try:
            appended = await self._ledger.append_leaves(
                self._run, events, grant_sequence=grant_sequence
            )
        except ConflictError as conflict:
            self._refusals.put_back(refusals)
            await self._overtaken(conflict, grant_sequence)
            return [one.work for one in group] + anew
        except NotAcceptedError as error:
            _log.error("the ledger does not accept what was signed; dropped", error=str(error))
            self._refusals.put_back(refusals)
            raise NotRecordedError(str(error)) from error
        if group:
            reached("signer.appended")
            await self._reply(group, appended.sequence)
            reached("signer.replied")
        return anew

    async def _overtaken(self, conflict: ConflictError, grant_sequence: int) -> None:
        """Learn of the grant that came before our append: signatures under the old one are void."""
        _log.info("append refused: the grant has changed", reason=str(conflict))
        await self._follow()
        if self._grantee.holdings.grant_sequence == grant_sequence:
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

    async def _reply(self, group: Sequence[Decided], sequence: int) -> None:
        for position, one in enumerate(group):
            answer = one.answer(sequence, position)
            if answer is not None and one.work.key is not None:
                # before the first reply lets anyone ask again, or a durable request is removed
                self._memory.remember(one.work.key, answer)
            self._pending.end(one.work)
        if any(one.work.submissions for one in group):
            reached("submission.recorded")
        for position, one in enumerate(group):
            if isinstance(one, Signed):
                await self._replies.issued(one.work, one.answer(sequence, position))
            else:
                await self._replies.turned_down(one.work, one.refused)
            self._done(one.work)
