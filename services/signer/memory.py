"""Which request ids are used up: the node's projections file, and what it does not hold yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from projections.answers import Answer
from projections.issuance import IssuanceReader
from services.signer import holdings
from services.signer.holdings import Holdings

ENTRIES_MAX: Final = 50_000  # about 100 MB: what is committed while the replicator is away

Key = tuple[str, str]  # identity and request id


class Memory:
    """What this signer committed stays here until the index has it."""

    def __init__(self, index: IssuanceReader) -> None:
        self._index = index
        self._entries: dict[Key, Answer] = {}
        self._order: deque[tuple[int, Key]] = deque()
        self._position = 0
        self._relied = 0  # an index that has reached this is relied on

    @property
    def full(self) -> bool:
        """Say whether no more can be remembered: the index is too far behind."""
        return len(self._entries) >= ENTRIES_MAX

    @property
    def lost(self) -> bool:
        """Say whether the index has gone back behind what was relied on: it was deleted, say."""
        return self._position < self._relied

    def look_up(self, keys: Sequence[Key]) -> dict[Key, Answer]:
        """Return what the ledger holds for request ids, as far as their partitions' gates are open.

        What is committed afterwards is told by `recent` until the next look-up: nothing is
        forgotten in between. Raises WentBackError while the index knows less than it did.
        """
        recent = {key: self._entries[key] for key in keys if key in self._entries}
        position, found = self._index.find_all([key for key in keys if key not in recent])
        self._position = position
        self._forget()
        return {**found, **recent}

    def recent(self, key: Key) -> Answer | None:
        """Return what this run committed since the last look-up, at least."""
        return self._entries.get(key)

    def remember(self, key: Key, answer: Answer) -> None:
        """Take note of what was committed for a request id."""
        self._entries[key] = answer
        self._order.append((answer.sequence, key))

    def known(self, held: Holdings) -> Holdings:
        """Look how far the index is; return what is held, its gates opened as far as that."""
        self._position = self._index.position()
        opened = holdings.known_up_to(held, self._position)
        for partition in held.gates.keys() - opened.gates.keys():
            self._relied = max(self._relied, held.gates[partition])
        return opened

    def _forget(self) -> None:
        while self._order and self._order[0][0] <= self._position:
            sequence, key = self._order.popleft()
            self._relied = max(self._relied, sequence)  # an open gate may rely on more
            del self._entries[key]
