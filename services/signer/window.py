"""So many of something in each second, and no more."""

from __future__ import annotations


class Window:
    """Counts by whole seconds that begin with the first; cheap, and exact enough for a bound."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._since = float("-inf")
        self._number = 0

    def room(self, now: float) -> bool:
        """Say whether there is room for one more in this second, and take it.

        `now` is in seconds, of any clock; where that is set back, a new second begins.
        """
        if not 0 <= now - self._since < 1:
            self._since, self._number = now, 0
        if self._number >= self._per_second:
            return False
        self._number += 1
        return True
