"""The projections file on disk: opened, put in another's place, and what is wrong with it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

_SIDECARS: Final = ("-wal", "-shm")
DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

Identity = tuple[int, int]
"""Of a file, whatever its path: device and inode."""


class ProjectionFileError(Exception):
    """The projections file cannot be used as it is; the text says what to do."""


class NoProjectionsError(ProjectionFileError):
    """There is no file."""


class StaleProjectionsError(ProjectionFileError):
    """The file cannot be gone on with (other software, damage): it has to be rebuilt."""


class OtherLedgerError(ProjectionFileError):
    """The file is of another ledger, or the ledger is not what it was any more."""


class AheadOfLedgerError(ProjectionFileError):
    """The file has entries that the ledger does not have: the ledger lost them."""


class OtherWriterError(ProjectionFileError):
    """Somebody else wrote to the file."""


class ReplacedError(Exception):
    """Another file has taken the place of the one that was opened."""


def delete(path: Path) -> None:
    """Delete a file, its parts last: readers that have it open keep what they have."""
    path.unlink(missing_ok=True)
    for sidecar in _SIDECARS:
        path.with_name(path.name + sidecar).unlink(missing_ok=True)


def move(new: Path, path: Path) -> None:
    """Put a closed file in another's place.

    The old one's log must be gone first, or SQLite would play it into the new file. A reader that
    comes in between finds no file; one that had opened the old file, and not yet its log, sees that
    the path is another file, and opens that.
    """
    _sync(new)
    delete(path)
    new.rename(path)
    _sync(path.parent)


@contextmanager
def damage_is_told(path: Path, codes: Collection[int] = DAMAGED) -> Iterator[None]:
    """Raise StaleProjectionsError for what SQLite says of a damaged file.

    Not for a disk that is full or fails, nor for a file that is locked: a new file would not help.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        if not _says(error, codes):
            raise
        raise StaleProjectionsError(f"{path} cannot be read: {error}") from error


@contextmanager
def replacement_is_told(path: Path, file: Identity) -> Iterator[None]:
    """Raise ReplacedError where `file` is not at the path any more once it and its log are open.

    SQLite finds the log by its name. Of one that has gone with its file it says that the disk
    fails; the log of another file it reads. A file keeps its log as long as it keeps its path
    (`move`).
    """
    try:
        yield
    except (sqlite3.Error, StaleProjectionsError) as error:
        if is_at(path, file):
            raise
        raise ReplacedError(f"{path} was replaced just now") from error
    if not is_at(path, file):
        raise ReplacedError(f"{path} was replaced just now")


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Say whether a file is damaged, and not only locked or on a disk that fails."""
    return _says(error, DAMAGED)


def _says(error: sqlite3.DatabaseError, codes: Collection[int]) -> bool:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is None:  # it is Python that speaks: of text that is no UTF-8, or of a bug
        return isinstance(error, sqlite3.OperationalError)
    return code & 0xFF in codes  # the rest of it says more closely what is damaged


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open a file, its log not yet: SQLite does that, by its name, with the first question.

    Raises sqlite3.Error where there is none.
    """
    return sqlite3.connect(uri(path, "ro"), uri=True, isolation_level=None)


def uri(path: Path, mode: Literal["ro", "rw"]) -> str:
    """Return how SQLite is told to open a file, and to make none."""
    return f"{path.absolute().as_uri()}?mode={mode}"


def identity(path: Path) -> Identity:
    """Return which file is at a path now; raises FileNotFoundError."""
    status = os.stat(path)  # noqa: PTH116  # 1.6 us; Path.stat takes three times that
    return status.st_dev, status.st_ino


def is_at(path: Path, file: Identity) -> bool:
    """Say whether this file is still the one at a path."""
    try:
        return identity(path) == file
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
