"""What a signer committed is found until the index has it; an index that went back is noticed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from events.leaves import LeafIssued
from events.memory import MemoryLedger
from events.subjects import Subjects
from projections import disk
from projections.answers import Answer, IssuedLeaf
from projections.issuance import IssuanceReader, WentBackError
from services.replicator.rebuild import rebuild
from services.signer.holdings import Holdings
from services.signer.memory import ENTRIES_MAX, Memory
from tests.ledger import IDENTITY, give_grants, leaf, ulid

RUN = ulid()


class World:
    """A ledger in memory, a projections file that follows when told to, and a signer's memory."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "projections.sqlite"
        self.ledger = MemoryLedger(Subjects("dc1"))
        self.index = IssuanceReader(self.path)
        self.memory = Memory(self.index)
        self.grant = 0

    async def begin(self) -> None:
        self.grant = (await give_grants(self.ledger, [RUN])).sequence + 1

    async def commit(self, request_id: str | None) -> IssuedLeaf:
        """Record a leaf as the signer does, and remember it."""
        event = leaf(RUN, grant=self.grant, request_id=request_id)
        assert isinstance(event.event, LeafIssued)
        appended = await self.ledger.append_leaves(RUN, [event], grant_sequence=self.grant)
        issued = IssuedLeaf(
            sequence=appended.sequence,
            position=0,
            event_id=event.id,
            leaf=event.event,
            irregular=None,
        )
        if request_id is not None:
            self.memory.remember((IDENTITY, request_id), issued)
        return issued

    async def replicate(self) -> int:
        """Bring the file up to the ledger."""
        return await rebuild(self.ledger, datacenter="dc1", path=self.path)

    def lost(self) -> bool:
        """Say whether the index went back."""
        return self.memory.lost

    def find(self, request_id: str) -> Answer | None:
        """Look one request id up."""
        return self.memory.look_up([(IDENTITY, request_id)]).get((IDENTITY, request_id))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.index.close()


async def test_what_was_committed_is_found_before_the_index_has_it(world: World) -> None:
    await world.begin()
    issued = await world.commit("r1")

    assert world.find("r1") == issued
    assert world.find("r2") is None


async def test_it_is_found_in_the_index_once_it_is_forgotten_here(world: World) -> None:
    await world.begin()
    issued = await world.commit("r1")
    await world.replicate()

    world.find("other")  # sees how far the index is
    assert world.memory.recent((IDENTITY, "r1")) is None
    found = world.find("r1")

    assert isinstance(found, IssuedLeaf)
    assert (found.leaf, found.sequence, found.event_id) == (
        issued.leaf,
        issued.sequence,
        issued.event_id,
    )


async def test_nothing_is_forgotten_between_two_look_ups(world: World) -> None:
    """A decision on an older look-up still sees what was committed since."""
    await world.begin()
    await world.replicate()
    assert world.find("r1") is None

    issued = await world.commit("r1")
    await world.replicate()
    world.memory.known(Holdings())

    assert world.memory.recent((IDENTITY, "r1")) == issued


async def test_what_has_no_request_id_is_not_remembered(world: World) -> None:
    await world.begin()
    for _ in range(3):
        await world.commit(None)

    assert not world.memory.full
    assert world.memory.look_up([]) == {}


async def test_gates_open_as_far_as_the_index_is(world: World) -> None:
    await world.begin()
    held = Holdings(grant_sequence=2, partitions=frozenset({7}), gates={7: world.grant})

    assert world.memory.known(held).gates == {7: world.grant}
    assert await world.replicate() == world.grant
    assert world.memory.known(held).gates == {}


async def test_an_index_that_went_back_behind_an_open_gate_is_lost(world: World) -> None:
    await world.begin()
    held = Holdings(grant_sequence=2, partitions=frozenset({7}), gates={7: world.grant})
    await world.replicate()
    served = world.memory.known(held)
    assert not world.lost()

    disk.delete(world.path)
    world.memory.known(served)
    assert world.lost()
    with pytest.raises(WentBackError):
        world.find("r1")

    await world.replicate()
    world.memory.known(served)
    assert not world.lost()


async def test_an_index_that_lacks_what_was_forgotten_is_lost(world: World) -> None:
    await world.begin()
    await world.commit("r1")
    await world.replicate()
    world.find("other")

    disk.delete(world.path)
    world.memory.known(Holdings())

    assert world.lost()


async def test_what_is_forgotten_does_not_lower_what_is_relied_on(world: World) -> None:
    """An open gate may rely on more than this run ever committed."""
    await world.begin()
    issued = await world.commit("r1")
    await world.replicate()
    old = world.path.with_name("old")
    await rebuild(world.ledger, datacenter="dc1", path=old)
    gate = (await world.commit(None)).sequence
    held = Holdings(grant_sequence=2, partitions=frozenset({7}), gates={7: gate})
    await world.replicate()
    served = world.memory.known(held)
    world.find("other")
    assert world.memory.recent((IDENTITY, "r1")) is None

    disk.move(old, world.path)
    world.memory.known(served)

    assert world.index.position() == issued.sequence < gate
    assert world.lost()


async def test_it_is_full_when_the_index_is_too_far_behind(world: World) -> None:
    await world.begin()
    one = await world.commit("r1")
    for number in range(ENTRIES_MAX):
        other = replace(one.leaf, request_id=f"n{number}")
        world.memory.remember((IDENTITY, f"n{number}"), replace(one, leaf=other))
    assert world.memory.full

    await world.replicate()
    world.find("other")

    assert not world.memory.full
