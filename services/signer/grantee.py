"""What this run may do: its grant, followed on `authority` from entry to entry."""

from __future__ import annotations

import structlog

from events.log import Ledger
from projections.authority import AuthorityState, SignerGrant
from services.following import AuthorityFollower
from services.signer import holdings
from services.signer.desk import Desk
from services.signer.holdings import Holdings
from services.signer.memory import Memory

_log = structlog.get_logger()


class Grantee:
    """Holds what one run was granted."""

    def __init__(
        self, ledger: Ledger, datacenter: str, *, run: str, desk: Desk, memory: Memory
    ) -> None:
        self._run = run
        self._desk = desk
        self._memory = memory
        self._follower = AuthorityFollower(ledger, datacenter, folded=self._folded)
        self._grants: list[SignerGrant | None] = []  # as each authority entry left it
        self.holdings = Holdings()

    @property
    def state(self) -> AuthorityState:
        """Return the authority, as far as it was folded."""
        return self._follower.state

    async def follow(self) -> bool:
        """Fold `authority`, and take up what it says of this run; say whether there was anything.

        One call at a time.

        Raises LedgerError (UnreachableError where trying again can help), KeyStoreError,
        UnknownEventTypeError.
        """
        state = await self._follower.catch_up()
        if not self._grants:
            return False
        held = self.holdings
        for grant in self._grants:
            held = holdings.changed(held, grant)
        await self._desk.take_up(state, held)
        self._grants.clear()  # not before: taking it up may fail, and is tried again
        if held.grant_sequence != self.holdings.grant_sequence:
            self._tell(held)
        self.holdings = held
        return True

    def open_gates(self) -> bool:
        """Open gates as far as the index is; say whether all of them are."""
        self.holdings = self._memory.known(self.holdings)
        return not self.holdings.gates

    def standing(self, partition: int) -> holdings.Standing:
        """Say what to do with a request of a partition: serve, hold back, or stay silent."""
        place = holdings.standing(self.holdings, partition)
        return "held" if place == "served" and self._memory.lost else place

    def _tell(self, held: Holdings) -> None:
        before = self.holdings.partitions
        if held.grant_sequence == 0:
            _log.info("no grant any more", partitions_given_back=len(before))
            return
        _log.info(
            "grant",
            sequence=held.grant_sequence,
            partitions=len(held.partitions),
            gained=len(held.partitions - before),
            rate_per_second=held.rate_per_second,
        )

    def _folded(self, state: AuthorityState) -> None:
        self._grants.append(state.signers.get(self._run))
