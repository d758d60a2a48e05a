"""The checker passes a good ledger, and names every fault that one can have."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from events.envelope import Stored
from events.log import Appended
from events.memory import MemoryLedger
from events.subjects import Subjects
from tests.ledger import NOW, acquired, assigned, leaf, ulid
from tests.scenarios.ledger_checker import History, check

SIGNER, OTHER = ulid(), ulid()


async def good() -> tuple[list[Stored], History]:
    """Return a ledger: 1 table, 2-3 grants, 4 leaves, 5 table, 6-7 grants, 8-9 leaves."""
    ledger, history = MemoryLedger(Subjects("dc1")), History()
    for expected in (0, 1):
        events, grants = assigned([SIGNER, OTHER])
        history.acknowledge(
            await ledger.append_authority(
                events, term=1, expected_sequence=4 * expected and 1, grants=grants
            ),
            events,
        )
        for request in range(1 + expected):
            grant = 2 + 4 * expected
            leaves = [leaf(SIGNER, grant=grant, request_id=f"r{expected}-{request}", size=9)]
            appended = await ledger.append_leaves(SIGNER, leaves, grant_sequence=grant)
            history.acknowledge(appended, leaves)
    stored = await ledger.read(0)
    for each in stored:
        history.see(each)
    return stored, history


async def test_a_good_ledger_has_no_fault() -> None:
    ledger, history = await good()

    assert [each.sequence for each in ledger] == list(range(1, 10))
    assert check(ledger, history) == []


def renumbered(ledger: list[Stored]) -> list[Stored]:
    return [replace(each, sequence=place) for place, each in enumerate(ledger, 1)]


FAULTS: list[tuple[str, Callable[[list[Stored]], list[Stored]]]] = [
    ("stands in its place", lambda ledger: ledger[:3] + ledger[4:]),
    ("acknowledged, but something else", lambda ledger: ledger[:8]),
    ("a reader saw something else", lambda ledger: ledger[:8]),
    ("stands 2 times", lambda ledger: [*ledger, replace(ledger[-1], sequence=10)]),
    ("was issued 2 times", lambda ledger: [*ledger, replace(ledger[-1], sequence=10)]),
    ("torn", lambda ledger: renumbered(ledger[:2] + ledger[3:])),
    ("torn", lambda ledger: ledger[:6]),
    ("a grant that no table names", lambda ledger: renumbered(ledger[1:])),
    ("decided on 1, but", lambda ledger: renumbered(ledger[4:])),
    ("a leaf of", lambda ledger: renumbered(ledger[:3] + ledger[4:7] + ledger[3:4])),
    ("void", lambda ledger: [*ledger[:8], replace(ledger[8], data=b"[]")]),
]


@pytest.mark.parametrize(("fault", "damage"), FAULTS)
async def test_every_fault_is_named(
    fault: str, damage: Callable[[list[Stored]], list[Stored]]
) -> None:
    ledger, history = await good()

    assert any(fault in found for found in check(damage(ledger), history))


async def test_what_was_refused_must_not_be_stored() -> None:
    ledger, history = await good()
    history.refused.add(history.acknowledged[0][1][0])

    assert any("was refused" in found for found in check(ledger, history))


async def test_two_readers_must_not_see_different_messages() -> None:
    ledger, history = await good()
    history.see(replace(ledger[0], data=b"other"))

    assert any("different messages" in found for found in check(ledger, history))


async def test_an_append_must_stand_where_its_writer_was_told() -> None:
    ledger, history = await good()
    event = acquired()
    history.acknowledge(Appended(sequence=2, messages=1), [event])

    assert event.time == NOW
    assert any("2: acknowledged" in found for found in check(ledger, history))
