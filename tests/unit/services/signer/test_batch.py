"""Group commit: one group on its way at a time, and everything that came meanwhile in the next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from services.signer.batch import (
    CHUNK,
    CHUNKS_LATE_MAX,
    LEAVES_BYTES_MAX,
    LEAVES_MAX,
    QUIET_TURNS,
    GroupCommit,
)
from services.signer.queue import ITEMS_MAX


@dataclass(eq=False)
class Piece:
    number: int
    size: int = 1_000
    requester: str = "shop"


class Bench:
    """Prepares everything; commits when the test says so."""

    def __init__(self) -> None:
        self.group = GroupCommit[Piece, Piece](prepare=self.prepare, commit=self.commit)
        self.committed: list[list[int]] = []
        self.prepared: list[int] = []
        self.go = asyncio.Semaphore(0)
        self.fails: Exception | None = None

    async def prepare(self, items: Sequence[Piece]) -> Sequence[Piece]:
        self.prepared += [item.number for item in items]
        return [item for item in items if item.number >= 0]

    async def commit(self, items: Sequence[Piece]) -> None:
        self.committed.append([item.number for item in items])
        await self.go.acquire()
        if self.fails:
            raise self.fails

    async def until(self, number: int) -> None:
        """Wait for the number of groups that were begun."""
        async with asyncio.timeout(5):
            while len(self.committed) < number:
                await asyncio.sleep(0)

    async def settled(self) -> None:
        """Let everything run that can."""
        for _ in range(200):
            await asyncio.sleep(0)


@asynccontextmanager
async def running() -> AsyncIterator[Bench]:
    bench = Bench()
    task = asyncio.create_task(bench.group.run())
    try:
        yield bench
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def pieces(*numbers: int, size: int = 1_000) -> list[Piece]:
    return [Piece(number, size) for number in numbers]


async def test_a_lone_item_is_committed_at_once() -> None:
    async with running() as bench:
        bench.group.put(pieces(1))
        await bench.until(1)

    assert bench.committed == [[1]]


async def test_what_comes_while_a_group_is_on_its_way_goes_into_the_next_together() -> None:
    async with running() as bench:
        bench.group.put(pieces(1))
        await bench.until(1)
        for number in range(2, CHUNK + 4):
            bench.group.put(pieces(number))
            await bench.settled()
        assert bench.committed == [[1]]  # one at a time
        assert bench.prepared == list(range(1, CHUNK + 2))  # the next is made ready meanwhile
        bench.go.release()
        await bench.until(2)

    assert bench.committed == [[1], list(range(2, CHUNK + 4))]


async def test_what_the_event_loop_has_taken_in_already_is_waited_for() -> None:
    """A few turns of the loop, no timer: what stands in the socket comes in meanwhile."""
    async with running() as bench:
        bench.group.put(pieces(1))
        for _ in range(QUIET_TURNS - 1):
            await asyncio.sleep(0)
        bench.group.put(pieces(2))
        await bench.until(1)

    assert bench.committed == [[1, 2]]


async def test_no_group_is_larger_than_an_entry_should_be() -> None:
    async with running() as bench:
        bench.group.put(pieces(*range(LEAVES_MAX + 10)))
        await bench.until(1)
        bench.go.release()
        await bench.until(2)

    assert [len(group) for group in bench.committed] == [LEAVES_MAX, 10]


async def test_no_group_has_more_bytes_than_an_entry_may() -> None:
    size = LEAVES_BYTES_MAX // (3 * CHUNK) + 1  # three chunks are one item too large
    async with running() as bench:
        bench.group.put(pieces(*range(12 * CHUNK), size=size))
        for number in range(1, 5):
            await bench.until(number)
            bench.go.release()

    assert all(len(group) * size < LEAVES_BYTES_MAX + CHUNK * size for group in bench.committed)


async def test_what_there_is_no_room_for_is_given_back() -> None:
    bench = Bench()

    left = bench.group.put(pieces(*range(ITEMS_MAX + 5)))

    assert [item.number for item in left] == list(range(ITEMS_MAX, ITEMS_MAX + 5))


async def test_f16_what_is_ready_is_committed_though_refusals_never_end() -> None:
    """What is refused fills no group: it must not be waited for until the queue is empty."""
    async with running() as bench:
        bench.group.put(pieces(1))
        while not bench.committed:
            bench.group.put(pieces(*[-1] * CHUNK))
            await asyncio.sleep(0)
            assert len(bench.prepared) <= CHUNK * 2 * CHUNKS_LATE_MAX

    assert bench.committed == [[1]]


async def test_a_flight_that_failed_is_looked_at_though_refusals_never_end() -> None:
    bench = Bench()
    bench.fails = RuntimeError("unknown outcome")
    bench.group.put(pieces(1))

    async def flood() -> None:
        while True:
            bench.group.put(pieces(*[-1] * CHUNK))
            await asyncio.sleep(0)

    flooding = asyncio.create_task(flood())
    running = asyncio.create_task(bench.group.run())
    await bench.until(1)
    bench.go.release()
    with pytest.raises(RuntimeError, match="unknown outcome"):
        async with asyncio.timeout(5):
            await running
    flooding.cancel()


async def test_what_is_put_first_is_next_in_its_order_room_or_not() -> None:
    async with running() as bench:
        bench.group.put(pieces(1))
        await bench.until(1)
        bench.group.put(pieces(*range(100, 100 + ITEMS_MAX)))
        bench.group.put_first(pieces(2, 3))
        bench.go.release()
        await bench.until(2)

    assert bench.committed[1][:2] == [2, 3]


async def test_what_is_answered_without_a_commit_makes_no_group() -> None:
    async with running() as bench:
        bench.group.put(pieces(-1, -2))
        await bench.settled()

    assert bench.prepared == [-1, -2]
    assert bench.committed == []


async def test_a_nudge_commits_although_there_is_nothing_of_the_queue() -> None:
    async with running() as bench:
        bench.group.nudge()
        await bench.until(1)
        bench.go.release()
        await bench.settled()

    assert bench.committed == [[]]


async def test_a_nudge_rides_with_the_next_group() -> None:
    async with running() as bench:
        bench.group.put(pieces(1))
        await bench.until(1)
        bench.group.put(pieces(2))
        bench.group.nudge()
        bench.go.release()
        await bench.until(2)
        bench.go.release()
        await bench.settled()

    assert bench.committed == [[1], [2]]


async def test_what_a_commit_raises_ends_the_run() -> None:
    bench = Bench()
    bench.fails = RuntimeError("unknown outcome")
    bench.go.release()
    bench.group.put(pieces(1))

    with pytest.raises(RuntimeError, match="unknown outcome"):
        await bench.group.run()


async def test_everything_else_gets_its_turn_between_two_chunks() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with running() as bench:
        counting = asyncio.create_task(count())
        bench.group.put(pieces(*range(LEAVES_MAX)))
        await bench.until(1)
        counting.cancel()

    assert turns >= LEAVES_MAX // CHUNK
