"""What every part of the CA manager works with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from events.log import Ledger
from events.revocation import RevokedLeaf
from projections.authority import AuthorityState
from projections.issuance import LiveLeaves, Selection
from services.breakpoints import reached
from services.clock import Clock, Entropy
from services.deciding import Decided, Deciding
from services.following import AuthorityFollower
from services.keys.interface import KeyStore
from services.refusals import RefusedError
from services.root_manager.assignment import SignerRun
from services.root_manager.ceremony import Ceremony, Names
from services.root_manager.commands import Command
from services.root_manager.decide import Acting, decide
from services.root_manager.stamped import stamped
from services.stamping import Stamper


class LeafIndex(Protocol):
    """Which leaves there are: the node's projections (`projections.issuance.IssuanceReader`)."""

    def position(self) -> int:
        """Return the sequence up to which it knows the ledger."""
        ...

    def live(self, issuer_key_ids: Sequence[str], *, now: datetime) -> LiveLeaves:
        """Return how many leaves of these issuers are not expired; raises WentBackError."""
        ...

    def select(self, asked: Selection, *, now: datetime) -> tuple[int, list[RevokedLeaf]]:
        """Return the position, and the leaves asked for that are not expired."""
        ...


@dataclass(frozen=True)
class Turn:
    """One turn of a leader: under which lease, and which signers were alive at its beginning."""

    acting: Acting
    alive: tuple[SignerRun, ...]


class Tools:
    """The ledger, the keys, the index, the clock; and the one way to have something decided."""

    def __init__(
        self,
        *,
        datacenter: str,
        ledger: Ledger,
        follower: AuthorityFollower,
        root_keys: KeyStore,
        signing_keys: KeyStore,
        index: LeafIndex,
        stamper: Stamper,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self.datacenter = datacenter
        self.ledger = ledger
        self.follower = follower
        self.root_keys = root_keys
        self.signing_keys = signing_keys
        self.index = index
        self.clock = clock
        self.entropy = entropy
        self.ceremony = Ceremony(
            root_keys=root_keys, signing_keys=signing_keys, clock=clock, entropy=entropy
        )
        self._deciding = Deciding(ledger, follower)
        self._stamper = stamper

    @property
    def state(self) -> AuthorityState:
        """Return the authority, as far as it was folded."""
        return self.follower.state

    @property
    def names(self) -> Names:
        """Return what the authority is called; there must be one."""
        configuration = self.state.configuration
        assert configuration is not None
        return Names(
            datacenter=self.datacenter,
            cluster_id=configuration.cluster_id,
            trust_domain=configuration.trust_domain,
        )

    def may_have_leaves(self, key_id: str) -> bool:
        """Say whether a leaf below a key that signs no more may be valid, as far as is known here.

        None is issued after the entry that chose another key: an index beyond that knows all.
        """
        live = self.index.live([key_id], now=self.clock.now())
        return live.position < self.state.issuer_changed or live.count > 0

    async def carry_out(self, acting: Acting, command: Command) -> bool:
        """Fold, decide, append (`Deciding.carry_out`); return whether anything was appended."""

        def decided(state: AuthorityState) -> Decided | None:
            decision = decide(state, acting, command)
            if not decision.events:
                return None
            reached("root_manager.decided")
            events, grants = stamped(decision, self._stamper, datacenter=self.datacenter)
            return Decided(events=events, term=acting.term, grants=grants)

        if await self._deciding.carry_out(decided) is None:
            return False
        reached("root_manager.appended")
        return True


def moved_on() -> RefusedError:
    """Return what a command is told that led to nothing: what it was decided on is no more.

    Somebody else leads, or has changed just that. Success must not be told then (H5).
    """
    return RefusedError("conflict", "the CA was changed by somebody else meanwhile; look again")
