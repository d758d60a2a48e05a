"""Signers, rotators and a nemesis on three servers: the ledger keeps its rules and its promises."""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
from collections import Counter

import pytest
from nats.aio.client import Client

from events.append import Append
from events.envelope import Entry, Stored, decode_entry
from events.leaves import LeafIssued
from events.ledger import JetStreamLedger
from events.log import ConflictError, Ledger, UnreachableError
from events.signers import GrantGiven, GrantWithdrawn
from events.subjects import Subjects
from services import streams
from services.following import AuthorityFollower
from tests.ledger import assigned, leaf, ulid
from tests.nats import NatsCluster, ask_api, leader_of
from tests.scenarios.ledger_checker import History, check

pytestmark = pytest.mark.slow

SUBJECTS = Subjects("dc1")
SIGNERS = 4  # each with one partition at a time
REQUESTS_PER_SECOND = 600
BATCH_MAX = 48
DRAIN_SECONDS = 60.0


class Unconditional(JetStreamLedger):
    """What the ledger would be without its conditions."""

    def _headers(self, append: Append) -> dict[str, str]:
        return {"Nats-Msg-Id": append.message_id}


class Run:
    """One run of the scenario: what all of its tasks share."""

    def __init__(self, cluster: NatsCluster, kind: type[JetStreamLedger], seed: int) -> None:
        self.cluster = cluster
        self.kind = kind
        self.random = random.Random(seed)
        self.history = History()
        self.signers = [ulid() for _ in range(SIGNERS)]  # the run of each slot
        self.pending: list[dict[str, None]] = [{} for _ in range(SIGNERS)]  # by partition
        self.counts: Counter[str] = Counter()
        self.rotating = True
        self.signing = True

    async def ledger(self, first: int) -> tuple[Client, JetStreamLedger]:
        nc = await self.cluster.client(first=first % 3)
        return nc, self.kind(nc, SUBJECTS)


class View:
    """What one signer has folded, as a signer does: it serves only under a grant that it saw."""

    def __init__(self, history: History) -> None:
        self.position = 0
        self.grants: dict[str, tuple[int, int]] = {}  # run -> (sequence, partition)
        self.issued: set[str | None] = set()
        self._history = history

    async def catch_up(self, ledger: Ledger, at_least: int) -> None:
        while True:
            found = await ledger.read(self.position)
            for stored in found:
                self._history.see(stored)
                self._fold(decode_entry(stored, datacenter="dc1"))
                self.position = stored.sequence
            if not found and self.position >= at_least:
                return

    def _fold(self, entry: Entry) -> None:
        for recorded in entry.events:
            match recorded.event:
                case GrantGiven(assignment=given):
                    self.grants[given.signer] = (entry.sequence, given.partitions[0])
                case GrantWithdrawn(signer=signer):
                    self.grants.pop(signer, None)
                case LeafIssued(request_id=request_id):
                    self.issued.add(request_id)
                case _:
                    pass


async def sign(run: Run, slot: int) -> None:
    """Serve what is pending in the partition of the grant, and start anew now and then."""
    _, ledger = await run.ledger(slot)
    view, at_least = View(run.history), 0
    while run.signing:
        me = run.signers[slot]
        try:
            await view.catch_up(ledger, at_least)
        except UnreachableError:
            continue
        grant, partition = view.grants.get(me, (0, 0))
        batch = _due(run, view, partition) if grant else []
        if not batch:
            await asyncio.sleep(0.02)
            continue
        events = [leaf(me, grant=grant, request_id=each, size=40) for each in batch]
        try:
            appended = await ledger.append_leaves(me, events, grant_sequence=grant)
        except ConflictError as conflict:
            run.counts["leaves refused"] += 1
            run.history.refuse(events)
            at_least = conflict.last_sequence
        else:
            run.history.acknowledge(appended, events)
            run.counts["leaves"] += len(events)
            view.issued.update(batch)
        if run.rotating and run.random.random() < 0.005:
            run.signers[slot] = ulid()
            run.counts["signers that started anew"] += 1


def _due(run: Run, view: View, partition: int) -> list[str]:
    """Answer what the ledger holds, and return some of what it does not."""
    pending = run.pending[partition]
    for request in [each for each in pending if each in view.issued]:
        del pending[request]
    return list(pending)[:BATCH_MAX]


async def rotate(run: Run, number: int) -> None:
    """Give all grants anew, again and again, with the partitions dealt out otherwise."""
    _, ledger = await run.ledger(number)
    follower = AuthorityFollower(ledger, "dc1")
    while run.rotating:
        await asyncio.sleep(run.random.uniform(0.1, 0.6))
        try:
            state = await follower.catch_up()
        except UnreachableError:
            continue
        dealt = run.random.sample(run.signers, SIGNERS)
        events, grants = assigned(dealt, [each for each in state.signers if each not in dealt])
        await asyncio.sleep(run.random.uniform(0, 0.1))  # while it thinks, the other one acts
        try:
            appended = await ledger.append_authority(
                events, term=1, expected_sequence=state.position, grants=grants
            )
        except ConflictError:
            run.counts["rotations refused"] += 1
            run.history.refuse([*events, *(grant.event for grant in grants)])
        else:
            run.counts["rotations"] += 1
            run.history.acknowledge(appended, events)


async def ask(run: Run, seconds: float) -> None:
    """Make requests at a steady rate; each stays pending until it is answered."""
    loop = asyncio.get_running_loop()
    begin, made = loop.time(), 0
    while (elapsed := loop.time() - begin) < seconds:
        while made < elapsed * REQUESTS_PER_SECOND:
            run.pending[made % SIGNERS][f"r{made}"] = None
            made += 1
        await asyncio.sleep(0.02)
    run.counts["requests"] = made


async def disturb(run: Run, seconds: float, at_least: int) -> None:
    """Kill servers, stop the leader where it stands, make it step down; one thing at a time."""
    nc = await run.cluster.client()
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    for number in itertools.count():
        if loop.time() > end and number >= at_least:
            return
        await asyncio.sleep(run.random.uniform(0.3, 1.2))
        leader = await leader_of(nc, SUBJECTS.ledger_stream)
        fault = run.random.choice(["kill", "pause", "step down"])
        run.counts[fault] += 1
        match fault:
            case "kill":
                name = run.random.choice([leader, leader, "n0", "n1", "n2"])
                run.cluster.server(name).kill()
                await asyncio.sleep(run.random.uniform(0.1, 1.5))
                run.cluster.server(name).start()
            case "pause":
                run.cluster.server(leader).pause()
                await asyncio.sleep(run.random.uniform(0.5, 4))
                run.cluster.server(leader).resume()
            case _:
                for _ in range(run.random.randint(1, 3)):
                    await ask_api(nc, f"STREAM.LEADER.STEPDOWN.{SUBJECTS.ledger_stream}")
                    await asyncio.sleep(run.random.uniform(0, 0.3))


async def play(
    cluster: NatsCluster, kind: type[JetStreamLedger], *, seconds: float, faults: int, seed: int
) -> tuple[list[str], Counter[str]]:
    """Run everything for `seconds`, let it come to rest, and check what the ledger holds."""
    run = Run(cluster, kind, seed)
    nc = await cluster.client()
    await streams.create(nc, SUBJECTS, replicas=3)
    async with asyncio.TaskGroup() as tasks:
        signers = [tasks.create_task(sign(run, slot)) for slot in range(SIGNERS)]
        rotators = [tasks.create_task(rotate(run, number)) for number in range(2)]
        await asyncio.gather(ask(run, seconds), disturb(run, seconds, faults))
        async with asyncio.timeout(DRAIN_SECONDS):
            run.rotating = False
            await asyncio.gather(*rotators)
            await _drained(run)
            run.signing = False
            await asyncio.gather(*signers)
    return check(await _everything(run), run.history), run.counts


async def _drained(run: Run) -> None:
    """Return when all requests are answered; signers that started anew get their grant first."""
    _, ledger = await run.ledger(0)
    state = await AuthorityFollower(ledger, "dc1").catch_up()
    events, grants = assigned(run.signers, [s for s in state.signers if s not in run.signers])
    appended = await ledger.append_authority(
        events, term=1, expected_sequence=state.position, grants=grants
    )
    run.history.acknowledge(appended, events)
    while any(run.pending):
        await asyncio.sleep(0.05)


async def _everything(run: Run) -> list[Stored]:
    _, ledger = await run.ledger(0)
    last = await ledger.last_sequence()
    found: list[Stored] = []
    async with asyncio.timeout(DRAIN_SECONDS):
        while len(found) < last:
            found += await ledger.read(len(found), limit=1_024)
    return found


async def test_no_fault_is_found_after_a_minute_of_faults(nats_cluster: NatsCluster) -> None:
    seed = secrets.randbits(32)

    faults, counts = await play(nats_cluster, JetStreamLedger, seconds=60, faults=20, seed=seed)

    print(f"seed {seed}: {dict(counts)}")
    assert faults == [], f"seed {seed}"
    assert counts["kill"] + counts["pause"] + counts["step down"] >= 20, counts
    assert counts["leaves"] >= 20_000, counts
    assert counts["rotations"] >= 30, counts
    assert counts["leaves refused"] > 0, counts
    assert counts["rotations refused"] > 0, counts


async def test_faults_are_found_where_the_conditions_are_left_out(
    nats_cluster: NatsCluster,
) -> None:
    faults, counts = await play(nats_cluster, Unconditional, seconds=15, faults=3, seed=7)

    assert any("a leaf of" in fault for fault in faults), counts
    assert any("decided on" in fault for fault in faults), counts
