"""How many void entries and irregular certificates there are, counted from where one stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from projections import disk, store
from projections.faults import FIRST_MAX, FaultCounter, Faults, Found
from projections.ledger_fold import LedgerFold, read
from tests.whole_ledger import EVEN, WholeLedger, leaf


class Kept:
    """A ledger, and a projections file that follows it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = WholeLedger()
        self.ledger.begin()
        self._fold = LedgerFold("dc1")
        self._done = 0
        store.create(path, datacenter="dc1")

    async def follow(self) -> None:
        new = self.ledger.stored[self._done :]
        self._done += len(new)
        folded = [f for s in new for f in self._fold.fold(read(s, datacenter="dc1"))]
        async with store.ProjectionStore(self.path) as projections:
            await projections.apply(folded)

    def void(self) -> int:
        """Store what is no entry; return its sequence."""
        good = self.ledger.stored[-1]
        self.ledger.stored.append(replace(good, sequence=good.sequence + 1, data=b"[]"))
        return good.sequence + 1


@pytest.fixture
async def kept(tmp_path: Path) -> Kept:
    made = Kept(tmp_path / "p")
    await made.follow()
    return made


async def test_faults_are_counted_and_the_first_of_them_named(kept: Kept) -> None:
    counter = FaultCounter(kept.path)
    at = kept.ledger.stored[-1].sequence
    assert counter.look() == Faults(position=at)

    first = kept.void()
    await kept.follow()
    assert counter.look() == Faults(position=first, void=Found(count=1, first=(first,)))
    assert counter.look() == Faults(position=first, void=Found(count=1, first=(first,)))

    later = [kept.void() for _ in range(FIRST_MAX + 3)]
    await kept.follow()
    told = counter.look()
    assert told.void.count == FIRST_MAX + 4
    assert told.void.first == (first, *later)[:FIRST_MAX]
    assert told == FaultCounter(kept.path).look()


async def test_a_certificate_that_breaks_a_rule_is_one(kept: Kept) -> None:
    counter = FaultCounter(kept.path)
    counter.look()
    grant = kept.ledger.grants[EVEN]
    kept.ledger.leaves(EVEN, leaf("web", grant=grant))
    kept.ledger.leaves(EVEN, leaf("web", grant=grant - 1))  # under a grant that is none of its own
    at = kept.ledger.stored[-1].sequence
    await kept.follow()

    assert counter.look() == Faults(position=at, irregular=Found(count=1, first=(at,)))


async def test_another_file_in_its_place_is_counted_from_its_beginning(
    kept: Kept, tmp_path: Path
) -> None:
    counter = FaultCounter(kept.path)
    kept.void()
    await kept.follow()
    assert counter.look().void.count == 1

    other = Kept(tmp_path / "q")
    for _ in range(3):  # it is further than the old one
        other.ledger.leaves(EVEN, leaf(grant=other.ledger.grants[EVEN]))
    await other.follow()
    disk.move(other.path, kept.path)

    assert counter.look() == Faults(position=other.ledger.stored[-1].sequence)
    kept.path.unlink()
    with pytest.raises(FileNotFoundError):
        counter.look()
