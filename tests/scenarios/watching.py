"""A crowd that watches the trust bundle, in a process of its own: who has which bundle from when.

`python -m tests.scenarios.watching` reads a `Watch` from stdin, prints an `Arrived` for each bundle
once everybody has it, and `Seen` once its stdin ends.
"""

from __future__ import annotations

import asyncio
import sys
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
from nats.aio.msg import Msg

from events.base import Struct
from projections.bundle import Roots
from services.asking import NoAnswerError
from services.cli.common import find
from services.client import ROOTS_POLL_SECONDS, CaClient
from services.process import log_to_stderr
from tests.scenarios.caledger import Datacenter
from tests.verifiers import pem_chain

BEGIN_SECONDS = 60.0
ARRIVE_SECONDS = 60.0
END_SECONDS = 30.0
LINE_BYTES_MAX = 256 * 1024 * 1024


class Watch(Struct):
    """Who watches, and where."""

    servers: tuple[str, ...]
    datacenter: str
    creds: str | None
    ca: str | None
    watchers: int
    readers: (
        int  # of them by our client, which reads what it is told of; others take what is pushed
    )
    connections: int  # shared by them evenly


class Arrived(Struct):
    """A bundle that everybody has; moments in seconds since 1970, by this machine's clock."""

    sequence: int  # its LedgerSequence
    first: float
    last: float

    @property
    def spread(self) -> float:
        """How long after the first watcher the last one had it, in seconds."""
        return self.last - self.first


class Got(Struct, array_like=True):
    """What one watcher has from a moment on."""

    at: float
    sequence: int


class Seen(Struct):
    """All that the crowd saw."""

    bundles: dict[int, bytes]  # by LedgerSequence
    watchers: tuple[tuple[Got, ...], ...]  # each one's own, in the order in which they came
    contradictions: tuple[int, ...]  # sequences of which two differ
    interrupted: int  # how often a watcher got no answer, and began to watch again

    def arrivals(self) -> list[Arrived]:
        """Return when each bundle arrived, in the ledger's order; whoever has a later one has it.

        One that somebody never got nor passed has no place here: he has the one before for ever.
        """
        found = []
        for sequence in sorted(self.bundles):
            times = [_from(watcher, sequence) for watcher in self.watchers]
            known = [at for at in times if at is not None]
            if len(known) == len(times):
                found.append(Arrived(sequence=sequence, first=min(known), last=max(known)))
        return found

    def roots(self, sequence: int) -> tuple[bytes, ...]:
        """Return the roots of a bundle, DER."""
        roots = msgspec.json.decode(self.bundles[sequence], type=Roots).roots
        return tuple(der for root in roots for der in pem_chain(root.root_cert))


def held_by_all(arrivals: Sequence[Arrived], at: float) -> int:
    """Return the sequence of the oldest bundle that anybody had at a moment."""
    known = bisect_right(arrivals, at, key=lambda arrived: arrived.last)
    assert known, "before everybody had the first one"
    return arrivals[known - 1].sequence


def _from(watcher: Sequence[Got], sequence: int) -> float | None:
    """Return from when on a watcher had this bundle or a later one."""
    return next((got.at for got in watcher if got.sequence >= sequence), None)


# Who started the crowd.


class Crowd:
    """The process, as the scenario sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._arrived: dict[int, asyncio.Future[Arrived]] = {}
        self._seen: asyncio.Future[Seen] = asyncio.get_running_loop().create_future()

    async def all_have(self, sequence: int) -> Arrived:
        """Wait until everybody has the bundle of this sequence."""
        return await asyncio.wait_for(asyncio.shield(self._of(sequence)), ARRIVE_SECONDS)

    @property
    def longest_spread(self) -> float:
        """The longest that a bundle took so far from the first watcher to the last, in seconds."""
        return max(future.result().spread for future in self._arrived.values() if future.done())

    async def end(self) -> Seen:
        """Stop watching; return all that was seen."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return await asyncio.wait_for(asyncio.shield(self._seen), END_SECONDS)

    async def read(self) -> None:
        """Take in what the process tells, until it ends."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            told = msgspec.json.decode(line, type=_Told)
            if told.arrived is not None:
                self._of(told.arrived.sequence).set_result(told.arrived)
            if told.seen is not None:
                self._seen.set_result(told.seen)
        assert self._seen.done(), "the watchers have ended: what they say stands above"

    def _of(self, sequence: int) -> asyncio.Future[Arrived]:
        return self._arrived.setdefault(sequence, asyncio.get_running_loop().create_future())


@asynccontextmanager
async def watching(
    caledger: Datacenter, *, watchers: int, readers: int, connections: int
) -> AsyncIterator[Crowd]:
    """Have a crowd watch; entered, everybody has the current bundle."""
    target = find(data=caledger.data, context=None, user="admin", datacenter=None, environment={})
    watch = Watch(
        servers=target.servers,
        datacenter=target.datacenter,
        creds=str(target.creds) if target.creds is not None else None,
        ca=str(target.ca) if target.ca is not None else None,
        watchers=watchers,
        readers=readers,
        connections=connections,
    )
    now = msgspec.json.decode(await (await caledger.client()).roots(), type=Roots)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.scenarios.watching"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(watch) + b"\n")
        crowd = Crowd(process)
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(crowd.read())
            async with asyncio.timeout(BEGIN_SECONDS):
                await crowd.all_have(now.ledger_sequence)
            yield crowd
            with suppress(asyncio.InvalidStateError):
                process.stdin.close()
            await reading
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


# The process.


class _Told(Struct, omit_defaults=True):
    arrived: Arrived | None = None
    seen: Seen | None = None


class _Sequence(Struct):
    sequence: int = msgspec.field(name="LedgerSequence")


class _Record:
    """What each watcher has, and had."""

    def __init__(self, watchers: int) -> None:
        self._watchers: list[list[Got]] = [[] for _ in range(watchers)]
        self._bundles: dict[int, bytes] = {}
        self._times: dict[int, list[float]] = {}
        self._contradictions: list[int] = []
        self._interrupted = 0

    async def read(self, client: CaClient, watcher: int) -> None:
        """Watch for ever by our client: again with what one has, where nobody answers."""
        while True:
            try:
                async for bundle in client.watch_roots():
                    self._got(watcher, bundle)
            except NoAnswerError:
                self._interrupted += 1

    async def hear(self, client: CaClient, watcher: int) -> None:
        """Watch for ever what is pushed; what there is already is read, and after a silence."""
        pushed: asyncio.Queue[Msg] = asyncio.Queue()
        await client.nc.subscribe(client.subjects.roots_changed, cb=pushed.put)
        bundle = await client.stored_roots(timeout=BEGIN_SECONDS)
        while True:
            self._got(watcher, bundle)
            try:
                async with asyncio.timeout(ROOTS_POLL_SECONDS):
                    bundle = (await pushed.get()).data
            except TimeoutError:
                bundle = await client.stored_roots(timeout=BEGIN_SECONDS)

    def _got(self, watcher: int, bundle: bytes) -> None:
        now = time.time()
        mine = self._watchers[watcher]
        sequence = msgspec.json.decode(bundle, type=_Sequence).sequence
        if self._bundles.setdefault(sequence, bundle) != bundle:
            self._contradictions.append(sequence)
        before = mine[-1].sequence if mine else 0
        if sequence <= before:
            return  # nobody goes back
        mine.append(Got(at=now, sequence=sequence))
        self._times.setdefault(sequence, [])
        for passed, times in self._times.items():
            if before < passed <= sequence:
                times.append(now)
                if len(times) == len(self._watchers):
                    _tell(_Told(arrived=Arrived(sequence=passed, first=times[0], last=now)))

    def seen(self) -> Seen:
        """Return all of it."""
        return Seen(
            bundles=self._bundles,
            watchers=tuple(map(tuple, self._watchers)),
            contradictions=tuple(self._contradictions),
            interrupted=self._interrupted,
        )


def _tell(told: _Told) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
    sys.stdout.buffer.flush()


async def main() -> None:
    """Watch until stdin ends."""
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin
    )
    watch = msgspec.json.decode(await stdin.readline(), type=Watch)
    clients = [
        await CaClient.connect(
            watch.servers,
            datacenter=watch.datacenter,
            creds=Path(watch.creds) if watch.creds is not None else None,
            ca=Path(watch.ca) if watch.ca is not None else None,
            name="watchers",
        )
        for _ in range(watch.connections)
    ]
    record = _Record(watch.watchers)
    ended = asyncio.create_task(stdin.read())
    watching = [
        asyncio.create_task(
            (record.read if number < watch.readers else record.hear)(
                clients[number % len(clients)], number
            )
        )
        for number in range(watch.watchers)
    ]
    await asyncio.wait({ended, *watching}, return_when=asyncio.FIRST_COMPLETED)
    for task in watching:
        if task.done():
            task.result()
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    _tell(_Told(seen=record.seen()))
    for client in clients:
        await client.close()


if __name__ == "__main__":
    log_to_stderr(level="warning")
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
