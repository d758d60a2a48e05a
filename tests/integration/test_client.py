"""What our client does when answers are late, missing, or no."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from services.asking import NoAnswerError, RefusedLateError
from services.client import CaClient
from services.refusals import RefusedError
from tests.nats import NatsServer

WEB = "ca.dc1.work.>"


@pytest.fixture
async def ca(nats_server: NatsServer) -> AsyncIterator[CaClient]:
    """A client; whoever is to answer is each test's own."""
    client = await CaClient.connect([nats_server.url], datacenter="dc1", creds=None)
    yield client
    await client.close()


def refusal(code: str, retry_after: float | None = 2) -> bytes:
    told = {"code": code, "message": "no", "retry_after": retry_after}
    return json.dumps({"error": told}).encode()


async def test_silence_is_asked_again_with_the_same_bytes(ca: CaClient, nc: Client) -> None:
    heard: list[bytes] = []

    async def signer(message: Msg) -> None:
        heard.append(message.data)
        if len(heard) == 3:
            await message.respond(b'{"CertPEM": "x"}')

    await nc.subscribe(WEB, cb=signer)
    await nc.flush()

    assert await ca.sign("web", "CSR", request_id="R1") == b'{"CertPEM": "x"}'
    assert len(heard) == 3
    assert set(heard) == {b'{"request_id":"R1","csr":"CSR"}'}


async def test_a_late_answer_to_the_first_asking_counts(ca: CaClient, nc: Client) -> None:
    first: list[Msg] = []

    async def signer(message: Msg) -> None:
        first.append(message)
        if len(first) == 2:
            await first[0].respond(b"{}")

    await nc.subscribe(WEB, cb=signer)
    await nc.flush()

    assert await ca.sign("web", "CSR", request_id="R1", timeout=5) == b"{}"


async def test_nobody_there_is_waited_for(ca: CaClient, nc: Client) -> None:
    async def signer(message: Msg) -> None:
        await message.respond(b"{}")

    asking = asyncio.create_task(ca.sign("web", "CSR", request_id="R1"))
    await asyncio.sleep(0.4)
    assert not asking.done(), "no responders is not an answer"
    await nc.subscribe(WEB, cb=signer)

    assert await asyncio.wait_for(asking, 5) == b"{}"


async def test_not_ready_is_asked_again_when_it_says_and_told_at_the_deadline(
    ca: CaClient, nc: Client
) -> None:
    loop = asyncio.get_running_loop()
    heard: list[float] = []

    async def signer(message: Msg) -> None:
        heard.append(loop.time())
        await message.respond(refusal("not_ready", retry_after=0.6))

    await nc.subscribe(WEB, cb=signer)
    await nc.flush()

    with pytest.raises(RefusedError) as refused:
        await ca.sign("web", "CSR", request_id="R1", timeout=1)
    assert (refused.value.code, refused.value.message) == ("not_ready", "no")
    assert len(heard) == 2
    assert heard[1] - heard[0] >= 0.55


async def test_not_ready_with_no_word_of_when_is_told_at_once(ca: CaClient, nc: Client) -> None:
    async def signer(message: Msg) -> None:
        await message.respond(refusal("not_ready", retry_after=None))

    await nc.subscribe(WEB, cb=signer)
    await nc.flush()

    with pytest.raises(RefusedError, match="no"):
        await asyncio.wait_for(ca.sign("web", "CSR", request_id="R1", timeout=60), 10)


async def test_an_answer_that_comes_after_not_ready_counts(ca: CaClient, nc: Client) -> None:
    async def signer(message: Msg) -> None:
        await message.respond(refusal("not_ready", retry_after=60))
        await message.respond(b"{}")

    await nc.subscribe(WEB, cb=signer)
    await nc.flush()

    assert await ca.sign("web", "CSR", request_id="R1", timeout=5) == b"{}"


async def test_a_no_after_a_silence_is_told_as_late(ca: CaClient, nc: Client) -> None:
    """The first sending may have been granted, and its answer lost."""
    asked = 0

    async def signer(message: Msg) -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            await message.respond(refusal("malformed"))

    await nc.subscribe(WEB, cb=signer)
    await nc.flush()

    with pytest.raises(RefusedLateError):
        await ca.sign("web", "CSR", request_id="R1")


async def test_a_no_is_final_and_carries_the_code(ca: CaClient, nc: Client) -> None:
    asked = 0

    async def signer(message: Msg) -> None:
        nonlocal asked
        asked += 1
        await message.respond(refusal("internal"))

    await nc.subscribe(WEB, cb=signer)
    await nc.flush()

    with pytest.raises(RefusedError) as refused:
        await ca.sign("web", "CSR", request_id="R1")
    assert (refused.value.code, refused.value.retry_after, asked) == ("internal", 2, 1)
    assert not isinstance(refused.value, RefusedLateError)


async def test_who_is_rate_limited_asks_again_when_he_is_told_to_while_there_is_time(
    ca: CaClient, nc: Client
) -> None:
    asked: list[float] = []
    loop = asyncio.get_running_loop()

    async def signer(message: Msg) -> None:
        asked.append(loop.time())
        if len(asked) == 2:
            await message.respond(b'{"CertPEM": "x"}')
        else:
            await message.respond(refusal("rate_limited", retry_after=0.5))

    await nc.subscribe(WEB, cb=signer)
    await nc.flush()

    assert await ca.sign("web", "CSR", request_id="R1") == b'{"CertPEM": "x"}'
    assert asked[1] - asked[0] >= 0.5
    with pytest.raises(RefusedError) as refused:
        await ca.sign("web", "CSR", request_id="R2", timeout=0.2)
    assert refused.value.code == "rate_limited"


async def test_an_answer_that_cannot_be_read_is_no_answer(ca: CaClient, nc: Client) -> None:
    async def signer(message: Msg) -> None:
        await message.respond(b'{"error": {"code": "eaten"}}')

    await nc.subscribe(WEB, cb=signer)
    await nc.flush()

    with pytest.raises(NoAnswerError, match="cannot be read"):
        await ca.sign("web", "CSR", request_id="R1")
