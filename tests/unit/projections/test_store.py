"""The projections file: rows and position in step, and no other ledger's."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from events.envelope import Stored
from projections import disk, store
from projections.issuance import IssuanceReader
from projections.ledger_fold import Folded, LedgerFold, read
from tests.whole_ledger import SUBJECTS, WholeLedger, leaf, small_ledger, ulid

REPLACED = 100  # times; without a second look about one in ten is met halfway


def folded(stored: Sequence[Stored]) -> list[Folded]:
    fold = LedgerFold("dc1")
    return [f for each in stored for f in fold.fold(read(each, datacenter="dc1"))]


def damage(path: Path, table: str) -> None:
    """Overwrite the page that a table (or an index) begins with, as a failing disk does."""
    with closing(sqlite3.connect(path)) as db:
        (size,) = db.execute("PRAGMA page_size").fetchone()
        (page,) = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
        ).fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)


async def filled(path: Path, batches: Sequence[Sequence[Folded]]) -> list[str]:
    store.create(path, datacenter="dc1")
    async with store.ProjectionStore(path) as projections:
        for batch in batches:
            await projections.apply(batch)
    return list(store.dump(path))


async def test_the_rows_do_not_depend_on_how_the_ledger_was_cut_into_batches(
    tmp_path: Path,
) -> None:
    whole = folded(small_ledger().stored)

    at_once = await filled(tmp_path / "a", [whole])
    one_by_one = await filled(tmp_path / "b", [[each] for each in whole])

    assert at_once == one_by_one
    assert {line.split()[0] for line in at_once} == {
        "meta",
        "event_ids",
        "terms",
        "grants",
        "leaves",
        "refusals",
        "refusal_counts",
    }


async def test_a_failure_before_the_commit_leaves_rows_and_position_as_they_were(
    tmp_path: Path,
) -> None:
    whole = folded(small_ledger().stored)
    before = await filled(tmp_path / "a", [whole[:5]])

    def fail() -> None:
        raise KeyboardInterrupt

    async with store.ProjectionStore(tmp_path / "a") as projections:
        with pytest.raises(KeyboardInterrupt):
            await projections.apply(whole[5:], written=fail)
        assert projections.position == 5
        assert list(store.dump(tmp_path / "a")) == before
        await projections.apply(whole[5:])

    assert list(store.dump(tmp_path / "a")) == await filled(tmp_path / "b", [whole])


async def test_f10_a_batch_that_does_not_follow_is_refused(tmp_path: Path) -> None:
    whole = folded(small_ledger().stored)
    store.create(tmp_path / "a", datacenter="dc1")
    async with store.ProjectionStore(tmp_path / "a") as projections:
        with pytest.raises(AssertionError):
            await projections.apply(whole[1:])


async def test_a_second_writer_is_noticed_and_changes_nothing(tmp_path: Path) -> None:
    whole = folded(small_ledger().stored)
    store.create(tmp_path / "a", datacenter="dc1")
    async with (
        store.ProjectionStore(tmp_path / "a") as one,
        store.ProjectionStore(tmp_path / "a") as other,
    ):
        await one.apply(whole[:5])
        with pytest.raises(disk.OtherWriterError):
            await other.apply(whole)

    assert store.read_meta(tmp_path / "a").position == 5


async def test_event_ids_that_are_used_up_are_known(tmp_path: Path) -> None:
    await filled(tmp_path / "a", [folded(small_ledger().stored)])
    async with store.ProjectionStore(tmp_path / "a") as projections:
        assert await projections.known([ulid(1), ulid(12), "nobody's"]) == {ulid(1), ulid(12)}
        assert await projections.known([]) == set()


async def test_a_file_of_other_software_has_to_be_rebuilt(tmp_path: Path) -> None:
    store.create(tmp_path / "a", datacenter="dc1")
    db = sqlite3.connect(tmp_path / "a")
    db.execute("UPDATE meta SET versions = ?", ('{"issuance":0}',))
    db.commit()
    db.close()

    with pytest.raises(disk.StaleProjectionsError):
        await store.ProjectionStore(tmp_path / "a").__aenter__()


@pytest.mark.parametrize("data", [b"", b"not a database, but long enough to be looked at" * 10])
async def test_a_file_that_is_none_of_ours_has_to_be_rebuilt(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)

    with pytest.raises(disk.StaleProjectionsError):
        await store.ProjectionStore(tmp_path / "a").__aenter__()


async def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(disk.NoProjectionsError):
        await store.ProjectionStore(tmp_path / "a").__aenter__()
    assert not (tmp_path / "a").exists()


async def test_a_moved_file_takes_nothing_of_the_old_one_with_it(tmp_path: Path) -> None:
    whole = folded(small_ledger().stored)
    fresh = await filled(tmp_path / "new", [whole[:5]])
    store.create(tmp_path / "a", datacenter="dc1")
    async with store.ProjectionStore(tmp_path / "a") as projections:
        await projections.apply(whole)  # its log is not in the file yet
        assert (tmp_path / "a-wal").stat().st_size > 0
        assert not projections.replaced()

        disk.move(tmp_path / "new", tmp_path / "a")

        assert projections.replaced()
        assert list(store.dump(tmp_path / "a")) == fresh


async def test_hostile_values_fit_in_the_rows(tmp_path: Path) -> None:
    """Whatever is well-formed must not stop the fold by what it holds."""
    ledger = WholeLedger()
    ledger.begin()
    ledger.leaves(
        "any-signer",
        leaf(
            grant=2**63 - 1,
            identity="'; DROP TABLE leaves; --\x00",
            name="\x00" * 1000,
            requester="\u2028" * 10,
            certificate=b"",
        ),
    )
    ledger.raw(SUBJECTS.leaves("x"), b"[]")

    lines = await filled(tmp_path / "a", [folded(ledger.stored)])

    assert sum(line.startswith("leaves ") for line in lines) == 1


def test_a_file_that_is_replaced_while_it_is_opened_is_read_anew(tmp_path: Path) -> None:
    """A reader never hears of the logs that vanish meanwhile: there is a file, or there is none."""
    path, new = tmp_path / "p", tmp_path / "new"
    store.create(path, datacenter="dc1")

    def replace() -> None:
        for _ in range(REPLACED):
            store.create(new, datacenter="dc1")
            disk.move(new, path)

    seen = {"a file": 0, "none": 0}
    with ThreadPoolExecutor() as threads:
        replacing = threads.submit(replace)
        while not replacing.done():
            try:
                store.read_meta(path)
                seen["a file"] += 1
            except disk.NoProjectionsError:
                seen["none"] += 1
            with closing(IssuanceReader(path)) as reader:
                assert reader.position() == 0
        replacing.result()

    assert all(seen.values())


async def test_a_file_that_is_replaced_while_it_is_opened_is_not_written(tmp_path: Path) -> None:
    """SQLite finds the log by its name: it would be the log of the file that is there now."""
    for name in ("p", "new"):
        store.create(tmp_path / name, datacenter="dc1")
    opening = store.ProjectionStore(tmp_path / "p")
    await opening._connect()

    disk.move(tmp_path / "new", tmp_path / "p")

    with pytest.raises(disk.NoProjectionsError, match="replaced just now"):
        await opening._open_log()
    await opening.__aexit__()
    async with store.ProjectionStore(tmp_path / "p"):
        pass


async def test_damage_to_rows_is_told_when_they_are_read_or_written(tmp_path: Path) -> None:
    whole = folded(small_ledger().stored)
    await filled(tmp_path / "a", [whole[:10]])
    for table in ("sqlite_autoindex_event_ids_1", "leaves"):
        damage(tmp_path / "a", table)

    async with store.ProjectionStore(tmp_path / "a") as projections:
        with pytest.raises(disk.StaleProjectionsError, match="malformed"):
            await projections.known([ulid(1)])
        with pytest.raises(disk.StaleProjectionsError, match="malformed"):
            await projections.apply(whole[10:])
        assert projections.position == 10
    with pytest.raises(disk.StaleProjectionsError, match="malformed"):
        list(store.dump(tmp_path / "a"))


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM meta",
        "UPDATE meta SET versions = 'x'",
        "UPDATE meta SET versions = '[]'",
        "UPDATE meta SET versions = CAST(x'ff' AS TEXT)",
        "ALTER TABLE meta ADD COLUMN other INTEGER",
    ],
)
async def test_damage_to_what_a_file_says_of_itself_is_told(tmp_path: Path, change: str) -> None:
    await filled(tmp_path / "a", [folded(small_ledger().stored)])
    with closing(sqlite3.connect(tmp_path / "a")) as db:
        db.execute(change)
        db.commit()

    with pytest.raises(disk.StaleProjectionsError):
        await store.ProjectionStore(tmp_path / "a").__aenter__()


async def test_a_file_that_is_locked_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    whole = folded(small_ledger().stored)
    store.create(tmp_path / "a", datacenter="dc1")
    async with store.ProjectionStore(tmp_path / "a") as projections:
        assert projections._db is not None
        await projections._db.execute("PRAGMA busy_timeout=0")
        with closing(sqlite3.connect(tmp_path / "a", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                await projections.apply(whole)

        await projections.apply(whole)
