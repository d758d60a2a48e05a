"""Partitions that move from signer to signer under load: nothing lost, nothing double."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from events.base import PARTITIONS
from events.envelope import decode_entry
from events.signers import SignersAssigned
from tests.scenarios.caledger import Caledger
from tests.scenarios.checking import Ledger, check, signing
from tests.scenarios.load import Load, endless, requests
from tests.scenarios.second_node import Node, until

IDENTITIES = 1_000
ROUNDS = 3  # requests for each identity
GONE = "signer-1"
GONE_AFTER = 1_000  # answers
CLEAN_STOP_SECONDS = 1.0  # at most, for any request while a signer stops cleanly

MOVES = 100
END_SECONDS = 10.0  # a stopped signer may answer its last requests first
MORE_SIGNERS = (2, 3)  # slots that come and go


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
async def test_when_one_of_two_signers_goes_every_request_is_answered_and_none_twice(
    tmp_path: Path, how: signal.Signals
) -> None:
    """Goal: a lost signer costs latency and no errors; one that is stopped costs nearly nothing.

    Method: two signers, three requests for each of 1,000 identities from 32 clients; after the
    first third one signer gets SIGKILL (its partitions move when its lease of 3 s has ended) or
    SIGTERM (it gives them back first), and is not started again. Every request must be answered
    within our client's deadline of 10 s, after SIGTERM within 1 s.
    """
    async with Caledger(tmp_path, no_restart=(GONE,)) as caledger:
        await signing(caledger, 2)
        load = await Load.on(
            caledger, requests(ROUNDS * IDENTITIES, identities=IDENTITIES), clients=32
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.run())
            await load.answered(GONE_AFTER)
            caledger.kill(GONE, how)
        print(f"{how.name}: {load.figures()}")

        load.all_answered()
        ended = "was ended by SIGKILL" if how is signal.SIGKILL else "ended with exit code 0"
        told = f"{GONE}       | {ended}; it is not to be started again"
        await caledger.until(lambda: told in caledger.log, END_SECONDS, f"no word of {told!r}")
        ledger = await check(caledger, load)
        assert list(ledger.partitions().values()) == [PARTITIONS], "one signer has all of them"
        assert len(ledger.leaves) == ROUNDS * IDENTITIES
        assert len({leaf.issued.identity for leaf in ledger.leaves}) == IDENTITIES
        if how is signal.SIGTERM:
            assert load.longest < CLEAN_STOP_SECONDS


@pytest.mark.slow
async def test_partitions_that_move_100_times_under_load_lose_nothing_and_double_nothing(
    tmp_path: Path,
) -> None:
    """Goal: who signs what can change all the time, and no client notices but by waiting.

    Method: 16 clients ask all the time, while further signers come (each takes a share of the
    partitions) and go again (SIGTERM: each gives its share back), until the ledger has 100 changes
    of who signs what. Every request must be answered within our client's deadline.
    """
    async with Caledger(tmp_path) as caledger, Node(caledger.data) as more:
        await signing(caledger, 2)
        load = await Load.on(
            caledger, endless(requests(IDENTITIES, identities=IDENTITIES)), clients=16, pause=0.05
        )
        table = Table()
        following = asyncio.create_task(table.follow(caledger))
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(load.run())
            async with asyncio.TaskGroup() as signers:
                for slot in MORE_SIGNERS:
                    signers.create_task(_come_and_go(more, slot, table))
            load.enough()
            await running
        following.cancel()
        print(load.figures())

        load.all_answered()
        ledger = await check(caledger, load)
        assert len(ledger.assigned) >= MOVES
        assert len(ledger.leaves) == len(load.answers)
        print(_signers(ledger))


class Table:
    """Who signs what, as the ledger says it now."""

    def __init__(self) -> None:
        self.moves = 0
        self.slots: set[int] = set()

    async def follow(self, caledger: Caledger) -> None:
        """Read for ever."""
        client = await caledger.client("auditor")
        async for stored in client.replay(follow=True):
            for recorded in decode_entry(stored, datacenter=client.subjects.datacenter).events:
                if isinstance(recorded.event, SignersAssigned):
                    self.moves += 1
                    self.slots = {one.slot for one in recorded.event.assignments}

    async def has(self, slot: int) -> None:
        """Wait until the signer of a slot has its share."""
        await until(lambda: slot in self.slots, f"the signer of slot {slot} has its share")

    async def has_not(self, slot: int) -> None:
        """Wait until the signer of a slot has given its share back: the next one has none yet."""
        await until(
            lambda: slot not in self.slots, f"the signer of slot {slot} gave its share back"
        )


async def _come_and_go(node: Node, slot: int, table: Table) -> None:
    """Start a signer, and stop it once it signs, until there were enough moves."""
    while table.moves < MOVES:
        process = await node.start("signer", slot=slot)
        await table.has(slot)
        process.terminate()
        assert await node.ended(process) == 0
        await table.has_not(slot)


def _signers(ledger: Ledger) -> str:
    """Return how many signers issued what there is."""
    signers = {leaf.issued.signer for leaf in ledger.leaves}
    return f"{len(signers)} signers, each a run of its own, issued them"
