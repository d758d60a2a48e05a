"""Fold, decide, append; and again where the ledger moved on (architecture 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from events.base import Struct
from events.envelope import NewEvent
from events.log import Appended, ConflictError, Grant, Ledger, LedgerError, OutcomeUnknownError
from projections.authority import AuthorityState
from services.following import AuthorityFollower

ATTEMPTS_MAX: Final = 10  # of deciding again after a conflict


class Decided(Struct):
    """One authority entry to append, and the grants that it changes."""

    events: Sequence[NewEvent]
    term: int
    grants: Sequence[Grant] = ()


class Deciding:
    """What one run decides on `authority`, one after the other."""

    def __init__(self, ledger: Ledger, follower: AuthorityFollower) -> None:
        self._ledger = ledger
        self._follower = follower
        self.unknown = False
        """Nobody can tell whether the last append is stored: it was given up, or cut off while it
        was on its way. Nothing may be decided any more, and the run must end (rule 6)."""

    async def carry_out(
        self, decide: Callable[[AuthorityState], Decided | None]
    ) -> Appended | None:
        """Append what `decide` makes of the leader's copy; return once that is folded, too.

        None: nothing was due. What a conflict refuses is decided anew and never sent again. Raises
        LedgerError after ATTEMPTS_MAX conflicts, and what the ledger raises.
        """
        assert not self.unknown, "decided after an append whose outcome is unknown"
        state = await self._follower.catch_up()
        for _ in range(ATTEMPTS_MAX):
            decided = decide(state)
            if decided is None:
                return None
            try:
                appended = await self._append(decided, state.position)
            except ConflictError as conflict:
                state = await self._follower.catch_up(at_least=conflict.last_sequence)
            else:
                await self._follower.catch_up(at_least=appended.sequence)
                return appended
        raise LedgerError(f"the ledger moved on {ATTEMPTS_MAX} times while this was decided")

    async def _append(self, decided: Decided, expected_sequence: int) -> Appended:
        self.unknown = True  # until there is a definite answer; a cancellation is none
        try:
            appended = await self._ledger.append_authority(
                decided.events,
                term=decided.term,
                expected_sequence=expected_sequence,
                grants=decided.grants,
            )
        except OutcomeUnknownError:
            raise
        except (LedgerError, ValueError):  # nothing is stored
            self.unknown = False
            raise
        self.unknown = False
        return appended
