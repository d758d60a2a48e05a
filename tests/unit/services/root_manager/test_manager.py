"""The CA manager in virtual time: rotation, renewal, pruning, lists, and every change of these."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509

from events.authority import (
    CAConfigured,
    IntermediateInstalled,
    KeyDestroyed,
    RootActivated,
    RootPruned,
    RootPublished,
    RotationStarted,
)
from events.base import Event
from projections.verify import Verifier
from services.pki import certificates
from services.pki.pem import colon_hex
from services.refusals import RefusedError
from services.root_manager import crls
from tests.external_ca import given_ca
from tests.verifiers import Chain, openssl_with_lists
from tests.virtual import SUBJECTS, Datacenter, Shown, run

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


async def events(dc: Datacenter, kind: type[Event]) -> list[int]:
    """Return where events of a kind are in the ledger."""
    return [
        entry.sequence
        for entry in await dc.entries()
        for recorded in entry.events
        if isinstance(recorded.event, kind)
    ]


def key_ids(dc: Datacenter) -> set[str]:
    return {key.published.key_id for key in dc.state.roots.values()}


# Rotation.


async def test_9654_a_root_rotates_when_it_is_told_to(dc: Datacenter) -> None:
    """Consul has no such command (issue 9654). The new root is out before it signs."""
    before, old_bundle = dc.state, dc.roots()
    first = await dc.sign()

    told = await dc.command(SUBJECTS.rotation_start)

    state = dc.state
    assert told["Outcome"] == "rotated"
    assert state.ca_state == "INITIALIZED"
    assert state.active_root is not None
    assert told["RootID"] == state.active_root.published.root_id not in before.roots
    assert [root.active for root in state.roots.values()] == [False, True]
    [published] = (await events(dc, RootPublished))[1:]
    [activated] = (await events(dc, RootActivated))[1:]
    assert published < activated
    assert dc.published[-1] == dc.roots()
    assert len(dc.published) == 2  # before the activation
    second = await dc.sign()
    now = dc.clock.now()
    for bundle in (old_bundle, dc.roots()):
        assert first.verifies(bundle, now)
        assert second.verifies(bundle, now)
    assert second.verifies((dc.roots()[-1],), now)  # the new root alone
    assert second.verifies(old_bundle, now - timedelta(seconds=30))


async def test_between_publication_and_activation_a_rotation_waits_or_is_given_up(
    dc: Datacenter,
) -> None:
    told = await dc.command(SUBJECTS.rotation_start, WaitSeconds=60, RequestID="r-1")

    assert told["Outcome"] == "rotating"
    state = await dc.after(timedelta(seconds=59))
    assert state.ca_state == "RECONFIGURING"
    assert len(state.roots) == 2
    for subject in (SUBJECTS.rotation_start, SUBJECTS.config_set):
        with pytest.raises(RefusedError, match='CA is already in state "RECONFIGURING"'):
            await dc.command(subject)
    assert (await dc.command(SUBJECTS.rotation_abort, Reason="a mistake"))["Outcome"] == "aborted"
    again = await dc.command(SUBJECTS.rotation_start, WaitSeconds=60, RequestID="r-1")
    assert again["Outcome"] == "aborted"  # and not "done"
    assert dc.state.ca_state == "INITIALIZED"
    assert len(dc.state.roots) == 1
    with pytest.raises(RefusedError, match="no rotation is on its way"):
        await dc.command(SUBJECTS.rotation_abort)


async def test_a_rotation_that_waited_long_enough_is_finished_by_whoever_leads(
    dc: Datacenter,
) -> None:
    await dc.command(SUBJECTS.rotation_start, WaitSeconds=60, RequestID="r-1")
    await dc.new_leader("b")

    state = await dc.after(timedelta(seconds=61))

    assert state.ca_state == "INITIALIZED"
    assert len(await events(dc, RootActivated)) == 2
    again = await dc.command(SUBJECTS.rotation_start, WaitSeconds=60, RequestID="r-1")
    assert again["Outcome"] == "done"
    assert len(await events(dc, RotationStarted)) == 1


async def test_34_33_a_changed_key_type_rotates_and_bridges_from_the_old_root(
    dc: Datacenter,
) -> None:
    """34. TriggerRotation x3; 33, 28. ForceWithoutCrossSigning; Consul 10070: mixed EC and RSA."""
    wanted = [
        {"PrivateKeyBits": 384},
        {"PrivateKeyType": "rsa", "PrivateKeyBits": "2048"},
        {"PrivateKeyType": "ec"},
    ]
    for fields in wanted:
        old, old_bundle = dc.state.active_root, dc.roots()
        assert old is not None

        told = await dc.command(SUBJECTS.config_set, Config=fields)

        new = dc.state.active_root
        assert new is not None
        assert told["RootID"] == new.published.root_id
        crossed, root = (
            x509.load_der_x509_certificate(der)
            for der in (new.published.cross_signed or b"", new.published.certificate)
        )
        assert crossed.subject == root.subject
        assert certificates.subject_key_id(
            new.published.cross_signed or b""
        ) == certificates.subject_key_id(new.published.certificate)
        crossed.verify_directly_issued_by(x509.load_der_x509_certificate(old.published.certificate))
        shown = await dc.sign()
        assert shown.verifies(old_bundle, dc.clock.now())
        assert shown.verifies((new.published.certificate,), dc.clock.now())

    alone = dc.roots()
    await dc.command(
        SUBJECTS.config_set, Config={"PrivateKeyBits": 384}, ForceWithoutCrossSigning=True
    )
    assert dc.state.active_root is not None
    assert dc.state.active_root.published.cross_signed is None
    shown = await dc.sign()
    assert not shown.verifies(alone, dc.clock.now())
    assert shown.verifies(dc.roots(), dc.clock.now())


async def test_a_rotation_replaces_every_grant_with_the_root(dc: Datacenter) -> None:
    before = {name: grant.sequence for name, grant in dc.state.signers.items()}

    await dc.command(SUBJECTS.rotation_start)

    after = dc.state.signers
    assert all(after[name].sequence > sequence for name, sequence in before.items())
    assert {grant.assignment.signing_key_id for grant in after.values()} == {dc.state.issuer_key_id}


async def test_the_key_of_a_root_that_is_trusted_is_not_taken_for_another(dc: Datacenter) -> None:
    told = dc.state
    await dc.command(SUBJECTS.rotation_start)

    assert len(key_ids(dc)) == 2
    assert set(told.keys) < set(dc.state.keys)


# Configuration.


async def test_31_h7_h22_a_change_of_lives_touches_no_root(dc: Datacenter) -> None:
    """31; H7: Consul's cleanup deleted the live key; H22: the bridge to the old root was lost."""
    await dc.command(SUBJECTS.rotation_start)
    before, old_bundle = dc.state, dc.published[0]

    told = await dc.command(SUBJECTS.config_set, Config={"LeafCertTTL": "1h"})

    assert told["Outcome"] == "configured"
    state = dc.state
    assert state.roots == before.roots
    assert (state.issuer_key_id, state.keys) == (before.issuer_key_id, before.keys)
    shown = await dc.sign()
    assert shown.verifies(old_bundle, dc.clock.now())
    assert shown.leaf.not_after <= dc.clock.now() + HOUR
    again = await dc.command(SUBJECTS.config_set, Config={"LeafCertTTL": "1h"})
    assert again["Outcome"] == "nothing to change"


async def test_h2_a_configuration_is_replaced_only_as_it_was_seen(dc: Datacenter) -> None:
    """H2: in Consul a mismatch of the index does nothing and reports success."""
    seen = dc.state.configured
    await dc.command(SUBJECTS.config_set, Config={"LeafCertTTL": "1h"}, ModifyIndex=seen)
    configured = dc.state.configured

    with pytest.raises(RefusedError, match="ModifyIndex did not match existing") as refused:
        await dc.command(SUBJECTS.config_set, Config={"LeafCertTTL": "2h"}, ModifyIndex=seen)

    assert refused.value.code == "conflict"
    assert dc.state.configured == configured > seen


async def test_h5_what_was_set_is_there_for_the_next_leader(dc: Datacenter) -> None:
    """H5: Consul returned success for a change that was not stored."""
    await dc.command(SUBJECTS.config_set, Config={"LeafCertTTL": "90m"})

    await dc.new_leader("b")
    state = await dc.act()

    assert state.configuration is not None
    assert state.configuration.config.leaf_cert_ttl_seconds == 5400
    assert len(await events(dc, CAConfigured)) == 2


async def test_a_command_that_comes_again_is_carried_out_once(dc: Datacenter) -> None:
    body = {"Config": {"LeafCertTTL": "2h"}, "RequestID": "r-1"}
    await dc.command(SUBJECTS.config_set, **body)
    await dc.command(SUBJECTS.config_set, Config={"LeafCertTTL": "3h"})

    assert (await dc.command(SUBJECTS.config_set, **body))["Outcome"] == "done"
    assert dc.state.configuration is not None
    assert dc.state.configuration.config.leaf_cert_ttl_seconds == 3 * 3600


async def test_a_change_that_the_signers_must_not_miss_replaces_their_grants(
    dc: Datacenter,
) -> None:
    """No leaf is committed any more that was decided on the configuration before."""
    before = {name: grant.sequence for name, grant in dc.state.signers.items()}

    await dc.command(SUBJECTS.config_set, Config={"LeafCertTTL": "1h"})

    assert all(dc.state.signers[name].sequence > at for name, at in before.items())


async def test_the_root_itself_signs_leaves_where_the_configuration_says_so(
    dc: Datacenter,
) -> None:
    """Consul's own relation in the primary; and back again."""
    root = dc.state.active_root
    assert root is not None
    await dc.command(SUBJECTS.config_set, Config={"LeafSigner": "root"})

    shown = await dc.sign()
    assert shown.leaf.issuer_key_id == root.published.key_id == dc.state.issuer_key_id
    assert shown.chain == ()
    assert shown.verifies(dc.roots(), dc.clock.now())
    assert dc.state.shared == {root.published.key_id}

    await dc.command(SUBJECTS.config_set, Config={})
    state = await dc.after(timedelta(minutes=2))
    shown = await dc.sign()
    assert len(shown.chain) == 1
    assert state.shared == frozenset(), "the signers' copy of the root's key is destroyed"
    assert root.published.key_id in state.keys


# Renewal.


async def test_14_24_an_intermediate_is_renewed_at_half_its_life(dc: Datacenter) -> None:
    """14, 24. Renewal at half-life; leaves verify before and after; not at each leader (H19)."""
    first = await dc.sign()
    issuer = dc.state.issuer_key_id
    await dc.new_leader("b")
    assert (await dc.after(180 * DAY)).issuer_key_id == issuer

    state = await dc.after(40 * DAY)  # 0.5 + at most 0.1 of 365 days

    assert state.issuer_key_id != issuer
    assert state.ca_state == "INITIALIZED"
    assert len(state.roots) == 1
    assert len(await events(dc, IntermediateInstalled)) == 2
    second = await dc.sign()
    assert second.verifies(dc.roots(), dc.clock.now())
    assert not first.verifies(dc.roots(), dc.clock.now())  # it expired long ago
    assert (await dc.after(DAY)).issuer_key_id == state.issuer_key_id


async def test_h9_no_intermediate_outlives_its_root(dc: Datacenter) -> None:
    """H9: Consul's are not clamped: this one would end 80 days after its root."""
    await dc.command(SUBJECTS.config_set, Config={"RootCertTTL": "12000h", "PrivateKeyBits": 384})
    root, first = dc.state.active_root, dc.state.issuer_key_id
    assert root is not None

    state = await dc.after(220 * DAY)

    issuer = state.issuer
    assert issuer is not None
    assert issuer.key_id != first
    end = certificates.load(issuer.certificate).not_valid_after_utc
    assert end <= root.published.not_after
    assert (await dc.sign()).leaf.not_after <= end


# Pruning and keys.


async def test_21_h1_a_retired_root_is_pruned_when_no_leaf_needs_it(dc: Datacenter) -> None:
    """21. CARootPruning. H1: never before the leaves below it have expired."""
    old = dc.state.active_root
    assert old is not None
    shown = await dc.sign()
    await dc.command(SUBJECTS.rotation_start)
    await dc.command(SUBJECTS.config_set, Config={"LeafCertTTL": "1h"})

    state = await dc.after(3 * HOUR)  # longer than twice the LeafCertTTL that is set now

    assert old.published.root_id in state.roots
    assert shown.verifies(dc.roots(), dc.clock.now())
    state = await dc.after(70 * HOUR)
    assert old.published.root_id not in state.roots
    assert len(await events(dc, RootPruned)) == 1


async def test_a_root_is_not_pruned_before_twice_a_leafs_life(dc: Datacenter) -> None:
    await dc.command(SUBJECTS.rotation_start)

    assert len((await dc.after(143 * HOUR)).roots) == 2
    assert len((await dc.after(2 * HOUR)).roots) == 1


async def test_a_compromised_root_is_pruned_by_force_which_says_whom_it_cuts_off(
    dc: Datacenter,
) -> None:
    old = dc.state.active_root
    assert old is not None
    with pytest.raises(RefusedError, match="is active: rotate first"):
        await dc.command(SUBJECTS.roots_prune, RootID=old.published.root_id)
    shown = [await dc.sign(), await dc.sign("api")]
    await dc.command(SUBJECTS.rotation_start)

    told = await dc.command(SUBJECTS.roots_prune, RootID=old.published.root_id, DryRun=True)
    assert (told["Outcome"], told["LiveLeaves"]) == ("would be pruned", 2)
    with pytest.raises(RefusedError, match="2 live leaves below root"):
        await dc.command(SUBJECTS.roots_prune, RootID=old.published.root_id)
    told = await dc.command(SUBJECTS.roots_prune, RootID=old.published.root_id, Force=True)

    assert (told["Outcome"], told["LiveLeaves"]) == ("pruned", 2)
    assert not any(leaf.verifies(dc.roots(), dc.clock.now()) for leaf in shown)


async def test_keys_are_destroyed_after_the_last_leaf_and_the_last_list(dc: Datacenter) -> None:
    old, issuer = dc.state.active_root, dc.state.issuer_key_id
    assert old is not None
    await dc.sign()
    await dc.command(SUBJECTS.rotation_start)
    held = {key.key_id for key in await dc.signing_keys.stored()}
    assert issuer in held

    for _ in range(8):
        await dc.after(DAY)
    state = dc.state
    assert old.published.root_id not in state.roots
    for _ in range(5):
        state = await dc.after(DAY)

    kept = {key.key_id for key in await dc.signing_keys.stored()}
    assert kept == {state.issuer_key_id}
    assert {key.key_id for key in await dc.root_keys.stored()} == key_ids(dc)
    assert set(state.keys) == kept | key_ids(dc)
    assert len(await events(dc, KeyDestroyed)) == 2


# Lists.


async def test_every_trusted_issuer_has_a_valid_list_at_any_time(dc: Datacenter) -> None:
    for _ in range(10):
        state = await dc.after(8 * HOUR)
        now = dc.clock.now()
        for issuer in crls.issuers(state, now):
            listed = x509.load_der_x509_crl(state.crls[issuer.key_id].issued.crl)
            assert listed.next_update_utc is not None
            assert listed.last_update_utc <= now < listed.next_update_utc
            public = certificates.public_key_of(issuer.certificate)
            assert listed.is_signature_valid(public)
    numbers = [listed.issued.number for listed in dc.state.crls.values()]
    assert max(numbers) < 6, "every day, not every turn"


def accepted(dc: Datacenter, shown: Shown, roots: Sequence[bytes]) -> bool:
    """Ask OpenSSL, with the lists that are served now."""
    chain = Chain(leaf=shown.leaf.certificate, intermediates=shown.chain, roots=tuple(roots))
    served = [listed.issued.crl for listed in dc.state.crls.values()]
    return bool(openssl_with_lists(chain, served, dc.clock.now()))


async def test_a_revoked_leaf_is_refused_by_who_reads_the_lists_with_either_bundle(
    dc: Datacenter,
) -> None:
    old_bundle = dc.roots()
    before = [await dc.sign(), await dc.sign("api")]
    await dc.command(SUBJECTS.rotation_start)
    after = [await dc.sign(), await dc.sign("api")]
    await dc.act()
    for bundle in (old_bundle, dc.roots()):
        assert all(accepted(dc, shown, bundle) for shown in (*before, *after))

    asked = {"Identity": before[0].leaf.identity}
    told = await dc.command(SUBJECTS.leaves_revoke, Leaves=asked, DryRun=True)
    assert (told["Outcome"], told["LiveLeaves"]) == ("would be revoked", 2)
    assert dc.state.revoked == {}
    told = await dc.command(SUBJECTS.leaves_revoke, Leaves=asked, Reason="key_compromise")

    assert told["Identities"] == {before[0].leaf.identity: 2}
    for bundle in (old_bundle, dc.roots()):
        assert [accepted(dc, shown, bundle) for shown in before] == [False, True]
        assert [accepted(dc, shown, bundle) for shown in after] == [False, True]
    again = await dc.command(SUBJECTS.leaves_revoke, Leaves=asked)
    assert again["Outcome"] == "nothing to revoke"


async def test_leaves_are_chosen_by_serial_signer_root_or_time(dc: Datacenter) -> None:
    first = await dc.sign()
    dc.clock.forward(HOUR)
    second = await dc.sign("api")
    root = dc.state.active_root
    assert root is not None

    async def count(**chosen: object) -> int:
        told = await dc.command(SUBJECTS.leaves_revoke, Leaves=chosen, DryRun=True)
        return int(told["LiveLeaves"])

    assert await count(Serials=[colon_hex(first.leaf.serial), second.leaf.serial]) == 2
    assert await count(Serials=["01"]) == 0
    assert await count(Signer=first.leaf.signer) in {1, 2}
    assert await count(RootID=root.published.root_id) == 2
    between = dc.clock.now() - timedelta(minutes=30)
    assert await count(IssuedTo=between.isoformat()) == 1
    assert await count(IssuedFrom=between.isoformat()) == 1
    assert await count(Identity=first.leaf.identity, IssuedFrom=between.isoformat()) == 0
    for wrong in ({}, {"Identity": "x", "Serials": ["1"]}, {"Serials": ["x"]}, {"Serial": "1"}):
        with pytest.raises(RefusedError) as refused:
            await count(**wrong)
        assert refused.value.code == "malformed"
    await dc.after(73 * HOUR)
    assert await count(RootID=root.published.root_id) == 0, "what has expired is not revoked"


async def test_whoever_held_a_revoked_leaf_is_told_once_and_again_by_a_new_leader(
    dc: Datacenter,
) -> None:
    shown = await dc.sign()
    await dc.command(SUBJECTS.leaves_revoke, Leaves={"Identity": shown.leaf.identity})
    await dc.act()

    [told] = dc.reissues
    assert told["Leaves"] == [
        {"SerialNumber": colon_hex(shown.leaf.serial), "Identity": shown.leaf.identity}
    ]
    await dc.new_leader("b")
    await dc.act()
    assert dc.reissues == [told, told]
    await dc.new_leader("a")
    await dc.after(timedelta(minutes=11))
    assert dc.reissues == [told, told]


# A provider that fails.


async def test_26_27_a_provider_that_fails_costs_nothing_but_time(tmp_path: Path) -> None:
    """26, 27. A garbage root does not block leadership; a good configuration recovers at once."""
    garbage = tmp_path / "ca.json"
    garbage.write_text('{"Config": {"RootCert": "garbage"}}')
    async with Datacenter.open(tmp_path) as dc:
        dc.first_configuration = garbage
        await dc.signers(run(1))
        assert dc.state.configuration is None
        assert dc.state.leader is not None
        [failure] = dc.manager.attempts.failures
        assert "must provide a private key" in failure.reason

        told = await dc.command(SUBJECTS.config_set, Config={})

        assert told["State"] == "INITIALIZED"
        state = await dc.act()
        assert state.signers
        assert dc.manager.attempts.failures == ()
        assert (await dc.sign()).verifies(dc.roots(), dc.clock.now())


async def test_25_what_fails_is_tried_again_after_ever_longer_pauses(tmp_path: Path) -> None:
    """25. retryLoopBackoff: 2 s, doubling, at most 256 s."""
    async with Datacenter.open(tmp_path) as dc:
        dc.first_configuration = tmp_path / "missing.json"
        tries = []
        for second in range(2000):
            failures = dc.manager.attempts.failures
            await dc.manager.act(dc.turn)
            if dc.manager.attempts.failures != failures:
                tries.append(second)
            dc.clock.forward(timedelta(seconds=1))

    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert pauses[:9] == [2, 4, 8, 16, 32, 64, 128, 256, 256]


async def test_the_ledger_is_the_whole_state(dc: Datacenter) -> None:
    """A replay from zero, by a new leader, is what the one before had."""
    await dc.sign()
    await dc.command(SUBJECTS.rotation_start)
    await dc.command(SUBJECTS.config_set, Config={"LeafCertTTL": "1h"})
    await dc.after(200 * HOUR)
    before = dc.state

    await dc.new_leader("a")
    after = await dc.tools.follower.catch_up()

    assert (after.roots, after.issuers, after.keys, after.crls) == (
        before.roots,
        before.issuers,
        before.keys,
        before.crls,
    )


@pytest.mark.parametrize("first", ["config", "rotate", "revoke"])
async def test_an_id_of_another_command_is_no_success(dc: Datacenter, first: str) -> None:
    """What was not done must not be told to be: not of another kind, nor of the same kind."""
    leaf, other = await dc.sign(), await dc.sign("api")
    first_root = next(iter(dc.state.roots))
    if first == "rotate":
        await dc.command(SUBJECTS.rotation_start, RequestID="r-1")
    elif first == "config":
        await dc.command(SUBJECTS.config_set, Config={"LeafCertTTL": "24h"}, RequestID="r-1")
    else:
        chosen = {"Serials": [leaf.leaf.serial]}
        await dc.command(SUBJECTS.leaves_revoke, Leaves=chosen, RequestID="r-1")
    before = dc.state

    for subject, body in (
        (SUBJECTS.config_set, {"Config": {"LeafCertTTL": "36h"}}),
        (SUBJECTS.rotation_start, {}),
        (SUBJECTS.rotation_abort, {}),
        (SUBJECTS.roots_prune, {"RootID": first_root}),
        (SUBJECTS.leaves_revoke, {"Leaves": {"Serials": [other.leaf.serial]}}),
    ):
        if (subject, first) != (SUBJECTS.rotation_start, "rotate"):
            with pytest.raises(RefusedError, match="r-1 is that of another command") as refused:
                await dc.command(subject, **body, RequestID="r-1")
            assert refused.value.code == "request_id_conflict"

    assert dc.state == before


async def test_a_given_root_that_was_taken_back_can_be_given_again(dc: Datacenter) -> None:
    given = given_ca().config
    await dc.command(SUBJECTS.config_set, Config=given, WaitSeconds=60)
    await dc.command(SUBJECTS.rotation_abort)

    told = await dc.command(SUBJECTS.config_set, Config=given)

    assert told["Outcome"] == "rotated"
    assert (await dc.sign()).verifies(dc.roots(), dc.clock.now())
    await dc.command(SUBJECTS.config_set, Config={})
    with pytest.raises(RefusedError, match="is or was a root here"):
        await dc.command(SUBJECTS.config_set, Config=given)


async def test_a_given_root_that_names_its_key_as_others_do_is_no_fault(dc: Datacenter) -> None:
    """RFC 5280, 4.2.1.2: any method will do; OpenSSL's is SHA-1 of the key, ours SHA-256."""
    given = given_ca().config
    await dc.command(SUBJECTS.config_set, Config={**given, "LeafSigner": "root"})
    await dc.sign()

    verifier = Verifier("dc1")
    stored = await dc.ledger.read(0, limit=1_000)
    faults = [fault for each in stored for fault in verifier.check(each)]

    assert faults == []
