"""Reading the ledger while one of its copies is behind, or has lost what it had."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from events.ledger import JetStreamLedger
from events.log import GapError
from events.subjects import Subjects
from services import streams
from services.asking import NoAnswerError
from services.cli.ledger import verified
from services.client import CaClient
from tests.ledger import acquired
from tests.nats import NatsServer

SUBJECTS = Subjects("dc1")
LAST = 6
BEHIND = 4
SECONDS = 1.2  # of patience


class Copies:
    """Stands where the server does: each question goes to the copy that a test says.

    A copy is the ledger as it was at some sequence.
    """

    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self.last: Callable[[], int] = lambda: LAST  # what the copy asked for its last one has
        self.read: Callable[[], int] = lambda: LAST  # what the copy has that is read from
        self.reads = 0

    async def heard(self, asked: Msg) -> None:
        query = json.loads(asked.data)
        if "last_by_subj" in query:
            query = {"seq": self.last()}
        else:
            self.reads += 1
            has = self.read() + 1 - query["seq"]
            query["batch"] = min(query["batch"], has)
            if has <= 0:
                query.update(seq=LAST + 1, batch=1)  # there is none, as the server says it
        direct = f"$JS.API.DIRECT.GET.{SUBJECTS.ledger_stream}"
        await self._nc.publish(direct, json.dumps(query).encode(), reply=asked.reply)


@pytest.fixture
async def copies(nc: Client) -> Copies:
    """A ledger of LAST entries, which all copies have."""
    await streams.create(nc, SUBJECTS, replicas=1)
    ledger = JetStreamLedger(nc, SUBJECTS)
    for term in range(1, LAST + 1):
        await ledger.append_authority(
            [acquired(term=term)], term=term, expected_sequence=await ledger.last_sequence()
        )
    copies = Copies(nc)
    await nc.subscribe(SUBJECTS.audit_read, cb=copies.heard)
    await nc.flush()
    return copies


@pytest.fixture
async def ca(nats_server: NatsServer, copies: Copies) -> AsyncIterator[CaClient]:
    client = await CaClient.connect([nats_server.url], datacenter="dc1", creds=None)
    yield client
    await client.close()


async def replayed(
    ca: CaClient,
    *,
    after: int = 0,
    until: int | None = None,
    gaps: bool = False,
    timeout: float = SECONDS,
) -> list[int]:
    found = ca.replay(after=after, until=until, gaps=gaps, timeout=timeout)
    return [stored.sequence async for stored in found]


def behind_for(copies: Copies, reads: int) -> Callable[[], int]:
    return lambda: BEHIND if copies.reads <= reads else LAST


async def test_verify_tells_no_gap_where_a_copy_is_behind_for_a_while(
    ca: CaClient, copies: Copies
) -> None:
    copies.read = behind_for(copies, 2)

    faults, summary = await verified(ca, "dc1", timeout=30)

    assert [fault for fault in faults if fault.check == "gap"] == []
    assert summary.last == LAST


@pytest.mark.parametrize("until", [None, LAST, LAST - 1])
async def test_a_replay_ends_where_it_is_to_though_a_copy_is_behind(
    ca: CaClient, copies: Copies, until: int | None
) -> None:
    copies.read = behind_for(copies, 2)

    found = await replayed(ca, until=until, timeout=30)

    assert found == list(range(1, (until or LAST) + 1))


async def test_a_replay_shows_nothing_above_its_end(ca: CaClient) -> None:
    assert await replayed(ca, until=2) == [1, 2]
    assert await replayed(ca, after=4, until=2) == []
    assert await replayed(ca, after=LAST) == []


@pytest.mark.parametrize("gaps", [False, True])
async def test_a_copy_that_stays_behind_is_no_answer_while_another_has_it(
    ca: CaClient, copies: Copies, gaps: bool
) -> None:
    copies.read = lambda: BEHIND

    with pytest.raises(NoAnswerError, match=f"up to sequence {BEHIND}, not {LAST}"):
        await replayed(ca, gaps=gaps)


async def test_a_tail_that_nobody_has_any_more_is_a_gap(ca: CaClient, copies: Copies) -> None:
    said = iter([LAST])  # once; then that server is put back from an old backup
    copies.last = lambda: next(said, BEHIND)
    copies.read = lambda: BEHIND

    with pytest.raises(GapError, match=f"{BEHIND + 1} is missing"):
        await replayed(ca)


async def test_verify_tells_of_a_tail_that_nobody_has_any_more(
    ca: CaClient, copies: Copies
) -> None:
    said = iter([LAST])
    copies.last = lambda: next(said, BEHIND)
    copies.read = lambda: BEHIND

    faults, _ = await verified(ca, "dc1", timeout=SECONDS)

    assert [(f.sequence, f.check) for f in faults if f.check == "gap"] == [(BEHIND + 1, "gap")]
