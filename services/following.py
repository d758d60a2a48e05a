"""Folding `authority` as it grows: what every worker that decides or signs does first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from events.catalogue import UnknownEventTypeError
from events.envelope import Stored
from events.log import Ledger
from events.loudly import Loudly
from events.subjects import Subjects
from projections.authority import AuthorityState
from projections.authority_fold import fold

STALE_WAIT_SECONDS: Final = 0.02  # between two looks at a copy that lags behind the leader's
STALE_PATIENCE_SECONDS: Final = 1.0  # of a copy's lag, before it is told of
TORN_SECONDS: Final = 2.0  # of waiting for the end of an append that the leader does not have

_log = structlog.get_logger()


class AuthorityFollower:
    """The state of `authority`, as far as it was folded.

    `folded` is told of the state after each entry: who sees only what `catch_up` returns does not
    see what came and went in between. The last of them may belong to an append that is not whole
    yet, and is told again while it is not.
    """

    def __init__(
        self,
        ledger: Ledger,
        datacenter: str,
        *,
        folded: Callable[[AuthorityState], None] | None = None,
    ) -> None:
        self._ledger = ledger
        self._folded = folded
        self._lock = asyncio.Lock()
        self._authority = Subjects(datacenter).authority
        self._whole = AuthorityState(datacenter=datacenter)  # without an append that is not
        self._unfinished: tuple[int, float] | None = None  # its sequence, and when it was seen so
        self.state = self._whole

    @property
    def torn(self) -> bool:
        """Tell whether the last append has messages that the stream does not have yet.

        It stays so until something else is appended. Whoever leads has to see to that: signers that
        wait for grants that never came append nothing.
        """
        return self._unfinished is not None

    async def catch_up(self, *, at_least: int = 0) -> AuthorityState:
        """Fold up to what the stream's leader holds now, and at least up to `at_least`.

        Returns when the last append folded is whole (architecture, section 3), or was not for
        TORN_SECONDS (`torn`): what is decided on the state returned is decided on the leader's copy
        (3.1, rule 5). Raises UnknownEventTypeError, or LedgerError where the ledger cannot be read.
        """
        async with self._lock:
            target = max(at_least, await self._ledger.last_authority())
            lagging = lagging_copy(subject=self._authority)
            # An append that is not whole is read again each time: a single server with a full disk
            # has shown half of one, and a restart completes it or removes it (nats.md, 11). So no
            # fold is left with an entry that the ledger does not have.
            state = self._whole
            while state.position < target:
                read = await self._ledger.read_authority(state.position)
                for stored in read:
                    self._whole, state = state, _folded(state, stored)
                    if self._folded is not None:
                        self._folded(state)
                self.state = state
                if not read:
                    lagging.still(f"it ends at {state.position}, not {target}")
                    await asyncio.sleep(STALE_WAIT_SECONDS)
            self.state = state
            await self._settle(state)
            return state

    async def _settle(self, state: AuthorityState) -> None:
        """Wait until the stream has gone past the last append, or long enough.

        Not for ever: where nobody holds a grant that is there, nobody else would move the stream.
        Folding it as it is cannot make two folds differ: what `authority` says never hangs on
        whether the grants are there (`projections.ledger_fold`).
        """
        while state.settled > state.position:
            last = await self._ledger.last_sequence()
            if last >= state.settled:
                break
            now = asyncio.get_running_loop().time()
            if self._unfinished is None or self._unfinished[0] != state.position:
                self._unfinished = state.position, now
                _log.warning(
                    "waiting for the end of an append",
                    reason=f"the ledger ends at {last}, the append at {state.settled}",
                    sequence=state.position,
                    subject=self._authority,
                )
            if now - self._unfinished[1] >= TORN_SECONDS:
                return
            await asyncio.sleep(STALE_WAIT_SECONDS)
        self._whole, self._unfinished = state, None


def lagging_copy(**where: object) -> Loudly:
    """Return what tells of a wait for a copy of the ledger; `where` goes into each line."""
    return Loudly(
        "waiting for a copy that lags behind the leader's", patience=STALE_PATIENCE_SECONDS, **where
    )


def _folded(state: AuthorityState, stored: Stored) -> AuthorityState:
    """Fold one message, and say loudly what every fold has to name (architecture, section 3)."""
    try:
        after = fold(state, stored)
    except UnknownEventTypeError as error:
        error.add_note(f"at sequence {stored.sequence} of the ledger")
        raise
    if (void := after.last_void) is not None and void.sequence == stored.sequence:
        _log.error(
            "void entry passed over",
            reason=void.reason,
            sequence=void.sequence,
            subject=stored.subject,
        )
    return after
