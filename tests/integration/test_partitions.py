"""Partitions as a real nats-server makes them: `ledger verify` must tell them by itself."""

from __future__ import annotations

import asyncio

from nats.aio.client import Client
from nats.aio.msg import Msg

from events.subjects import Subjects, partition_of

SUBJECTS = Subjects("dc1")
NAMES = ["web", "api", "db", "billing.eu", "a b", "ü", "*", ">", "x" * 128, "-", "100%", "0"]


async def _heard(nc: Client, sent: list[str]) -> dict[str, int]:
    """Return which partition the server sends each subject to."""
    heard: dict[str, int] = {}
    complete = asyncio.Event()

    async def note(message: Msg) -> None:
        _, _, _, partition, *tokens = message.subject.split(".")
        heard[".".join(tokens)] = int(partition)
        if len(heard) == len(sent):
            complete.set()

    await nc.subscribe("ca.dc1.work.>", cb=note)
    for subject in sent:
        await nc.publish(subject, b"")
    async with asyncio.timeout(10):
        await complete.wait()
    return heard


async def test_a_real_server_sends_every_identity_to_the_partition_that_we_say(nc: Client) -> None:
    sent = [SUBJECTS.sign("service", name) for name in NAMES]
    sent += [SUBJECTS.sign("service", f"service-{number}") for number in range(50)]
    sent += ["ca.dc1.sign.server", "ca.dc1.sign.gateway"]

    heard = await _heard(nc, sent)

    assert heard == {
        (tokens := subject.removeprefix("ca.dc1.sign.")): partition_of(*tokens.split("."))
        for subject in sent
    }
    assert (heard["service.web"], heard["service.billing%2Eeu"], heard["server"]) == (50, 37, 18)
