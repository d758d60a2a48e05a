"""What a projection is: typed rows, told by a pure function from what the ledger fold says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final

from events.base import Struct
from projections.ledger_fold import Folded


class Row(Struct):
    """One row of a table; its fields are the columns, in values that SQLite holds as they are.

    Every row carries the sequence that it comes from (failure F10). Moments are ISO 8601 text,
    with the offset that the event had.
    """

    TABLE: ClassVar[str]
    KEY: ClassVar[tuple[str, ...]]
    INDEXES: ClassVar[tuple[tuple[str, ...], ...]] = ()

    sequence: int


class Added(Struct):
    """A row that is new."""

    row: Row


class Ended(Struct):
    """The open rows that match hold no longer: their `to_sequence` is set."""

    table: type[Row]
    to_sequence: int
    where: tuple[tuple[str, Any], ...] = ()  # column and value; () for every open row


Change = Added | Ended


class Projection(Struct):
    """A read model: its tables, and how a folded message of the ledger changes them."""

    name: str
    version: int  # higher whenever rows, or what is told of an entry, change: the file is rebuilt
    rows: tuple[type[Row], ...]
    changes: Callable[[Folded], Iterable[Change]]


META: Final = """
CREATE TABLE meta (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    datacenter TEXT NOT NULL,
    versions TEXT NOT NULL,           -- JSON: projection -> version
    position INTEGER NOT NULL,        -- last sequence of the ledger that is in the rows
    authority_position INTEGER NOT NULL,  -- last of them on `authority`
    first_sha256 TEXT NOT NULL,       -- of the ledger's first message: which ledger this is of
    last_sha256 TEXT NOT NULL         -- of the message at `position`
) STRICT
"""
"""The table that says what a projections file is of, and how far it goes."""
