"""A leader that dies between any two steps is followed by one that finishes what was begun.

Every action is cut off after its first append or use of a key, then after the second, and so on
until it passes whole; what was done stays done, and whoever had it done does not hear of it. Then
another leader takes over, which knows nothing but the ledger, and the command is given again under
its request id. tests/scenarios/test_manager_crashes.py kills real processes.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from events.base import Struct
from events.leadership import LeadershipAcquired
from events.leaves import LeafIssued
from events.log import LedgerError
from projections.authority import AuthorityState
from projections.verify import Verifier
from services.buckets import BucketError
from services.following import AuthorityFollower
from services.keys.interface import KeyStoreError
from services.pki import certificates
from services.refusals import RefusedError
from services.root_manager import crls, unrecorded
from services.root_manager.manager import SWEEP_EVERY
from tests.crashing import CrashError
from tests.factories import ca_key
from tests.virtual import SUBJECTS, Datacenter, Shown, run

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
BEHIND: Final = timedelta(seconds=30)  # a verifier's clock
TURNS_MAX: Final = 20
STEPS_MAX: Final = 1_000
SHORT: Final = '{"Config": {"LeafCertTTL": "1h", "IntermediateCertTTL": "3h"}}'

Told = dict[str, Any] | None


class Action(Struct):
    """Something that a CA manager does in several steps."""

    name: str
    perform: Callable[[Datacenter], Awaitable[Told]]  # asked again, it is the same command
    before: Callable[[Datacenter], Awaitable[object]] | None = None
    after: Callable[[Datacenter], Awaitable[object]] | None = None  # whatever has to pass
    configuration: str = "{}"  # of the first authority
    initialises: bool = False  # there is no authority before
    cuts_off: bool = False  # leaves that there were are accepted no more
    steps_min: int  # fewer would show that nothing is cut off here


def command(subject: str, **body: Any) -> Callable[[Datacenter], Awaitable[Told]]:
    """Return how to give a command, each time under the same request id."""

    async def given(dc: Datacenter) -> Told:
        return await dc.command(subject, RequestID="r-1", **body)

    return given


async def due(dc: Datacenter) -> Told:
    await dc.act()
    return None


def passes(by: timedelta) -> Callable[[Datacenter], Awaitable[object]]:
    """Return how to let time pass, in which nobody acts."""

    async def passed(dc: Datacenter) -> None:
        dc.clock.forward(by)

    return passed


async def _one_after_the_other(
    dc: Datacenter, *steps: Callable[[Datacenter], Awaitable[object]]
) -> None:
    for step in steps:
        await step(dc)


async def rotates(dc: Datacenter) -> None:
    await dc.command(SUBJECTS.rotation_start)


async def rotates_later(dc: Datacenter) -> None:
    await dc.command(SUBJECTS.rotation_start, WaitSeconds=60)
    await quiet(dc)


async def rotated_and_nobody_needs_the_old_root(dc: Datacenter) -> None:
    await rotates(dc)
    dc.clock.forward(7 * DAY)


async def pruned_and_nobody_needs_its_keys(dc: Datacenter, **config: Any) -> None:
    await (dc.command(SUBJECTS.config_set, **config) if config else rotates(dc))
    await dc.after(5 * DAY)
    await dc.after(2 * DAY)
    dc.clock.forward(2 * DAY)  # until the last list has expired


async def the_root_signs(dc: Datacenter) -> None:
    await dc.command(SUBJECTS.config_set, Config={"LeafSigner": "root"})


async def the_root_signed(dc: Datacenter) -> None:
    await the_root_signs(dc)
    await dc.command(SUBJECTS.config_set, Config={"LeafSigner": "intermediate"})
    await quiet(dc)


async def the_root_signed_until_now(dc: Datacenter) -> None:
    await the_root_signs(dc)
    await dc.command(SUBJECTS.config_set, Config={"LeafSigner": "intermediate"})


async def signs_many(dc: Datacenter) -> None:
    for number in range(3):
        await dc.sign(f"many-{number}")


async def another_signer_comes(dc: Datacenter) -> Told:
    await dc.signers(run(1), run(2), run(3))
    return None


async def prune(dc: Datacenter, **how: Any) -> Told:
    """Ask for the first root to be trusted no more."""
    first = next(iter({**dc.state.pruned, **dc.state.roots}))
    return await dc.command(SUBJECTS.roots_prune, RequestID="r-1", RootID=first, **how)


async def prune_by_force(dc: Datacenter) -> Told:
    await dc.tools.follower.catch_up()
    return await prune(dc, Force=True)


def given_key() -> str:
    """Return an operator's key."""
    return (
        ca_key(number=9)
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        .decode()
    )


WEB: Final = {"IssuedTo": "2999-01-01T00:00:00Z"}

ACTIONS: Final = (
    Action(name="initialise", perform=due, initialises=True, steps_min=8),
    Action(
        name="initialise, the root signs",
        perform=due,
        configuration='{"Config": {"LeafSigner": "root"}}',
        initialises=True,
        steps_min=8,
    ),
    Action(
        name="initialise as told",
        perform=command(SUBJECTS.config_set, Config={"PrivateKeyBits": 384}),
        configuration='{"Config": {"PrivateKeyBits": 1}}',
        initialises=True,
        steps_min=8,
    ),
    Action(name="rotate", perform=command(SUBJECTS.rotation_start), steps_min=14),
    Action(
        name="rotate to another kind of key",
        perform=command(SUBJECTS.config_set, Config={"PrivateKeyBits": 384}),
        steps_min=14,
    ),
    Action(
        name="rotate to a given key",
        perform=command(SUBJECTS.config_set, Config={"PrivateKey": given_key()}),
        steps_min=14,
    ),
    Action(
        name="rotate and have the root sign",
        perform=command(SUBJECTS.config_set, Config={"PrivateKeyBits": 384, "LeafSigner": "root"}),
        steps_min=14,
    ),
    Action(
        name="rotate again",
        perform=command(SUBJECTS.rotation_start),
        before=rotates,
        steps_min=14,
    ),
    Action(
        name="rotate with wait",
        perform=command(SUBJECTS.rotation_start, WaitSeconds=60),
        after=passes(timedelta(seconds=61)),
        steps_min=8,
    ),
    Action(
        name="finish a rotation that waited",
        before=lambda dc: _one_after_the_other(dc, rotates_later, passes(timedelta(seconds=61))),
        perform=due,
        steps_min=6,
    ),
    Action(
        name="abort",
        before=rotates_later,
        perform=command(SUBJECTS.rotation_abort),
        steps_min=2,
    ),
    Action(
        name="configure",
        perform=command(SUBJECTS.config_set, Config={"LeafCertTTL": "2h"}),
        steps_min=2,
    ),
    Action(
        name="configure: the root signs",
        perform=command(SUBJECTS.config_set, Config={"LeafSigner": "root"}),
        steps_min=4,
    ),
    Action(
        name="configure: an intermediate signs",
        before=the_root_signs,
        perform=command(SUBJECTS.config_set, Config={"LeafSigner": "intermediate"}),
        steps_min=4,
    ),
    Action(
        name="configure: the root signs again",
        before=the_root_signed,
        perform=command(SUBJECTS.config_set, Config={"LeafSigner": "root"}),
        steps_min=4,
    ),
    Action(
        name="renew",
        configuration=SHORT,
        before=passes(2 * HOUR),
        perform=due,
        steps_min=8,
    ),
    Action(
        name="prune",
        before=rotated_and_nobody_needs_the_old_root,
        perform=due,
        steps_min=2,
    ),
    Action(
        name="destroy keys",
        before=pruned_and_nobody_needs_its_keys,
        perform=due,
        steps_min=8,
    ),
    Action(
        name="take the root's key from signers",
        before=the_root_signs,
        perform=command(SUBJECTS.config_set, Config={"LeafSigner": "intermediate"}),
        after=passes(timedelta(seconds=1)),
        steps_min=4,
    ),
    Action(name="issue lists", before=passes(DAY), perform=due, steps_min=8),
    Action(
        name="revoke",
        before=signs_many,
        perform=command(SUBJECTS.leaves_revoke, Leaves=WEB),
        steps_min=6,
    ),
    Action(
        name="prune by force",
        before=rotates,
        perform=prune_by_force,
        cuts_off=True,
        steps_min=2,
    ),
    Action(name="assign partitions", perform=another_signer_comes, steps_min=2),
)


async def dies(dc: Datacenter, action: Action) -> None:
    """The process is no more: another node's leader, or the same node's, takes over."""
    with pytest.raises(CrashError):
        await action.perform(dc)


async def stands_still(dc: Datacenter, action: Action) -> None:
    """The process stands still until another has done all that there is, and goes on then."""

    async def overtaken() -> None:
        await dc.new_leader("b")
        await quiet(dc)

    dc.fuse.end = overtaken
    with contextlib.suppress(RefusedError, LedgerError, KeyStoreError):
        told = await action.perform(dc)
        if told is not None:
            assert "r-1" in (await replayed(dc)).requests, f"nobody recorded what it told: {told}"


async def fails(dc: Datacenter, action: Action) -> None:
    """The server does not answer once: the same leader tries again."""

    async def away() -> None:
        raise BucketError("away")

    dc.fuse.end = away
    with pytest.raises(BucketError):
        await action.perform(dc)


@pytest.mark.parametrize(
    "ends",
    [
        dies,
        pytest.param(stands_still, marks=pytest.mark.slow),
        pytest.param(fails, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)
async def test_what_a_leader_began_is_finished_once_wherever_it_was_cut_off(
    tmp_path: Path, action: Action, ends: Callable[[Datacenter, Action], Awaitable[None]]
) -> None:
    """22, H5, H7: the active root and its bridge are the same after a change of leader; what was
    told to be done is there, also where whoever was told dies; no key that is needed is destroyed.
    """
    whole = await _whole(tmp_path / "whole", action)
    # To who takes over, before a step is after the one before; not to who goes on.
    for steps in range(whole.steps) if ends is stands_still else (0, *range(1, whole.steps, 2)):
        async with opened(tmp_path / str(steps), action) as (dc, shown):
            bundles = [dc.roots()]
            dc.fuse.left = steps
            await ends(dc, action)
            shown += await signed_meanwhile(dc, f"late-{steps}")
            before = await replayed(dc)

            if ends is not fails:
                await dc.new_leader("ab"[steps % 2])
            if steps % 4 < 2:  # else it is asked again before anything was done
                await dc.act()
                if before.rotation is None and before.active_root is not None:
                    assert dc.state.active_root is not None
                    assert dc.state.active_root.published == before.active_root.published
            told = await action.perform(dc)
            await finish(dc, action)

            if told is not None:
                assert (told["Outcome"], told["State"]) in whole.told
            assert await kinds(dc) == whole.kinds
            await assert_sound(dc, [] if action.cuts_off else shown, bundles)


async def the_root_is_to_sign_again(dc: Datacenter) -> None:
    """Its key is still with the signers, or was destroyed there a moment ago."""
    await dc.command(SUBJECTS.config_set, Config={"LeafSigner": "root"})


async def the_same_key_is_given_again(dc: Datacenter) -> None:
    await dc.command(SUBJECTS.config_set, Config={"PrivateKey": given_key()})


async def key_was_given_and_nobody_needs_it(dc: Datacenter) -> None:
    await the_same_key_is_given_again(dc)
    await quiet(dc)
    await pruned_and_nobody_needs_its_keys(dc, Config={})


async def key_was_given_and_never_recorded(dc: Datacenter) -> None:
    """As a crash leaves it."""
    dc.fuse.left = 3
    with pytest.raises(CrashError):
        await the_same_key_is_given_again(dc)
    await dc.new_leader()
    await dc.act()
    dc.clock.forward(2 * HOUR)


@pytest.mark.parametrize(
    ("before", "again"),
    [
        (the_root_signed_until_now, the_root_is_to_sign_again),
        (key_was_given_and_nobody_needs_it, the_same_key_is_given_again),
        (key_was_given_and_never_recorded, the_same_key_is_given_again),
    ],
)
async def test_h7_a_deposed_leader_destroys_no_key_that_its_successor_has_come_to_need(
    tmp_path: Path,
    before: Callable[[Datacenter], Awaitable[None]],
    again: Callable[[Datacenter], Awaitable[None]],
) -> None:
    """H7: Consul's cleanup deleted the key that signed. Here the leader stands still just before
    it destroys a key that nobody needs; by the time it goes on, its successor needs that key.
    """
    action = Action(name="destroy keys", perform=due, before=before, steps_min=2)
    steps = (await _whole(tmp_path / "whole", action)).steps
    for step in range(steps):
        async with opened(tmp_path / str(step), action) as (dc, shown):

            async def overtaken(dc: Datacenter = dc) -> None:
                await dc.new_leader("b")
                await again(dc)

            dc.fuse.left, dc.fuse.end = step, overtaken
            await dc.act()
            await finish(dc, action)
            await assert_sound(dc, shown, [])


async def test_a_renewal_that_was_cut_off_waits_for_a_rotation_that_is_on_its_way(
    tmp_path: Path,
) -> None:
    """Given up, it is finished; until then no turn of the leader signs anything for it."""
    action = Action(
        name="renew", configuration=SHORT, before=passes(2 * HOUR), perform=due, steps_min=8
    )
    async with opened(tmp_path / "dc", action) as (dc, shown):
        dc.fuse.left = 3  # the key is made, and the request recorded
        await dies(dc, action)
        await dc.new_leader("b")
        await rotates_later(dc)
        renewal = (await replayed(dc)).renewal
        assert renewal is not None

        dc.fuse.left = STEPS_MAX
        await dc.act()
        assert dc.fuse.left == STEPS_MAX
        dc.fuse.left = None
        await dc.command(SUBJECTS.rotation_abort)
        await quiet(dc)

        assert dc.state.issuer_key_id == renewal.requested.signing_key_id
        await assert_sound(dc, shown, [])


class Whole(Struct):
    """What an action comes to that nobody cuts off."""

    kinds: dict[str, int]  # how many events of each type there are
    told: set[tuple[str, str]]  # what is answered, the first time and again
    steps: int  # of the fuse, until the action is done


async def _whole(folder: Path, action: Action) -> Whole:
    async with opened(folder, action) as (dc, shown):
        bundles = [dc.roots()]
        dc.fuse.left = STEPS_MAX
        told = [await action.perform(dc)]
        steps, dc.fuse.left = STEPS_MAX - dc.fuse.left, None
        assert steps >= action.steps_min
        await finish(dc, action)
        told.append(await action.perform(dc))
        await finish(dc, action)
        whole = Whole(
            kinds=await kinds(dc),
            told={(answer["Outcome"], answer["State"]) for answer in told if answer is not None},
            steps=steps,
        )
        await assert_sound(dc, [] if action.cuts_off else shown, bundles)
        return whole


@asynccontextmanager
async def opened(folder: Path, action: Action) -> AsyncIterator[tuple[Datacenter, list[Shown]]]:
    """Make a datacenter, ready for the action, and leaves of it."""
    folder.mkdir()
    first = folder / "ca.json"
    first.write_text(action.configuration)
    async with Datacenter.open(folder) as dc:
        dc.first_configuration = first
        dc.alive = (run(1), run(2))
        shown = []
        if not action.initialises:
            await dc.act()
            await dc.sign("before")
            if action.before is not None:
                await action.before(dc)
            shown = [await dc.sign(), await dc.sign("api")]
            await dc.replicate()
        yield dc, shown


async def finish(dc: Datacenter, action: Action) -> None:
    """Let the time pass that the action takes, and the leader act until nothing is left to do."""
    await quiet(dc)
    if action.after is not None:
        await action.after(dc)
        await quiet(dc)


async def quiet(dc: Datacenter) -> None:
    for _ in range(TURNS_MAX):
        before = await dc.ledger.last_sequence()
        await dc.act()
        if await dc.ledger.last_sequence() == before:
            return
    raise AssertionError("the leader never comes to rest")


async def signed_meanwhile(dc: Datacenter, name: str) -> list[Shown]:
    """Sign, while nobody leads, under what the ledger says; who verifies has the bundle already."""
    state = await dc.tools.follower.catch_up()
    if not state.signers:
        return []
    shown = await dc.sign(name)
    assert shown.verifies(dc.published[-1], dc.clock.now()), "it signs before it is trusted"
    return [shown]


async def replayed(dc: Datacenter) -> AuthorityState:
    return await AuthorityFollower(dc.ledger, "dc1").catch_up()


async def kinds(dc: Datacenter) -> dict[str, int]:
    """Return how many events there are of each type that crashes must not change."""
    found = Counter(
        type(recorded.event).__name__ for entry in await dc.entries() for recorded in entry.events
    )
    del found[LeadershipAcquired.__name__], found[LeafIssued.__name__]
    return dict(found)


# What must hold, whatever was cut off.


async def assert_sound(
    dc: Datacenter, shown: Sequence[Shown], bundles: Sequence[Sequence[bytes]]
) -> None:
    """See that all is well; `bundles`: those from before the action."""
    state, now = dc.state, dc.clock.now()
    assert [root.active for root in state.roots.values()].count(True) == 1
    assert state.ca_state == "INITIALIZED"
    assert dc.published[-1] == dc.roots()
    new = await dc.sign("afterwards")
    assert new.verifies(dc.roots(), now)
    assert new.verifies(dc.roots(), now - BEHIND)
    for bundle in (dc.roots(), *filter(None, bundles)):
        assert all(one.verifies(bundle, now) for one in shown if one.leaf.not_after > now)
    for issuer in crls.issuers(state, now):
        listed = x509.load_der_x509_crl(state.crls[issuer.key_id].issued.crl)
        assert listed.is_signature_valid(certificates.public_key_of(issuer.certificate))
    await assert_keys_are_known(dc)
    await assert_the_ledger_is_all(dc)


async def assert_keys_are_known(dc: Datacenter) -> None:
    """See that, after a sweep, exactly those keys are there that the ledger speaks of."""
    await dc.after(unrecorded.AGE_MIN + SWEEP_EVERY + timedelta(seconds=1))
    await quiet(dc)
    state = dc.state
    recorded = {
        purpose: {key_id for key_id, key in state.keys.items() if key.purpose == purpose}
        for purpose in ("root", "signing")
    }
    assert {key.key_id for key in await dc.root_keys.stored()} == recorded["root"]
    stored = {key.key_id for key in await dc.signing_keys.stored()}
    assert stored == recorded["signing"] | state.shared
    assert state.issuer_key_id in stored
    assert {root.published.key_id for root in state.roots.values()} <= recorded["root"]


async def assert_the_ledger_is_all(dc: Datacenter) -> None:
    """See that a replay from zero is what the leader has, and that an auditor finds nothing."""
    assert await replayed(dc) == dc.state
    verifier = Verifier("dc1")
    for stored in await dc.ledger.read(0, limit=1_000_000):
        assert verifier.check(stored) == []
    assert verifier.finish(last_sequence=await dc.ledger.last_sequence()) == []
