"""Many clients at once, and a server that dies under them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.scenarios.caledger import Caledger
from tests.scenarios.checking import Ledger, check, none_double, none_missing
from tests.scenarios.load import Answer, Load, endless, requests

SERVER_KILLS = 10
ANSWERS_BETWEEN_KILLS = 100
THROUGH_KILLS_SECONDS = 60.0  # a server that was just started again is started later each time


@pytest.mark.slow
async def test_ten_thousand_requests_of_64_clients_are_all_answered_and_none_twice(
    tmp_path: Path,
) -> None:
    """Goal: a crowd gets what each one asked for, once, and the ledger proves it.

    Method: 10,000 requests for 1,000 identities from 64 concurrent clients; then every answer is
    compared with the ledger, and the ledger verified.
    """
    async with Caledger(tmp_path) as caledger:
        load = await Load.on(caledger, requests(10_000, identities=1_000), clients=64)
        await load.run()
        print(load.figures())

        load.all_answered()
        ledger = await check(caledger, load)
        assert len(ledger.leaves) == len(load.answers) == 10_000
        _a_fault_would_have_been_seen(ledger, load.answers)


def _a_fault_would_have_been_seen(ledger: Ledger, answers: Sequence[Answer]) -> None:
    """Show that the checks of all scenarios can fail: damage what they were just content with."""
    first, *others = ledger.leaves
    with pytest.raises(AssertionError, match="acknowledged, but not on the ledger"):
        none_missing(replace(ledger, leaves=tuple(others)), answers)
    with pytest.raises(AssertionError, match="1 certificates that nobody got"):
        none_missing(ledger, answers[1:])
    with pytest.raises(AssertionError, match="1 times a request twice"):
        none_double(replace(ledger, leaves=(*ledger.leaves, first)))


@pytest.mark.slow
async def test_no_acknowledged_certificate_is_lost_when_the_server_is_killed_ten_times(
    tmp_path: Path,
) -> None:
    """Goal: workers recover by themselves from the death of nats-server; an answer stays true.

    Method: kill -9 of nats-server 10 times while 16 clients ask without pause, each time after at
    least 100 more answers; the supervisor starts it again on the same data. No worker is helped.
    Every request must be answered, and stand on the ledger once.
    """
    async with Caledger(tmp_path) as caledger:
        load = await Load.on(
            caledger,
            endless(requests(200, identities=200)),
            clients=16,
            deadline=THROUGH_KILLS_SECONDS,
        )
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(load.run())
            for _ in range(SERVER_KILLS):
                await load.answered(ANSWERS_BETWEEN_KILLS)
                killed = caledger.kill("nats-server")
                await caledger.restarted("nats-server", instead_of=killed)
            await load.answered(ANSWERS_BETWEEN_KILLS)
            load.enough()
            await running
        print(load.figures())

        load.all_answered()
        assert caledger.log.count("nats-server    | was ended by SIGKILL") == SERVER_KILLS
        await check(caledger, load)
