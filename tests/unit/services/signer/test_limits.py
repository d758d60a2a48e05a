"""The rate limit: Consul's burst of one, its wait of half a second, its words."""

from __future__ import annotations

import asyncio

import pytest

from services.refusals import RefusedError
from services.signer.limits import WAIT_SECONDS, RateLimit, Turns
from services.waiting import cancelled


def limited(error: object) -> bool:
    return (
        isinstance(error, RefusedError)
        and (error.code, error.message) == ("rate_limited", "Rate limit reached, try again later")
        and error.retry_after is not None
    )


async def outcomes(limit: RateLimit, number: int) -> list[str]:
    found = await asyncio.gather(*(limit.turn() for _ in range(number)), return_exceptions=True)
    assert all(one is None or limited(one) for one in found)
    return ["admitted" if one is None else "refused" for one in found]


async def test_zero_is_no_limit() -> None:
    limit = RateLimit(0)

    assert limit.off
    assert await outcomes(limit, 1000) == ["admitted"] * 1000


async def test_the_burst_is_one_and_the_others_wait_half_a_second_at_most() -> None:
    limit = RateLimit(10)  # in half a second 5 more get their turn
    loop = asyncio.get_running_loop()
    began = loop.time()

    found = await outcomes(limit, 20)

    assert 5 <= found.count("admitted") <= 6
    assert loop.time() - began < WAIT_SECONDS + 0.4


async def test_whose_turn_cannot_come_in_time_is_refused_at_once() -> None:
    """So a flood holds no more than half a second's worth of requests."""
    limit = RateLimit(4)
    waiting = [asyncio.create_task(limit.turn()) for _ in range(3)]
    await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()

    found = await outcomes(limit, 100)

    assert found.count("refused") >= 99
    assert asyncio.get_running_loop().time() - began < WAIT_SECONDS
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_rate_below_one_a_wait_is_refused_after_the_wait() -> None:
    limit = RateLimit(0.1)

    assert await outcomes(limit, 2) == ["admitted", "refused"]


async def test_another_share_is_taken_at_once() -> None:
    limit = RateLimit(0.1)
    await limit.turn()
    with pytest.raises(RefusedError):
        await limit.turn()

    limit.change(1000)
    await limit.turn()
    limit.change(0)

    assert limit.off


async def test_the_same_share_again_gives_no_second_burst() -> None:
    limit = RateLimit(0.1)
    await limit.turn()
    limit.change(0.1)

    with pytest.raises(RefusedError):
        await limit.turn()


@pytest.mark.parametrize("share", [0.0, 1000.0])
async def test_who_waits_is_refused_in_the_words_of_the_share_that_he_waits_for(
    share: float,
) -> None:
    limit = RateLimit(0.1)
    await limit.turn()
    waiting = asyncio.create_task(limit.turn())
    await asyncio.sleep(0)

    limit.change(share)

    with pytest.raises(RefusedError) as refused:
        await waiting
    assert limited(refused.value)
    assert refused.value.retry_after == 10


async def test_what_a_turn_raises_ends_the_run_of_all() -> None:
    """A bug there would lose a request, and its request id for as long as the signer runs."""
    turns, other = Turns(), asyncio.Event()

    async def bug() -> None:
        raise ZeroDivisionError

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            other.set()

    async def fine() -> None:
        pass

    for turn in (waits(), fine(), bug()):
        turns.begin(turn)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(turns.run(), 5)

    assert other.is_set()


async def test_turns_end_with_the_run() -> None:
    turns, ended = Turns(), asyncio.Event()

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    turns.begin(waits())
    running = asyncio.create_task(turns.run())
    await asyncio.sleep(0)
    await cancelled(running)

    assert ended.is_set()
