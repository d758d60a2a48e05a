"""Who led and who signed, from when to when."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from projections import signers, store
from projections.catalog import PROJECTIONS
from projections.ledger_fold import LedgerFold, read
from projections.projection import Row
from tests.whole_ledger import EVEN, ODD, WholeLedger, halves, small_ledger


async def rows(ledger: WholeLedger, path: Path, query: str) -> list[Any]:
    """Return what a file of this ledger answers."""
    store.create(path, datacenter="dc1")
    fold = LedgerFold("dc1")
    folded = [f for s in ledger.stored for f in fold.fold(read(s, datacenter="dc1"))]
    async with store.ProjectionStore(path) as projections:
        await projections.apply(folded)
    db = sqlite3.connect(path)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


async def test_a_term_lasts_until_it_is_released_or_the_next_is_acquired(tmp_path: Path) -> None:
    ledger = WholeLedger()
    ledger.acquire("n1")
    ledger.release("n1")
    ledger.acquire("n2")
    ledger.acquire("n3")

    found = await rows(
        ledger, tmp_path / "p", "SELECT term, node, sequence, to_sequence FROM terms"
    )

    assert found == [(1, "n1", 1, 2), (2, "n2", 3, 4), (3, "n3", 4, None)]


async def test_a_grant_lasts_until_the_signer_has_another_or_loses_it(tmp_path: Path) -> None:
    ledger = WholeLedger()
    ledger.begin()
    ledger.assign(halves(), withdrawn=[])
    ledger.assign([halves()[0]], withdrawn=[ODD])

    found = await rows(
        ledger,
        tmp_path / "p",
        "SELECT signer, sequence, to_sequence, partitions FROM grants ORDER BY sequence",
    )

    assert signers.holders(tmp_path / "p") == 1
    even, odd = (str(list(range(start, 64, 2))).replace(" ", "") for start in (0, 1))
    assert found == [
        (EVEN, 4, 7, even),
        (ODD, 5, 8, odd),
        (EVEN, 7, 10, even),
        (ODD, 8, 11, odd),
        (EVEN, 10, None, even),
    ]


async def test_who_held_a_partition_at_a_sequence_can_be_asked(tmp_path: Path) -> None:
    held = (
        "SELECT signer FROM grants, json_each(partitions) WHERE value = 1 AND sequence <= 10"
        " AND (to_sequence IS NULL OR to_sequence > 10)"
    )

    assert await rows(small_ledger(), tmp_path / "p", held) == [(ODD,)]


async def test_a_void_entry_is_kept_with_its_reason(tmp_path: Path) -> None:
    ledger = WholeLedger()
    ledger.begin()
    ledger.raw("ca.dc1.ledger.leaves.x", b"garbage")

    ((sequence, kind, reason),) = await rows(
        ledger, tmp_path / "p", "SELECT sequence, kind, reason FROM voids"
    )

    assert (sequence, kind) == (6, "malformed")
    assert reason.startswith("not a list of well-formed events")


@pytest.mark.parametrize(
    "row", [row for projection in PROJECTIONS for row in projection.rows], ids=lambda r: r.TABLE
)
def test_f10_every_row_of_every_projection_carries_its_sequence(row: type[Row]) -> None:
    assert row.__struct_fields__[0] == "sequence"
    assert set(row.KEY) <= set(row.__struct_fields__)
