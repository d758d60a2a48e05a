"""A CA manager under whatever may happen to it, in any order, in virtual time.

Hypothesis chooses what happens; after each step everybody who verifies must still be able to.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography import x509
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from projections.authority import AuthorityState
from services.following import AuthorityFollower
from services.pki import certificates
from services.refusals import RefusedError
from services.root_manager.assignment import SignerRun
from tests.crashing import CrashError
from tests.virtual import (
    SUBJECTS,
    Datacenter,
    NobodySignsError,
    Shown,
    run,
    trust_anchors,
)

T = TypeVar("T")

BEHIND = timedelta(seconds=30)  # a verifier's clock
SIGNERS_MAX = 4

KEYS: tuple[dict[str, Any], ...] = (
    {},
    {"PrivateKeyBits": 384},
    {"PrivateKeyType": "rsa", "PrivateKeyBits": 2048},
)
TTLS: tuple[dict[str, Any], ...] = (
    {"LeafCertTTL": "72h", "IntermediateCertTTL": "8760h"},
    {"LeafCertTTL": "1h", "IntermediateCertTTL": "72h"},
    {"LeafCertTTL": "240h", "IntermediateCertTTL": "2160h"},
)
TIMES = (
    timedelta(seconds=1),
    timedelta(seconds=45),
    timedelta(minutes=20),
    timedelta(hours=7),
    timedelta(hours=40),
    timedelta(days=7),
    timedelta(days=100),
)


class Model(RuleBasedStateMachine):
    """One datacenter, its leader, its signers, and everybody who verifies."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.leaves: list[Shown] = []
        self.cut_off: set[str] = set()  # issuers below a root that was pruned by force
        self.bridged = True  # whether the latest root was signed across
        self.before: tuple[bytes, ...] = ()  # the bundle of one rotation ago
        self.rotations = 0
        self.requests = 0
        self.config: dict[str, Any] = {}
        self.known: AuthorityState | None = None

    @initialize()
    def begin(self) -> None:
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.dc = self.do(self.stack.enter_async_context(Datacenter.open(folder)))
        self.do(self.dc.signers(run(1), run(2)))
        self.runs = 2
        self.before = self.dc.roots()

    def teardown(self) -> None:
        self.do(self.stack.aclose())
        self.loop.close()

    # What happens.

    @rule(wait=st.sampled_from([0, 0, 60, 7_200]), force=st.booleans())
    def rotate(self, wait: float, force: bool) -> None:
        self.command(
            SUBJECTS.rotation_start, WaitSeconds=wait, ForceWithoutCrossSigning=force and wait == 0
        )

    @rule(key=st.sampled_from(KEYS))
    def configure_another_key(self, key: dict[str, Any]) -> None:
        self.config = {**self.config, "PrivateKeyType": "ec", "PrivateKeyBits": 256, **key}
        self.command(SUBJECTS.config_set, Config=self.config)

    @rule(ttls=st.sampled_from(TTLS), rate=st.sampled_from([0, 50]))
    def configure_lives(self, ttls: dict[str, Any], rate: int) -> None:
        self.config = {**self.config, **ttls, "CSRMaxPerSecond": rate}
        self.command(SUBJECTS.config_set, Config=self.config)

    @rule(signer=st.sampled_from(["intermediate", "root"]))
    def configure_who_signs(self, signer: str) -> None:
        self.config = {**self.config, "LeafSigner": signer}
        self.command(SUBJECTS.config_set, Config=self.config)

    @rule()
    def abort(self) -> None:
        self.command(SUBJECTS.rotation_abort)

    @rule(number=st.integers(0, 5), force=st.booleans())
    def prune(self, number: int, force: bool) -> None:
        state = self.folded()
        root_id = list(state.roots)[number % len(state.roots)]
        self.command(SUBJECTS.roots_prune, RootID=root_id, Force=force)
        gone = state.roots.keys() - self.folded().roots.keys()
        if not force or root_id not in gone:
            return
        below = {key for key, issuer in state.issuers.items() if issuer.root_id in gone}
        self.cut_off |= below
        current, now = trust_anchors(self.folded()), self.dc.clock.now()
        cut = [each for each in self.leaves if each.leaf.issuer_key_id in below]
        bridges = [root.published.cross_signed for root in state.roots.values()]
        around = [der for der in bridges if der is not None]
        for shown in cut:  # whatever is shown beside it
            shown = Shown(shown.leaf, (*shown.chain, *around))
            assert not shown.verifies(current, min(now, shown.leaf.not_after))

    @rule(number=st.integers(0, 100))
    def revoke(self, number: int) -> None:
        if self.leaves:
            leaf = self.leaves[number % len(self.leaves)].leaf
            self.command(SUBJECTS.leaves_revoke, Leaves={"Serials": [leaf.serial]})

    @rule(by=st.sampled_from(TIMES))
    def time_passes(self, by: timedelta) -> None:
        self.dc.clock.forward(by)
        self.act()

    @rule(by=st.sampled_from(TIMES[:4]))
    def time_passes_and_nobody_acts(self, by: timedelta) -> None:
        self.dc.clock.forward(by)

    @rule()
    def act(self) -> None:
        self.crashing(self.dc.act())

    @rule()
    def a_signer_comes(self) -> None:
        if len(self.dc.alive) == SIGNERS_MAX:
            return
        self.runs += 1
        self.dc.alive = (*self.dc.alive, run(self.runs))
        self.act()

    @rule(number=st.integers(0, SIGNERS_MAX), stopping=st.booleans())
    def a_signer_goes(self, number: int, stopping: bool) -> None:
        alive = list(self.dc.alive)
        gone = alive.pop(number % len(alive))
        if stopping:
            left = SignerRun(signer=gone.signer, node=gone.node, slot=gone.slot, stopping=True)
            self.dc.alive = (*alive, left)
            self.act()
        self.dc.alive = tuple(alive)
        if not alive:  # it is replaced
            self.runs += 1
            self.dc.alive = (run(self.runs, slot=gone.slot),)
        self.act()

    @rule()
    def another_leads(self) -> None:
        self.do(self.dc.new_leader("b" if self.dc.acting.node == "a" else "a"))
        self.act()

    @rule(steps=st.integers(0, 12))
    def the_next_thing_crashes(self, steps: int) -> None:
        self.dc.fuse.left = steps

    # What must hold.

    @invariant()
    def somebody_wants_a_certificate(self) -> None:
        """... after each step, so that there are leaves of everything that ever signs."""
        try:
            self.leaves.append(self.do(self.dc.sign("web")))
        except NobodySignsError:
            event("nobody signs")
        except RefusedError as refused:
            event(f"not signed: {refused.code}")
            self.check_nothing_could_sign()

    @invariant()
    def one_root_signs(self) -> None:
        active = [root for root in self.folded().roots.values() if root.active]
        assert len(active) == 1

    @invariant()
    def no_leaf_outlives_its_issuer(self) -> None:
        state = self.folded()
        for shown in self.leaves[-3:]:
            leaf = shown.leaf
            chain = [certificates.load(der) for der in shown.chain]
            root_id = state.issuers[leaf.issuer_key_id].root_id
            published = {**state.pruned, **state.roots}[root_id].published
            for issuer in (*chain, certificates.load(published.certificate)):
                assert leaf.not_after <= issuer.not_valid_after_utc

    @invariant()
    def every_leaf_is_accepted(self) -> None:
        """... by all that have the bundle, or the one of a rotation ago, or a clock behind."""
        now = self.dc.clock.now()
        self.leaves = [
            shown
            for shown in self.leaves
            if shown.leaf.not_after > now and shown.leaf.issuer_key_id not in self.cut_off
        ]
        current = trust_anchors(self.folded())
        for shown in self.checked():
            soon = min(now, shown.leaf.not_after)
            assert shown.verifies(current, soon)
            assert shown.verifies(current, max(now - BEHIND, shown.leaf.not_before))
            if self.bridged:
                assert shown.verifies(self.before, soon)

    @invariant()
    def lists_are_whole(self) -> None:
        """The latest list of an issuer has all that was revoked before it, and nothing else."""
        state = self.folded()
        for key_id, listed in state.crls.items():
            crl = x509.load_der_x509_crl(listed.issued.crl)
            found = {f"{each.serial_number:x}" for each in crl}
            revoked = {**state.revoked.get(key_id, {}), **state.bridges.get(key_id, {})}
            assert found <= revoked.keys()
            assert found >= {
                serial
                for serial, entry in revoked.items()
                if entry.sequence < listed.sequence and entry.not_after > listed.issued.this_update
            }

    @invariant()
    def the_ledger_says_what_the_leader_thinks(self) -> None:
        live = self.do(self.dc.tools.follower.catch_up())
        assert live == self.folded()

    # How.

    def do(self, what: Awaitable[T]) -> T:
        async def doing() -> T:
            return await what

        return self.loop.run_until_complete(doing())

    def command(self, subject: str, **body: Any) -> None:
        """Give a command; who gets no answer asks again under the same request id."""
        self.requests += 1
        body = {**body, "RequestID": f"r-{self.requests}"}
        root = self.newest()
        trusted = trust_anchors(self.folded())
        try:
            if self.crashing(self.dc.command(subject, **body)):
                event(f"crashed in {subject}")
                self.do(self.dc.command(subject, **body))
        except RefusedError as refused:
            event(f"{subject}: {refused.code}")
            if refused.code not in {"busy", "conflict", "bad_config"}:
                raise
        self.saw(root, trusted)

    def crashing(self, what: Awaitable[Any]) -> bool:
        """Let it happen; where the leader crashes meanwhile, another one takes over."""
        root, trusted = self.newest(), trust_anchors(self.folded())
        try:
            self.do(what)
        except CrashError:
            self.saw(root, trusted)
            self.do(self.dc.new_leader())
            self.do(self.dc.act())
            return True
        finally:
            self.saw(root, trusted)
        return False

    def newest(self) -> str | None:
        """Return the root that came last."""
        return next(reversed(list(self.folded().roots)), None)

    def saw(self, root: str | None, trusted: tuple[bytes, ...]) -> None:
        """Notice a rotation: what was trusted until then is the bundle of one rotation ago."""
        state = self.folded()
        newest = self.newest()
        if newest is not None and newest != root:
            self.before = trusted
            self.bridged = state.roots[newest].published.cross_signed is not None

    def folded(self) -> AuthorityState:
        """Return the ledger, folded from zero whenever there is more of it."""
        last = self.do(self.dc.ledger.last_authority())
        if self.known is None or self.known.position != last:
            self.known = self.do(AuthorityFollower(self.dc.ledger, "dc1").catch_up())
        return self.known

    def check_nothing_could_sign(self) -> None:
        """... as what signs ended while nobody acted."""
        issuer = self.folded().issuer
        assert issuer is not None
        ends = certificates.load(issuer.certificate).not_valid_after_utc
        assert ends <= self.dc.clock.now() + timedelta(minutes=1)

    def checked(self) -> list[Shown]:
        """Return the leaves to look at: the first and the last of each issuer."""
        by_issuer: dict[str, list[Shown]] = {}
        for shown in self.leaves:
            by_issuer.setdefault(shown.leaf.issuer_key_id, []).append(shown)
        return [
            shown
            for group in by_issuer.values()
            for shown in {id(each): each for each in (group[0], group[-1])}.values()
        ]


def explore(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_whatever_happens_everybody_can_verify() -> None:
    explore(6, 20)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whatever_happens_everybody_can_verify_for_long() -> None:
    explore(50, 50)
