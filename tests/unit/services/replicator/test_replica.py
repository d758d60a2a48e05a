"""The replicator on a ledger in memory: what it keeps, what it refuses, and starting again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Self

import pytest

from events.catalogue import UnknownEventTypeError
from events.envelope import NewEvent, Stored, encode_entry
from events.log import Appended, GapError, Grant, UnreachableError
from projections import disk, store
from projections.issuance import IssuanceReader
from services.replicator.rebuild import RebuildRunningError, RebuildStoppedError, rebuild
from services.replicator.replica import BATCH_MAX, Replica
from services.replicator.worker import replicate
from tests import factories
from tests.whole_ledger import EVEN, SUBJECTS, WholeLedger, assignment, refused, small_ledger

WEB = factories.service_uri("web")


class Ledger:
    """A ledger that holds what a test stored in it, right or wrong; read-only."""

    def __init__(self, ledger: WholeLedger) -> None:
        self.held = ledger
        self.reachable = True
        self.wake = asyncio.Event()

    async def append_authority(
        self,
        events: Sequence[NewEvent],
        *,
        term: int,
        expected_sequence: int,
        grants: Sequence[Grant] = (),
    ) -> Appended:
        raise AssertionError("a replicator appends nothing")

    async def append_leaves(
        self, signer: str, events: Sequence[NewEvent], *, grant_sequence: int
    ) -> Appended:
        raise AssertionError("a replicator appends nothing")

    async def last_authority(self) -> int:
        return self.held.authority

    async def last_sequence(self) -> int:
        self._check()
        return self.held.last

    async def read_authority(self, after: int, *, limit: int = 256) -> list[Stored]:
        self._check()
        stored = self.held.stored[after:]
        return [each for each in stored if each.subject == SUBJECTS.authority][:limit]

    async def read(self, after: int, *, limit: int = 256) -> list[Stored]:
        self._check()
        return self.held.stored[after : after + limit]

    async def woken(self) -> AsyncIterator[None]:
        while True:
            self.wake.clear()
            yield
            await self.wake.wait()

    def _check(self) -> None:
        if not self.reachable:
            raise UnreachableError("the ledger: nobody answers")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


class Running:
    """A replicator that runs for the time of a test."""

    def __init__(self, ledger: Ledger, path: Path) -> None:
        self.stop = asyncio.Event()
        self.reader = IssuanceReader(path)
        self._ledger = ledger
        self._path = path

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(
            replicate(self._ledger, datacenter="dc1", path=self._path, stop=self.stop)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop.set()
        self.reader.close()
        async with asyncio.timeout(10):
            await self.task

    async def reaches(self, position: int) -> None:
        self._ledger.wake.set()
        await until(lambda: self.task.done() or self.reader.position() >= position)


async def filled(ledger: Ledger, path: Path) -> list[str]:
    await rebuild(ledger, datacenter="dc1", path=path)
    return list(store.dump(path))


async def test_what_is_stored_is_soon_in_the_file(tmp_path: Path) -> None:
    """Signers wait for it: under 20 ms when nothing else is to be done."""
    held = WholeLedger()
    held.begin()
    ledger = Ledger(held)
    waits = []
    async with Running(ledger, tmp_path / "p") as running:
        await running.reaches(5)
        for _ in range(20):
            held.issue("web")
            start = time.perf_counter()
            await running.reaches(held.last)
            waits.append(time.perf_counter() - start)

    assert min(waits) < 0.02


async def test_f6_a_rebuilt_file_equals_the_live_one_byte_for_byte(tmp_path: Path) -> None:
    whole = small_ledger()
    whole.raw(SUBJECTS.leaves(EVEN), b"garbage")
    whole.issue("web", grant=1)
    held = WholeLedger()
    ledger = Ledger(held)
    async with Running(ledger, tmp_path / "live") as running:
        for stored in whole.stored:
            held.stored.append(stored)
            held.authority = stored.sequence if "authority" in stored.subject else held.authority
            ledger.wake.set()
            await asyncio.sleep(0)
        await running.reaches(whole.last)
    live = list(store.dump(tmp_path / "live"))

    assert await filled(ledger, tmp_path / "rebuilt") == live
    assert sum(line.startswith("voids ") for line in live) == 1


@pytest.mark.parametrize("cut", range(1, 24))
async def test_a_replicator_that_starts_again_anywhere_comes_to_the_same(
    tmp_path: Path, cut: int
) -> None:
    ledger = Ledger(small_ledger())
    expected = await filled(ledger, tmp_path / "whole")
    part = Ledger(small_ledger())
    part.held.stored = part.held.stored[:cut]
    store.create(tmp_path / "p", datacenter="dc1")
    async with Replica(part, datacenter="dc1", path=tmp_path / "p") as replica:
        while await replica.advance():
            pass

    async with Replica(ledger, datacenter="dc1", path=tmp_path / "p") as replica:
        assert replica.position <= cut
        while await replica.advance():
            pass

    assert list(store.dump(tmp_path / "p")) == expected


async def test_part_of_an_atomic_append_is_never_in_the_file(tmp_path: Path) -> None:
    held = WholeLedger()
    held.begin()
    whole = held.stored
    ledger = Ledger(held)
    held.stored = whole[:4]
    store.create(tmp_path / "p", datacenter="dc1")
    async with Replica(ledger, datacenter="dc1", path=tmp_path / "p") as replica:
        assert await replica.advance()
        assert not await replica.advance()
        assert replica.position == 2
        held.stored = whole
        assert await replica.advance()
        assert replica.position == 5


async def test_an_append_that_is_longer_than_a_batch_is_folded(tmp_path: Path) -> None:
    held = WholeLedger()
    held.acquire()
    table = [assignment(f"01K2{number:022d}", [number % 64]) for number in range(BATCH_MAX + 40)]
    held.assign(table)
    ledger = Ledger(held)

    await rebuild(ledger, datacenter="dc1", path=tmp_path / "p")

    assert store.read_meta(tmp_path / "p").position == held.last


async def test_an_unknown_type_stops_after_everything_before_it(tmp_path: Path) -> None:
    ledger = Ledger(small_ledger())
    grant = ledger.held.grants[EVEN]
    data = encode_entry([ledger.held.stamp(refused(EVEN, grant=grant))])
    ledger.held.raw(SUBJECTS.leaves(EVEN), data.replace(b".refused.v1", b".refused.v9"))
    store.create(tmp_path / "p", datacenter="dc1")

    with pytest.raises(UnknownEventTypeError, match="newer software") as stopped:
        await replicate(ledger, datacenter="dc1", path=tmp_path / "p", stop=asyncio.Event())

    assert stopped.value.__notes__ == ["at sequence 24 of the ledger"]
    assert store.read_meta(tmp_path / "p").position == 23


async def test_f9_a_gap_stops(tmp_path: Path) -> None:
    ledger = Ledger(small_ledger())
    del ledger.held.stored[5]
    store.create(tmp_path / "p", datacenter="dc1")

    with pytest.raises(GapError):
        await replicate(ledger, datacenter="dc1", path=tmp_path / "p", stop=asyncio.Event())


async def test_a_file_ahead_of_the_ledger_stops(tmp_path: Path) -> None:
    ledger = Ledger(small_ledger())
    await filled(ledger, tmp_path / "p")
    ledger.held.stored = ledger.held.stored[:-1]

    with pytest.raises(disk.AheadOfLedgerError, match="at sequence 23, but the ledger ends at 22"):
        await replicate(ledger, datacenter="dc1", path=tmp_path / "p", stop=asyncio.Event())


@pytest.mark.parametrize("sequence", [1, 23])
async def test_a_file_of_another_ledger_stops(tmp_path: Path, sequence: int) -> None:
    ledger = Ledger(small_ledger())
    await filled(ledger, tmp_path / "p")
    ledger.held.stored = ledger.held.replaced(sequence, ledger.held.stored[5].data)

    with pytest.raises(disk.OtherLedgerError, match=f"entry {sequence} of the ledger is not"):
        await replicate(ledger, datacenter="dc1", path=tmp_path / "p", stop=asyncio.Event())


async def test_a_file_of_another_datacenter_stops(tmp_path: Path) -> None:
    store.create(tmp_path / "p", datacenter="dc2")

    with pytest.raises(disk.OtherLedgerError, match="of datacenter dc2"):
        await replicate(
            Ledger(small_ledger()), datacenter="dc1", path=tmp_path / "p", stop=asyncio.Event()
        )


async def test_a_ledger_that_cannot_be_reached_is_waited_for(tmp_path: Path) -> None:
    ledger = Ledger(small_ledger())
    ledger.reachable = False
    async with Running(ledger, tmp_path / "p") as running:
        for _ in range(3):
            ledger.wake.set()
            await asyncio.sleep(0)
        assert running.reader.position() == 0
        ledger.reachable = True
        await running.reaches(23)
        ledger.reachable = False
        ledger.held.issue("web", signing_key=3)
        ledger.wake.set()
        await asyncio.sleep(0)
        ledger.reachable = True
        await running.reaches(24)
        assert running.reader.position() == 24


async def test_a_file_of_other_software_is_rebuilt(tmp_path: Path) -> None:
    import sqlite3

    ledger = Ledger(small_ledger())
    expected = await filled(ledger, tmp_path / "p")
    db = sqlite3.connect(tmp_path / "p")
    db.execute("UPDATE meta SET versions = '{}'")
    db.execute("DELETE FROM leaves")
    db.commit()
    db.close()

    async with Running(ledger, tmp_path / "p") as running:
        await running.reaches(23)

    assert list(store.dump(tmp_path / "p")) == expected


async def test_a_file_that_is_deleted_or_replaced_while_it_is_kept_is_made_anew(
    tmp_path: Path,
) -> None:
    ledger = Ledger(small_ledger())
    async with Running(ledger, tmp_path / "p") as running:
        await running.reaches(23)
        disk.delete(tmp_path / "p")
        ledger.held.issue("web", request_id="r-new", signing_key=3)
        await running.reaches(24)
        assert running.reader.by_identity(WEB)[1]
        await rebuild(ledger, datacenter="dc1", path=tmp_path / "p")
        ledger.held.issue("web", signing_key=3)
        await running.reaches(25)

    assert list(store.dump(tmp_path / "p")) == await filled(ledger, tmp_path / "whole")


async def test_what_a_rebuild_that_was_killed_left_behind_is_no_hindrance(tmp_path: Path) -> None:
    ledger = Ledger(small_ledger())
    for name in ("p.rebuilding", "p.rebuilding-wal", "p-wal", "p-shm"):
        (tmp_path / name).write_bytes(b"left behind")

    await rebuild(ledger, datacenter="dc1", path=tmp_path / "p")

    assert store.read_meta(tmp_path / "p").position == 23
    assert not (tmp_path / "p.rebuilding").exists()


async def test_a_rebuild_that_is_told_to_stop_leaves_the_old_file_in_place(
    tmp_path: Path,
) -> None:
    ledger = Ledger(small_ledger())
    before = await filled(ledger, tmp_path / "p")
    stop = asyncio.Event()
    stop.set()

    with pytest.raises(RebuildStoppedError):
        await rebuild(ledger, datacenter="dc1", path=tmp_path / "p", stop=stop)

    assert list(store.dump(tmp_path / "p")) == before


async def test_two_rebuilds_of_one_file_do_not_run_at_once(tmp_path: Path) -> None:
    ledger = Ledger(small_ledger())

    both = await asyncio.gather(
        *(rebuild(ledger, datacenter="dc1", path=tmp_path / "p") for _ in range(2)),
        return_exceptions=True,
    )

    assert [type(each) for each in both] == [int, RebuildRunningError]


async def test_a_replicator_that_is_told_to_stop_stops_while_it_waits(tmp_path: Path) -> None:
    async with Running(Ledger(WholeLedger()), tmp_path / "p") as running:
        await until(lambda: (tmp_path / "p").exists())

    assert running.task.done()
