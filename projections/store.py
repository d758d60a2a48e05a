"""The projections file: rows and the position they stand for, in one SQLite file, in step.

WAL, so that readers never wait for the writer. `synchronous=NORMAL`: a crash of the process loses
nothing; a power cut may take back the last transactions, but whole ones, position and all, and the
rows come again from the ledger, which is the truth and was synced (FULL would only cost an fsync
per batch, and the readers on this machine lose power as well).
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from itertools import groupby
from pathlib import Path
from types import NoneType
from typing import Any, Final, Self, get_args, get_type_hints

import aiosqlite
import msgspec

from events.base import Struct
from projections.catalog import PROJECTIONS
from projections.disk import (
    DAMAGED,
    Identity,
    NoProjectionsError,
    OtherWriterError,
    ReplacedError,
    StaleProjectionsError,
    damage_is_told,
    identity,
    is_at,
    open_to_read,
    replacement_is_told,
    uri,
)
from projections.ledger_fold import Folded
from projections.projection import META, Added, Change, Row

_TYPES: Final = {int: "INTEGER", str: "TEXT", bytes: "BLOB", float: "REAL"}
# Certificates come in no order that an index has: each changes pages all over the file. A longer
# log brings many changes of a page into the file at once; a cache has it at hand for the next.
_CHECKPOINT_PAGES: Final = 8_000  # 32 MB of log
_CACHE_KIB: Final = 32 * 1024
_NOT_OURS: Final = {sqlite3.SQLITE_ERROR}  # no such table or column


class FileMeta(Struct):
    """What a projections file says of itself."""

    datacenter: str
    versions: dict[str, int]
    position: int
    authority_position: int
    first_sha256: str  # "": no message yet
    last_sha256: str


def digest(message: bytes) -> str:
    """Return what `FileMeta` remembers a message of the ledger by."""
    return hashlib.sha256(message).hexdigest()


def versions() -> dict[str, int]:
    """Return the versions of all projections of this software."""
    return {projection.name: projection.version for projection in PROJECTIONS}


def create(path: Path, *, datacenter: str) -> None:
    """Make an empty file. Raises FileExistsError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("BEGIN")
        for statement in (META, *_tables()):
            db.execute(statement)
        db.execute(
            "INSERT INTO meta VALUES (1, ?, ?, 0, 0, '', '')",
            (datacenter, msgspec.json.encode(versions()).decode()),
        )
        db.execute("COMMIT")
    finally:
        db.close()


def read_meta(path: Path) -> FileMeta:
    """Return what a file says of itself; raises NoProjectionsError and StaleProjectionsError."""
    while True:
        try:
            file = identity(path)
        except FileNotFoundError as error:
            raise NoProjectionsError(f"{path} is not there yet; the replicator makes it") from error
        with (
            suppress(ReplacedError),
            replacement_is_told(path, file),
            damage_is_told(path, DAMAGED | _NOT_OURS),
            closing(open_to_read(path)) as db,
        ):
            return _meta(db.execute("SELECT * FROM meta").fetchone(), path)


def dump(path: Path) -> Iterator[str]:
    """Yield everything in a file as lines, in an order of its own: equal rows, equal lines.

    The file as it is at one position, which the first line tells. Raises StaleProjectionsError.
    """
    with damage_is_told(path), closing(open_to_read(path)) as db:
        db.execute("BEGIN")
        for table, key in [("meta", ("only_row",)), *((row.TABLE, row.KEY) for row in _rows())]:
            query = f"SELECT * FROM {table} ORDER BY {', '.join(key)}"  # noqa: S608  # our names
            for row in db.execute(query):
                values = [v.hex() if isinstance(v, bytes) else v for v in row]
                yield f"{table} {msgspec.json.encode(values).decode()}"


class ProjectionStore:
    """Writes a projections file. One writer a file; use `async with`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: aiosqlite.Connection | None = None
        self._file: Identity = (0, 0)
        self.meta: FileMeta

    async def __aenter__(self) -> Self:
        """Open the file; raises NoProjectionsError and StaleProjectionsError."""
        try:
            with damage_is_told(self._path):
                await self._connect()
                await self._open_log()
        except (FileNotFoundError, sqlite3.OperationalError) as error:
            await self.__aexit__()
            if self._path.exists():
                raise
            raise NoProjectionsError(f"{self._path} was deleted just now") from error
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _connect(self) -> None:
        if self._path.exists():
            self._file = identity(self._path)
        self.meta = read_meta(self._path)
        self._db = await aiosqlite.connect(  # never makes one: another may be about to
            uri(self._path, "rw"), uri=True, isolation_level=None
        )

    async def _open_log(self) -> None:
        """Have the log opened, which SQLite does by its name; raises NoProjectionsError.

        The log would be the wrong one where `move` put another file at the path meanwhile.
        """
        assert self._db is not None
        await self._db.executescript(
            "PRAGMA synchronous=NORMAL;"
            f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES};"
            f"PRAGMA cache_size=-{_CACHE_KIB}"
        )
        await self._db.execute_fetchall("SELECT position FROM meta")
        if self.replaced():
            raise NoProjectionsError(f"{self._path} was replaced just now")

    async def __aexit__(self, *_: object) -> None:
        if self._db is not None:
            await self._db.close()
        self._db = None

    @property
    def position(self) -> int:
        """Return the sequence up to which the rows hold the ledger."""
        return self.meta.position

    def replaced(self) -> bool:
        """Tell whether what is at the path now is not this file any more."""
        return not is_at(self._path, self._file)

    async def known(self, event_ids: Iterable[str]) -> set[str]:
        """Return which of these event ids the ledger holds already, up to `position`.

        Raises StaleProjectionsError where the file is damaged.
        """
        assert self._db is not None
        with damage_is_told(self._path):
            found = await self._db.execute_fetchall(
                "SELECT event_id FROM event_ids WHERE event_id IN (SELECT value FROM json_each(?))",
                (msgspec.json.encode(list(event_ids)).decode(),),
            )
        return {row[0] for row in found}

    async def apply(
        self, batch: Sequence[Folded], *, written: Callable[[], None] = lambda: None
    ) -> None:
        """Put folded messages, the next ones in order, into the rows, in one transaction.

        `written` is called before the commit. Raises, with nothing changed, OtherWriterError, and
        StaleProjectionsError where the file is damaged.
        """
        meta = _after(self.meta, batch)
        with damage_is_told(self._path):
            async with self._transaction() as db:
                await self._write(db, batch, meta)
                written()
        self.meta = meta

    async def _write(
        self, db: aiosqlite.Connection, batch: Sequence[Folded], meta: FileMeta
    ) -> None:
        for statement, values in _statements(batch):
            await db.executemany(statement, values)
        updated = await db.execute(
            "UPDATE meta SET position = ?, authority_position = ?, first_sha256 = ?,"
            " last_sha256 = ? WHERE position = ?",
            (
                meta.position,
                meta.authority_position,
                meta.first_sha256,
                meta.last_sha256,
                self.meta.position,
            ),
        )
        if updated.rowcount != 1:
            raise OtherWriterError(f"{self._path} is written by another process as well")

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        assert self._db is not None
        await self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            await self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite may have rolled back by itself
                await self._db.execute("ROLLBACK")
            raise


def _after(meta: FileMeta, batch: Sequence[Folded]) -> FileMeta:
    assert batch, "nothing to apply"
    assert batch[0].sequence == meta.position + 1, "the rows are not at the message before"
    return msgspec.structs.replace(
        meta,
        position=batch[-1].sequence,
        authority_position=batch[-1].after.position,
        first_sha256=meta.first_sha256 or digest(batch[0].stored.data),
        last_sha256=digest(batch[-1].stored.data),
    )


def _statements(batch: Sequence[Folded]) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    """Yield SQL for a batch; the changes of one table in order, those of two in any."""
    tables: dict[str, list[tuple[str, tuple[Any, ...]]]] = {}
    for folded in batch:
        for projection in PROJECTIONS:
            for change in projection.changes(folded):
                table, statement, values = _sql(change)
                tables.setdefault(table, []).append((statement, values))
    for changes in tables.values():
        for statement, group in groupby(changes, key=lambda change: change[0]):
            yield statement, [values for _, values in group]


def _sql(change: Change) -> tuple[str, str, tuple[Any, ...]]:
    if isinstance(change, Added):
        return change.row.TABLE, _INSERTS[type(change.row)], msgspec.structs.astuple(change.row)
    table = change.table.TABLE
    conditions = "".join(f" AND {column} = ?" for column, _ in change.where)
    update = f"UPDATE {table} SET to_sequence = ? WHERE to_sequence IS NULL"  # noqa: S608  # our names
    return table, update + conditions, (change.to_sequence, *(value for _, value in change.where))


def _rows() -> list[type[Row]]:
    return [row for projection in PROJECTIONS for row in projection.rows]


def _insert(row: type[Row]) -> str:
    places = ", ".join("?" for _ in row.__struct_fields__)
    # OR REPLACE: no entry, however odd, stops the fold by its key.
    return f"INSERT OR REPLACE INTO {row.TABLE} VALUES ({places})"  # noqa: S608  # our names


_INSERTS: Final = {row: _insert(row) for row in _rows()}


def _tables() -> Iterator[str]:
    for row in _rows():
        hints = get_type_hints(row)
        columns = [_column(name, hints[name]) for name in row.__struct_fields__]
        key = f"PRIMARY KEY ({', '.join(row.KEY)})"
        yield f"CREATE TABLE {row.TABLE} ({', '.join([*columns, key])}) STRICT"
        for number, index in enumerate(row.INDEXES):
            yield f"CREATE INDEX {row.TABLE}_{number} ON {row.TABLE} ({', '.join(index)})"


def _column(name: str, hint: Any) -> str:
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
    kind = kinds[0] if isinstance(kinds[0], type) else type(kinds[0])  # Literal["..."] is text
    return f"{name} {_TYPES[kind]}" + ("" if NoneType in get_args(hint) else " NOT NULL")


def _meta(row: tuple[Any, ...] | None, path: Path) -> FileMeta:
    try:
        _only_row, datacenter, told, *rest = row or ()
        values = (datacenter, msgspec.json.decode(told), *rest)
        meta = msgspec.convert(dict(zip(FileMeta.__struct_fields__, values, strict=True)), FileMeta)
    except (TypeError, ValueError) as error:  # MsgspecError is a ValueError
        raise StaleProjectionsError(f"{path} cannot be read: {error}") from error
    if meta.versions != versions():
        raise StaleProjectionsError(f"{path} was made by other software; it has to be rebuilt")
    return meta
