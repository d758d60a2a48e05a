"""Entries that are no entries, written with a worker's rights: they stop nothing, and are named."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import pytest_asyncio
from nats.aio.client import Client

from events.envelope import NewEvent, encode_entry
from events.leadership import LeadershipAcquired
from events.leaves import LeafRefused
from events.signers import GrantWithdrawn, SignersAssigned
from events.subjects import Subjects
from projections.authority import AuthorityState
from projections.authority_fold import fold
from projections.issuance import IssuanceReader
from services.client import CaClient
from services.clock import SystemClock, SystemEntropy
from tests.scenarios import reading
from tests.scenarios.caledger import Caledger, Ran
from tests.scenarios.second_node import Server

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("void")]

SUBJECTS: Final = Subjects("dc1")
STRANGER: Final = "01K20000000000000000000EVN"  # a signer that never was
CLOCK: Final = SystemClock()
NAMED: Final = re.compile(r"^fault sequence=(\d+) check=(\w+): ", re.MULTILINE)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dev(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Caledger]:
    """One `caledger dev` for all tests of this file; each adds to what `verify` must name."""
    async with Caledger(tmp_path_factory.mktemp("void")) as running:
        yield running


@pytest.fixture(scope="module")
def faults() -> dict[int, str]:
    """What was written that is void: sequence -> check, in the order of the tests."""
    return {}


async def put(nc: Client, subject: str, data: bytes, **expected: int | str) -> int:
    """Store raw bytes, as a worker gone wrong might; return their sequence."""
    headers = {f"Nats-Expected-{name.replace('_', '-')}": str(v) for name, v in expected.items()}
    reply = json.loads((await nc.request(subject, data, timeout=5, headers=headers or None)).data)
    assert "error" not in reply, reply
    sequence: int = reply["seq"]
    return sequence


async def on_authority(dev: Caledger, make: Callable[[int], bytes]) -> int:
    """Store what `make` returns for authority's last sequence, on authority, conditionally on it.

    Tried again where a root-manager was quicker.
    """
    async with reading.as_worker(dev.data, "root-manager") as nc:
        for _ in range(20):
            last = await last_authority(nc)
            headers = {
                "Nats-Expected-Last-Subject-Sequence": str(last),
                "Nats-Expected-Last-Subject-Sequence-Subject": SUBJECTS.authority,
            }
            answer = await nc.request(SUBJECTS.authority, make(last), timeout=5, headers=headers)
            reply = json.loads(answer.data)
            if "error" not in reply:
                return int(reply["seq"])
    raise AssertionError("never the last one")


async def last_authority(nc: Client) -> int:
    query = json.dumps({"last_by_subj": SUBJECTS.authority}).encode()
    reply = await nc.request(f"$JS.API.STREAM.MSG.GET.{SUBJECTS.ledger_stream}", query, timeout=5)
    return int(json.loads(reply.data)["message"]["seq"])


def event(kind: Any, *, event_id: str | None = None) -> NewEvent:
    now = CLOCK.now()
    return NewEvent(
        id=event_id or SystemEntropy().ulid(now),
        source="/caledger/dc1/root-manager/gone-wrong",
        subject="test",
        time=now,
        event=kind,
    )


def usurped(**changes: Any) -> NewEvent:
    """Return a well-formed authority event that would depose the leader."""
    return event(LeadershipAcquired(node="usurper", term=99, lease_revision=1), **changes)


async def authority(client: CaClient) -> AuthorityState:
    """Return what the ledger says of the authority now."""
    state = AuthorityState(datacenter="dc1")
    for stored in await reading.stored(client):
        if stored.subject == SUBJECTS.authority:
            state = fold(state, stored)
    return state


async def current_signer(client: CaClient, slot: int) -> tuple[str, int]:
    """Return a signer's run, and the sequence of its grant."""
    signers = (await authority(client)).signers.values()
    grant = next(grant for grant in signers if grant.assignment.slot == slot)
    return grant.assignment.signer, grant.sequence


async def everything_goes_on(dev: Caledger, name: str, *, restart: bool) -> None:
    """Check that certificates are issued for many partitions, and signers taken in and let go."""
    if restart:
        for program in ("root-manager", "replicator", "leader-elector", "signer-0", "signer-1"):
            await dev.restarted(program, instead_of=dev.kill(program))
    client = await dev.client()
    asker = await reading.Asker.of(client)
    for number in range(16):
        await asker.sign(f"{name}-{number}", f"{name}-{number}")


async def told_of(dev: Caledger, sequence: int) -> None:
    """Wait until the replicator has named a void entry, and its file is past it."""
    index = IssuanceReader(dev.data / "projections.sqlite")
    try:
        async with asyncio.timeout(15):
            while index.position() < sequence:
                await asyncio.sleep(0.05)
    finally:
        index.close()
    await dev.until(
        partial(names, dev, "replicator", sequence), 5, f"the replicator does not name {sequence}"
    )


def names(dev: Caledger, program: str, sequence: int) -> bool:
    """Say whether a program has named a void entry in its log."""
    line = rf"^{program} +\|.*void entry passed over.*\bsequence={sequence}\b"
    return re.search(line, dev.log, re.MULTILINE) is not None


async def test_void_entries_on_authority_stop_nothing_and_are_named_by_all(
    dev: Caledger, faults: dict[int, str]
) -> None:
    """Garbage, an empty list, another family's event, an event id used before, a wrong
    expectedsequence and a false number of messages, each stored conditionally on authority as a
    root-manager's entry is.

    The leader stays who it was although one of them says otherwise; the root-manager and both
    signers name each of them in their logs, as does the replicator.
    """
    client = await dev.client()
    before = (await authority(client)).leader
    used = (await reading.recorded(client))[0].envelope.id
    refused = event(
        LeafRefused(
            request_id=None,
            identity=None,
            code="malformed",
            message="",
            signer=STRANGER,
            grant_sequence=1,
            requester=None,
        )
    )
    written = {
        await on_authority(dev, lambda _: b"\xff\x00 no JSON"): "malformed",
        await on_authority(dev, lambda _: b"[]"): "malformed",
        await on_authority(
            dev, lambda last: encode_entry([refused], term=99, expected_sequence=last)
        ): "subject",
        await on_authority(
            dev,
            lambda last: encode_entry([usurped(event_id=used)], term=99, expected_sequence=last),
        ): "event_id",
        await on_authority(
            dev, lambda last: encode_entry([usurped()], term=99, expected_sequence=last - 1)
        ): "expected",
        await on_authority(
            dev,
            lambda last: encode_entry([usurped()], term=99, expected_sequence=last, messages=1000),
        ): "atomic",
    }
    faults.update(written)

    await everything_goes_on(dev, "authority", restart=False)
    assert (await authority(client)).leader == before
    for sequence in written:
        await told_of(dev, sequence)
        for program in ("root-manager", "signer-0", "signer-1", "leader-elector"):
            await dev.until(
                partial(names, dev, program, sequence),
                5,
                f"{program} does not name {sequence}",
            )
    await everything_goes_on(dev, "authority-again", restart=True)
    await verified(dev, faults)


async def test_void_entries_on_a_signers_subjects_stop_nothing_and_are_named(
    dev: Caledger, faults: dict[int, str]
) -> None:
    """Garbage among a living signer's leaves, under its grant; a grant that nobody gave, to a
    stranger; leaves with an authority event in them.
    """
    signer, grant = await current_signer(await dev.client(), 0)
    under_grant: dict[str, int | str] = {
        "Last_Subject_Sequence": grant,
        "Last_Subject_Sequence_Subject": SUBJECTS.grant(signer),
    }
    withdrawn = event(GrantWithdrawn(signer=STRANGER, reason="lost"))
    async with (
        reading.as_worker(dev.data, "signer") as as_signer,
        reading.as_worker(dev.data, "root-manager") as as_root_manager,
    ):
        written = {
            await put(as_signer, SUBJECTS.leaves(signer), b"\xff garbage", **under_grant): (
                "malformed"
            ),
            await put(
                as_signer,
                SUBJECTS.leaves(signer),
                encode_entry([usurped()], term=99, expected_sequence=1),
                **under_grant,
            ): "subject",
            await put(
                as_root_manager, SUBJECTS.grant(STRANGER), encode_entry([withdrawn])
            ): "grant_message",
            await put(as_root_manager, SUBJECTS.grant(STRANGER), b"{}"): "malformed",
        }
    faults.update(written)

    await everything_goes_on(dev, "subjects", restart=False)
    for sequence in written:
        await told_of(dev, sequence)
    await everything_goes_on(dev, "subjects-again", restart=True)
    await verified(dev, faults)


@pytest.mark.slow
async def test_a_void_grant_on_a_living_signers_subject_costs_it_its_run_and_no_more(
    dev: Caledger, faults: dict[int, str]
) -> None:
    """The condition of its appends fails for ever, so the run ends; its successor is granted what
    it had, and every request is answered.
    """
    client = await dev.client()
    signer, _ = await current_signer(client, 0)
    running = dev.pid("signer-0")
    async with reading.as_worker(dev.data, "root-manager") as nc:
        sequence = await put(nc, SUBJECTS.grant(signer), b"garbage")
    faults[sequence] = "malformed"

    await everything_goes_on(dev, "grant", restart=False)
    await told_of(dev, sequence)
    assert await dev.restarted("signer-0", instead_of=running) != running
    tables = await reading.events_of(client, SignersAssigned)
    assert signer not in {assignment.signer for assignment in tables[-1].assignments}
    await everything_goes_on(dev, "grant-again", restart=True)
    await verified(dev, faults)


@pytest.mark.slow
async def test_an_authority_entry_without_its_grants_stops_nothing_for_long(
    tmp_path: Path,
) -> None:
    """Both signers' grants are taken up by everybody and are not there, and nothing is appended.

    So nobody could ever append under them: the leader moves the ledger on under a new term, and
    every signer that lives is granted anew.
    """
    async with Caledger(tmp_path) as dev:
        client = await dev.client()
        await (await reading.Asker.of(client)).sign("web", "before")
        state = await authority(client)
        table = tuple(grant.assignment for grant in state.signers.values())
        granted = tuple(assignment.signer for assignment in table)
        assigned = event(
            SignersAssigned(
                assignments=table, granted=granted, withdrawn=(), reason="authority_changed"
            )
        )
        sequence = await on_authority(
            dev,
            lambda last: encode_entry(
                [assigned], term=state.term, expected_sequence=last, messages=1 + len(granted)
            ),
        )

        async with asyncio.timeout(15):
            while len(await reading.stored(client)) < sequence + 1 + 1 + len(granted):
                await asyncio.sleep(0.05)
        await everything_goes_on(dev, "torn", restart=False)
        after = await authority(client)
        told = await dev.run("ledger", "verify")

        assert set(after.signers) == set(granted)  # no run of a signer had to end
        assert after.term == state.term + 1
        assert NAMED.findall(told.out) == [(str(sequence + 1), "atomic")]


async def verified(dev: Caledger, faults: Mapping[int, str]) -> None:
    """Check that `verify` and the projections name exactly the void entries, each with its rule."""
    told = await dev.run("ledger", "verify")

    assert told.code == 1, told
    assert {int(sequence): check for sequence, check in NAMED.findall(told.out)} == dict(faults)
    assert len(NAMED.findall(told.out)) == len(faults)
    with closing(sqlite3.connect(dev.data / "projections.sqlite")) as db:
        assert dict(db.execute("SELECT sequence, kind FROM voids")) == dict(faults)


async def verified_alone(dev: Caledger) -> Ran:
    """Run `ledger verify` with a nats-server just for this, once everything else has ended."""
    server = Server(dev.data, dev.port)
    try:
        await server.start()
        return await dev.run("ledger", "verify")
    finally:
        await server.stop()
        server.close()


UNKNOWN: Final = "caledger.root.teleported.v1"


@pytest.mark.slow
async def test_an_event_of_an_unknown_type_on_authority_stops_everybody(tmp_path: Path) -> None:
    """Well-formed, so newer software wrote it: every fold stops before it and names it, nothing is
    signed any more and nothing skipped; `verify` names it, and is the only one to go on.
    """
    async with Caledger(tmp_path) as dev:
        client = await dev.client()
        asker = await reading.Asker.of(client)
        await asker.sign("web", "before")
        sequence = await on_authority(
            dev,
            lambda last: renamed(encode_entry([usurped()], term=99, expected_sequence=last)),
        )
        code = await dev.wait()
        told = await verified_alone(dev)

        assert code == 1
        for program in ("root-manager", "leader-elector", "replicator", "signer-0", "signer-1"):
            assert stopped_at(dev, program, sequence), program
        assert told.code == 1
        assert NAMED.findall(told.out) == [(str(sequence), "unknown_type")]
        index = IssuanceReader(dev.data / "projections.sqlite")
        assert index.position() == sequence - 1
        index.close()


@pytest.mark.slow
async def test_an_event_of_an_unknown_type_among_leaves_stops_who_reads_them(
    tmp_path: Path,
) -> None:
    """Only the replicator folds leaves: it stops before it, names it, and skips nothing."""
    async with Caledger(tmp_path) as dev:
        client = await dev.client()
        signer, grant = await current_signer(client, 0)
        some = event(GrantWithdrawn(signer=signer, reason="lost"))
        async with reading.as_worker(dev.data, "signer") as nc:
            sequence = await put(
                nc,
                SUBJECTS.leaves(signer),
                renamed(encode_entry([some])),
                Last_Subject_Sequence=grant,
                Last_Subject_Sequence_Subject=SUBJECTS.grant(signer),
            )
        code = await dev.wait()
        told = await verified_alone(dev)

        assert code == 1
        assert stopped_at(dev, "replicator", sequence)
        assert NAMED.findall(told.out) == [(str(sequence), "unknown_type")]
        index = IssuanceReader(dev.data / "projections.sqlite")
        assert index.position() == sequence - 1
        index.close()


def stopped_at(dev: Caledger, program: str, sequence: int) -> bool:
    """Say whether a program ended because of an unknown type, and named it with its place."""
    line = rf"^{program} +\|.*unknown event type '{UNKNOWN}'.*at sequence {sequence} of the ledger"
    return re.search(line, dev.log, re.MULTILINE) is not None


def renamed(entry: bytes) -> bytes:
    """Return an entry whose events are of a type that nobody knows."""
    events = msgspec.json.decode(entry)
    return msgspec.json.encode([{**each, "type": UNKNOWN} for each in events])
