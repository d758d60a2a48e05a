"""A CA manager that is killed between any two steps: the next one finishes what it began.

Real processes of two nodes. tests/unit/services/root_manager/test_crashes.py does the same in
virtual time, at every single append and use of a key.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from nats.aio.client import Client

from events.authority import RootActivated
from events.base import Struct
from events.ledger import JetStreamLedger
from events.subjects import Subjects
from projections.authority import AuthorityState
from services import config
from services.administration_client import AdministrationClient, ChosenLeaves
from services.following import AuthorityFollower
from services.keys.buckets import root_keys, signing_keys
from services.outcomes import Outcome
from services.pki import certificates
from services.root_manager import crls, renewal
from tests.scenarios import moved_clock, reading
from tests.scenarios.caledger import Datacenter
from tests.scenarios.checking import projections_are_those_built_anew
from tests.scenarios.moved_clock import ClockFile
from tests.scenarios.second_node import Node, beside, only_server
from tests.scenarios.trap import Trap
from tests.verifiers import chain_of, openssl_with_lists

SERVICES: Final = Path(__file__).parents[2] / "services"
WAIT_SECONDS: Final = 60.0
LOOK_EVERY_SECONDS: Final = 0.05
HOURS: Final = timedelta(hours=1)
SECOND: Final = timedelta(seconds=1)
SUBJECTS: Final = Subjects("dc1")
SHORT: Final = {"LeafCertTTL": "1h", "IntermediateCertTTL": "3h", "CSRMaxPerSecond": 0}

Ask = Callable[["Site", str], Awaitable[bytes]]


class Step(Struct):
    """A breakpoint, and what gets there: a command, or time that passes."""

    at: str
    ask: Ask | None = None
    passes: timedelta = timedelta(0)
    before: Callable[[Site], Awaitable[object]] | None = None
    rotates: bool = False

    @property
    def request_id(self) -> str:
        """Return the command's."""
        return self.at.replace(".", "-")


def sets(**wanted: Any) -> Ask:
    """Return how to set a configuration."""
    return lambda site, request_id: site.admin.set_config(
        {"Config": {"CSRMaxPerSecond": 0, **wanted}}, request_id=request_id
    )


def rotates(wait: float = 0.0) -> Ask:
    return lambda site, request_id: site.admin.rotate(wait_seconds=wait, request_id=request_id)


def aborts() -> Ask:
    return lambda site, request_id: site.admin.abort_rotation(request_id=request_id)


def revokes(service: str) -> Ask:
    """Return how to revoke all that a service of the test has."""
    return lambda site, request_id: site.admin.revoke(
        ChosenLeaves(identity=site.asker.uri(service)), request_id=request_id
    )


async def is_rotating(site: Site) -> None:
    await site.admin.rotate(wait_seconds=3600)


async def has_a_leaf_to_revoke(site: Site) -> None:
    site.revoked.append(await site.leaf("revoked"))


async def has_short_lives(site: Site) -> None:
    """Have it renew its intermediate after two hours."""
    await site.admin.set_config({"Config": SHORT})
    await site.admin.rotate()
    await site.settled()


async def has_pruned(site: Site) -> None:
    """Retire a root, and have it pruned while its last list is valid."""
    await site.admin.rotate()
    await site.settled()
    retired = {root_id for root_id, root in (await site.state()).roots.items() if not root.active}
    site.clock.forward(4 * HOURS)
    await site.until(lambda now: not retired & now.roots.keys(), time_passes=True)
    await site.settled()


ROTATING: Final = (
    Step(at="rotation.made", ask=sets(PrivateKeyBits=384), rotates=True),
    Step(at="root_manager.decided", ask=rotates(), rotates=True),
    Step(at="root_manager.appended", ask=rotates(), rotates=True),
    Step(at="rotation.started", ask=sets(PrivateKeyBits=256), rotates=True),
    Step(at="root_manager.roots_published", ask=rotates(), rotates=True),
    Step(at="rotation.leaf_signer_made", ask=rotates(), rotates=True),
    Step(at="rotation.activated", ask=rotates(wait=1.0), rotates=True),
    Step(at="rotation.aborted", ask=aborts(), before=is_rotating),
)
CONFIGURING_AND_REVOKING: Final = (
    Step(at="root_manager.decided", ask=sets(LeafSigner="root")),
    Step(at="root_manager.appended", ask=sets(LeafSigner="intermediate")),
    Step(at="revocation.recorded", ask=revokes("revoked"), before=has_a_leaf_to_revoke),
    Step(at="crls.signed", ask=revokes("revoked"), before=has_a_leaf_to_revoke),
    Step(at="crls.issued", ask=revokes("revoked"), before=has_a_leaf_to_revoke),
    Step(at="reissues.told", ask=revokes("revoked"), before=has_a_leaf_to_revoke),
)
AS_TIME_PASSES: Final = (
    Step(at="crls.signed", passes=25 * HOURS),
    Step(at="renewal.key_made", passes=2 * HOURS, before=has_short_lives),
    Step(at="renewal.requested", passes=2 * HOURS),
    Step(at="renewal.signed", passes=2 * HOURS),
    Step(at="renewal.installed", passes=2 * HOURS),
    Step(at="roots.pruned", passes=75 * HOURS),
    Step(at="keys.destroyed", passes=75 * HOURS, before=has_pruned),
)
GROUPS: Final = {
    "rotating": ROTATING,
    "configuring and revoking": CONFIGURING_AND_REVOKING,
    "as time passes": AS_TIME_PASSES,
}
ROTATE: Final = (has_short_lives, has_pruned)
FIRST_START: Final = {"root_manager.keys_created"}  # tests/scenarios/test_first_start.py


def test_every_step_of_a_ca_manager_is_here() -> None:
    found = {
        step
        for file in (SERVICES / "root_manager").rglob("*.py")
        for step in re.findall(r'reached\("([^"]+)"\)', file.read_text())
    }

    assert found == {step.at for step in chain(*GROUPS.values())} | FIRST_START


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("steps", GROUPS.values(), ids=GROUPS)
async def test_f5_a_ca_manager_killed_between_two_steps_is_followed_by_one_that_finishes(
    tmp_path: Path, steps: Sequence[Step]
) -> None:
    """22, H5, H7: kill -9 of the root-manager by itself at each step, once; then it is started
    again, and every other time on another node, which takes the lead.

    Who gave the command asks again until it is answered, and once more; it is carried out once.
    Leaves from before, from while nobody led, and from afterwards are accepted by OpenSSL with
    revocation lists, with the bundle of before and with the new one. In the end every key in the
    buckets is one that the ledger speaks of, and the ledger folded anew is what the node has.
    """
    async with opened(tmp_path, steps[0]) as site:
        for number, step in enumerate(steps):
            await site.settled()
            if step.before is not None:
                await step.before(site)
            following = steps[number + 1] if number + 1 < len(steps) else None
            await finished_by_another(site, step, following, elsewhere=number % 2 == 1)

        await assert_all_is_accounted_for(site, steps)


async def finished_by_another(
    site: Site, step: Step, following: Step | None, *, elsewhere: bool
) -> None:
    """Kill the root-manager at a step, and see that another one, to end later, finishes it."""
    print(f"{step.at} on {site.leading.name}, then {'elsewhere' if elsewhere else 'there again'}")
    shown = [await site.leaf("before")]
    bundle, before = await site.bundle(), await site.state()

    asking = asyncio.create_task(site.asked(step)) if step.ask is not None else None
    await site.manager_dies(step)
    if await site.can_sign():
        shown.append(await site.leaf("meanwhile"))
    if elsewhere:
        await site.move()
    await site.start_manager(following)
    if asking is not None:
        told = await asking
        again = await site.asked(step)
        print(f"    {told.outcome}, asked again: {again.outcome}")
        assert again.outcome in {"done", told.outcome}
    after = await site.settled()
    shown.append(await site.leaf("afterwards"))

    assert [root.active for root in after.roots.values()].count(True) == 1
    assert before.active_root is not None
    assert after.active_root is not None
    is_same = after.active_root.published == before.active_root.published
    assert is_same is not step.rotates
    for trusted in (bundle, await site.bundle()):
        for leaf in shown:
            await site.assert_judged(leaf, trusted, accepted=True)
        for leaf in site.revoked:
            await site.assert_judged(leaf, trusted, accepted=False)


async def assert_all_is_accounted_for(site: Site, steps: Sequence[Step]) -> None:
    """See, in the end, that no command was carried out twice, and no key is left over."""
    site.clock.forward(2 * HOURS)  # keys that were never recorded are more than an hour old
    await site.keys_are_those_on_the_ledger()
    recorded = await reading.recorded(site.asker.client)
    ids = {step.request_id for step in steps if step.ask is not None}
    asked = [getattr(each.event, "request_id", None) for each in recorded]
    assert Counter(one for one in asked if one in ids) == Counter(ids)
    rotations = sum(step.rotates + (step.before in ROTATE) for step in steps)
    assert sum(isinstance(each.event, RootActivated) for each in recorded) == 1 + rotations
    verified = await site.datacenter.run("ledger", "verify", "--json")
    assert verified.code == 0, verified
    await projections_are_those_built_anew(
        site.datacenter, config.load(site.nodes[0].config).projections_file
    )


class Site:
    """A datacenter of two nodes, one of which leads; its time passes as a test says."""

    asker: reading.Asker
    admin: AdministrationClient

    def __init__(self, folder: Path, nodes: tuple[Node, Node], nc: Client) -> None:
        self.nodes = nodes
        self.leading = nodes[0]
        self.clock = ClockFile(folder / "clock")
        self.datacenter = Datacenter(folder)
        self.revoked: list[str] = []
        self._folder = folder
        self._nc = nc
        self._follower = AuthorityFollower(JetStreamLedger(nc, SUBJECTS), "dc1")
        self._electors: dict[str, Process] = {}
        self._manager: tuple[Process, Trap] | None = None

    async def begin(self, first: Step) -> None:
        """Start all workers; the first node leads, and its root-manager is to end at a step."""
        for node in self.nodes:
            self._electors[node.name] = await self._start(node, "leader-elector")
            await self.until(lambda state: state.leader is not None)
            await self._start(node, "replicator")
        await self._start(self.leading, "signer")
        await self.start_manager(first)
        await self.until(lambda state: state.configuration is not None)
        client = await self.datacenter.client()
        self.asker = await reading.Asker.of(client)
        self.admin = AdministrationClient(client)

    async def start_manager(self, step: Step | None) -> None:
        """Start the leading node's root-manager, to end at a step once that is wanted."""
        trap = Trap(self._folder, step.at if step is not None else "never", "KILL")
        process = await self._start(self.leading, "root-manager", trap.environment)
        self._manager = process, trap

    async def manager_dies(self, step: Step) -> None:
        """Have it end at its step, as time passes, and return once it has."""
        assert self._manager is not None
        process, trap = self._manager
        trap.set()
        self.clock.forward(step.passes)
        assert await self.leading.ended(process) == -signal.SIGKILL
        assert trap.sprung

    async def move(self) -> None:
        """Have the other node take the lead."""
        gone, self.leading = self.leading, next(n for n in self.nodes if n is not self.leading)
        elector = self._electors[gone.name]
        elector.terminate()
        await gone.ended(elector)
        await self.until(lambda s: s.leader is not None and s.leader.node == self.leading.name)
        self._electors[gone.name] = await self._start(gone, "leader-elector")

    async def asked(self, step: Step) -> Outcome:
        """Give a step's command under its request id, again and again until it is answered."""
        assert step.ask is not None
        return msgspec.json.decode(await step.ask(self, step.request_id), type=Outcome)

    async def state(self) -> AuthorityState:
        return await self._follower.catch_up()

    async def until(
        self, holds: Callable[[AuthorityState], bool], *, time_passes: bool = False
    ) -> AuthorityState:
        """Wait until the ledger says so; where that takes time, three minutes pass each second."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not holds(state := await self.state()):
                await asyncio.sleep(LOOK_EVERY_SECONDS)
                if time_passes:
                    self.clock.forward(180 * LOOK_EVERY_SECONDS * SECOND)
        return state

    async def settled(self) -> AuthorityState:
        """Wait until nothing is due or on its way any more, and the bundle is out."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                state, now = await self.state(), self.clock.now()
                told = (await self._roots())["LedgerSequence"]
                if not is_busy(state, now) and told == state.bundle_sequence:
                    return state
                await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def can_sign(self) -> bool:
        """Say whether what signs has not expired: where days pass at once, nobody renewed it."""
        issuer = (await self.state()).issuer
        assert issuer is not None
        return certificates.load(issuer.certificate).not_valid_after_utc > self.clock.now()

    async def leaf(self, service: str) -> str:
        """Return a new certificate with its chain, in PEM."""
        told = await self.asker.sign(service, f"{service}-{len(self.asker.waits)}")
        certificate: str = told["CertPEM"]
        return certificate

    async def bundle(self) -> list[str]:
        """Return the trust anchors, in PEM."""
        return [root["RootCert"] for root in (await self._roots())["Roots"]]

    async def assert_judged(self, leaf: str, trusted: Sequence[str], *, accepted: bool) -> None:
        """Ask OpenSSL, with the lists of now, about a leaf; of one that has expired nobody asks."""
        state, now = await self.state(), self.clock.now()
        chain = chain_of(leaf, trusted)
        if certificates.load(chain.leaf).not_valid_after_utc > now:
            told = [listed.issued.crl for listed in state.crls.values()]
            verdict = openssl_with_lists(chain, told, now)
            assert bool(verdict) is accepted, verdict.text

    async def keys_are_those_on_the_ledger(self) -> None:
        """Wait until the buckets hold just the keys that the ledger speaks of."""
        keys = config.load(self.nodes[0].config).keys
        root, signing = (
            open_store(self._nc, SUBJECTS, keys) for open_store in (root_keys, signing_keys)
        )
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                held = [{key.key_id for key in await store.stored()} for store in (root, signing)]
                state = await self.state()
                known = [
                    {key.key_id for key in state.keys.values() if key.purpose == purpose}
                    for purpose in ("root", "signing")
                ]
                known[1] |= state.shared
                if held == known:
                    return
                await asyncio.sleep(LOOK_EVERY_SECONDS)
                self.clock.forward(180 * LOOK_EVERY_SECONDS * SECOND)

    async def _roots(self) -> Any:
        return json.loads(await self.asker.client.roots())

    async def _start(
        self, node: Node, worker: str, environment: Mapping[str, str] | None = None
    ) -> Process:
        clock = {moved_clock.VARIABLE: str(self.clock.path)}
        return await node.start(worker, environment={**clock, **(environment or {})})


def is_busy(state: AuthorityState, now: datetime) -> bool:
    """Say whether a leader has anything to do now: a list for whoever needs one, or more."""
    return (
        state.ca_state != "INITIALIZED"
        or renewal.is_due(state, now)
        or any(
            crls.is_due(state, issuer.key_id, now)
            for issuer in crls.issuers(state, now)
            if issuer.kind == "root" or issuer.key_id == state.issuer_key_id
        )
    )


@asynccontextmanager
async def opened(folder: Path, first: Step) -> AsyncIterator[Site]:
    """Make a datacenter whose first root-manager is to end at a step."""
    async with only_server(folder) as server:
        one = Node(server.data, program=moved_clock.NAME)
        two = beside(server.data, folder / "n2", "n2", program=moved_clock.NAME)
        async with one, two, reading.as_worker(server.data, "root-manager") as nc:
            site = Site(folder, (one, two), nc)
            try:
                await site.begin(first)
                yield site
            finally:
                await site.datacenter.close_clients()
