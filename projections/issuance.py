"""What was issued and what was refused: the index that answers a repeated request for ever."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from events.base import Struct
from events.revocation import RevokedLeaf
from projections.answers import LEAF, REFUSED, Answer, IssuedLeaf, issued, kept_refusal
from projections.disk import (
    Identity,
    ReplacedError,
    delete,
    identity,
    is_at,
    is_damage,
    open_to_read,
    replacement_is_told,
)
from projections.issuance_rows import PROJECTION, VERSION


class IssuanceCounts(Struct):
    """How much there is, as of `position`."""

    position: int
    leaves: int
    irregular: int
    refusals: int  # recorded one by one
    refusals_counted: int  # recorded as sums


class Selection(Struct):
    """Which leaves are meant; what is not said does not matter."""

    serials: tuple[str, ...] | None = None
    identity: str | None = None
    signer: str | None = None
    issuer_key_ids: tuple[str, ...] | None = None
    issued_from: datetime | None = None  # by the time of the event
    issued_to: datetime | None = None

    def condition(self) -> tuple[str, list[str]]:
        """Return the conditions of a query, and their values."""
        conditions: list[str] = []
        values: list[str] = []
        for column, chosen in (
            ("serial", self.serials),
            ("issuer_key_id", self.issuer_key_ids),
            ("identity", _one(self.identity)),
            ("signer", _one(self.signer)),
        ):
            if chosen is not None:
                conditions.append(f"AND {column} IN (SELECT value FROM json_each(?))")  # noqa: S608
                values.append(msgspec.json.encode(chosen).decode())
        for sign, moment in ((">=", self.issued_from), ("<", self.issued_to)):
            if moment is not None:
                conditions.append(f"AND julianday(stored) {sign} julianday(?)")
                values.append(moment.isoformat())
        return " ".join(conditions), values


class LiveLeaves(Struct):
    """How many leaves of some issuers are not expired, as far as the file knows the ledger."""

    position: int  # sequence up to which it does
    count: int


class WentBackError(Exception):
    """The projections file knows less than it did: deleted, damaged, or put back from a backup.

    Whoever answered from it must not answer from it now: "not found" would be a lie.
    """


_FIRST: Final = LEAF + "WHERE identity = ? AND request_id = ? ORDER BY sequence, position LIMIT 1"
_LATEST: Final = LEAF + "WHERE identity = ? ORDER BY sequence DESC, position DESC LIMIT ?"
_LIVE: Final = "SELECT count(*) FROM leaves WHERE issuer_key_id = ? AND expires > ?"
_CHOSEN: Final = "SELECT serial, issuer_key_id, identity, not_after FROM leaves WHERE expires > ?"
_NAMED: Final = LEAF + "WHERE kind = ? AND name = ? ORDER BY sequence DESC, position DESC LIMIT ?"


class IssuanceReader:
    """Reads the projections file that the node's replicator keeps. Opens by itself when it can.

    A missing file, and one of other software, is at position 0 and knows nothing. A file that is
    replaced is noticed with the next question. One that is damaged where the replicator never looks
    is deleted, as an operator may do: the replicator makes it anew. Use from one thread.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._file: Identity | None = None  # what is open
        self._tried: Identity | None = None  # what was last tried to open
        self._highest = 0  # position that was seen
        self._behind = False  # the file is below that

    def position(self) -> int:
        """Return the sequence up to which the file holds the ledger; 0 where there is none."""
        with suppress(_DamagedError), self._damage_ends_it():
            db = self._open()
            return 0 if db is None else self._look(db)
        return 0

    def find_all(
        self, requests: Sequence[tuple[str, str]]
    ) -> tuple[int, dict[tuple[str, str], Answer]]:
        """Return the position, and the answer of each identity and request id that has one.

        That is its first certificate, else the refusal that is kept for it.

        One look at the file, so all of it is of one position, and cheaper than one by one (about
        10 us each): most of what a question costs beside a busy writer is to begin and end it.
        Raises WentBackError where the file holds less than this reader has seen it hold.
        """
        found: dict[tuple[str, str], Answer] = {}
        with self._damage_ends_it():
            db = self._current()
            if db is None:
                return 0, {}
            with self._snapshot(db) as position:
                for identity, request_id in requests:
                    for row in db.execute(_FIRST, (identity, request_id)):
                        found[identity, request_id] = issued(row)
                    if (identity, request_id) not in found:
                        for row in db.execute(REFUSED, (identity, request_id)):
                            found[identity, request_id] = kept_refusal(row)
        return position, found

    def by_identity(self, identity: str, *, limit: int = 100) -> tuple[int, list[IssuedLeaf]]:
        """Return the position, and an identity's latest certificates there, the newest first.

        Raises as `find_all` does.
        """
        return self._leaves(_LATEST, (identity, limit))

    def by_name(self, kind: str, name: str, *, limit: int = 100) -> tuple[int, list[IssuedLeaf]]:
        """Return the same of a name, whatever the trust domain; looks at every row."""
        return self._leaves(_NAMED, (kind, name, limit))

    def live(self, issuer_key_ids: Sequence[str], *, now: datetime) -> LiveLeaves:
        """Return how many leaves of these issuers are not expired; raises as `find_all` does."""
        with self._damage_ends_it():
            db = self._current()
            if db is None:
                return LiveLeaves(position=0, count=0)
            with self._snapshot(db) as position:
                count = sum(
                    db.execute(_LIVE, (key_id, math.floor(now.timestamp()))).fetchone()[0]
                    for key_id in issuer_key_ids
                )
        return LiveLeaves(position=position, count=count)

    def select(self, asked: Selection, *, now: datetime) -> tuple[int, list[RevokedLeaf]]:
        """Return the position, and the leaves asked for that are not expired, oldest first.

        Raises as `find_all` does.
        """
        where, values = asked.condition()
        with self._damage_ends_it():
            db = self._current()
            if db is None:
                return 0, []
            with self._snapshot(db) as position:
                rows = db.execute(
                    f"{_CHOSEN} {where} ORDER BY sequence, position",
                    (math.floor(now.timestamp()), *values),
                )
                return position, [
                    RevokedLeaf(
                        serial=serial,
                        issuer_key_id=issuer,
                        identity=identity,
                        not_after=datetime.fromisoformat(not_after),
                    )
                    for serial, issuer, identity, not_after in rows
                ]

    def counts(self) -> IssuanceCounts:
        """Return how much there is; raises as `find_all` does."""
        with self._damage_ends_it():
            db = self._current()
            if db is None:
                return IssuanceCounts(
                    position=0, leaves=0, irregular=0, refusals=0, refusals_counted=0
                )
            position, leaves, irregular, refusals, counted = db.execute(
                "SELECT (SELECT position FROM meta), (SELECT count(*) FROM leaves),"
                " (SELECT count(irregular) FROM leaves), (SELECT count(*) FROM refusals),"
                " (SELECT total(count) FROM refusal_counts)"  # total: cannot overflow
            ).fetchone()
        return IssuanceCounts(
            position=position,
            leaves=leaves,
            irregular=irregular,
            refusals=refusals,
            refusals_counted=int(counted),
        )

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()
        self._db, self._file = None, None

    def _leaves(self, query: str, values: tuple[str | int, ...]) -> tuple[int, list[IssuedLeaf]]:
        with self._damage_ends_it():
            db = self._current()
            if db is None:
                return 0, []
            with self._snapshot(db) as position:
                return position, [issued(row) for row in db.execute(query, values)]

    @contextmanager
    def _damage_ends_it(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self.close()
            if self._tried is not None and is_at(self._path, self._tried):
                delete(self._path)
            raise _DamagedError(f"{self._path} was damaged ({error}): it is made anew") from error

    @contextmanager
    def _snapshot(self, db: sqlite3.Connection) -> Iterator[int]:
        """Make all questions see the file as it is at the first of them: at this position."""
        db.execute("BEGIN")
        try:
            position = self._look(db)
            if self._behind:
                raise self._went_back()
            yield position
        finally:
            db.execute("COMMIT")

    def _look(self, db: sqlite3.Connection) -> int:
        """Return how far the file is, and take note of it."""
        position: int = db.execute("SELECT position FROM meta").fetchone()[0]
        self._behind = position < self._highest
        self._highest = max(self._highest, position)
        return position

    def _current(self) -> sqlite3.Connection | None:
        db = self._open()
        if (db is None and self._highest > 0) or (self._behind and self.position() < self._highest):
            raise self._went_back()
        return db

    def _went_back(self) -> WentBackError:
        return WentBackError(
            f"{self._path} knows less than sequence {self._highest}, which it had reached"
        )

    def _open(self) -> sqlite3.Connection | None:
        while True:
            try:
                file = identity(self._path)
            except FileNotFoundError:
                self.close()
                return None
            if file == self._file:
                return self._db
            self.close()
            self._tried = file
            try:
                with replacement_is_told(self._path, file):
                    self._db = _checked(open_to_read(self._path))
            except ReplacedError:
                continue
            if self._db is not None:
                self._file = file
                self._look(self._db)
            return self._db


class _DamagedError(WentBackError):
    """What SQLite reads makes no sense."""


def _checked(db: sqlite3.Connection) -> sqlite3.Connection | None:
    """Have the log opened as well, and return the connection; None for a file of other software."""
    try:
        told = db.execute("SELECT versions FROM meta").fetchone()[0]
    except sqlite3.Error:
        db.close()
        raise
    if msgspec.json.decode(told, type=dict[str, int]).get(PROJECTION.name) != VERSION:
        db.close()
        return None
    return db


def _one(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else (text,)
