"""Who leads: leader-electors on a real server, in this process and as processes to be killed."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from events.envelope import encode_entry
from events.leadership import LeadershipAcquired, LeadershipReleased
from events.ledger import JetStreamLedger
from events.log import OutcomeUnknownError
from projections.authority import AuthorityState, Leader
from services.buckets import bucket
from services.leases import LeaderLease, read_leases
from tests.integration.leading import SUBJECTS, Site, ended, leader_is, running
from tests.ledger import assigned, ulid


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with Site.open(tmp_path) as opened:
        yield opened


def term_above(term: int) -> Callable[[AuthorityState], bool]:
    return lambda state: state.term > term


async def lease(site: Site) -> LeaderLease | None:
    return (await read_leases(site.nc, SUBJECTS)).leader


async def until_lease(site: Site, *, node: str, term: int) -> None:
    async with asyncio.timeout(10):
        while True:
            held = await lease(site)
            if held is not None and (held.node, held.term) == (node, term):
                return
            await asyncio.sleep(0.01)


async def leadership(site: Site) -> list[tuple[str, str, int]]:
    """Return what the ledger says of leadership, in order."""
    return [
        (event.TYPE.split(".")[2], event.node, event.term)
        for event in await site.events()
        if isinstance(event, LeadershipAcquired | LeadershipReleased)
    ]


async def test_the_holder_of_the_lease_leads_and_its_lease_tells_the_term(site: Site) -> None:
    async with running(await site.elector("a")):
        state = await site.until(leader_is("a"))
        await until_lease(site, node="a", term=1)

    assert state.leader == Leader(node="a", term=1)


async def test_a_clean_stop_ends_the_term_and_another_leads_at_once(site: Site) -> None:
    async with running(await site.elector("a", lease_seconds=30)) as stop:
        await site.until(leader_is("a"))
        async with running(await site.elector("b", lease_seconds=30)):
            stopped = time.monotonic()
            stop.set()
            await site.until(leader_is("b"))
            waited = time.monotonic() - stopped

            assert waited < 1.5
            assert await leadership(site) == [
                ("acquired", "a", 1),
                ("released", "a", 1),
                ("acquired", "b", 2),
            ]


async def test_the_last_one_that_stops_leaves_nobody_leading_and_no_lease(site: Site) -> None:
    async with running(await site.elector("a", lease_seconds=30)):
        await site.until(leader_is("a"))

    assert (await site.state()).leader is None
    assert await lease(site) is None


async def test_a_leader_that_the_ledger_forgot_leads_under_a_new_term(site: Site) -> None:
    """An append that a deposed elector still had in flight may be stored after the lease is won."""
    async with running(await site.elector("a")):
        await site.until(leader_is("a"))
        await site.acquired("b", term=2)

        state = await site.until(leader_is("a"))
        await until_lease(site, node="a", term=3)

    assert state.leader == Leader(node="a", term=3)


async def test_whoever_loses_the_lease_says_so_and_tries_again(site: Site) -> None:
    async with running(await site.elector("a")):
        await site.until(leader_is("a"))
        await until_lease(site, node="a", term=1)

        await bucket(site.nc, SUBJECTS.lease_bucket).purge(SUBJECTS.leader_lease())
        await site.until(lambda state: state.term == 2 and leader_is("a")(state))

    assert (await leadership(site))[:3] == [
        ("acquired", "a", 1),
        ("released", "a", 1),
        ("acquired", "a", 2),
    ]


async def test_after_kill_9_another_leads_within_twice_the_lease(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    first = site.start("leader-elector", "a")
    await site.until(leader_is("a"))
    async with running(await site.elector("b")):
        killed = time.monotonic()
        first.kill()
        state = await site.until(leader_is("b"))
        waited = time.monotonic() - killed

    with capsys.disabled():
        print(f"\nanother leads {waited:.2f} s after kill -9, with leases of 1 s")
    assert waited < 2
    assert state.leader == Leader(node="b", term=2)
    assert (await leadership(site))[:2] == [("acquired", "a", 1), ("acquired", "b", 2)]


async def test_an_elector_that_was_paused_past_its_lease_knows_that_it_lost_it(site: Site) -> None:
    paused = site.start("leader-elector", "a")
    await site.until(leader_is("a"))
    async with running(await site.elector("b")):
        paused.send_signal(signal.SIGSTOP)
        await site.until(leader_is("b"))
        paused.send_signal(signal.SIGCONT)
        await asyncio.sleep(2.5)  # in which it could do harm: twice the lease, and more

        assert await leadership(site) == [("acquired", "a", 1), ("acquired", "b", 2)]
        assert (await site.state()).leader == Leader(node="b", term=2)

    await site.until(leader_is("a"))  # it was alive all the time, and is next
    paused.send_signal(signal.SIGTERM)
    await ended(paused)
    assert (await leadership(site))[2:] == [
        ("released", "b", 2),
        ("acquired", "a", 3),
        ("released", "a", 3),
    ]


@pytest.mark.parametrize("step", ["lease_won", "acquired"])
async def test_f5_an_elector_killed_between_two_steps_is_followed_by_another(
    site: Site, step: str
) -> None:
    killed = site.start("leader-elector", "a", stop_at=f"leader_elector.{step}=KILL")
    await ended(killed, by=signal.SIGKILL)

    async with running(await site.elector("b")):
        state = await site.until(leader_is("b"))
        await until_lease(site, node="b", term=state.term)

    assert state.term == (1 if step == "lease_won" else 2)


async def test_a_leader_survives_a_restart_of_the_server(site: Site) -> None:
    async with running(await site.elector("a", lease_seconds=5)):
        await site.until(leader_is("a"))
        await until_lease(site, node="a", term=1)

        site.server.kill()
        site.server.start()
        await site.reconnected()
        await asyncio.sleep(5)  # as long as the lease: it was renewed, or is lost

        assert await leadership(site) == [("acquired", "a", 1)]


async def test_terms_only_rise_while_leaders_are_killed_again_and_again(site: Site) -> None:
    async with running(await site.elector("z")):
        for _ in range(10):
            process = site.start("leader-elector", "a")
            await bucket(site.nc, SUBJECTS.lease_bucket).purge(SUBJECTS.leader_lease())
            before = (await site.state()).term
            await site.until(term_above(before))
            process.kill()
            process.wait()

    terms = [term for kind, _, term in await leadership(site) if kind == "acquired"]
    assert terms == list(range(1, len(terms) + 1))
    assert len(terms) >= 10


async def test_an_append_without_its_grants_is_settled_by_a_new_term(site: Site) -> None:
    """One publish of an entry that says two messages, on an idle ledger: nobody could append."""
    signer = ulid()
    async with running(await site.elector("a", lease_seconds=30)):
        await until_lease(site, node="a", term=1)
        state = await site.state()
        events, _ = assigned([signer])
        torn = encode_entry(events, term=1, expected_sequence=state.position, messages=2)
        await site.nc.request(SUBJECTS.authority, torn, timeout=5)
        await until_lease(site, node="a", term=2)
        state = await site.state()

    assert state.leader == Leader(node="a", term=2)
    assert not state.signers


async def test_an_outcome_that_is_unknown_when_the_lead_ends_ends_the_run(site: Site) -> None:
    """Rule 6 of architecture 3.1: the append may be stored at any time after; whoever is started
    next folds before it decides."""
    elector = await site.elector("a", lease_seconds=1)
    run = asyncio.create_task(elector.run(asyncio.Event()))
    await until_lease(site, node="a", term=1)
    lock = elector._deciding._ledger
    assert isinstance(lock, JetStreamLedger)
    async with lock._authority:  # as while another try waits for its answer
        await bucket(site.nc, SUBJECTS.lease_bucket).purge(SUBJECTS.leader_lease())
        async with asyncio.timeout(10):
            with pytest.raises(OutcomeUnknownError):
                await run

    assert await lease(site) is None
