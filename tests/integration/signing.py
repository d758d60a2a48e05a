"""A datacenter for tests of the signer: all real, but the test itself decides who signs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from events.authority import CAConfig
from events.base import PARTITIONS
from events.envelope import Recorded, decode_entry
from events.leadership import LeadershipAcquired
from events.leaves import LeafIssued, LeafRefusalsCounted, LeafRefused
from events.ledger import JetStreamLedger
from events.log import Ledger
from events.signers import Assignment, GrantGiven, GrantWithdrawn, SignersAssigned
from events.subjects import Subjects, partition_of
from projections.authority import AuthorityState
from projections.issuance import IssuanceReader
from projections.verify import Fault, Verifier
from services import streams
from services.buckets import bucket
from services.clock import Clock, SystemClock, SystemEntropy
from services.config import KeysSection, NatsSection, NodeConfig
from services.following import AuthorityFollower
from services.keys.kek import KeyEncryptionKey
from services.keys.sealed import SealedKeyStore
from services.replicator.worker import replicate
from services.root_manager.ceremony import Ceremony, Names
from services.root_manager.commands import Initialise
from services.root_manager.decide import Acting, Decision, decide
from services.root_manager.stamped import stamped
from services.signer.signer import Signer
from services.stamping import Stamper, source
from services.startup import Worker
from services.waiting import cancelled
from tests.factories import CLUSTER_ID, DATACENTER, TRUST_DOMAIN, csr_pem, service_uri

KEK = bytes(range(32))
NODE = "node1"
ALL = range(PARTITIONS)
ANSWER_SECONDS = 10.0


def new_run() -> str:
    """Return the id of a new run of a signer."""
    return SystemEntropy().ulid(SystemClock().now())


def partition(name: str = "web") -> int:
    """Return the partition of a service."""
    return partition_of("service", name)


def request(name: str = "web", request_id: str | None = None, csr: bytes | None = None) -> bytes:
    """Return the JSON body of a good request."""
    told = {"csr": (csr or csr_pem(uri=service_uri(name))).decode()}
    return json.dumps(told if request_id is None else {**told, "request_id": request_id}).encode()


class Answer:
    """What came back."""

    def __init__(self, message: Msg) -> None:
        self.body: bytes = message.data
        self.headers: Mapping[str, str] = message.headers or {}
        self.told: dict[str, Any] = json.loads(message.data)

    @property
    def code(self) -> str | None:
        """Return the error's code."""
        error = self.told.get("error")
        return error["code"] if error else None

    @property
    def serial(self) -> str:
        """Return the certificate's serial number as the ledger writes it, without leading zeros."""
        return f"{int(self.told['SerialNumber'].replace(':', ''), 16):x}"


class Running(NamedTuple):
    """A signer that runs in this process."""

    run: str
    signer: Signer


class Process:
    """A signer that runs in a process of its own, to be stopped and killed."""

    def __init__(self, run: str) -> None:
        self.run = run
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, url: str, projections: Path, environment: Mapping[str, str]) -> None:
        """Start it, and return once it follows the ledger."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.integration.signer_process"),
            *(url, str(projections), self.run),
            env={**os.environ, **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            assert await self._process.stdout.readline() == b"ready\n"

    @property
    def state(self) -> str:
        """Return what the kernel says of it: `T` is stopped, `Z` or nothing is dead."""
        assert self._process is not None
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except FileNotFoundError:
            return ""
        return stat.rpartition(")")[2].split()[0]

    async def is_stopped(self) -> bool:
        """Say whether it has come to its breakpoint, and stands there."""
        return self.state == "T"

    async def is_dead(self) -> bool:
        """Say whether it has ended."""
        return self.state in ("", "Z")

    def go_on(self) -> None:
        """Let it go on from where it stands."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def end(self) -> None:
        """Kill it."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


class Datacenter:
    """Streams, keys and an authority; the test plays leader-elector and root-manager."""

    def __init__(self, nc: Client, folder: Path) -> None:
        self.nc = nc
        self.subjects = Subjects(DATACENTER)
        self.ledger = JetStreamLedger(nc, self.subjects)
        self.projections = folder / "projections.sqlite"
        self.keystore = self.new_keystore(nc)
        self._follower = AuthorityFollower(self.ledger, DATACENTER)
        self._stamper = Stamper(
            source(DATACENTER, "root-manager", NODE), SystemClock(), SystemEntropy()
        )

    @classmethod
    async def begin(
        cls, nc: Client, folder: Path, *, config: CAConfig | None = None, replicas: int = 1
    ) -> Self:
        """Make everything up to the first grant."""
        dc = cls(nc, folder)
        await streams.create(nc, dc.subjects, replicas=replicas)
        await dc.initialise(config)
        return dc

    async def initialise(self, config: CAConfig | None = None) -> None:
        """Make the authority; the streams are there."""
        await self._append(
            Decision(events=(LeadershipAcquired(node=NODE, term=1, lease_revision=1),))
        )
        made = await self.make(config or CAConfig(csr_max_per_second=0))
        state = await self._follower.catch_up()
        await self._append(decide(state, Acting(node=NODE, term=1), made))

    async def make(self, config: CAConfig) -> Initialise:
        """Make keys and certificates."""
        ceremony = Ceremony(
            root_keys=SealedKeyStore(
                bucket(self.nc, self.subjects.root_keys_bucket),
                KeyEncryptionKey(KEK[::-1]),
                datacenter=DATACENTER,
                purpose="root",
            ),
            signing_keys=self.keystore,
            clock=SystemClock(),
            entropy=SystemEntropy(),
        )
        names = Names(datacenter=DATACENTER, cluster_id=CLUSTER_ID, trust_domain=TRUST_DOMAIN)
        return await ceremony.authority(names, config)

    def new_keystore(self, nc: Client) -> SealedKeyStore:
        """Return the signing keys, as a signer opens them."""
        return SealedKeyStore(
            bucket(nc, self.subjects.signing_keys_bucket),
            KeyEncryptionKey(KEK),
            datacenter=DATACENTER,
            purpose="signing",
        )

    async def state(self) -> AuthorityState:
        """Return the authority as it is now."""
        return await self._follower.catch_up()

    async def assign(
        self, table: Mapping[str, Iterable[int]], *, rate: float = 0.0, concurrent: int = 0
    ) -> int:
        """Grant exactly this: run -> partitions, and to each the same shares of the limits.

        Returns the sequence of the authority entry.
        """
        state = await self._follower.catch_up()
        assert state.issuer_key_id is not None
        assignments = tuple(
            Assignment(
                signer=run,
                node=NODE,
                slot=slot,
                partitions=tuple(sorted(table[run])),
                signing_key_id=state.issuer_key_id,
                rate_per_second=rate,
                concurrent=concurrent,
            )
            for slot, run in enumerate(sorted(table))
        )
        current = {run: grant.assignment for run, grant in state.signers.items()}
        granted = [a for a in assignments if current.get(a.signer) != a]
        withdrawn = sorted(current.keys() - table.keys())
        event = SignersAssigned(
            assignments=assignments,
            granted=tuple(a.signer for a in granted),
            withdrawn=tuple(withdrawn),
            reason="rebalanced",
        )
        return await self._append(
            Decision(
                events=(event,),
                grants=(
                    *(GrantGiven(assignment=a) for a in granted),
                    *(GrantWithdrawn(signer=run, reason="lost") for run in withdrawn),
                ),
            )
        )

    async def _append(self, decision: Decision) -> int:
        state = await self._follower.catch_up()
        events, grants = stamped(decision, self._stamper, datacenter=DATACENTER)
        appended = await self.ledger.append_authority(
            events, term=1, expected_sequence=state.position, grants=grants
        )
        return appended.sequence

    @asynccontextmanager
    async def replicator(self) -> AsyncIterator[None]:
        """Keep the projections file, as the node's replicator does."""
        stop = asyncio.Event()
        task = asyncio.create_task(
            replicate(self.ledger, datacenter=DATACENTER, path=self.projections, stop=stop)
        )
        try:
            yield
        finally:
            stop.set()
            await task

    @asynccontextmanager
    async def signer(self, nc: Client, *, ledger: Ledger | None = None) -> AsyncIterator[Running]:
        """Run a signer in this process, with a connection of its own."""
        index = IssuanceReader(self.projections)
        running = Running(run := new_run(), self.new_signer(nc, index, run, ledger=ledger))
        task = asyncio.create_task(running.signer.run())
        try:
            yield running
        finally:
            await cancelled(task)
            index.close()
            if not task.cancelled():
                task.result()  # what ended it early

    def new_signer(
        self,
        nc: Client,
        index: IssuanceReader,
        run: str,
        *,
        clock: Clock | None = None,
        ledger: Ledger | None = None,
    ) -> Signer:
        """Return a signer that does not run yet."""
        config = NodeConfig(
            datacenter=DATACENTER,
            node=NODE,
            data=self.projections.parent,
            nats=NatsSection(servers=("nats://127.0.0.1",), creds=self.projections.parent),
            keys=KeysSection(signing="env:NONE"),
        )
        worker = Worker(
            nc=nc,
            subjects=self.subjects,
            ledger=ledger or JetStreamLedger(nc, self.subjects),
            config=config,
            clock=clock or SystemClock(),
        )
        return Signer(worker, requests=nc, keystore=self.new_keystore(nc), index=index, run=run)

    @asynccontextmanager
    async def signer_process(self, url: str, **environment: str) -> AsyncIterator[Process]:
        """Run a signer as a process of its own; `environment` sets its breakpoints."""
        process = Process(new_run())
        await process.start(url, self.projections, environment)
        try:
            yield process
        finally:
            await process.end()

    async def ask(self, body: bytes, *, name: str = "web", subject: str | None = None) -> Answer:
        """Ask as our clients do: again, with the same bytes, while nobody answers."""
        subject = subject or self.subjects.sign("service", name)
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                with suppress(NatsError, TimeoutError):
                    return Answer(await self.nc.request(subject, body, timeout=0.25))
                await asyncio.sleep(0.01)

    async def events(self) -> list[Recorded]:
        """Return every event on the ledger."""
        recorded: list[Recorded] = []
        position = 0
        while read := await self.ledger.read(position):
            for stored in read:
                recorded += decode_entry(stored, datacenter=DATACENTER).events
            position = read[-1].sequence
        return recorded

    async def faults(self) -> list[Fault]:
        """Return what is wrong with the ledger, as `caledger ledger verify` says."""
        verifier = Verifier(DATACENTER)
        position = 0
        found: list[Fault] = []
        while read := await self.ledger.read(position):
            for stored in read:
                found += verifier.check(stored)
            position = read[-1].sequence
        return [*found, *verifier.finish()]

    async def leaves(self) -> list[LeafIssued]:
        """Return every certificate on the ledger."""
        return [e.event for e in await self.events() if isinstance(e.event, LeafIssued)]

    async def refusals(self) -> Sequence[LeafRefused | LeafRefusalsCounted]:
        """Return every refusal on the ledger."""
        kinds = LeafRefused | LeafRefusalsCounted
        return [e.event for e in await self.events() if isinstance(e.event, kinds)]


async def until(condition: Any, *, seconds: float = 10.0) -> Any:
    """Return what an async condition returns as soon as that is true."""
    async with asyncio.timeout(seconds):
        while not (found := await condition()):
            await asyncio.sleep(0.01)
    return found
