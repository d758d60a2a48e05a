"""Leases on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from services.buckets import LastValues, bucket
from services.clock import SystemClock, SystemEntropy
from services.leases import LeaderLease, Lease, LeaseLostError, SignerLease, read_leases
from services.waiting import cancelled
from tests.integration.leading import SUBJECTS, Site

KEY = SUBJECTS.leader_lease()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with Site.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def values(site: Site) -> LastValues:
    return bucket(site.nc, SUBJECTS.lease_bucket)


def run_id() -> str:
    return SystemEntropy().ulid(SystemClock().now())


def value(node: str = "a", *, term: int = 0) -> LeaderLease:
    return LeaderLease(node=node, term=term, holder=run_id())


def lease(site: Site, *, ttl_seconds: int = 60) -> Lease:
    return Lease(site.nc, SUBJECTS, KEY, ttl_seconds=ttl_seconds)


async def taken(mine: Lease, by: LeaderLease) -> float:
    """Take a lease as soon as it is free; return how long that took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(20):
        while not await mine.take(by):
            await asyncio.sleep(0.01)
    return loop.time() - began


async def test_a_lease_is_held_by_one(site: Site) -> None:
    first, second = lease(site), lease(site)

    assert await first.take(value("a"))
    assert not await second.take(value("b"))
    assert (first.held, second.held) == (True, False)


async def test_a_released_lease_is_free_at_once(site: Site) -> None:
    first, second = lease(site), lease(site)
    assert await first.take(value("a"))

    await first.release()

    assert not first.held
    assert await second.take(value("b"))


async def test_a_lease_that_is_not_renewed_ends_by_itself(site: Site) -> None:
    first, second = lease(site, ttl_seconds=1), lease(site)
    assert await first.take(value("a"))

    waited = await taken(second, value("b"))

    assert 0.5 < waited < 2
    assert not first.held
    with pytest.raises(LeaseLostError):
        await first.put(value("a", term=1))


async def test_a_lease_that_is_kept_outlives_its_time_to_live(site: Site) -> None:
    first, second = lease(site, ttl_seconds=1), lease(site)
    assert await first.take(value("a"))
    keeping = asyncio.create_task(first.keep())

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2.5):
            await taken(second, value("b"))

    assert first.held
    keeping.cancel()


async def test_what_a_lease_holds_can_change(site: Site) -> None:
    mine = lease(site)
    assert await mine.take(value("a"))

    await mine.put(value("a", term=7))

    held = (await read_leases(site.nc, SUBJECTS)).leader
    assert held is not None
    assert (held.node, held.term) == ("a", 7)


async def test_a_renewal_never_undoes_a_change(site: Site) -> None:
    mine = lease(site)
    assert await mine.take(value("a"))

    for term in range(1, 20):
        told = value("a", term=term)
        await asyncio.gather(mine.renew(), mine.put(told), mine.renew())

        assert (await read_leases(site.nc, SUBJECTS)).leader == told


async def test_a_release_that_cuts_off_a_renewal_still_frees_the_lease(site: Site) -> None:
    """Whether the renewal was stored is not known; no delay may make a difference."""
    for delay in range(0, 2000, 100):
        mine = lease(site)
        assert await mine.take(value("a"))
        renewing = asyncio.create_task(mine.put(value("a", term=1)))
        await asyncio.sleep(delay / 1e6)
        await cancelled(renewing)

        await mine.release()

        assert (await read_leases(site.nc, SUBJECTS)).leader is None


async def test_the_holder_notices_that_another_has_it(site: Site, values: LastValues) -> None:
    mine = lease(site, ttl_seconds=1)
    assert await mine.take(value("a"))

    await values.write(KEY, msgspec.json.encode(value("b")), expected=mine.revision)

    with pytest.raises(LeaseLostError):
        async with asyncio.timeout(1):
            await mine.keep()
    assert not mine.held


async def test_a_renewal_whose_answer_was_lost_is_recognised(
    site: Site, values: LastValues
) -> None:
    """It was stored, and so the next one expects a revision that is not the last any more."""
    mine, told = lease(site), value("a")
    assert await mine.take(told)
    await values.write(KEY, msgspec.json.encode(told), expected=mine.revision)

    await mine.put(told)

    assert mine.held


async def test_a_take_whose_answer_was_lost_is_recognised(site: Site, values: LastValues) -> None:
    mine, told = lease(site), value("a")
    await values.write(KEY, msgspec.json.encode(told), expected=0)

    assert await mine.take(told)


async def test_a_late_renewal_does_not_take_the_lease_back(site: Site, values: LastValues) -> None:
    first, second = lease(site), lease(site)
    assert await first.take(value("a"))
    stale = first.revision
    await first.release()
    assert await second.take(value("b"))

    with pytest.raises(Exception, match="revision"):
        await values.write(KEY, msgspec.json.encode(value("a")), expected=stale)

    await second.put(value("b", term=1))
    assert second.held


async def test_a_holder_whose_server_is_away_gives_up_in_time(site: Site) -> None:
    mine = lease(site, ttl_seconds=1)
    assert await mine.take(value("a"))
    site.server.kill()

    with pytest.raises(LeaseLostError):
        async with asyncio.timeout(3):
            await mine.keep()

    site.server.start()
    await site.reconnected()


async def test_all_leases_are_read_and_what_is_none_is_named(
    site: Site, values: LastValues
) -> None:
    leader, signer, gone = value("a", term=3), run_id(), run_id()
    assert await lease(site).take(leader)
    mine = SignerLease(signer=signer, node="a", slot=1, stopping=True)
    for run in (signer, gone):
        held = Lease(site.nc, SUBJECTS, SUBJECTS.signer_lease(run), ttl_seconds=60)
        assert await held.take(SignerLease(signer=run, node="a", slot=1))
        if run == gone:
            await held.release()
        else:
            await held.put(mine)
    foreign = run_id()
    for key, data in {
        SUBJECTS.signer_lease(foreign): msgspec.json.encode(mine),  # says that it is another's
        "signer.x": b"{}",
        "else": b"\xff",
        "large": b"[" * 5000,
    }.items():
        await values.write(key, data, expected=0)

    leases = await read_leases(site.nc, SUBJECTS)

    assert leases.leader == leader
    assert leases.signers == (mine,)
    assert sorted(leases.unreadable) == sorted(
        [SUBJECTS.signer_lease(foreign), "signer.x", "else", "large"]
    )
