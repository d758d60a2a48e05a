"""The index of what was issued: exact, fast, and silent rather than wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import UTC, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from events.envelope import Envelope, Recorded
from events.leaves import LeafIssued
from projections import disk, store
from projections.answers import Answer, IssuedLeaf, KeptRefusal, issued
from projections.issuance import (
    IssuanceReader,
    WentBackError,
    _checked,
)
from projections.issuance_rows import LeafRow, leaf_row
from projections.ledger_fold import LedgerFold, read
from tests import factories
from tests.unit.projections.test_store import damage
from tests.whole_ledger import EVEN, WholeLedger, leaf, refused, small_ledger

WEB = factories.service_uri("web")


async def fill(path: Path, ledger: WholeLedger, *, up_to: int | None = None) -> None:
    store.create(path, datacenter="dc1")
    fold = LedgerFold("dc1")
    stored = ledger.stored[:up_to]
    folded = [f for s in stored for f in fold.fold(read(s, datacenter="dc1"))]
    async with store.ProjectionStore(path) as projections:
        await projections.apply(folded)


def answer(reader: IssuanceReader, identity: str, request_id: str) -> Answer | None:
    return reader.find_all([(identity, request_id)])[1].get((identity, request_id))


def find(reader: IssuanceReader, identity: str, request_id: str) -> IssuedLeaf | None:
    found = answer(reader, identity, request_id)
    assert not isinstance(found, KeptRefusal)
    return found


async def test_a_repeated_request_finds_the_event_that_answered_it(tmp_path: Path) -> None:
    ledger = WholeLedger()
    ledger.begin()
    event = leaf("web", grant=ledger.grants[EVEN], request_id="r-1", requester="UABC")
    stamped = ledger.stamp(event)
    ledger.leaves(EVEN, leaf("api", grant=ledger.grants[EVEN], request_id="r-1"), stamped)
    await fill(tmp_path / "p", ledger)
    reader = IssuanceReader(tmp_path / "p")

    found = find(reader, WEB, "r-1")

    assert found is not None
    assert (found.sequence, found.position, found.event_id) == (6, 1, stamped.id)
    assert (found.leaf, found.irregular) == (event, None)
    assert find(reader, WEB, "r-2") is None
    assert find(reader, factories.service_uri("db"), "r-1") is None
    assert reader.position() == 6
    reader.close()


async def test_a_refusal_that_is_kept_is_its_ids_answer_unless_there_is_a_certificate(
    tmp_path: Path,
) -> None:
    ledger = WholeLedger()
    ledger.begin()
    grant = ledger.grants[EVEN]
    kept = replace(refused(EVEN, grant=grant), identity=WEB, durable=True)
    ledger.leaves(
        EVEN,
        replace(kept, request_id="told", durable=False),
        replace(kept, request_id="kept", code="bad_signature", message="no"),
        replace(kept, request_id="kept", code="malformed"),
        replace(kept, request_id="both"),
        leaf("web", grant=grant, request_id="both"),
    )
    await fill(tmp_path / "p", ledger)
    reader = IssuanceReader(tmp_path / "p")

    assert answer(reader, WEB, "told") is None
    assert answer(reader, WEB, "kept") == KeptRefusal(
        sequence=reader.position(), code="bad_signature", message="no"
    )
    assert answer(reader, factories.service_uri("db"), "kept") is None
    assert isinstance(answer(reader, WEB, "both"), IssuedLeaf)
    reader.close()


moments = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-11, minutes=30))]))


@given(
    st.builds(
        lambda **changes: replace(leaf(grant=4), **changes),
        not_before=moments,
        not_after=moments,
        requester=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
        request_id=st.none() | st.just("r-1"),
        certificate=st.binary(),
        grant_sequence=st.integers(0, 2**63 - 1),
    )
)
def test_a_row_is_read_back_as_the_event_that_it_was_made_of(event: LeafIssued) -> None:
    stamped = WholeLedger().stamp(event)
    recorded = Recorded(
        sequence=9,
        position=3,
        stored=stamped.time,
        envelope=Envelope(
            specversion="1.0",
            id=stamped.id,
            source="/x",
            type=event.TYPE,
            subject="x",
            time=stamped.time,
            datacontenttype="application/json",
            data=b"",  # type: ignore[arg-type]  # not looked at
        ),
        event=event,
        raw=b"",
    )

    row = leaf_row(recorded, event, None)

    columns = tuple(getattr(row, name) for name in LeafRow.__struct_fields__)
    assert issued(columns).leaf == event


async def test_the_first_of_two_is_the_answer_for_ever(tmp_path: Path) -> None:
    ledger = WholeLedger()
    ledger.begin()
    first = ledger.issue("web", request_id="r-1")
    ledger.issue("web", request_id="r-1")
    await fill(tmp_path / "p", ledger)
    reader = IssuanceReader(tmp_path / "p")

    found = find(reader, WEB, "r-1")

    assert found is not None
    assert found.sequence == first
    position, latest = reader.by_identity(WEB)
    assert (position, [each.sequence for each in latest]) == (first + 1, [first + 1, first])
    assert reader.by_identity(WEB, limit=1) == (position, latest[:1])
    assert reader.by_name("service", "web") == (position, latest)
    assert reader.by_name("service", "we") == (position, [])
    reader.close()


async def test_an_irregular_leaf_is_found_and_says_so(tmp_path: Path) -> None:
    ledger = WholeLedger()
    ledger.begin()
    ledger.issue("web", request_id="r-1", grant=3)
    await fill(tmp_path / "p", ledger)
    reader = IssuanceReader(tmp_path / "p")

    found = find(reader, WEB, "r-1")

    assert found is not None
    assert found.irregular is not None
    assert found.irregular.startswith("grant: ")
    assert reader.counts().irregular == 1
    reader.close()


async def test_what_there_is_is_counted(tmp_path: Path) -> None:
    await fill(tmp_path / "p", small_ledger())
    reader = IssuanceReader(tmp_path / "p")

    counts = reader.counts()

    assert (counts.position, counts.leaves, counts.refusals) == (small_ledger().last, 10, 1)
    assert (counts.irregular, counts.refusals_counted) == (0, 73)
    reader.close()


def test_a_file_that_is_not_there_yet_is_at_the_beginning(tmp_path: Path) -> None:
    reader = IssuanceReader(tmp_path / "p")

    assert reader.position() == 0
    assert find(reader, WEB, "r-1") is None
    assert reader.by_identity(WEB) == (0, [])
    assert reader.counts().leaves == 0


async def test_a_reader_sees_what_is_written_after_it_opened(tmp_path: Path) -> None:
    ledger = small_ledger()
    await fill(tmp_path / "p", ledger, up_to=5)
    reader = IssuanceReader(tmp_path / "p")
    assert (reader.position(), find(reader, WEB, "r-0")) == (5, None)

    fold = LedgerFold("dc1")
    rest = [f for s in ledger.stored for f in fold.fold(read(s, datacenter="dc1"))][5:]
    async with store.ProjectionStore(tmp_path / "p") as projections:
        await projections.apply(rest)
        assert reader.position() == ledger.last
        assert find(reader, WEB, "r-0") is not None
    reader.close()


async def test_f10_no_row_is_later_than_the_sequence_that_it_comes_with(tmp_path: Path) -> None:
    """Beside a replicator that writes all the time."""
    ledger = WholeLedger()
    ledger.begin()
    for number in range(150):
        ledger.issue("web", serial=factories.SERIAL + 7_000 + number % 7)
    await fill(tmp_path / "p", ledger, up_to=5)
    fold = LedgerFold("dc1")
    rest = [f for s in ledger.stored for f in fold.fold(read(s, datacenter="dc1"))][5:]
    written = threading.Event()

    async def write() -> None:
        async with store.ProjectionStore(tmp_path / "p") as projections:
            for each in rest:
                await projections.apply([each])

    def writer() -> None:
        try:
            asyncio.run(write())
        finally:
            written.set()

    thread = threading.Thread(target=writer)
    reader = IssuanceReader(tmp_path / "p")
    seen: set[int] = set()
    thread.start()
    while not written.is_set():
        for position, found in (reader.by_identity(WEB), reader.by_name("service", "web")):
            assert max((each.sequence for each in found), default=position) == position
            seen.add(position)
    thread.join()
    reader.close()

    assert len(seen) > 1


async def test_f10_a_file_that_knows_less_than_it_did_gives_no_answer(tmp_path: Path) -> None:
    """Else a signer would issue a second certificate for a request that has one."""
    await fill(tmp_path / "p", small_ledger())
    reader = IssuanceReader(tmp_path / "p")
    assert reader.position() == small_ledger().last

    disk.delete(tmp_path / "p")
    with pytest.raises(WentBackError):
        find(reader, WEB, "r-0")
    assert reader.position() == 0

    await fill(tmp_path / "p", small_ledger(), up_to=5)
    with pytest.raises(WentBackError):
        find(reader, WEB, "r-0")
    assert reader.position() == 5

    await fill(tmp_path / "new", small_ledger())
    disk.move(tmp_path / "new", tmp_path / "p")
    assert find(reader, WEB, "r-0") is not None
    reader.close()


@pytest.mark.parametrize(
    "ask",
    [
        lambda reader: find(reader, WEB, "r-0"),
        lambda reader: reader.by_identity(WEB),
        IssuanceReader.counts,
    ],
    ids=["find_all", "by_identity", "counts"],
)
@pytest.mark.parametrize("page", ["leaves", "meta"])
async def test_a_file_that_is_damaged_where_it_is_read_makes_way_for_a_new_one(
    tmp_path: Path, page: str, ask: Callable[[IssuanceReader], object]
) -> None:
    """Else only a page that the replicator happens to read would ever be mended."""
    await fill(tmp_path / "p", small_ledger())
    reader = IssuanceReader(tmp_path / "p")
    assert find(reader, WEB, "r-0") is not None
    reader.close()
    damage(tmp_path / "p", page)

    with pytest.raises(WentBackError):
        ask(reader)
    assert not (tmp_path / "p").exists()
    assert reader.position() == 0

    await fill(tmp_path / "p", small_ledger())
    assert find(reader, WEB, "r-0") is not None
    reader.close()


async def test_a_file_never_comes_with_the_log_of_the_one_that_took_its_place(
    tmp_path: Path,
) -> None:
    """Between opening a file and the first question, which opens its log by its name."""
    path = tmp_path / "p"
    ledger = small_ledger()
    await fill(path, ledger)
    file, opened = disk.identity(path), disk.open_to_read(path)
    await fill(tmp_path / "new", ledger, up_to=5)
    disk.move(tmp_path / "new", path)
    fold = LedgerFold("dc1")
    rest = [f for s in ledger.stored for f in fold.fold(read(s, datacenter="dc1"))][5:]
    async with store.ProjectionStore(path) as projections:
        await projections.apply(rest)  # into the log

        with pytest.raises(disk.ReplacedError), disk.replacement_is_told(path, file):
            _checked(opened)
        opened.close()

        reader = IssuanceReader(path)
        assert reader.position() == ledger.last
        reader.close()


async def test_a_file_of_other_software_knows_nothing(tmp_path: Path) -> None:
    import sqlite3

    await fill(tmp_path / "p", small_ledger())
    db = sqlite3.connect(tmp_path / "p")
    db.execute("UPDATE meta SET versions = ?", ('{"issuance":0}',))
    db.commit()
    db.close()
    reader = IssuanceReader(tmp_path / "p")

    assert (reader.position(), find(reader, WEB, "r-0")) == (0, None)


async def test_a_look_up_is_fit_for_the_hot_path(tmp_path: Path) -> None:
    """About 10 us; the bound leaves room for a busy machine."""
    await fill(tmp_path / "p", small_ledger())
    reader = IssuanceReader(tmp_path / "p")
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(100):
            find(reader, WEB, "r-0")
        best = min(best, (time.perf_counter() - start) / 100)
    reader.close()

    assert best < 100e-6
