"""Answers `status.get`: the leader at once, the others a little later, should nobody lead."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from events import jetstream
from events.log import Ledger, LedgerError
from events.subjects import Subjects
from projections.disk import ReplacedError
from projections.faults import FaultCounter, Faults
from projections.issuance import IssuanceReader
from services.leases import Leases, read_leases
from services.metrics import Connections
from services.nats_access.asker import answer, may_answer
from services.root_manager.manager import CaManager
from services.root_manager.status import Facts, status

OTHERS_WAIT_SECONDS: Final = 0.5  # so that the first answer is the leader's, if there is one
READ_SECONDS: Final = 2.0  # at most, to read leases and the ledger's end
COUNT_SECONDS: Final = 1.0  # at most, to count what is wrong; the count goes on
REPLIES_MAX: Final = 64  # to whoever asks while an answer is made; who comes after asks again

log = structlog.get_logger()


class Reporting:
    """One at a time: whoever asks while an answer is made gets that one."""

    def __init__(
        self,
        nc: Client,
        subjects: Subjects,
        *,
        node: str,
        ledger: Ledger,
        manager: CaManager,
        index: IssuanceReader,
        projections: Path,
        connections: Connections,
    ) -> None:
        self._nc = nc
        self._subjects = subjects
        self._node = node
        self._ledger = ledger
        self._manager = manager
        self._index = index
        self._connections = connections
        self._counter = FaultCounter(projections)
        self._counting: asyncio.Task[Faults] | None = None
        self._faults: Faults | None = None
        self._replies: set[str] = set()
        self._asked = asyncio.Event()

    async def run(self) -> None:
        """Answer until cancelled. The authority must have been folded once."""
        await self._nc.subscribe(self._subjects.status_get, cb=self._heard)
        while True:
            await self._asked.wait()
            if not self._leads():
                await asyncio.sleep(OTHERS_WAIT_SECONDS)
            told = msgspec.json.encode(status(await self.facts()))
            replies, self._replies = self._replies, set()
            self._asked.clear()
            await answer(self._nc, replies, told)

    async def facts(self) -> Facts:
        """Find out what there is to tell, now."""
        leases, last, durable = await asyncio.gather(
            self._leases(), self._last_sequence(), self._durable_requests()
        )
        faults = await self._count()
        manager = self._manager
        return Facts(
            node=self._node,
            now=manager.tools.clock.now(),
            state=manager.tools.state,
            leases=leases,
            last_sequence=last,
            durable_requests=durable,
            projected=self._projected(),
            failures=manager.attempts.failures if self._leads() else (),
            initialising=manager.initialising,
            faults=faults,
            agent=self._connections.validity(),
        )

    async def _heard(self, asked: Msg) -> None:
        if may_answer(asked.reply) and len(self._replies) < REPLIES_MAX:
            self._replies.add(asked.reply)
            self._asked.set()

    def _leads(self) -> bool:
        leader = self._manager.tools.state.leader
        return leader is not None and leader.node == self._node

    def _projected(self) -> int:
        with suppress(sqlite3.Error):  # the disk fails, or the file is locked
            return self._index.position()
        return 0

    async def _leases(self) -> Leases | None:
        with suppress(LedgerError, TimeoutError):
            async with asyncio.timeout(READ_SECONDS):
                return await read_leases(self._nc, self._subjects)
        return None

    async def _last_sequence(self) -> int | None:
        with suppress(LedgerError, TimeoutError):
            async with asyncio.timeout(READ_SECONDS):
                return await self._ledger.last_sequence()
        return None

    async def _durable_requests(self) -> int | None:
        with suppress(LedgerError, TimeoutError):
            async with asyncio.timeout(READ_SECONDS):
                return (
                    await jetstream.stream_state(self._nc, self._subjects.submit_stream)
                ).messages
        return None

    async def _count(self) -> Faults | None:
        """Return what was counted up to now, or the last time where that takes too long."""
        if self._counting is None:
            self._counting = asyncio.create_task(asyncio.to_thread(self._counter.look))
        await asyncio.wait({self._counting}, timeout=COUNT_SECONDS)
        if self._counting.done():
            with suppress(OSError, sqlite3.Error, ReplacedError):  # there is no file to read now
                self._faults = self._counting.result()
            self._counting = None
        return self._faults
