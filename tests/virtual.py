"""A datacenter in virtual time: everything is ours and real but the server, the clock and the key
store; hours pass at once.

The ledger in memory and the keys in memory are under the same contract tests as the real ones
(tests/contract). Who signs is what a test says.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from events.envelope import Entry, decode_entry
from events.leadership import LeadershipAcquired
from events.leaves import LeafIssued
from events.memory import MemoryLedger
from events.subjects import Subjects, identity_tokens, partition_of
from projections.authority import AuthorityState
from projections.bundle import bundle
from projections.issuance import IssuanceReader
from services.clock import SystemEntropy
from services.config import InitialSection
from services.following import AuthorityFollower
from services.replicator.rebuild import rebuild
from services.replicator.replica import Replica
from services.root_manager import configuration
from services.root_manager.administration import Administration
from services.root_manager.asked import Asked
from services.root_manager.assignment import SignerRun
from services.root_manager.configuration import Wanted
from services.root_manager.decide import Acting
from services.root_manager.manager import CaManager
from services.root_manager.tools import Tools, Turn
from services.signer.desk import Desk
from services.signer.holdings import Holdings, changed
from services.signer.work import Work
from services.stamping import Stamper, source
from tests.clocks import FixedClock
from tests.crashing import APPENDS, KEY_STEPS, Fuse, fused
from tests.factories import NOW, csr, leaf_key
from tests.unit.services.root_manager.keys import KeysInMemory
from tests.verifiers import pem_chain

SUBJECTS = Subjects("dc1")


class NobodySignsError(Exception):
    """No signer holds the partition."""


class Shown:
    """A leaf as its holder shows it."""

    def __init__(self, leaf: LeafIssued, chain: tuple[bytes, ...]) -> None:
        self.leaf = leaf
        self.chain = chain

    def verifies(self, roots: Sequence[bytes], at: datetime) -> bool:
        """Ask cryptography's path validation, which we did not write."""
        load = x509.load_der_x509_certificate
        verifier = (
            PolicyBuilder()
            .store(Store([load(root) for root in roots]))
            .time(at)
            .build_client_verifier()
        )
        try:
            verifier.verify(load(self.leaf.certificate), [load(der) for der in self.chain])
        except VerificationError:
            return False
        return True


class Datacenter:
    """One datacenter; a new CA manager takes over whenever a test says so."""

    replica: Replica

    def __init__(self, folder: Path) -> None:
        self.ledger = MemoryLedger(SUBJECTS)
        self.clock = FixedClock(NOW)
        self.root_keys = KeysInMemory("root", clock=self.clock)
        self.signing_keys = KeysInMemory("signing", clock=self.clock)
        self.index = IssuanceReader(folder / "projections.sqlite")
        self.alive: tuple[SignerRun, ...] = ()
        self.reissues: list[dict[str, Any]] = []
        self.published: list[tuple[bytes, ...]] = []  # the trust bundles that came out, in order
        self.first_configuration: Path | None = None
        self.fuse = Fuse()  # of whoever leads: set it, and the CA manager crashes
        self._term = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[Self]:
        datacenter = cls(folder)
        path = folder / "projections.sqlite"
        await datacenter.new_leader()
        await rebuild(datacenter.ledger, datacenter="dc1", path=path)
        async with Replica(datacenter.ledger, datacenter="dc1", path=path) as replica:
            datacenter.replica = replica
            try:
                yield datacenter
            finally:
                datacenter.index.close()

    async def new_leader(self, node: str = "a") -> None:
        """Have a CA manager take over that knows nothing but the ledger."""
        self._term += 1
        follower = AuthorityFollower(self.ledger, "dc1")
        stamper = Stamper(source("dc1", "root-manager", node), self.clock, SystemEntropy())
        event = LeadershipAcquired(node=node, term=self._term, lease_revision=self._term)
        await self.ledger.append_authority(
            [stamper.stamp(event, subject=node)],
            term=self._term,
            expected_sequence=await self.ledger.last_authority(),
        )
        self.tools = Tools(
            datacenter="dc1",
            ledger=fused(self.ledger, self.fuse, APPENDS),
            follower=follower,
            root_keys=fused(self.root_keys, self.fuse, KEY_STEPS),
            signing_keys=fused(self.signing_keys, self.fuse, KEY_STEPS),
            index=self.index,
            stamper=stamper,
            clock=self.clock,
            entropy=SystemEntropy(),
        )
        self.manager = CaManager(
            self.tools,
            initial=self._initial,
            trust_domain=None,
            publish=self._publish,
            tell_reissue=self._tell,
        )
        self.administration = Administration(self.manager, SUBJECTS)
        self.acting = Acting(node=node, term=self._term)

    @property
    def turn(self) -> Turn:
        return Turn(acting=self.acting, alive=self.alive)

    @property
    def state(self) -> AuthorityState:
        return self.tools.state

    async def act(self) -> AuthorityState:
        """Let the replicator and then the leader do all that is due."""
        await self.replicate()
        await self.manager.act(self.turn)
        return self.state

    async def replicate(self) -> None:
        """Bring the projections up to date."""
        while await self.replica.advance():
            pass

    async def after(self, by: timedelta) -> AuthorityState:
        """Let time pass, and the leader act."""
        self.clock.forward(by)
        return await self.act()

    async def command(self, subject: str, **body: Any) -> dict[str, Any]:
        """Give a command; raises RefusedError."""
        await self.replicate()
        asked = Asked(subject=subject, body=json.dumps(body).encode(), requester="UADMIN")
        return json.loads(await self.administration.handle(self.turn, asked))  # type: ignore[no-any-return]

    async def signers(self, *runs: SignerRun) -> AuthorityState:
        """Let exactly these be alive."""
        self.alive = runs
        return await self.act()

    async def sign(self, name: str = "web") -> Shown:
        """Issue a certificate to a service, by the signer that its partition is assigned to.

        Raises NobodySignsError where there is none, RefusedError.
        """
        state = await self.tools.follower.catch_up()
        partition = partition_of(*identity_tokens("service", name))
        found = [
            (run, grant)
            for run, grant in state.signers.items()
            if partition in grant.assignment.partitions
        ]
        if not found:
            raise NobodySignsError
        [(run, grant)] = found
        holdings = changed(Holdings(), grant)
        desk = Desk(
            subjects=SUBJECTS,
            signer=run,
            keystore=self.signing_keys,
            stamper=Stamper(source("dc1", "signer", "a"), self.clock, SystemEntropy()),
            clock=self.clock,
            entropy=SystemEntropy(),
        )
        await desk.take_up(state, holdings)
        assert state.configuration is not None
        uri = f"spiffe://{state.configuration.trust_domain}/ns/default/dc/dc1/svc/{name}"
        work = Work(
            subject=f"ca.dc1.work.{partition}.service.{name}",
            partition=partition,
            body=csr(uri=uri, key=leaf_key()),
            requester="UWEB",
            heard=0.0,
            replies=["_INBOX.web"],
        )
        desk.read(work)
        desk.check(work)
        signed = await desk.sign(work, grant_sequence=grant.sequence)
        await self.ledger.append_leaves(run, [signed.event], grant_sequence=grant.sequence)
        return Shown(signed.leaf, state.issuers[signed.leaf.issuer_key_id].chain)

    async def entries(self) -> list[Entry]:
        """Return the whole ledger."""
        stored = await self.ledger.read(0, limit=1_000_000)
        return [decode_entry(each, datacenter="dc1") for each in stored]

    def roots(self) -> tuple[bytes, ...]:
        """Return the trust anchors of the bundle as it is now."""
        return trust_anchors(self.state)

    async def _tell(self, body: bytes) -> None:
        await self.fuse.burn()
        self.reissues.append(json.loads(body))
        await self.fuse.burn()

    def _initial(self) -> Wanted:
        section = InitialSection(csr_max_per_second=0, ca_config=self.first_configuration)
        return configuration.initial(section, now=self.clock.now())

    async def _publish(self, _: Turn) -> None:
        anchors = trust_anchors(self.state)
        if anchors and (not self.published or self.published[-1] != anchors):
            await self.fuse.burn()
            self.published.append(anchors)
            await self.fuse.burn()


def trust_anchors(state: AuthorityState) -> tuple[bytes, ...]:
    """Return what verifiers make of the bundle: the last certificate of each root's chain."""
    told = bundle(state)
    return tuple(pem_chain(root.root_cert)[-1] for root in told.roots) if told else ()


def run(number: int, *, slot: int | None = None, stopping: bool = False) -> SignerRun:
    """Return a signer's run."""
    signer = f"01K2{number:022d}"
    return SignerRun(
        signer=signer, node="a", slot=number if slot is None else slot, stopping=stopping
    )
