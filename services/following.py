"""Folding `authority` as it grows: what every worker that decides or signs does first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from events.catalogue import UnknownEventTypeError
from events.envelope import Stored
from events.log import Ledger
from projections.authority import AuthorityState, fold

STALE_WAIT_SECONDS: Final = 0.02  # between two looks at a copy that lags behind the leader's

_log = structlog.get_logger()


class AuthorityFollower:
    """The state of `authority`, as far as it was folded.

    `folded` is told of the state after each entry: who sees only what `catch_up` returns does not
    see what came and went in between. The last of them may belong to an append that is not whole
    yet.
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
        self.state = AuthorityState(datacenter=datacenter)

    async def catch_up(self, *, at_least: int = 0) -> AuthorityState:
        """Fold up to what the stream's leader holds now, and at least up to `at_least`.

        Returns when the last append folded is whole (architecture, section 3): what is decided on
        the state returned is decided on the leader's copy (3.1, rule 5). Raises
        UnknownEventTypeError, or LedgerError where the ledger cannot be read.
        """
        async with self._lock:
            target = max(at_least, await self._ledger.last_authority())
            while self.state.position < target:
                read = await self._ledger.read_authority(self.state.position)
                state = self.state
                for stored in read:
                    state = _folded(state, stored)
                    if self._folded is not None:
                        self._folded(state)
                self.state = state
                if not read:
                    await asyncio.sleep(STALE_WAIT_SECONDS)
            while self.state.settled > self.state.position:
                # A single server with a full disk has shown half of an atomic append (nats.md, 11).
                if await self._ledger.last_sequence() >= self.state.settled:
                    break
                await asyncio.sleep(STALE_WAIT_SECONDS)
            return self.state


def _folded(state: AuthorityState, stored: Stored) -> AuthorityState:
    """Fold one message, and say loudly what every fold has to name (architecture, section 3)."""
    try:
        after = fold(state, stored)
    except UnknownEventTypeError as error:
        error.add_note(f"at sequence {stored.sequence} of the ledger")
        raise
    for void in after.voids[len(state.voids) :]:
        _log.error(
            "void entry passed over",
            reason=void.reason,
            sequence=void.sequence,
            subject=stored.subject,
        )
    return after
