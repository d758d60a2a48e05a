"""What every ledger promises, on JetStream and in memory (`events.log.Ledger`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from events.envelope import decode_entry
from events.leaves import LeafIssued
from events.ledger import JetStreamLedger
from events.log import ConflictError, Grant, Ledger
from events.memory import MemoryLedger
from events.signers import GrantGiven
from events.subjects import Subjects
from services import streams
from tests.ledger import acquired, assigned, assignment, give_grants, leaf, new, ulid
from tests.nats import NatsCluster, NatsServer

SUBJECTS = Subjects("dc1")


@pytest.fixture(params=["memory", "R1", pytest.param("R3", marks=pytest.mark.slow)])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    """An empty ledger of each kind."""
    if request.param == "memory":
        yield MemoryLedger(SUBJECTS)
        return
    async with AsyncExitStack() as stack:
        replicas = 3 if request.param == "R3" else 1
        server = NatsCluster(tmp_path) if replicas == 3 else NatsServer(tmp_path)
        await stack.enter_async_context(server)
        nc = await server.client()
        await streams.create(nc, SUBJECTS, replicas=replicas)
        yield JetStreamLedger(nc, SUBJECTS)


async def read_to(ledger: Ledger, sequence: int) -> None:
    """Return once a reader sees the ledger up to `sequence`: on a replica that takes a moment."""
    async with asyncio.timeout(10):
        while len(await ledger.read(0, limit=1_024)) < sequence:
            await asyncio.sleep(0.01)


async def test_an_empty_ledger_has_no_last_sequence_and_nothing_to_read(ledger: Ledger) -> None:
    assert await ledger.last_authority() == 0
    assert await ledger.last_sequence() == 0
    assert await ledger.read(0) == []
    assert await ledger.read_authority(0) == []


async def test_an_entry_is_read_as_it_was_meant(ledger: Ledger) -> None:
    event = acquired("n7", term=3)

    appended = await ledger.append_authority([event], term=3, expected_sequence=0)
    await read_to(ledger, 1)
    [stored] = await ledger.read(0)
    entry = decode_entry(stored, datacenter="dc1")

    assert (appended.sequence, appended.messages) == (1, 1)
    assert (stored.sequence, stored.subject) == (1, SUBJECTS.authority)
    assert stored.stored.tzinfo is not None
    assert [recorded.event for recorded in entry.events] == [event.event]
    assert entry.events[0].envelope.term == 3
    assert entry.events[0].envelope.expectedsequence == 0
    assert entry.messages == 1


async def test_of_two_writers_on_the_same_state_only_the_first_is_stored(ledger: Ledger) -> None:
    await ledger.append_authority([acquired("n1")], term=1, expected_sequence=0)

    with pytest.raises(ConflictError) as conflict:
        await ledger.append_authority([acquired("n2")], term=1, expected_sequence=0)

    assert conflict.value.last_sequence == 1
    assert conflict.value.subject == SUBJECTS.authority
    assert await ledger.last_sequence() == 1


async def test_many_writers_at_once_store_one_entry(ledger: Ledger) -> None:
    results = await asyncio.gather(
        *(
            ledger.append_authority([acquired(f"n{i}")], term=1, expected_sequence=0)
            for i in range(8)
        ),
        return_exceptions=True,
    )

    assert sum(isinstance(result, ConflictError) for result in results) == 7
    assert await ledger.last_sequence() == 1


async def test_grants_stand_right_after_the_authority_entry_that_gives_them(
    ledger: Ledger,
) -> None:
    first, second = ulid(), ulid()
    appended = await give_grants(ledger, [first], withdrawn=[second])
    await read_to(ledger, 3)

    stored = await ledger.read(0)
    entry = decode_entry(stored[0], datacenter="dc1")

    assert (appended.sequence, appended.messages) == (1, 3)
    assert [each.subject for each in stored] == [
        SUBJECTS.authority,
        SUBJECTS.grant(first),
        SUBJECTS.grant(second),
    ]
    assert entry.messages == 3


async def test_a_refused_authority_entry_gives_no_grant(ledger: Ledger) -> None:
    await ledger.append_authority([acquired()], term=1, expected_sequence=0)

    with pytest.raises(ConflictError):
        await give_grants(ledger, [ulid()], expected=0)

    assert await ledger.last_sequence() == 1


async def test_grants_cannot_be_written_but_with_the_table_that_names_them(ledger: Ledger) -> None:
    signer, other = ulid(), ulid()
    grant = Grant(signer=signer, event=new(GrantGiven(assignment=assignment(signer))))
    with pytest.raises(ValueError, match="grants"):
        await ledger.append_authority([acquired()], term=1, expected_sequence=0, grants=[grant])

    events, grants = assigned([signer, other])
    with pytest.raises(ValueError, match="in its order"):
        await ledger.append_authority(
            events, term=1, expected_sequence=0, grants=list(reversed(grants))
        )

    misplaced = [grants[0], Grant(signer=other, event=grants[0].event)]
    with pytest.raises(ValueError, match="on the subject of"):
        await ledger.append_authority(events, term=1, expected_sequence=0, grants=misplaced)
    assert await ledger.last_sequence() == 0


async def test_an_event_cannot_be_written_to_a_family_that_it_does_not_belong_to(
    ledger: Ledger,
) -> None:
    signer = ulid()
    with pytest.raises(ValueError, match="does not belong"):
        await ledger.append_authority([leaf(signer, grant=1)], term=1, expected_sequence=0)
    with pytest.raises(ValueError, match="does not belong"):
        await ledger.append_leaves(signer, [acquired()], grant_sequence=1)
    assert await ledger.last_sequence() == 0


async def test_leaves_are_stored_under_the_current_grant(ledger: Ledger) -> None:
    signer = ulid()
    await give_grants(ledger, [signer])

    appended = await ledger.append_leaves(
        signer, [leaf(signer, grant=2), leaf(signer, grant=2)], grant_sequence=2
    )
    await read_to(ledger, 3)
    [stored] = await ledger.read(2)

    assert (appended.sequence, appended.messages) == (3, 1)
    assert stored.subject == SUBJECTS.leaves(signer)
    entry = decode_entry(stored, datacenter="dc1")
    assert [type(recorded.event) for recorded in entry.events] == [LeafIssued, LeafIssued]


async def test_leaves_under_a_superseded_grant_are_refused(ledger: Ledger) -> None:
    signer = ulid()
    await give_grants(ledger, [signer])
    await give_grants(ledger, [signer], expected=1)

    with pytest.raises(ConflictError) as conflict:
        await ledger.append_leaves(signer, [leaf(signer, grant=2)], grant_sequence=2)

    assert conflict.value.last_sequence == 4
    assert conflict.value.subject == SUBJECTS.grant(signer)
    assert await ledger.last_sequence() == 4


async def test_leaves_under_a_withdrawn_grant_are_refused(ledger: Ledger) -> None:
    signer = ulid()
    await give_grants(ledger, [signer])
    await give_grants(ledger, [], expected=1, withdrawn=[signer])

    with pytest.raises(ConflictError):
        await ledger.append_leaves(signer, [leaf(signer, grant=2)], grant_sequence=2)


async def test_a_signer_without_a_grant_appends_nothing(ledger: Ledger) -> None:
    signer = ulid()
    await ledger.append_authority([acquired()], term=1, expected_sequence=0)
    with pytest.raises(ValueError, match="no grant"):
        await ledger.append_leaves(signer, [leaf(signer, grant=0)], grant_sequence=0)
    with pytest.raises(ConflictError):
        await ledger.append_leaves(signer, [leaf(signer, grant=1)], grant_sequence=1)


async def test_other_signers_grants_do_not_matter(ledger: Ledger) -> None:
    busy, joining = ulid(), ulid()
    await give_grants(ledger, [busy])
    events, grants = assigned([joining])
    await ledger.append_authority(events, term=1, expected_sequence=1, grants=grants)

    appended = await ledger.append_leaves(busy, [leaf(busy, grant=2)], grant_sequence=2)

    assert appended.sequence == 5


async def test_the_same_leaves_sent_again_are_stored_once(ledger: Ledger) -> None:
    signer = ulid()
    await give_grants(ledger, [signer])
    leaves = [leaf(signer, grant=2)]

    first = await ledger.append_leaves(signer, leaves, grant_sequence=2)
    again = await ledger.append_leaves(signer, leaves, grant_sequence=2)

    assert again == first
    assert await ledger.last_sequence() == 3


@pytest.mark.parametrize("with_grants", [False, True])
async def test_the_same_authority_entry_sent_again_is_stored_once(
    ledger: Ledger, with_grants: bool
) -> None:
    events, grants = assigned([ulid()]) if with_grants else ([acquired()], [])
    first = await ledger.append_authority(events, term=1, expected_sequence=0, grants=grants)

    [again] = await asyncio.gather(
        ledger.append_authority(events, term=1, expected_sequence=0, grants=grants),
        return_exceptions=True,
    )

    assert again == first or isinstance(again, ConflictError)  # both say that it is not new
    assert await ledger.last_sequence() == first.messages


async def test_everything_is_read_in_order_and_page_by_page(ledger: Ledger) -> None:
    signer = ulid()
    await give_grants(ledger, [signer])
    for _ in range(7):
        await ledger.append_leaves(signer, [leaf(signer, grant=2)], grant_sequence=2)
    await read_to(ledger, 9)

    pages = [await ledger.read(after, limit=4) for after in (0, 4, 8, 9)]

    assert [[stored.sequence for stored in page] for page in pages] == [
        [1, 2, 3, 4],
        [5, 6, 7, 8],
        [9],
        [],
    ]


async def test_authority_is_read_without_what_stands_between(ledger: Ledger) -> None:
    signer = ulid()
    await give_grants(ledger, [signer])
    await ledger.append_leaves(signer, [leaf(signer, grant=2)], grant_sequence=2)
    await give_grants(ledger, [signer], expected=1)
    await read_to(ledger, 5)

    assert [stored.sequence for stored in await ledger.read_authority(0)] == [1, 4]
    assert [stored.sequence for stored in await ledger.read_authority(0, limit=1)] == [1]
    assert [stored.sequence for stored in await ledger.read_authority(1)] == [4]
    assert await ledger.read_authority(4) == []
    assert await ledger.last_authority() == 4
    assert await ledger.last_sequence() == 5


async def test_a_thousand_messages_are_one_append_and_one_more_is_refused(ledger: Ledger) -> None:
    signers = [ulid() for _ in range(1_000)]
    with pytest.raises(ValueError, match="1000 messages"):
        await give_grants(ledger, signers)
    assert await ledger.last_sequence() == 0

    appended = await give_grants(ledger, signers[:999])

    assert appended.messages == 1_000
    assert await ledger.last_sequence() == 1_000


@pytest.mark.parametrize("count", [0, 1_001])
async def test_an_entry_holds_one_to_a_thousand_events(ledger: Ledger, count: int) -> None:
    signer = ulid()
    leaves = [leaf(signer, grant=2, size=1) for _ in range(count)]
    with pytest.raises(ValueError, match="1 to 1000 events"):
        await ledger.append_leaves(signer, leaves, grant_sequence=2)


async def test_a_reader_is_woken_at_once_and_by_every_append(ledger: Ledger) -> None:
    wakes = ledger.woken()
    await anext(wakes)
    async with asyncio.timeout(5):  # ten ticks would take twice as long
        for sequence in range(10):
            waiting = asyncio.ensure_future(anext(wakes))
            await asyncio.sleep(0)
            await ledger.append_authority([acquired()], term=1, expected_sequence=sequence)
            await waiting


async def test_a_reader_is_woken_now_and_then_although_nothing_happens(ledger: Ledger) -> None:
    wakes = ledger.woken()
    async with asyncio.timeout(5):
        await anext(wakes)
        await anext(wakes)
