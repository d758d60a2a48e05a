"""Who kills, stops and deposes the servers of a cluster, one at a time."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

from nats.aio.client import Client

from services import transport
from services.clock import SystemClock
from services.nats_access import jwt, provision, seeds, users
from services.nats_access.permissions import Permissions
from services.setup_node import nats_kek
from tests.nats import ask_api, leader_of
from tests.scenarios.cluster import SERVERS, Cluster
from tests.scenarios.second_node import stands_still

NAME: Final = "nemesis"
FAULTS: Final = ("kill a follower", "kill the leader", "pause the leader", "step down")
FAULT_SECONDS: Final = 60.0  # for one of them to be over
DOWN_SECONDS: Final = (0.5, 4.0)  # that a killed server stays away
PAUSE_SECONDS: Final = (2.0, 8.0)  # until a server is missed: 2 s by clients, 4 to 9 s by followers


class Nemesis:
    """Does what it is told to the servers of the ledger's stream, and counts it."""

    def __init__(self, cluster: Cluster, nc: Client, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self.moved = 0  # how often somebody else led afterwards
        self._cluster = cluster
        self._nc = nc
        self._random = random.Random(seed)
        self._stream = provision.load(cluster.data).subjects.ledger_stream

    @classmethod
    @asynccontextmanager
    async def of(cls, cluster: Cluster, seed: int) -> AsyncIterator[Self]:
        """Connect with the rights that none of our workers has."""
        nc = await transport.connect(
            cluster.node.nats.servers,
            creds=_make_user(cluster),
            ca=cluster.node.nats.ca,
            name=NAME,
        )
        try:
            yield cls(cluster, nc, seed)
        finally:
            await nc.close()

    def plan(self, times: int) -> list[str]:
        """Return each fault so many times, in any order."""
        return self._random.sample(FAULTS * times, len(FAULTS) * times)

    async def do(self, fault: str) -> None:
        """Do one fault, and return once it is over: every server runs again."""
        async with asyncio.timeout(FAULT_SECONDS):
            leader = await leader_of(self._nc, self._stream)
            match fault:
                case "kill a follower":
                    others = [name for name in SERVERS if name != leader]
                    await self._kill(self._random.choice(others))
                case "kill the leader":
                    await self._kill(leader)
                case "pause the leader":
                    await self._pause(leader)
                case "step down":
                    await self._step_down()
                case _:
                    raise AssertionError(fault)
            self.done[fault] += 1
            self.moved += await leader_of(self._nc, self._stream) != leader

    async def _kill(self, name: str) -> None:
        server = self._cluster.servers[name]
        server.kill()
        await asyncio.sleep(self._random.uniform(*DOWN_SECONDS))
        await server.start()

    async def _pause(self, name: str) -> None:
        pid = self._cluster.servers[name].pid
        os.kill(pid, signal.SIGSTOP)
        try:
            await stands_still(pid)
            await asyncio.sleep(self._random.uniform(*PAUSE_SECONDS))
        finally:
            os.kill(pid, signal.SIGCONT)

    async def _step_down(self) -> None:
        while not (await ask_api(self._nc, f"STREAM.LEADER.STEPDOWN.{self._stream}")).get(
            "success"
        ):
            await asyncio.sleep(0.1)


def _make_user(cluster: Cluster) -> Path:
    """Make a user of account CA, as whoever has the folder of ca1 can, and return its creds."""
    layout = provision.load(cluster.data)
    stream = layout.subjects.ledger_stream
    creds = cluster.folder / f"{NAME}.creds"
    verbs = ("INFO", "LEADER.STEPDOWN")
    users.issue(
        creds,
        seeds.Nkey.generate(seeds.Kind.USER),
        name=NAME,
        allowed=Permissions(
            publish=tuple(f"$JS.API.STREAM.{verb}.{stream}" for verb in verbs),
            subscribe=(f"{layout.subjects.inbox_prefix(NAME)}.>",),
        ),
        signer=seeds.load(layout.seed("ca-signing"), nats_kek(cluster.data)),
        account=jwt.read(layout.token("ca")).sub,
        issued=SystemClock().now(),
    )
    return creds
