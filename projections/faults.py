"""What is not as it should be in a ledger: void entries, certificates that break a rule."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from events.base import Struct
from projections.disk import Identity, identity, open_to_read, replacement_is_told

FIRST_MAX: Final = 10  # sequences that are named


class Found(Struct):
    """How many there are, and the sequences of the first."""

    count: int = 0
    first: tuple[int, ...] = ()


class Faults(Struct):
    """As of `position`."""

    position: int = 0
    void: Found = Found()
    irregular: Found = Found()


_VOID: Final = "SELECT sequence FROM voids WHERE sequence > ? AND sequence <= ? ORDER BY sequence"
_IRREGULAR: Final = (
    "SELECT sequence FROM leaves WHERE sequence > ? AND sequence <= ?"
    " AND irregular IS NOT NULL ORDER BY sequence, position"
)


class FaultCounter:
    """Counts in a node's projections file, from where it stopped the last time.

    The first look reads every row, which takes about a second for a million: call it from a thread
    that may wait. Any number of threads may.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._file: Identity | None = None
        self._faults = Faults()

    def look(self) -> Faults:
        """Return what there is now.

        Raises OSError where there is no file; sqlite3.Error or ReplacedError where it cannot be
        read now.
        """
        with self._lock:
            file = identity(self._path)
            since = self._faults if file == self._file else Faults()
            with replacement_is_told(self._path, file), closing(open_to_read(self._path)) as db:
                found = _look(db, since)
            self._file, self._faults = file, found
            return found


def _look(db: sqlite3.Connection, since: Faults) -> Faults:
    db.execute("BEGIN")
    (position,) = db.execute("SELECT position FROM meta").fetchone()
    if position < since.position:  # put back from a backup
        since = Faults()
    span = since.position, position
    return Faults(
        position=position,
        void=_more(since.void, db.execute(_VOID, span)),
        irregular=_more(since.irregular, db.execute(_IRREGULAR, span)),
    )


def _more(found: Found, rows: Iterable[tuple[int]]) -> Found:
    count, first = found.count, list(found.first)
    for (sequence,) in rows:
        count += 1
        if len(first) < FIRST_MAX:
            first.append(sequence)
    return replace(found, count=count, first=tuple(first))
