"""Which request ids are used up: the node's projections file, and what it does not hold yet."""

from __future__ import annotations

from collections import deque
from typing import Final

from projections.issuance import IssuanceReader, IssuedLeaf
from services.signer import holdings
from services.signer.holdings import Holdings

ENTRIES_MAX: Final = 50_000  # about 100 MB: what is committed while the replicator is away


class Memory:
    """What this signer committed stays here until the index has it."""

    def __init__(self, index: IssuanceReader) -> None:
        self._index = index
        self._entries: dict[tuple[str, str], IssuedLeaf] = {}
        self._order: deque[tuple[int, tuple[str, str]]] = deque()
        self._position = 0
        self._relied = 0  # an index that has reached this is relied on

    @property
    def full(self) -> bool:
        """Say whether no more can be remembered: the index is too far behind."""
        return len(self._entries) >= ENTRIES_MAX

    @property
    def lost(self) -> bool:
        """Say whether the index has gone back behind what was relied on: it is being rebuilt."""
        return self._position < self._relied

    def find(self, identity: str, request_id: str) -> IssuedLeaf | None:
        """Return what the ledger holds for a request id, as far as its partition's gate is open.

        Raises WentBackError while the index knows less than it did.
        """
        return self._entries.get((identity, request_id)) or self._index.find(identity, request_id)

    def remember(self, issued: IssuedLeaf) -> None:
        """Take note of what was committed; without a request id it is never asked for again."""
        if issued.leaf.request_id is None:
            return
        key = issued.leaf.identity, issued.leaf.request_id
        self._entries[key] = issued
        self._order.append((issued.sequence, key))

    def refresh(self) -> None:
        """Look how far the index is, and forget what it has."""
        self._position = self._index.position()
        while self._order and self._order[0][0] <= self._position:
            sequence, key = self._order.popleft()
            del self._entries[key]
            self._relied = max(self._relied, sequence)

    def known(self, held: Holdings) -> Holdings:
        """Return what is held, its gates opened as far as the index is."""
        opened = holdings.known_up_to(held, self._position)
        for partition in held.gates.keys() - opened.gates.keys():
            self._relied = max(self._relied, held.gates[partition])
        return opened
