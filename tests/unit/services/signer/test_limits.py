"""The limits: Consul's burst of one, its wait of half a second, its words; all in virtual time."""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from functools import wraps
from typing import Any, TypeVarTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.authority import CAConfig
from events.signers import Assignment
from services.refusals import RefusedError
from services.root_manager.assignment import SignerRun, assign
from services.signer import limits
from services.signer.holdings import Holdings
from services.signer.limits import WAIT_SECONDS, Bucket, Limits, Turns
from services.signer.work import Work
from services.waiting import cancelled

HALF = WAIT_SECONDS

Arguments = TypeVarTuple("Arguments")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it."""

    class Jump(selectors.SelectSelector):
        now = 0.0

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            assert timeout is not None, "everybody waits for ever"
            self.now += max(0.0, timeout)
            return super().select(0)

    def __init__(self) -> None:
        self.jump = self.Jump()
        super().__init__(self.jump)

    def time(self) -> float:
        return self.jump.now

    def call_at(
        self,
        when: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        assert when < 1e9, "uvloop, which signers run on, takes no such time"
        return super().call_at(when, callback, *args, context=context)


def run_virtually(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Have an asynchronous test run in virtual time."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtually(test(*args, **kwargs))

    return run


def work(body: bytes = b"") -> Work:
    return Work(subject="s", partition=0, body=body, requester=None, heard=0.0, replies=["r"])


def share(*, rate: float = 0.0, concurrent: int = 0) -> Holdings:
    return Holdings(grant_sequence=1, rate_per_second=rate, concurrent=concurrent)


NO_GRANT = Holdings()


def under(*, rate: float = 0.0, concurrent: int = 0) -> Limits:
    """Return the limits of a grant that was taken up just now."""
    found = Limits()
    found.change(share(rate=rate, concurrent=concurrent))
    return found


def now() -> float:
    return asyncio.get_running_loop().time()


def limited(error: object) -> bool:
    return (
        isinstance(error, RefusedError)
        and (error.code, error.message) == ("rate_limited", "Rate limit reached, try again later")
        and error.retry_after is not None
    )


async def outcomes(limit: Limits, works: Iterable[Work]) -> list[str]:
    found = await asyncio.gather(*(limit.turn(each) for each in works), return_exceptions=True)
    assert all(one is None or limited(one) for one in found), found
    return ["admitted" if one is None else "refused" for one in found]


def works(number: int) -> list[Work]:
    return [work() for _ in range(number)]


async def waiting(limit: Limits, each: Work) -> asyncio.Task[None]:
    """Have one wait for its turn."""
    before = limit.waiting
    task = asyncio.create_task(limit.turn(each))
    await asyncio.sleep(0)
    assert limit.waiting == before + 1
    return task


# --- the rate


@virtual
async def test_zero_is_no_limit() -> None:
    limit = under()

    assert await outcomes(limit, works(1000)) == ["admitted"] * 1000
    assert now() == 0


@virtual
async def test_without_a_grant_nothing_begins() -> None:
    limit = Limits()

    assert await outcomes(limit, works(2)) == ["refused"] * 2


@virtual
async def test_the_burst_is_one_and_the_others_wait_half_a_second_at_most() -> None:
    limit = under(rate=10)
    await asyncio.sleep(60)  # what nobody takes is not saved up
    began = now()

    found = await outcomes(limit, works(20))

    assert found == ["admitted"] * 6 + ["refused"] * 14  # one at once, five in half a second
    assert now() - began == pytest.approx(HALF)


@virtual
async def test_a_share_that_begins_has_no_token_yet() -> None:
    """The partition's signer before may have just used its own."""
    limit = under(rate=4)
    each = work()

    assert not limit.admit(each)
    await limit.turn(each)

    assert now() == pytest.approx(1 / 4)
    assert limit.admit(each), "who is admitted stays so"


@virtual
async def test_whose_turn_cannot_come_in_time_is_refused_at_once() -> None:
    """So a flood holds no more than half a second's worth of requests."""
    limit = under(rate=4)
    first = [await waiting(limit, each) for each in works(2)]

    assert await outcomes(limit, works(100)) == ["refused"] * 100
    assert now() == 0
    await asyncio.gather(*first)


@virtual
async def test_a_refusal_says_when_asking_again_can_help() -> None:
    for rate, seconds in ((0.1, 10), (100.0, 0.5), (5e-324, 3600)):
        limit = under(rate=rate)
        for each in works(int(rate)):
            asyncio.create_task(limit.turn(each)).add_done_callback(lambda task: task.exception())
        await asyncio.sleep(0)
        with pytest.raises(RefusedError) as refused:
            await asyncio.gather(*(limit.turn(each) for each in works(100)))
        assert limited(refused.value)
        assert refused.value.retry_after == seconds


@virtual
async def test_who_waits_when_the_share_grows_is_not_lost_and_gains_by_it() -> None:
    limit = under(rate=2)
    task = await waiting(limit, work())
    await asyncio.sleep(0.25)  # half a token came

    limit.change(share(rate=10))
    await task

    assert now() == pytest.approx(0.25 + 0.05)


@virtual
async def test_who_waits_when_the_limit_ends_begins_at_once() -> None:
    limit = under(rate=2)
    tasks = [await waiting(limit, work())]

    limit.change(share())
    await asyncio.gather(*tasks)

    assert now() == 0
    assert limit.admit(work())


@virtual
async def test_who_waits_when_the_share_shrinks_waits_no_longer_than_half_a_second() -> None:
    limit = under(rate=2)
    task = await waiting(limit, work())

    limit.change(share(rate=0.1))
    with pytest.raises(RefusedError) as refused:
        await task

    assert limited(refused.value)
    assert refused.value.retry_after == 10
    assert now() == pytest.approx(HALF)
    assert limit.waiting == 0


@virtual
async def test_who_waits_when_the_share_shrinks_to_nearly_nothing_is_refused_in_time() -> None:
    limit = under(rate=4)
    task = await waiting(limit, work())

    limit.change(share(rate=5e-324))

    with pytest.raises(RefusedError):
        await task
    assert now() == pytest.approx(HALF)


@virtual
async def test_no_change_of_a_share_brings_a_token() -> None:
    limit = under(rate=0.1)
    await asyncio.sleep(10)
    assert limit.admit(work())

    for rate in (0.1, 0.2, 0.1, 0.1):
        limit.change(share(rate=rate))
        assert not limit.admit(work())


@pytest.mark.parametrize("none", [NO_GRANT, share()], ids=["no grant", "no limit"])
@virtual
async def test_a_token_that_was_saved_up_is_lost_with_the_share(none: Holdings) -> None:
    limit = under(rate=1)
    await asyncio.sleep(10)

    limit.change(none)
    await asyncio.sleep(10)
    limit.change(share(rate=1))

    assert not limit.admit(work())


@virtual
async def test_nobody_overtakes_who_waits_while_the_timer_is_late() -> None:
    limit = under(rate=4)
    first, second = works(2)
    task = await waiting(limit, first)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.jump.now += 0.3

    assert not limit.admit(second)
    await task
    assert first.admitted


@virtual
async def test_a_token_that_came_under_one_share_counts_under_the_next() -> None:
    limit = under(rate=1)
    await asyncio.sleep(0.9)

    limit.change(share(rate=0.1))
    await asyncio.sleep(1)

    assert limit.admit(work())


@virtual
async def test_a_late_timer_loses_nothing() -> None:
    """The event loop's timers are coarse, and a rate may be finer than they are."""
    limit = under(rate=10_000)

    found = await outcomes(limit, works(2_000))

    assert found == ["admitted"] * 2_000
    assert now() == pytest.approx(0.2, abs=0.005)


steps = st.lists(
    st.tuples(
        st.floats(0, 3),  # seconds that pass
        st.one_of(st.none(), st.sampled_from([0.0, 0.3, 1.0, 7.0, 50.0]), st.floats(1e-3, 100)),
        st.integers(0, 5),  # who try to take a token
    ),
    max_size=60,
)


@given(steps)
def test_no_sequence_of_shares_lets_more_through_than_the_rates_integral_and_one(
    history: list[tuple[float, float | None, int]],
) -> None:
    """Over every interval; from the first share on, not even that one."""
    bucket, at, integral, taken = Bucket(), 0.0, 0.0, 0
    lowest = 0.0  # of `taken - integral`, so far
    for seconds, rate, tries in history:
        at += seconds
        integral += seconds * bucket.rate
        if rate is not None:
            bucket.change(rate, at)
        lowest = min(lowest, taken - integral)
        taken += sum(bucket.take(at) for _ in range(tries) if bucket.rate)
        assert taken - integral <= 1e-6
        assert taken - integral - lowest <= 1 + 1e-6


class Flooded:
    """A signer under more requests than it may sign."""

    def __init__(self) -> None:
        self.limits = Limits()
        self.admitted: list[float] = []
        self._flood = asyncio.create_task(self._ask_for_ever())

    async def stop(self) -> None:
        self.limits.change(NO_GRANT)
        await cancelled(self._flood)

    async def _ask_for_ever(self) -> None:
        asking = set()
        while True:
            asking |= {asyncio.create_task(self._ask()) for _ in range(3)}
            await asyncio.sleep(0.05)
            asking = {task for task in asking if not task.done()}

    async def _ask(self) -> None:
        try:
            await self.limits.turn(work())
        except RefusedError:
            return
        self.admitted.append(now())


slots = st.sets(st.integers(0, 5), max_size=6)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(slots, st.sampled_from([2.0, 10.0, 30.0]), st.sampled_from([0.1, 0.7, 2.0])),
        min_size=1,
        max_size=12,
    )
)
def test_all_signers_together_keep_to_the_rate_while_they_come_and_go(
    history: list[tuple[set[int], float, float]],
) -> None:
    """Signers are killed, replaced and added, and the limit is set anew, under a flood."""

    async def run() -> None:
        signers: dict[int, tuple[str, Flooded]] = {}
        gone: list[Flooded] = []
        current: dict[str, Assignment] = {}
        integral = 0.0
        for number, (alive, rate, seconds) in enumerate(history):
            for slot in signers.keys() - alive:
                gone.append(signers.pop(slot)[1])
                await gone[-1].stop()
            for slot in alive - signers.keys():
                signers[slot] = f"01K2{number:011d}{slot:011d}", Flooded()
            runs = [
                SignerRun(signer=run, node="n", slot=slot) for slot, (run, _) in signers.items()
            ]
            config = CAConfig(csr_max_per_second=rate)
            table = assign(current, runs, signing_key_id="ab" * 32, config=config)
            current = {each.signer: each for each in table}
            assert sum(each.rate_per_second for each in table) == pytest.approx(rate if runs else 0)
            for name, signer in signers.values():
                signer.limits.change(share(rate=current[name].rate_per_second))
            await asyncio.sleep(seconds)
            integral += rate * seconds * bool(runs)
            everybody = [*gone, *(signer for _, signer in signers.values())]
            assert sum(len(signer.admitted) for signer in everybody) <= integral + 1e-6
        for _, signer in signers.values():
            await signer.stop()

    run_virtually(run())


@virtual
async def test_under_a_flood_the_rate_is_reached_however_often_the_shares_change() -> None:
    one, other = Flooded(), Flooded()
    for turn in range(200):
        first = 5.0 + 3 * (turn % 2)
        one.limits.change(share(rate=first))
        other.limits.change(share(rate=13 - first))
        await asyncio.sleep(0.1)
    for signer in (one, other):
        await signer.stop()

    assert 13 * 20 - 4 <= len(one.admitted) + len(other.admitted) <= 13 * 20


# --- how many at once


@virtual
async def test_39_no_more_are_under_way_than_the_share_says() -> None:
    """39. Concurrency limit 1: some succeed, others are limited after 500 ms."""
    limit = under(concurrent=1)
    first, second, third = works(3)
    assert limit.admit(first)
    waits = await waiting(limit, second)
    late = await waiting(limit, third)

    await asyncio.sleep(0.3)
    limit.end(first)
    await waits
    with pytest.raises(RefusedError) as refused:
        await late

    assert limited(refused.value)
    assert now() == pytest.approx(HALF)
    assert not limit.admit(third)
    limit.end(second)
    assert limit.admit(third)


@virtual
async def test_those_who_wait_come_in_their_order_and_before_those_who_come() -> None:
    limit = under(concurrent=1)
    first, second, third = works(3)
    assert limit.admit(first)
    came: list[Work] = []
    for each in (second, third):
        task = await waiting(limit, each)
        task.add_done_callback(lambda _, each=each: came.append(each))  # type: ignore[misc]

    limit.end(first)
    assert not limit.admit(work())
    limit.end(second)
    await asyncio.sleep(0.1)

    assert came == [second, third]


@virtual
async def test_a_work_that_ends_twice_or_was_never_under_way_frees_one_place_at_most() -> None:
    limit = under(concurrent=1)
    first, second = works(2)
    assert limit.admit(first)

    limit.end(work())
    assert not limit.admit(second)
    limit.end(first)
    assert limit.admit(second)
    limit.end(first)

    assert not limit.admit(work())


@virtual
async def test_a_work_that_ended_and_is_decided_once_more_is_admitted_anew() -> None:
    """A durable request is tried again."""
    for limit in (under(concurrent=1), under(rate=1)):
        await asyncio.sleep(1)
        again, other = works(2)
        assert limit.admit(again)
        limit.end(again)
        await asyncio.sleep(1)

        assert limit.admit(other)
        assert not limit.admit(again)


@virtual
async def test_the_rate_wins_over_the_number_at_once() -> None:
    """As in Consul."""
    limit = under(rate=10, concurrent=1)
    await asyncio.sleep(10)

    assert limit.admit(work())
    await limit.turn(work())
    await limit.turn(work())

    assert now() == pytest.approx(10.2)


@virtual
async def test_a_larger_share_lets_those_who_wait_begin_and_a_smaller_one_stops_nobody() -> None:
    limit = under(concurrent=1)
    begun = works(3)
    assert limit.admit(begun[0])
    tasks = [await waiting(limit, each) for each in begun[1:]]

    limit.change(share(concurrent=3))
    await asyncio.gather(*tasks)
    assert now() == 0
    limit.change(share(concurrent=1))

    for each in begun:
        assert not limit.admit(work())
        limit.end(each)
    assert limit.admit(work())


@virtual
async def test_those_who_wait_have_a_bounded_room(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = under(concurrent=1)
    assert limit.admit(work())
    flood = asyncio.gather(*(outcomes(limit, [each]) for each in works(limits.WAITING_MAX + 9)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert limit.waiting == limits.WAITING_MAX
    assert await outcomes(limit, works(1)) == ["refused"]
    assert now() == 0
    await flood
    large = work(b"x" * 60_000)
    monkeypatch.setattr(limits, "WAITING_BYTES_MAX", 2 * large.size)
    tasks = [await waiting(limit, work(large.body)) for _ in range(2)]
    began = now()
    assert await outcomes(limit, works(1)) == ["refused"]
    assert now() == began
    await asyncio.gather(*tasks, return_exceptions=True)
    assert now() == pytest.approx(began + HALF)
    await waiting(limit, large)  # they left their room


acts = st.lists(
    st.one_of(
        st.just("ask"),
        st.tuples(st.just("end"), st.integers(0, 20)),
        st.tuples(st.just("share"), st.integers(1, 5)),
        st.tuples(st.just("wait"), st.floats(0, 0.6)),
    ),
    max_size=80,
)


@settings(deadline=None)
@given(acts)
def test_no_admission_goes_beyond_the_share_and_no_free_place_stays_empty(
    history: list[str | tuple[str, Any]],
) -> None:
    async def run() -> None:
        allowed, limit = 2, under(concurrent=2)
        asked: deque[Work] = deque()
        begun: list[Work] = []
        tasks = []

        def look() -> None:
            new = [each for each in asked if each.admitted]
            assert not new or len(begun) + len(new) <= allowed
            begun.extend(new)
            for each in new:
                asked.remove(each)
            assert not limit.waiting or len(begun) >= allowed

        for act in history:
            match act:
                case "ask":
                    asked.append(work())
                    tasks.append(asyncio.create_task(limit.turn(asked[-1])))
                    await asyncio.sleep(0)
                case ("end", int(which)) if begun:
                    limit.end(begun.pop(which % len(begun)))
                case ("share", int(number)):
                    allowed = number
                    limit.change(share(concurrent=number))
                case ("wait", float(seconds)):
                    await asyncio.sleep(seconds)
                case _:
                    pass
            look()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (limit.waiting, limit._waiting_bytes) == (0, 0)

    run_virtually(run())


# --- turns


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
