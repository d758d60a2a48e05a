"""The ledger on a real nats-server whose answers get lost, which dies, or which says no."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from events.append import leaves_append
from events.envelope import Stored
from events.jetstream import Moved, read_answer
from events.ledger import JetStreamLedger, LedgerReader
from events.log import (
    ConflictError,
    GapError,
    LedgerError,
    NotAcceptedError,
    OutcomeUnknownError,
    UnreachableError,
)
from events.subjects import Subjects
from services import streams
from tests.ledger import acquired, assigned, give_grants, leaf, ulid
from tests.nats import NatsServer, connect
from tests.proxy import Frame, Proxy

SUBJECTS = Subjects("dc1")
SIGNER = ulid()


def is_append(frame: Frame) -> bool:
    """Whether a publish is what stores an append: a single message, or the last of a batch."""
    return frame.subject.startswith("ca.dc1.ledger.") and (
        b"Nats-Batch-Id" not in frame.payload or b"Nats-Batch-Commit" in frame.payload
    )


@pytest.fixture
async def server(nats_server: NatsServer, nc: Client) -> NatsServer:
    """A server with empty streams."""
    await streams.create(nc, SUBJECTS, replicas=1)
    return nats_server


@pytest.fixture
async def direct(server: NatsServer, nc: Client) -> JetStreamLedger:
    """The ledger, over a connection that loses nothing."""
    return JetStreamLedger(nc, SUBJECTS)


@pytest.fixture
async def proxy(server: NatsServer) -> AsyncIterator[Proxy]:
    async with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
async def lossy(proxy: Proxy) -> AsyncIterator[JetStreamLedger]:
    """The ledger, over the connection that loses what it is told to."""
    nc = await connect([proxy.url])
    yield JetStreamLedger(nc, SUBJECTS)
    await nc.close()


async def everything(ledger: JetStreamLedger) -> list[Stored]:
    return await ledger.read(0, limit=1_024)


# An append whose outcome is unknown


@pytest.mark.parametrize("lost", ["answer", "request"])
@pytest.mark.parametrize("times", [1, 2])
async def test_leaves_are_stored_once_when_the_request_or_its_answer_is_lost(
    direct: JetStreamLedger, lossy: JetStreamLedger, proxy: Proxy, lost: str, times: int
) -> None:
    await give_grants(direct, [SIGNER])
    lose = proxy.lose_answer if lost == "answer" else proxy.lose_request
    lose(is_append, times=times)

    appended = await lossy.append_leaves(SIGNER, [leaf(SIGNER, grant=2)], grant_sequence=2)

    assert proxy.lost.is_set()
    assert (appended.sequence, appended.messages) == (3, 1)
    assert await direct.last_sequence() == 3


@pytest.mark.parametrize("lost", ["answer", "request"])
@pytest.mark.parametrize("with_grants", [False, True])
async def test_an_authority_entry_is_stored_once_when_the_request_or_its_answer_is_lost(
    direct: JetStreamLedger, lossy: JetStreamLedger, proxy: Proxy, lost: str, with_grants: bool
) -> None:
    events, grants = assigned([SIGNER, ulid()]) if with_grants else ([acquired()], [])
    lose = proxy.lose_answer if lost == "answer" else proxy.lose_request
    lose(is_append)

    appended = await lossy.append_authority(events, term=1, expected_sequence=0, grants=grants)

    assert proxy.lost.is_set()
    assert (appended.sequence, appended.messages) == (1, 1 + len(grants))
    assert await direct.last_sequence() == 1 + len(grants)


async def test_a_batch_whose_middle_is_lost_is_sent_again_as_a_whole(
    direct: JetStreamLedger, lossy: JetStreamLedger, proxy: Proxy
) -> None:
    proxy.lose_request(lambda frame: b"Nats-Batch-Sequence: 2\r\n" in frame.payload)

    appended = await give_grants(lossy, [ulid(), ulid(), ulid()])

    assert proxy.lost.is_set()
    assert (appended.sequence, appended.messages) == (1, 4)
    assert [stored.sequence for stored in await everything(direct)] == [1, 2, 3, 4]


async def test_leaves_that_are_stored_are_found_although_their_grant_was_superseded(
    direct: JetStreamLedger, lossy: JetStreamLedger, proxy: Proxy
) -> None:
    await give_grants(direct, [SIGNER])
    proxy.lose_answer(is_append)
    append = asyncio.ensure_future(
        lossy.append_leaves(SIGNER, [leaf(SIGNER, grant=2)], grant_sequence=2)
    )
    await proxy.lost.wait()
    await give_grants(direct, [SIGNER], expected=1)

    assert (await append).sequence == 3
    assert await direct.last_sequence() == 5


async def test_leaves_that_are_not_stored_conflict_when_their_grant_was_superseded(
    direct: JetStreamLedger, lossy: JetStreamLedger, proxy: Proxy
) -> None:
    await give_grants(direct, [SIGNER])
    await direct.append_leaves(SIGNER, [leaf(SIGNER, grant=2)], grant_sequence=2)
    proxy.lose_request(is_append)
    append = asyncio.ensure_future(
        lossy.append_leaves(SIGNER, [leaf(SIGNER, grant=2)], grant_sequence=2)
    )
    await proxy.lost.wait()
    await give_grants(direct, [SIGNER], expected=1)

    with pytest.raises(ConflictError) as conflict:
        await append

    assert conflict.value.last_sequence == 5
    assert await direct.last_sequence() == 5


@pytest.mark.parametrize("with_grants", [False, True])
async def test_an_authority_entry_that_is_stored_is_found_although_others_followed(
    direct: JetStreamLedger, lossy: JetStreamLedger, proxy: Proxy, with_grants: bool
) -> None:
    events, grants = assigned([SIGNER]) if with_grants else ([acquired()], [])
    proxy.lose_answer(is_append)
    append = asyncio.ensure_future(
        lossy.append_authority(events, term=1, expected_sequence=0, grants=grants)
    )
    await proxy.lost.wait()
    follower = await direct.append_authority([acquired("n2")], term=2, expected_sequence=1)

    appended = await append

    assert (appended.sequence, appended.messages) == (1, 1 + len(grants))
    assert await direct.last_sequence() == follower.sequence


@pytest.mark.parametrize("with_grants", [False, True])
async def test_an_authority_entry_that_is_not_stored_conflicts_with_what_came_instead(
    direct: JetStreamLedger, lossy: JetStreamLedger, proxy: Proxy, with_grants: bool
) -> None:
    events, grants = assigned([SIGNER]) if with_grants else ([acquired()], [])
    proxy.lose_request(is_append)
    append = asyncio.ensure_future(
        lossy.append_authority(events, term=1, expected_sequence=0, grants=grants)
    )
    await proxy.lost.wait()
    await direct.append_authority([acquired("n2")], term=2, expected_sequence=0)

    with pytest.raises(ConflictError) as conflict:
        await append

    assert conflict.value.last_sequence == 1
    assert await direct.last_sequence() == 1


@pytest.mark.parametrize("told", [0, 1])
async def test_a_leader_that_was_deposed_refuses_nothing_that_the_other_one_stores(
    direct: JetStreamLedger, lossy: JetStreamLedger, proxy: Proxy, nc: Client, told: int
) -> None:
    """Both hear an append while the deposed one, just woken, takes itself for the leader."""
    await give_grants(direct, [SIGNER])

    async def refuse(message: Msg) -> None:
        error = {"code": 400, "err_code": 10071, "description": f"wrong last sequence: {told}"}
        await message.respond(json.dumps({"error": error}).encode())

    deposed = await nc.subscribe(SUBJECTS.leaves(SIGNER), cb=refuse)
    await deposed.unsubscribe(limit=1)
    await nc.flush()
    proxy.lose_heard(lambda frame: b'"seq":' in frame.payload)  # that comes second

    appended = await lossy.append_leaves(SIGNER, [leaf(SIGNER, grant=2)], grant_sequence=2)

    assert proxy.lost.is_set()
    assert appended.sequence == await direct.last_sequence() == 3


async def test_an_event_id_that_another_entry_has_is_never_taken_for_our_own(
    direct: JetStreamLedger,
) -> None:
    await give_grants(direct, [SIGNER])
    first, second = leaf(SIGNER, grant=2), leaf(SIGNER, grant=2)
    await direct.append_leaves(SIGNER, [first], grant_sequence=2)

    with pytest.raises(NotAcceptedError, match="is used at sequence 3"):
        await direct.append_leaves(SIGNER, [first, second], grant_sequence=2)


async def test_the_outcome_is_unknown_after_half_the_duplicate_window(
    server: NatsServer, nc: Client
) -> None:
    ledger = JetStreamLedger(nc, SUBJECTS, duplicate_window=1.0)
    server.pause()
    try:
        with pytest.raises(OutcomeUnknownError):
            await ledger.append_authority([acquired()], term=1, expected_sequence=0)
    finally:
        server.resume()


async def test_the_outcome_is_unknown_when_the_connection_is_closed_meanwhile(
    server: NatsServer, proxy: Proxy
) -> None:
    nc = await connect([proxy.url])
    ledger = JetStreamLedger(nc, SUBJECTS)
    proxy.lose_answer(is_append)
    append = asyncio.ensure_future(
        ledger.append_authority([acquired()], term=1, expected_sequence=0)
    )
    await proxy.lost.wait()
    await nc.close()

    with pytest.raises(OutcomeUnknownError):
        await append
    with pytest.raises(UnreachableError):
        await ledger.append_authority([acquired()], term=1, expected_sequence=0)


async def test_appends_survive_a_server_that_is_killed_again_and_again(
    server: NatsServer, direct: JetStreamLedger
) -> None:
    await give_grants(direct, [SIGNER])
    acknowledged: list[int] = []
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            event = leaf(SIGNER, grant=2, size=20_000)
            acknowledged.append(
                (await direct.append_leaves(SIGNER, [event], grant_sequence=2)).sequence
            )

    writer = asyncio.ensure_future(write())
    for _ in range(5):
        goal = len(acknowledged) + 10
        while len(acknowledged) < goal:
            await asyncio.sleep(0.003)
        server.kill()
        server.start()
    stop.set()
    await writer

    stored = [each.sequence for each in await everything(direct)]
    assert acknowledged == stored[2:]  # each once, in order, none that was not acknowledged
    assert len(acknowledged) >= 50


async def test_what_the_client_sends_after_a_reconnect_is_not_stored_on_a_past_condition(
    direct: JetStreamLedger, proxy: Proxy
) -> None:
    """nats-py keeps what finds no connection, and sends it once there is one again."""
    await give_grants(direct, [SIGNER])
    nc = await connect([proxy.url], reconnect_time_wait=0.5)
    proxy.cut()
    while nc.is_connected:
        await asyncio.sleep(0.001)
    append = leaves_append(SUBJECTS, SIGNER, [leaf(SIGNER, grant=2)], grant_sequence=2)
    headers = {
        "Nats-Expected-Last-Subject-Sequence": str(append.condition_sequence),
        "Nats-Expected-Last-Subject-Sequence-Subject": append.condition_subject,
    }
    [message] = append.messages
    kept = asyncio.ensure_future(
        nc.request(message.subject, message.data, headers=headers, timeout=10)
    )
    await give_grants(direct, [SIGNER], expected=1)

    assert read_answer((await kept).data) == Moved(last=4)
    assert await direct.last_sequence() == 4
    await nc.close()


async def test_nothing_is_sent_while_there_is_no_connection(
    direct: JetStreamLedger, proxy: Proxy
) -> None:
    await give_grants(direct, [SIGNER])
    nc = await connect([proxy.url], reconnect_time_wait=2.5)  # longer than two tries would take
    proxy.cut()
    while nc.is_connected:
        await asyncio.sleep(0.001)

    with capture_logs() as told:
        appended = await JetStreamLedger(nc, SUBJECTS).append_leaves(
            SIGNER, [leaf(SIGNER, grant=2)], grant_sequence=2
        )

    assert appended.sequence == 3
    assert sum(is_append(frame) for frame in proxy.sent) == 1
    assert told == [
        {
            "event": "an append has no definite answer yet",
            "subject": SUBJECTS.leaves(SIGNER),
            "reason": "not connected",
            "log_level": "warning",
        }
    ]
    await nc.close()


# Conditions


async def test_every_publish_to_the_ledger_carries_a_condition_on_a_concrete_subject(
    direct: JetStreamLedger, lossy: JetStreamLedger, proxy: Proxy
) -> None:
    await give_grants(lossy, [SIGNER, ulid()])
    await lossy.append_authority([acquired()], term=1, expected_sequence=1)
    await lossy.append_leaves(SIGNER, [leaf(SIGNER, grant=2)], grant_sequence=2)

    sent = [frame for frame in proxy.sent if frame.subject.startswith("ca.dc1.ledger.")]
    conditions = [
        (frame.subject, _headers(frame).get("Nats-Expected-Last-Subject-Sequence-Subject"))
        for frame in sent
        if _headers(frame).get("Nats-Batch-Sequence", "1") == "1"
    ]

    assert conditions == [
        (SUBJECTS.authority, SUBJECTS.authority),
        (SUBJECTS.authority, SUBJECTS.authority),
        (SUBJECTS.leaves(SIGNER), SUBJECTS.grant(SIGNER)),
    ]
    assert len(sent) == 5
    assert all(
        "Nats-Expected-Last-Subject-Sequence" not in _headers(frame)
        for frame in sent
        if frame.subject.startswith("ca.dc1.ledger.grant.")
    )


async def test_a_full_stream_refuses_in_words_and_stores_nothing(
    server: NatsServer, nc: Client, direct: JetStreamLedger
) -> None:
    await give_grants(direct, [SIGNER])
    await _edit(nc, SUBJECTS.ledger_stream, max_bytes=4_000)

    with pytest.raises(NotAcceptedError, match="maximum bytes"):
        await direct.append_leaves(SIGNER, [leaf(SIGNER, grant=2, size=5_000)], grant_sequence=2)

    assert await direct.last_sequence() == 2


# Reading


async def test_a_missing_sequence_is_a_gap_and_never_passed_over(
    server: NatsServer, nc: Client
) -> None:
    stream = "LOOSE"  # as ours, but it lets a message be deleted
    await _api(nc, f"STREAM.DELETE.{SUBJECTS.ledger_stream}")
    await _api(
        nc,
        f"STREAM.CREATE.{stream}",
        {"name": stream, "subjects": [SUBJECTS.ledger], "allow_direct": True},
    )
    for _ in range(5):
        await nc.request(SUBJECTS.authority, b"[]")
    await _api(nc, f"STREAM.MSG.DELETE.{stream}", {"seq": 3})
    reader = _reader(nc, stream)

    with pytest.raises(GapError, match="sequence 3 is missing"):
        await reader.read(0)
    with pytest.raises(GapError, match="sequence 3 is missing"):
        await reader.read(2)
    assert [stored.sequence for stored in await reader.read(3)] == [4, 5]


@pytest.mark.parametrize("lost", [2, 5])
async def test_an_answer_that_gets_lost_on_the_way_leaves_no_hole(
    direct: JetStreamLedger, lossy: JetStreamLedger, proxy: Proxy, lost: int
) -> None:
    await give_grants(direct, [SIGNER, ulid(), ulid(), ulid()])
    proxy.lose_heard(lambda frame: f"Nats-Sequence: {lost}\r\n".encode() in frame.payload)

    assert [stored.sequence for stored in await lossy.read(0)] == list(range(1, lost))
    assert [stored.sequence for stored in await lossy.read(lost - 1)] == list(range(lost, 6))


async def test_a_read_whose_first_message_is_lost_says_so(
    direct: JetStreamLedger, lossy: JetStreamLedger, proxy: Proxy
) -> None:
    await give_grants(direct, [SIGNER])
    proxy.lose_heard(lambda frame: b"Nats-Sequence: 1\r\n" in frame.payload)

    with pytest.raises(UnreachableError, match="lost on the way"):
        await lossy.read(0)
    assert len(await lossy.read(0)) == 2


async def test_reads_at_once_get_an_answer_each(direct: JetStreamLedger) -> None:
    await give_grants(direct, [SIGNER, ulid()])

    answers = await asyncio.gather(*(direct.read(after) for after in (0, 1, 2, 3, 0)))

    assert [[stored.sequence for stored in answer] for answer in answers] == [
        [1, 2, 3],
        [2, 3],
        [3],
        [],
        [1, 2, 3],
    ]


async def test_large_entries_come_in_smaller_pages(direct: JetStreamLedger) -> None:
    await give_grants(direct, [SIGNER])
    for _ in range(15):
        await direct.append_leaves(SIGNER, [leaf(SIGNER, grant=2, size=600_000)], grant_sequence=2)

    first = await direct.read(0)
    rest = await direct.read(len(first))

    assert 10 <= len(first) < 17
    assert [stored.sequence for stored in (*first, *rest)] == list(range(1, 18))


async def test_an_auditor_reads_with_names_of_its_own(
    server: NatsServer, nc: Client, direct: JetStreamLedger
) -> None:
    await give_grants(direct, [SIGNER])
    await direct.append_leaves(SIGNER, [leaf(SIGNER, grant=2)], grant_sequence=2)
    reader = _reader(nc, SUBJECTS.ledger_stream)

    assert [stored.sequence for stored in await reader.read(0)] == [1, 2, 3]
    only = await reader.read(0, only=SUBJECTS.leaves(SIGNER))
    assert [stored.sequence for stored in only] == [3]


async def test_reading_and_asking_where_there_is_no_stream_says_unreachable(
    nats_server: NatsServer, nc: Client
) -> None:
    ledger = JetStreamLedger(nc, SUBJECTS)

    with pytest.raises(UnreachableError, match="nobody answers"):
        await ledger.read(0)
    with pytest.raises(LedgerError, match="stream not found"):
        await ledger.last_sequence()


async def test_reading_from_a_server_that_stopped_says_unreachable(
    server: NatsServer, direct: JetStreamLedger
) -> None:
    await direct.read(0)
    server.pause()
    try:
        with pytest.raises(UnreachableError):
            await direct.read(0)
    finally:
        server.resume()


def _reader(nc: Client, stream: str) -> LedgerReader:
    return LedgerReader(
        nc,
        "dc1",
        direct_get=f"$JS.API.DIRECT.GET.{stream}",
        live=SUBJECTS.live,
        ledger_filter=SUBJECTS.ledger,
    )


def _headers(frame: Frame) -> dict[str, str]:
    lines = frame.payload[: int(frame.words[-2])].decode().split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines if line)


async def _api(nc: Client, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    reply = await nc.request(f"$JS.API.{name}", json.dumps(body or {}).encode())
    answer: dict[str, Any] = json.loads(reply.data)
    assert "error" not in answer, answer
    return answer


async def _edit(nc: Client, stream: str, **settings: Any) -> None:
    config = (await _api(nc, f"STREAM.INFO.{stream}"))["config"]
    await _api(nc, f"STREAM.UPDATE.{stream}", {**config, **settings})
