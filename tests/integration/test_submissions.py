"""Durable requests on a real server: kept until they are done, done once, and answered for ever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from events.leaves import LeafRefused
from services.signer.request import BODY_BYTES_MAX
from services.streams import SUBMIT_PER_IDENTITY_MAX
from tests.factories import WEB, csr_pem, leaf_key, service_uri
from tests.integration.signing import ALL, Answer, Datacenter, partition, request, until
from tests.nats import NatsServer


@pytest.fixture
async def dc(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Datacenter]:
    """A datacenter with a replicator and no signer."""
    datacenter = await Datacenter.begin(await nats_server.client(), tmp_path)
    async with datacenter.replicator():
        yield datacenter


@pytest.fixture
async def served(dc: Datacenter, nats_server: NatsServer) -> AsyncIterator[Datacenter]:
    """A datacenter with one signer for everything."""
    async with dc.signer(await nats_server.client()) as signer:
        await dc.assign({signer.run: ALL})
        yield dc


async def submit(dc: Datacenter, body: bytes, *, name: str = "web") -> dict[str, Any]:
    """Submit, and return the acknowledgement."""
    reply = await dc.nc.request(dc.subjects.submit("service", name), body, timeout=5)
    told: dict[str, Any] = json.loads(reply.data)
    return told


async def fetch(dc: Datacenter, request_id: str, *, name: str = "web") -> Answer:
    return await dc.ask(json.dumps({"request_id": request_id}).encode(), name=name)


async def fetched(dc: Datacenter, request_id: str, *, name: str = "web") -> Answer:
    """Ask until it is not pending any more."""

    async def done() -> Answer | None:
        answer = await fetch(dc, request_id, name=name)
        assert answer.code != "not_found"
        return None if answer.code == "pending" else answer

    answer: Answer = await until(done)
    return answer


async def waiting(dc: Datacenter) -> int:
    """Return how many messages the queue has."""
    reply = await dc.nc.request(f"$JS.API.STREAM.INFO.{dc.subjects.submit_stream}", b"")
    return int(json.loads(reply.data)["state"]["messages"])


async def emptied(dc: Datacenter) -> None:
    async def empty() -> bool:
        return await waiting(dc) == 0

    await until(empty)


async def refusals(dc: Datacenter) -> list[LeafRefused]:
    return [one for one in await dc.refusals() if isinstance(one, LeafRefused)]


async def test_what_is_submitted_is_signed_once_fetched_by_its_id_and_removed(
    served: Datacenter,
) -> None:
    body = request(request_id="d1")

    assert "seq" in await submit(served, body)
    assert "seq" in await submit(served, body)  # who heard no acknowledgement sends it again
    answer = await fetched(served, "d1")
    await emptied(served)

    [leaf] = await served.leaves()
    assert (leaf.request_id, leaf.identity, leaf.requester) == ("d1", WEB, None)
    assert answer.serial == leaf.serial
    assert (await fetch(served, "d1")).body == answer.body
    assert (await served.ask(body)).body == answer.body
    assert "seq" in await submit(served, body)
    await emptied(served)
    assert len(await served.leaves()) == 1
    assert await served.faults() == []


async def test_what_was_submitted_while_no_signer_was_there_is_pending_and_never_not_found(
    dc: Datacenter, nats_server: NatsServer
) -> None:
    """From the first look-up on, also of who was acknowledged a moment ago."""
    for number in range(20):
        body = request(request_id=f"d{number}")
        await submit(dc, body)
        await submit(dc, body)  # who heard no acknowledgement sends it again

    async with dc.signer(await nats_server.client()) as signer:
        await dc.assign({signer.run: ALL})
        answers = [await fetched(dc, f"d{number}") for number in range(20)]
        for number in range(20, 60):
            await submit(dc, request(request_id=f"d{number}"))
            assert (await fetch(dc, f"d{number}")).code in (None, "pending")
        assert (await fetch(dc, "other")).code == "not_found"
        assert (await fetch(dc, "d0", name="db")).code == "not_found"
        await emptied(dc)

    assert len({answer.serial for answer in answers}) == 20
    assert len(await dc.leaves()) == 60


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"request_id": "bad", "csr": "no PEM"}', "malformed"),
        (b'{"request_id": "bad", "csr": 7}', "malformed"),
        (b'{"request_id": "bad", "more": 1}', "malformed"),
        (b'{"request_id": "bad"}', "malformed"),
        (request(request_id="bad", csr=csr_pem(uri=service_uri("db"))), "identity_mismatch"),
        (b'{"request_id": "bad", "csr": "%s"}' % (b"x" * BODY_BYTES_MAX), "too_large"),
        (b'{"csr": "%s", "request_id": "bad"}' % (b"x" * 97_000), "too_large"),
    ],
    ids=["no PEM", "no text", "more", "no CSR", "another's", "too large", "far too large"],
)
async def test_what_can_never_be_signed_is_refused_on_the_ledger_and_answered_so_for_ever(
    served: Datacenter, nats_server: NatsServer, body: bytes, code: str
) -> None:
    await submit(served, body)

    answer = await fetched(served, "bad")
    await emptied(served)

    assert answer.code == code
    [refused] = await refusals(served)
    assert (refused.request_id, refused.identity, refused.code) == ("bad", WEB, code)
    assert refused.durable
    assert answer.told["error"]["message"] == refused.message
    # for ever: also for a good request of this id, and for another run of a signer
    await submit(served, request(request_id="bad"))
    await emptied(served)
    assert (await served.ask(request(request_id="bad"))).body == answer.body
    async with served.signer(await nats_server.client()) as other:
        await served.assign({other.run: ALL})
        assert (await fetch(served, "bad")).body == answer.body
    assert len(await refusals(served)) == 1
    assert await served.leaves() == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (csr_pem(), "bad_request_id"),
        (b'{"request_id": "a b"}', "bad_request_id"),
        (b"{", "malformed"),
        (b" " * (BODY_BYTES_MAX + 1), "too_large"),
    ],
    ids=["no id", "no such id", "no JSON", "too large"],
)
async def test_what_nobody_could_fetch_is_refused_as_any_request_and_removed(
    served: Datacenter, body: bytes, code: str
) -> None:
    await submit(served, body)
    await emptied(served)

    async def recorded() -> list[LeafRefused]:
        return await refusals(served)

    [refused] = await until(recorded)
    assert (refused.code, refused.request_id, refused.durable) == (code, None, False)
    assert await served.leaves() == []


async def test_another_csr_under_an_id_that_is_used_is_refused_and_the_first_keeps_the_id(
    dc: Datacenter, nats_server: NatsServer
) -> None:
    first = request(request_id="one")
    other = request(request_id="one", csr=csr_pem(key=leaf_key(number=2)))
    for body in (first, other, other, b'{"request_id": "one", "csr": "no PEM"}'):
        await submit(dc, body)

    async with dc.signer(await nats_server.client()) as signer:
        await dc.assign({signer.run: ALL})
        answer = await fetched(dc, "one")
        await emptied(dc)
        assert (await fetch(dc, "one")).body == answer.body
        assert (await dc.ask(first)).body == answer.body
        assert (await dc.ask(other)).code == "request_id_conflict"

    [leaf] = await dc.leaves()
    assert answer.serial == leaf.serial
    assert not any(refused.durable for refused in await refusals(dc))
    assert {refused.code for refused in await refusals(dc)} == {"request_id_conflict"}


async def test_what_is_limited_waits_for_its_turn_and_is_no_refusal(
    dc: Datacenter, nats_server: NatsServer
) -> None:
    for number in range(6):
        await submit(dc, request(request_id=f"d{number}"))

    async with dc.signer(await nats_server.client()) as signer:
        await dc.assign({signer.run: ALL}, rate=1.5)
        assert (await fetch(dc, "d5")).code == "pending"
        await dc.assign({signer.run: ALL}, rate=20)
        await asyncio.gather(*(fetched(dc, f"d{number}") for number in range(6)))
        await emptied(dc)

    assert len(await dc.leaves()) == 6
    assert await dc.refusals() == []


async def test_a_request_and_the_same_submitted_get_one_certificate(
    served: Datacenter,
) -> None:
    bodies = [request(request_id=f"both{number}") for number in range(10)]

    answers = await asyncio.gather(
        *(served.ask(body) for body in bodies), *(submit(served, body) for body in bodies)
    )
    await emptied(served)

    assert len(await served.leaves()) == 10
    for number, answer in enumerate(answers[:10]):
        assert isinstance(answer, Answer)
        assert (await fetch(served, f"both{number}")).body == answer.body


@pytest.mark.slow
async def test_submissions_follow_their_partition_from_signer_to_signer(
    dc: Datacenter, nats_server: NatsServer
) -> None:
    names = [f"s{number}" for number in range(40)]
    half = {partition(name) for name in names[:20]}
    async with (
        dc.signer(await nats_server.client()) as one,
        dc.signer(await nats_server.client()) as two,
    ):
        for turn in range(6):
            mine, yours = (one.run, two.run) if turn % 2 else (two.run, one.run)
            await dc.assign({mine: half, yours: set(ALL) - half})
            for name in names:
                await submit(dc, request(name, request_id=f"turn{turn}"), name=name)
                assert (await fetch(dc, f"turn{turn}", name=name)).code in (None, "pending")
        for name in names:
            for turn in range(6):
                assert (await fetched(dc, f"turn{turn}", name=name)).code is None
        await emptied(dc)

    leaves = await dc.leaves()
    assert len({(leaf.name, leaf.request_id) for leaf in leaves}) == len(leaves) == 240
    assert await dc.faults() == []


async def test_the_queue_takes_so_many_for_one_identity_and_more_for_another(
    dc: Datacenter,
) -> None:
    for number in range(SUBMIT_PER_IDENTITY_MAX):
        assert "seq" in await submit(dc, request(request_id=f"d{number}"))

    refused = await submit(dc, request(request_id="one more"))
    assert refused["error"]["description"] == "maximum messages per subject exceeded"
    assert "error" not in await submit(dc, request("db", request_id="other"), name="db")


@pytest.mark.parametrize(
    "step",
    [
        "submission.taken",
        pytest.param("signer.signed", marks=pytest.mark.slow),
        pytest.param("signer.appended", marks=pytest.mark.slow),
        "submission.recorded",
        pytest.param("submission.removed", marks=pytest.mark.slow),
    ],
)
async def test_a_signer_killed_at_any_step_leaves_what_was_submitted_to_be_done_once(
    dc: Datacenter, nats_server: NatsServer, step: str
) -> None:
    """Also what is to be refused for ever: it stands on the ledger once, and so does the leaf."""
    good, bad = request(request_id="good"), b'{"request_id": "bad", "csr": "no PEM"}'
    environment = {"CALEDGER_TESTING_STOP_AT": f"{step}=KILL"}
    for body in (good, bad):
        await submit(dc, body)
    async with dc.signer_process(nats_server.url, **environment) as dying:
        await dc.assign({dying.run: ALL})
        await until(dying.is_dead)
    assert await waiting(dc) == (1 if step == "submission.removed" else 2)

    async with dc.signer(await nats_server.client()) as successor:
        await dc.assign({successor.run: ALL})
        assert (await fetched(dc, "good")).code is None
        assert (await fetched(dc, "bad")).code == "malformed"
        await emptied(dc)

    assert len(await dc.leaves()) == 1
    assert len(await refusals(dc)) == 1
    assert await dc.faults() == []
