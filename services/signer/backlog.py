"""Which durable requests of a signer's partitions wait, and when each is next tried. Pure.

Bodies are not kept: what waits is bounded by the queue itself (`streams.SUBMIT_BYTES_MAX`), and
held here as a few hundred bytes each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from services.signer.request import read_request_id
from services.signer.submit_queue import Submission

AGAIN_SECONDS: Final = 0.5  # after a first "not now"; doubled after each further one
AGAIN_SECONDS_MAX: Final = 30.0


@dataclass(slots=True, eq=False)
class _Waiting:
    sequence: int
    partition: int
    asked: tuple[str, str | None]  # subject and request id
    due: float = 0.0  # of the loop's clock; not to be tried before
    tries: int = 0
    in_hand: bool = False


class Backlog:
    """What waits, in the order of the queue."""

    def __init__(self) -> None:
        self._waiting: dict[int, _Waiting] = {}
        self._asked: Counter[tuple[str, str | None]] = Counter()

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    @property
    def in_hand(self) -> int:
        """Return how many are being worked on."""
        return sum(waiting.in_hand for waiting in self._waiting.values())

    def add(self, submission: Submission) -> None:
        """Take note of one that was read; again is no fault."""
        if submission.partition is None or submission.sequence in self._waiting:
            return
        waiting = _Waiting(
            sequence=submission.sequence,
            partition=submission.partition,
            asked=(submission.subject, read_request_id(submission.body)),
        )
        self._waiting[submission.sequence] = waiting
        self._asked[waiting.asked] += 1

    def holds(self, subject: str, request_id: str | None) -> bool:
        """Say whether a request of this id waits; `subject` is the one of its work."""
        return self._asked[subject, request_id] > 0

    def due(self, now: float, room: int, *, served: Callable[[int], bool]) -> list[int]:
        """Return at most so many sequences to work on now, of partitions that are served."""
        found: list[int] = []
        for waiting in self._waiting.values():
            if len(found) >= room:
                break
            if not waiting.in_hand and waiting.due <= now and served(waiting.partition):
                found.append(waiting.sequence)
        return found

    def take(self, sequence: int) -> bool:
        """Take note that it is worked on; False where it waits no more."""
        if (waiting := self._waiting.get(sequence)) is None:
            return False
        waiting.in_hand = True
        return True

    def put_back(self, sequences: Iterable[int]) -> None:
        """Take note that nobody works on them, and nothing is known of them."""
        for sequence in sequences:
            if waiting := self._waiting.get(sequence):
                waiting.in_hand = False

    def again(self, sequences: Iterable[int], now: float, *, retry_after: float) -> None:
        """Let them be tried again, later each time."""
        for sequence in sequences:
            if waiting := self._waiting.get(sequence):
                waiting.in_hand = False
                seconds = min(AGAIN_SECONDS * 2**waiting.tries, AGAIN_SECONDS_MAX)
                waiting.due = now + max(seconds, min(retry_after, AGAIN_SECONDS_MAX))
                waiting.tries = min(waiting.tries + 1, 16)

    def gone(self, sequences: Iterable[int]) -> None:
        """Forget those that are done, or not in the queue any more."""
        for sequence in sequences:
            if waiting := self._waiting.pop(sequence, None):
                self._asked[waiting.asked] -= 1
                if self._asked[waiting.asked] == 0:
                    del self._asked[waiting.asked]

    def keep_partitions(self, partitions: AbstractSet[int]) -> None:
        """Forget those of other partitions: another signer has them now."""
        self.gone(
            [
                waiting.sequence
                for waiting in self._waiting.values()
                if waiting.partition not in partitions
            ]
        )

    def keep_read(self, read: AbstractSet[int]) -> None:
        """Forget those that a reading of the whole queue has not found: somebody removed them."""
        self.gone([sequence for sequence in self._waiting if sequence not in read])
