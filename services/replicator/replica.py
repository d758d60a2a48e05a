"""A projections file that follows the ledger: what the worker does all the time, a rebuild once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final, Self

import structlog

from events.catalogue import UnknownEventTypeError
from events.envelope import Stored
from events.log import Ledger
from projections.authority import AuthorityState
from projections.authority_fold import fold
from projections.disk import AheadOfLedgerError, OtherLedgerError
from projections.ledger_fold import Folded, LedgerFold, Read, read
from projections.store import FileMeta, ProjectionStore, digest
from services.breakpoints import reached
from services.following import STALE_WAIT_SECONDS, lagging_copy

BATCH_MAX: Final = 256  # messages in one transaction

_log = structlog.get_logger()


class Replica:
    """The fold and its file, always at the same position; use `async with`.

    The fold's own state is only what `authority` says: it is folded again when the file is opened,
    so that a start costs what `authority` holds and never a million leaves.
    """

    def __init__(self, ledger: Ledger, *, datacenter: str, path: Path) -> None:
        self._ledger = ledger
        self._datacenter = datacenter
        self._store = ProjectionStore(path)
        self._authority = AuthorityState(datacenter=datacenter)

    async def __aenter__(self) -> Self:
        """Open the file and check that it is of this ledger.

        Raises a ProjectionFileError, or LedgerError where the ledger cannot be read now.
        """
        await self._store.__aenter__()
        try:
            await self._check(self._store.meta)
            self._authority = await self._fold_authority(self._store.meta)
        except BaseException:
            await self._store.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._store.__aexit__()

    @property
    def position(self) -> int:
        """Return the sequence up to which the file holds the ledger."""
        return self._store.position

    def replaced(self) -> bool:
        """Tell whether somebody deleted the file, or put another in its place."""
        return self._store.replaced()

    async def advance(self) -> int:
        """Fold the next messages into the file; return how much they hold, 0: nothing is new.

        Every event counts, and every void entry.

        Stops at an event of an unknown type, after everything before it: UnknownEventTypeError.
        Raises LedgerError (GapError where the ledger has a hole) and ProjectionFileError.
        """
        messages = await self._ledger.read(self.position, limit=BATCH_MAX)
        while messages:
            folded, unknown = await self._fold(messages)
            if folded:
                await self._store.apply(folded, written=lambda: reached("replicator.rows_written"))
                self._authority = folded[-1].after
                _report(folded)
            if unknown is not None:
                raise unknown
            if folded:
                return sum(len(one.entry.events) if one.entry else 1 for one in folded)
            # An atomic append that is longer than a batch, or not there as a whole yet.
            more = await self._ledger.read(messages[-1].sequence, limit=BATCH_MAX)
            if not more:
                break
            messages = [*messages, *more]
        return 0

    async def _fold(
        self, messages: list[Stored]
    ) -> tuple[list[Folded], UnknownEventTypeError | None]:
        """Fold as far as atomic appends are whole; the rest is read again with the next call."""
        reads: list[Read] = []
        unknown: UnknownEventTypeError | None = None
        for stored in messages:
            try:
                reads.append(read(stored, datacenter=self._datacenter))
            except UnknownEventTypeError as error:
                error.add_note(f"at sequence {stored.sequence} of the ledger")
                unknown = error
                break
        ids = frozenset().union(*(message.event_ids for message in reads))
        ledger = LedgerFold(
            self._datacenter,
            state=self._authority,
            position=self.position,
            known=await self._store.known(ids),
        )
        return [folded for message in reads for folded in ledger.fold(message)], unknown

    async def _check(self, meta: FileMeta) -> None:
        if meta.datacenter != self._datacenter:
            raise OtherLedgerError(
                f"the projections file is of datacenter {meta.datacenter}, not {self._datacenter}"
            )
        if meta.position == 0:
            return
        last = await self._ledger.last_sequence()
        if meta.position > last:
            raise AheadOfLedgerError(
                f"the projections file is at sequence {meta.position}, but the ledger ends at"
                f" {last}: it lost entries, or it is another one"
            )
        for sequence, expected in ((1, meta.first_sha256), (meta.position, meta.last_sha256)):
            if digest((await self._message(sequence)).data) != expected:
                raise OtherLedgerError(
                    f"entry {sequence} of the ledger is not the one in the projections file:"
                    " the file is of another ledger"
                )

    async def _message(self, sequence: int) -> Stored:
        """Return a message that the stream's leader has, also where our copy lags behind."""
        lagging = lagging_copy()
        while True:
            if messages := await self._ledger.read(sequence - 1, limit=1):
                return messages[0]
            lagging.still(f"it has no entry {sequence}")
            await asyncio.sleep(STALE_WAIT_SECONDS)

    async def _fold_authority(self, meta: FileMeta) -> AuthorityState:
        """Fold `authority` up to where the file is: the same state, since no append is torn there.

        That both folds agree is a property of `LedgerFold` (and tested as one).
        """
        state = AuthorityState(datacenter=self._datacenter)
        lagging = lagging_copy()
        while state.position < meta.authority_position:
            messages = await self._ledger.read_authority(state.position)
            for stored in messages:
                if stored.sequence > meta.authority_position:
                    break
                state = fold(state, stored)
            if messages and state.position < messages[0].sequence:
                raise OtherLedgerError(
                    f"the ledger has no authority entry {meta.authority_position}, which the"
                    " projections file has: the file is of another ledger"
                )
            if not messages:
                lagging.still(
                    f"its authority entries end at {state.position}, not {meta.authority_position}"
                )
                await asyncio.sleep(STALE_WAIT_SECONDS)
        return state


def _report(batch: list[Folded]) -> None:
    """Say loudly what is not as it should be."""
    for folded in batch:
        where = {"sequence": folded.sequence, "subject": folded.stored.subject}
        if folded.void is not None:
            _log.error(
                "void entry passed over",
                kind=folded.void.kind,
                reason=folded.void.reason,
                **where,
            )
        for broken in folded.irregular:
            _log.error(
                "irregular certificate",
                position=broken.position,
                rule=broken.kind,
                reason=broken.reason,
                **where,
            )
