"""What a ledger promises, whether JetStream keeps it (`events.ledger`) or memory (`events.memory`).

The rules of architecture 3.1 are kept by these few methods; there is no other way to write.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from events.base import Struct
from events.envelope import NewEvent, Stored


class LedgerError(Exception):
    """The ledger could not do what it was asked; told once, at the edge."""


class ConflictError(LedgerError):
    """The condition no longer holds and nothing was written: fold again, then decide again."""

    def __init__(self, subject: str, last_sequence: int) -> None:
        super().__init__(f"{subject} has moved on to sequence {last_sequence}")
        self.subject = subject
        self.last_sequence = last_sequence  # fold at least up to here; 0 where it is not known


class OutcomeUnknownError(LedgerError):
    """Nobody can tell any more whether the append is stored: the run must end (rule 6)."""


class GapError(LedgerError):
    """A sequence is missing from the stream, or comes again: it is not the ledger it was."""


class UnreachableError(LedgerError):
    """Nobody who holds the ledger answers, now; nothing was decided or written by asking."""


class NotAcceptedError(LedgerError):
    """The ledger will not store it, for a reason that waiting does not change (a full disk)."""


class Appended(Struct):
    """Where an append was stored."""

    sequence: int  # of its first message: the authority entry, or the leaves entry
    messages: int  # how many messages it has; they stand one after the other


class Grant(Struct):
    """A grant message of an atomic append: given or withdrawn."""

    signer: str
    event: NewEvent


class Ledger(Protocol):
    """An append-only log of entries in one order, numbered from 1."""

    async def append_authority(
        self,
        events: Sequence[NewEvent],
        *,
        term: int,
        expected_sequence: int,
        grants: Sequence[Grant] = (),
    ) -> Appended:
        """Append one authority entry, and the grants that it changes, atomically.

        Conditional on `expected_sequence` being the last sequence on `authority` (0: none yet).
        Returns once it is durable. Raises ConflictError where the condition does not hold, and
        OutcomeUnknownError where no definite answer came within half the duplicate window.
        """
        ...

    async def append_leaves(
        self, signer: str, events: Sequence[NewEvent], *, grant_sequence: int
    ) -> Appended:
        """Append what a signer did as one entry, under the grant at `grant_sequence`.

        At most one may be in flight a signer. Raises as `append_authority` does.
        """
        ...

    async def last_authority(self) -> int:
        """Return the last sequence on `authority` (0: none), as the stream's leader knows it."""
        ...

    async def last_sequence(self) -> int:
        """Return the last sequence of the whole stream (0: empty), as the leader knows it."""
        ...

    async def read_authority(self, after: int, *, limit: int = 256) -> list[Stored]:
        """Return messages of `authority` with sequences above `after`, in order.

        May lag behind `last_authority`; [] means only that no more is known here.
        """
        ...

    async def read(self, after: int, *, limit: int = 256) -> list[Stored]:
        """Return messages of the whole stream above `after`, in order, without a gap.

        May lag; raises GapError where a sequence is missing.
        """
        ...

    def woken(self) -> AsyncIterator[None]:
        """Yield at once, when there may be something new to read, and now and then anyway."""
        ...
