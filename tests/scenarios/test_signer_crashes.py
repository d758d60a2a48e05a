"""A signer that dies, or stands still, between any two steps of a request."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from msgspec.structs import replace

from events.ledger import JetStreamLedger
from events.log import ConflictError
from events.subjects import Subjects, partition_of
from projections.authority import AuthorityState
from projections.authority_fold import fold
from services.clock import SystemClock, SystemEntropy
from services.node_file import config_file
from services.stamping import Stamper, source
from tests.scenarios.caledger import Caledger, alive
from tests.scenarios.checking import Leaf, Ledger, check, replay, signing
from tests.scenarios.load import Load, Request, endless, requests
from tests.scenarios.reading import as_worker
from tests.scenarios.second_node import Node
from tests.scenarios.trap import STEP_SECONDS, Trap

STEPS = ("signer.checked", "signer.signed", "signer.appended", "signer.replied")
RECORDED = ("signer.appended", "signer.replied")  # steps after which the ledger has the leaf
RARE = ("signer.checked", "signer.replied")  # the ends: not in every run of the fast tests
KILLS_A_STEP = 5
ANSWERS_BETWEEN_KILLS = 200
SECONDS_BETWEEN_LOOKS = 0.01
ASLEEP_SECONDS = 15.0
SILENT_SECONDS = 2.0  # of asking eight times; below the 5 s after which a held request is refused


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(step, marks=[pytest.mark.slow] if step in RARE else [], id=step)
        for step in STEPS
    ],
)
async def test_f5_f11_a_signer_killed_between_two_steps_costs_time_and_never_a_second_certificate(
    tmp_path: Path, step: str
) -> None:
    """Goal: done is recorded before it is told (F5), and one request gets one certificate (F11).

    Method: kill -9 of the signer by itself at a step of a single request; its client asks again
    under the same request id. While the signer lies dead (and its supervisor stands still, so that
    it has no successor) the ledger is read: it holds the leaf after the append, none before, and
    the client has an answer only after the reply.
    """
    trap = Trap(tmp_path, step, "KILL")
    async with Caledger(tmp_path, "--signers", "1", environment=trap.environment) as caledger:
        signer = caledger.pid("signer-0")
        load = await Load.on(caledger, [Request(service="web", request_id="one")], clients=1)
        with _standing_still(caledger.supervisor):
            trap.set()
            running = asyncio.create_task(load.run())
            await trap.springs()
            await caledger.until(lambda: not alive(signer), STEP_SECONDS, "the signer lives")
            at_death = await replay(caledger)
            answered = bool(load.answers)
        successor = await caledger.restarted("signer-0", instead_of=signer)
        await running
        print(f"{step}: {load.figures()}")

        assert len(at_death.of("one")) == (1 if step in RECORDED else 0)
        assert not answered or step == "signer.replied"
        load.all_answered()
        ledger = await check(caledger, load)
        assert len(ledger.of("one")) == 1
        assert caledger.pid("signer-0") == successor, "it was killed more than once"


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
async def test_f5_f11_signers_killed_under_load_between_two_steps_lose_nothing_and_double_nothing(
    tmp_path: Path, step: str
) -> None:
    """Goal: the same with many requests at every stage at once.

    Method: two signers, 16 clients without pause; five times the next signer that gets to the step
    kills itself. Every request must be answered within our client's deadline. What lost its signer
    is answered before the next kill: it asks about once a second, and could miss each of five
    lives that are shorter.
    """
    trap = Trap(tmp_path, step, "KILL")
    async with Caledger(tmp_path, environment=trap.environment) as caledger:
        await signing(caledger, 2)
        load = await Load.on(caledger, endless(requests(500, identities=500)), clients=16)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(load.run())
            for _ in range(KILLS_A_STEP):
                await load.answered(ANSWERS_BETWEEN_KILLS)
                before = caledger.pids()
                trap.set()
                await trap.springs()
                await _one_replaced(caledger, before)
                await load.settled()
            await load.answered(ANSWERS_BETWEEN_KILLS)
            load.enough()
            await running
        print(f"{step}: {load.figures()}")

        load.all_answered()
        assert len(re.findall(r"signer-\d +\| was ended by SIGKILL", caledger.log)) == KILLS_A_STEP
        await check(caledger, load)


@pytest.mark.slow
async def test_f11_a_signer_that_wakes_up_after_its_partition_moved_has_its_append_refused(
    tmp_path: Path,
) -> None:
    """Goal: a signature made before a long sleep never becomes a second certificate.

    Method: SIGSTOP of a signer between signing and appending, for 15 s: longer than what a request
    waits for projections or a signer for its withdrawal (5 s each), the connection's pings (2 s),
    our client's deadline (10 s), the stream's duplicate window (8 s here) and the half of it for
    which an append is sent again. Its lease alone is longer than that (60 s), so that it wakes up
    as somebody who may act: a third signer joins, which moves the partition, and the client gets
    its certificate of the new owner. Then SIGCONT.
    """
    trap = Trap(tmp_path, "signer.signed", "STOP")
    caledger = await _configured(
        tmp_path, trap.environment, lease_seconds=60, duplicate_window_seconds=8
    )
    async with caledger, Node(caledger.data) as more:
        before = await signing(caledger, 2)
        owner, service = _last_to_stay(before)
        load = await Load.on(caledger, [Request(service=service, request_id="one")], clients=1)
        trap.set()
        running = asyncio.create_task(load.run())
        paused = await _paused(caledger, trap)
        fell_asleep = asyncio.get_running_loop().time()
        await more.start("signer", slot=2)
        await running
        print(load.figures())
        (leaf,) = (await replay(caledger)).of("one")
        assert leaf.issued.signer != owner
        assert leaf.issued.signer not in before.partitions(), "the third signer has answered"
        await asyncio.sleep(fell_asleep + ASLEEP_SECONDS - asyncio.get_running_loop().time())
        os.kill(paused, signal.SIGCONT)

        refused = (
            rf"append refused: the grant has changed +reason='ca\.dc1\.ledger\.grant\.{owner} "
        )
        await caledger.until(
            lambda: re.search(refused, caledger.log), STEP_SECONDS, "its append was not refused"
        )
        again = await Load.on(caledger, requests(300, identities=300), clients=8)
        await again.run()
        again.all_answered()
        ledger = await check(caledger, load, again)
        assert len(ledger.of("one")) == 1
        assert paused in caledger.pids().values(), "it goes on, with what it has left"
        assert owner in {leaf.issued.signer for leaf in ledger.leaves}


@pytest.mark.slow
async def test_f11_a_signer_that_wakes_up_after_its_lease_has_ended_adds_nothing_and_could_not(
    tmp_path: Path,
) -> None:
    """Goal: the same where the sleep was longer than the lease too: nothing is left to chance.

    Method: SIGSTOP between signing and appending for 15 s with the usual lease of 3 s and the same
    short window; all its partitions move, and the client gets its certificate of the other signer.
    Then SIGCONT: the run ends by itself, since it holds no lease; its successor answers the same
    request with the same bytes. What it could have sent all the same is sent in its name, and
    refused.
    """
    trap = Trap(tmp_path, "signer.signed", "STOP")
    caledger = await _configured(
        tmp_path, trap.environment, lease_seconds=3, duplicate_window_seconds=8
    )
    async with caledger:
        await signing(caledger, 2)
        grants = await _grants(caledger)
        load = await Load.on(caledger, [Request(service="web", request_id="one")], clients=1)
        trap.set()
        running = asyncio.create_task(load.run())
        paused = await _paused(caledger, trap)
        program = next(name for name, pid in caledger.pids().items() if pid == paused)
        fell_asleep = asyncio.get_running_loop().time()
        await running
        print(load.figures())
        load.all_answered()
        asleep = await replay(caledger)
        (leaf,) = asleep.of("one")
        (gone,) = grants.keys() - asleep.partitions().keys()
        assert leaf.issued.signer != gone
        await asyncio.sleep(fell_asleep + ASLEEP_SECONDS - asyncio.get_running_loop().time())
        os.kill(paused, signal.SIGCONT)

        await caledger.restarted(program, instead_of=paused)
        assert f"the lease signer.{gone} is lost" in caledger.log
        with pytest.raises(ConflictError):
            await _append_as(caledger, gone, grants[gone], leaf)
        again = await Load.on(caledger, [Request(service="web", request_id="one")], clients=1)
        await again.run()
        again.all_answered()
        assert again.answers[0].issued == load.answers[0].issued
        ledger = await check(caledger, load, again)
        assert len(ledger.leaves) == 1


@pytest.mark.slow
async def test_f10_a_new_owner_waits_for_what_its_predecessor_recorded_before_it_answers(
    tmp_path: Path,
) -> None:
    """Goal: no signer decides on projections that are behind its grant.

    Method: the replicator stands still; the signer kills itself after the append, before the reply,
    so that the ledger has a certificate that the node's projections do not have. Its successor gets
    the partition and hears its client again and again, for two seconds, and must stay silent. Then
    the replicator goes on, and the client gets the certificate that was recorded first.
    """
    trap = Trap(tmp_path, "signer.appended", "KILL")
    async with Caledger(tmp_path, "--signers", "1", environment=trap.environment) as caledger:
        signer = caledger.pid("signer-0")
        (first,) = (await signing(caledger, 1)).partitions()
        load = await Load.on(
            caledger, [Request(service="web", request_id="one")], clients=1, deadline=STEP_SECONDS
        )
        with _standing_still(caledger.pid("replicator")):
            trap.set()
            running = asyncio.create_task(load.run())
            await trap.springs()
            await caledger.restarted("signer-0", instead_of=signer)
            while first in (await replay(caledger)).partitions():
                await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            await asyncio.sleep(SILENT_SECONDS)
            assert not load.answers
            assert len((await replay(caledger)).of("one")) == 1
        await running
        print(load.figures())

        load.all_answered()
        ledger = await check(caledger, load)
        (leaf,) = ledger.of("one")
        assert leaf.issued.signer == first


@contextmanager
def _standing_still(pid: int) -> Iterator[None]:
    """Stop a process for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def _configured(folder: Path, environment: Mapping[str, str], **settings: int) -> Caledger:
    """Return a datacenter with these settings in its caledger.toml; not started yet.

    What the streams are made with has to stand there before `init` makes them.
    """
    caledger = Caledger(folder, environment=environment)
    options = ("--nats-port", str(caledger.port), "--csr-max-per-second", "0")
    made = await caledger.run("init", "--data", folder / "as-usual", *options)
    assert made.code == 0, made
    text = config_file(folder / "as-usual").read_text()
    for name, value in settings.items():
        text, count = re.subn(rf"(?m)^{name} = \d+", f"{name} = {value}", text)
        assert count == 1, name
    caledger.data.mkdir()
    config_file(caledger.data).write_text(text)
    return caledger


def _last_to_stay(ledger: Ledger) -> tuple[str, str]:
    """Return a signer, and a service of the partition that it loses first when another joins."""
    assignment = ledger.assigned[-1].assignments[0]
    names = (f"service-{number}" for number in count())
    service = next(
        name for name in names if partition_of("service", name) == assignment.partitions[-1]
    )
    return assignment.signer, service


async def _grants(caledger: Caledger) -> dict[str, int]:
    """Return the sequence of each signer's grant, as the auditor reads it."""
    client = await caledger.client("auditor")
    state = AuthorityState(datacenter="dc1")
    async for stored in client.replay():
        if stored.subject == client.subjects.authority:
            state = fold(state, stored)
    return {signer: grant.sequence for signer, grant in state.signers.items()}


async def _append_as(caledger: Caledger, signer: str, grant_sequence: int, leaf: Leaf) -> None:
    """Append a leaf of another id and serial in the name of a run, as it could itself."""
    clock, entropy = SystemClock(), SystemEntropy()
    issued = replace(
        leaf.issued,
        signer=signer,
        grant_sequence=grant_sequence,
        serial=f"{entropy.serial():x}",
    )
    stamper = Stamper(source("dc1", "signer", "test"), clock, entropy)
    async with as_worker(caledger.data, "signer") as nc:
        await JetStreamLedger(nc, Subjects("dc1")).append_leaves(
            signer, [stamper.stamp(issued, subject=issued.identity)], grant_sequence=grant_sequence
        )


async def _one_replaced(caledger: Caledger, before: Mapping[str, int]) -> None:
    """Wait until a signer has died and both run."""
    signers = {name: pid for name, pid in before.items() if name.startswith("signer")}

    def replaced() -> bool:
        now = {name: pid for name, pid in caledger.pids().items() if name in signers}
        return now.keys() == signers.keys() and now != signers

    await caledger.until(replaced, STEP_SECONDS, "no signer was started again")


async def _paused(caledger: Caledger, trap: Trap) -> int:
    """Return the signer that the trap has stopped, once it stands still."""
    signers = [pid for name, pid in caledger.pids().items() if name.startswith("signer")]
    await trap.springs()
    found: list[int] = []

    def stopped() -> bool:
        found[:] = [pid for pid in signers if _stopped(pid)]
        return bool(found)

    await caledger.until(stopped, STEP_SECONDS, "no signer stands still")
    return found[0]


def _stopped(pid: int) -> bool:
    """Say whether a process is stopped (SIGSTOP)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
