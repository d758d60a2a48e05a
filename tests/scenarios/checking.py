"""What must hold after every scenario, whatever was done to the workers and the server."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from events.base import Struct
from events.envelope import Recorded, decode_entry
from events.leaves import LeafIssued
from events.signers import SignersAssigned
from projections import store
from services.pki import pem
from tests.scenarios.caledger import Datacenter
from tests.scenarios.load import Answer, Load

VERIFY_SECONDS = 120.0
ASSIGNED_SECONDS = 30.0
LOOK_EVERY_SECONDS = 0.1
REBUILDS = 10  # a worker that starts again may append while one is made


class Leaf(Struct):
    """A certificate as the ledger has it."""

    at: Recorded
    issued: LeafIssued


class Ledger(Struct):
    """What the auditor reads."""

    entries: int
    leaves: tuple[Leaf, ...]
    assigned: tuple[SignersAssigned, ...]  # every change of who signs what

    def of(self, request_id: str) -> list[Leaf]:
        """Return the certificates of one request id."""
        return [leaf for leaf in self.leaves if leaf.issued.request_id == request_id]

    def partitions(self) -> dict[str, int]:
        """Return how many partitions each signer has now."""
        return {one.signer: len(one.partitions) for one in self.assigned[-1].assignments}

    @property
    def leaf_entries(self) -> int:
        """How many entries the leaves stand in."""
        return len({leaf.at.sequence for leaf in self.leaves})


async def replay(caledger: Datacenter) -> Ledger:
    """Read the whole ledger as the auditor; a gap or an entry that is void ends this."""
    client = await caledger.client("auditor")
    entries = 0
    leaves: list[Leaf] = []
    assigned: list[SignersAssigned] = []
    try:
        async for stored in client.replay():
            entries += 1
            for recorded in decode_entry(stored, datacenter=client.subjects.datacenter).events:
                match recorded.event:
                    case LeafIssued() as issued:
                        leaves.append(Leaf(at=recorded, issued=issued))
                    case SignersAssigned() as change:
                        assigned.append(change)
                    case _:
                        pass
    finally:
        await client.close()
    return Ledger(entries=entries, leaves=tuple(leaves), assigned=tuple(assigned))


async def signing(caledger: Datacenter, signers: int) -> Ledger:
    """Wait until so many signers share the partitions: one is enough to be ready."""
    async with asyncio.timeout(ASSIGNED_SECONDS):
        while True:
            ledger = await replay(caledger)
            if ledger.assigned and len(ledger.partitions()) == signers:
                return ledger
            await asyncio.sleep(LOOK_EVERY_SECONDS)


async def check(caledger: Datacenter, *loads: Load) -> Ledger:
    """Assert that nothing acknowledged is missing and nothing is double, and return the ledger.

    Every certificate that a client got is on the ledger once, byte for byte; no request has two;
    `ledger verify` finds nothing.
    """
    ledger = await replay(caledger)
    none_double(ledger)
    none_missing(ledger, [answer for load in loads for answer in load.answers])
    for load in loads:
        assert not load.contradictions, f"two answers to one request: {load.contradictions[:5]}"
    ran = await caledger.run("ledger", "verify", "--json", timeout=VERIFY_SECONDS)
    assert ran.code == 0, ran
    told = json.loads(ran.out)
    assert told["faults"] == []
    assert told["summary"]["leaves"] == len(ledger.leaves)
    print(
        f"ledger: {ledger.entries} entries, {len(ledger.leaves)} certificates in "
        f"{ledger.leaf_entries} of them, {len(ledger.assigned)} changes of who signs what; verified"
    )
    return ledger


def none_double(ledger: Ledger) -> None:
    """Assert that no request, serial or certificate stands there twice."""
    for what, keys in (
        ("request", [(leaf.issued.identity, leaf.issued.request_id) for leaf in ledger.leaves]),
        ("serial", [leaf.issued.serial for leaf in ledger.leaves]),
        ("certificate", [leaf.issued.certificate for leaf in ledger.leaves]),
        ("event", [leaf.at.envelope.id for leaf in ledger.leaves]),
    ):
        double = [key for key, times in Counter(keys).items() if times > 1]
        assert not double, f"{len(double)} times a {what} twice: {double[:3]}"


def none_missing(ledger: Ledger, answers: Iterable[Answer]) -> None:
    """Assert that what a client got is what the ledger has, at the place that the client was told.

    And that the ledger has no certificate that no client got.
    """
    recorded = {leaf.at.envelope.id: leaf for leaf in ledger.leaves}
    got: set[str] = set()
    for answer in answers:
        leaf = recorded.get(answer.issued.event_id)
        assert leaf is not None, f"acknowledged, but not on the ledger: {answer.request}"
        assert answer.certificate == leaf.issued.certificate
        assert answer.request.request_id == leaf.issued.request_id
        assert answer.request.service == leaf.issued.name
        assert answer.issued.service_uri == leaf.issued.identity
        assert answer.issued.serial_number == pem.colon_hex(leaf.issued.serial)
        assert answer.issued.ledger_sequence == leaf.at.sequence
        got.add(answer.issued.event_id)
    nobody_s = recorded.keys() - got
    assert not nobody_s, f"{len(nobody_s)} certificates that nobody got"


async def projections_are_those_built_anew(caledger: Datacenter, path: Path) -> None:
    """Assert that a file has, at one position of the ledger, the rows of a rebuilt one."""
    for _ in range(REBUILDS):
        live = list(store.dump(path))
        rebuilt = await caledger.run("projections", "rebuild")
        assert rebuilt.code == 0, rebuilt
        anew = list(store.dump(path))
        if live[0] == anew[0]:  # the position is the same, and what was read last
            differ = [pair for pair in zip(live, anew, strict=False) if pair[0] != pair[1]]
            assert (len(live), differ[:2]) == (len(anew), [])
            return
    raise AssertionError(f"never of one position: {live[0]}, rebuilt {anew[0]}")
