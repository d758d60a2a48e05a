"""Bridges: roots that the root before signed across, and when they are no way any more."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509

from services.pki import pem
from services.refusals import RefusedError
from tests.external_ca import given_ca
from tests.virtual import SUBJECTS, Datacenter, Shown

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def bridges(dc: Datacenter) -> dict[str, bytes]:
    """Return what was signed across, by root."""
    roots = {**dc.state.pruned, **dc.state.roots}
    return {
        root_id: root.published.cross_signed
        for root_id, root in roots.items()
        if root.published.cross_signed is not None
    }


def listed(dc: Datacenter, root_id: str) -> set[int]:
    """Return the serial numbers on a root's latest revocation list."""
    key_id = dc.state.roots[root_id].published.key_id
    crl = x509.load_der_x509_crl(dc.state.crls[key_id].issued.crl)
    return {revoked.serial_number for revoked in crl}


def serial(certificate: bytes) -> int:
    return x509.load_der_x509_certificate(certificate).serial_number


async def test_a_root_is_pruned_by_force_together_with_those_that_lead_to_it(
    dc: Datacenter,
) -> None:
    """Whoever has its key could show the bridge, and be believed by a root before it."""
    [first] = dc.state.roots
    await dc.command(SUBJECTS.rotation_start)
    stolen = list(dc.state.roots)[-1]
    leaf = await dc.sign()
    await dc.command(SUBJECTS.rotation_start)
    shown = Shown(leaf.leaf, (*leaf.chain, *bridges(dc).values()))
    assert shown.verifies(dc.roots(), dc.clock.now())

    told = await dc.command(SUBJECTS.roots_prune, RootID=stolen, Force=True, DryRun=True)
    assert (told["AlsoPruned"], told["LiveLeaves"]) == ([first], 1)
    told = await dc.command(SUBJECTS.roots_prune, RootID=stolen, Force=True)

    assert (told["AlsoPruned"], told["LiveLeaves"]) == ([first], 1)
    assert dc.state.roots.keys().isdisjoint({first, stolen})
    assert not shown.verifies(dc.roots(), dc.clock.now())
    assert (await dc.sign()).verifies(dc.roots(), dc.clock.now())


async def test_the_bridge_of_a_root_that_was_taken_back_is_on_the_list_of_who_signed_it(
    dc: Datacenter,
) -> None:
    """The key may be the operator's, and lost: who checks lists is not led around."""
    [first] = dc.state.roots
    await dc.command(SUBJECTS.config_set, Config=given_ca().config, WaitSeconds=3_600)
    [bridge] = bridges(dc).values()
    await dc.after(HOUR / 2)
    assert listed(dc, first) == set()

    await dc.command(SUBJECTS.rotation_abort, Reason="its key was stolen")
    await dc.act()

    assert listed(dc, first) == {serial(bridge)}
    await dc.command(SUBJECTS.config_set, Config=given_ca().config)  # it comes again
    await dc.after(30 * HOUR)
    assert listed(dc, first) == {serial(bridge)}, "what was revoked stays revoked"


async def test_who_has_not_expired_is_signed_across_by_nobody_who_has(dc: Datacenter) -> None:
    """A rotation away from a root that has expired goes without a bridge, and does not fail."""
    await dc.after(3_660 * DAY)
    plan = await dc.command(SUBJECTS.config_plan, Config={"PrivateKeyBits": 384})
    assert not plan.get("CrossSigned", False)

    told = await dc.command(SUBJECTS.rotation_start)

    assert told["Outcome"] == "rotated"
    assert bridges(dc) == {}
    assert (await dc.sign()).verifies(dc.roots(), dc.clock.now())


async def test_what_signs_leaves_does_not_change_under_a_root_that_has_expired(
    dc: Datacenter,
) -> None:
    await dc.after(3_660 * DAY)
    with pytest.raises(RefusedError, match=r"the active root expired at .*: rotate"):
        await dc.command(SUBJECTS.config_set, Config={"LeafSigner": "root"})


async def test_a_root_that_would_expire_while_it_waits_is_refused(dc: Datacenter) -> None:
    short = {"LeafCertTTL": "1h", "IntermediateCertTTL": "3h", "RootCertTTL": "3h"}
    with pytest.raises(RefusedError, match="before its leaves do: wait for a shorter time"):
        await dc.command(
            SUBJECTS.config_set,
            Config={**short, "PrivateKeyBits": 384},
            WaitSeconds=4 * 3_600,
        )


async def test_a_root_that_expired_while_nobody_led_is_taken_back(dc: Datacenter) -> None:
    short = {"LeafCertTTL": "1h", "IntermediateCertTTL": "3h", "RootCertTTL": "3h"}
    [first] = dc.state.roots
    await dc.command(
        SUBJECTS.config_set, Config={**short, "PrivateKeyBits": 384}, WaitSeconds=3_600
    )

    state = await dc.after(5 * HOUR)

    assert state.rotation is None
    assert list(state.roots) == [first]
    assert (await dc.sign()).verifies(dc.roots(), dc.clock.now())


async def test_a_given_root_that_begins_now_waits_for_clocks_that_are_behind(
    dc: Datacenter,
) -> None:
    before = dc.roots()
    young = given_ca(now=dc.clock.now() + DAY)  # `given_ca` begins a day before

    told = await dc.command(SUBJECTS.config_set, Config=young.config)

    assert told["Outcome"] == "rotating"
    await dc.after(timedelta(minutes=1))
    leaf = await dc.sign()
    for bundle in (before, dc.roots()):
        assert leaf.verifies(bundle, dc.clock.now() - timedelta(seconds=30))


async def test_h10_a_bridge_that_has_expired_is_not_handed_out(dc: Datacenter) -> None:
    short = {"LeafCertTTL": "1h", "IntermediateCertTTL": "3h", "RootCertTTL": "12h"}
    await dc.command(SUBJECTS.config_set, Config={**short, "PrivateKeyBits": 384})
    await dc.command(SUBJECTS.config_set, Config={**short, "RootCertTTL": "90000h"})
    [*_, bridge] = bridges(dc).values()
    assert bridge in (await dc.sign()).chain
    await dc.after(12 * HOUR)
    await dc.after(2 * HOUR)

    assert bridge not in (await dc.sign()).chain


async def test_a_way_over_a_root_that_was_pruned_before_is_a_way_too(dc: Datacenter) -> None:
    """A to B to C: B is pruned as nobody needs it, then C's key is stolen."""
    [a] = dc.state.roots
    await dc.sign()  # below A: it stays
    await dc.command(SUBJECTS.rotation_start)
    b = list(dc.state.roots)[-1]
    await dc.command(SUBJECTS.rotation_start)
    c = list(dc.state.roots)[-1]
    leaf = await dc.sign()
    await dc.command(SUBJECTS.rotation_start)
    await dc.command(SUBJECTS.roots_prune, RootID=b, RequestID="r-b")
    shown = Shown(leaf.leaf, (*leaf.chain, *bridges(dc).values()))
    assert shown.verifies(dc.roots(), dc.clock.now())

    told = await dc.command(SUBJECTS.roots_prune, RootID=c, Force=True)

    assert told["AlsoPruned"] == [a]
    assert not shown.verifies(dc.roots(), dc.clock.now())


async def test_a_root_that_is_found_stolen_once_it_was_pruned_takes_those_that_lead_to_it(
    dc: Datacenter,
) -> None:
    [a] = dc.state.roots
    await dc.sign()
    await dc.command(SUBJECTS.rotation_start)
    b = list(dc.state.roots)[-1]
    await dc.command(SUBJECTS.rotation_start)
    await dc.command(SUBJECTS.roots_prune, RootID=b, RequestID="r-1")
    with pytest.raises(RefusedError, match="there is no trusted root"):
        await dc.command(SUBJECTS.roots_prune, RootID=b)

    told = await dc.command(SUBJECTS.roots_prune, RootID=b, Force=True, RequestID="r-1")

    assert told["AlsoPruned"] == [a]
    assert a not in dc.state.roots
    again = await dc.command(SUBJECTS.roots_prune, RootID=b, Force=True, RequestID="r-1")
    assert again["Outcome"] == "pruned"


async def test_the_bridge_of_a_try_that_was_given_up_is_not_forgotten(dc: Datacenter) -> None:
    """X signs R across, which is given up; R comes again from Y, and its key is stolen then."""
    [x] = dc.state.roots
    given = given_ca().config
    await dc.command(SUBJECTS.config_set, Config=given, WaitSeconds=3_600)
    [first_bridge] = bridges(dc).values()
    await dc.command(SUBJECTS.rotation_abort)
    await dc.command(SUBJECTS.rotation_start, ForceWithoutCrossSigning=True)
    y = list(dc.state.roots)[-1]
    await dc.command(SUBJECTS.config_set, Config=given)
    r = list(dc.state.roots)[-1]
    leaf = await dc.sign()
    await dc.command(SUBJECTS.config_set, Config={})
    shown = Shown(leaf.leaf, (*leaf.chain, first_bridge))
    assert shown.verifies(dc.roots()[:1], dc.clock.now())

    told = await dc.command(SUBJECTS.roots_prune, RootID=r, Force=True)

    assert told["AlsoPruned"] == [x, y]
    assert not shown.verifies(dc.roots(), dc.clock.now())


async def test_a_key_that_is_given_again_gets_a_list_of_its_new_roots_name(dc: Datacenter) -> None:
    key = {"PrivateKey": given_ca().config["PrivateKey"]}
    await dc.command(SUBJECTS.config_set, Config=key, WaitSeconds=60)
    await dc.act()
    await dc.command(SUBJECTS.rotation_abort)
    await dc.command(SUBJECTS.config_set, Config=key, WaitSeconds=60)
    await dc.act()

    root = list(dc.state.roots.values())[-1].published
    crl = x509.load_der_x509_crl(dc.state.crls[root.key_id].issued.crl)
    assert crl.issuer == x509.load_der_x509_certificate(root.certificate).subject


async def test_a_command_whose_rotation_was_given_up_is_told_so(dc: Datacenter) -> None:
    given = given_ca().config
    first = {"Config": given, "WaitSeconds": 3_600, "RequestID": "c1"}
    await dc.command(SUBJECTS.config_set, **first)
    await dc.command(SUBJECTS.rotation_abort)
    await dc.command(SUBJECTS.config_set, **{**first, "RequestID": "c2"})

    assert (await dc.command(SUBJECTS.config_set, **first))["Outcome"] == "aborted"


async def test_a_command_whose_root_expired_while_it_waited_is_told_so(dc: Datacenter) -> None:
    short = {"LeafCertTTL": "1h", "IntermediateCertTTL": "3h", "RootCertTTL": "3h"}
    command = {"Config": {**short, "PrivateKeyBits": 384}, "WaitSeconds": 3_600, "RequestID": "c1"}
    await dc.command(SUBJECTS.config_set, **command)
    dc.clock.forward(5 * HOUR)

    for _ in range(2):
        assert (await dc.command(SUBJECTS.config_set, **command))["Outcome"] == "aborted"


async def test_the_same_id_with_other_times_or_another_force_is_no_success(dc: Datacenter) -> None:
    await dc.sign()
    now = dc.clock.now()
    hour, day = ((now - by).isoformat() for by in (HOUR, DAY))
    await dc.command(SUBJECTS.leaves_revoke, Leaves={"IssuedFrom": hour}, RequestID="i1")
    await dc.command(SUBJECTS.rotation_start, RequestID="r1")

    for subject, body in (
        (SUBJECTS.leaves_revoke, {"Leaves": {"IssuedFrom": day}, "RequestID": "i1"}),
        (SUBJECTS.rotation_start, {"ForceWithoutCrossSigning": True, "RequestID": "r1"}),
    ):
        with pytest.raises(RefusedError, match="is that of another command"):
            await dc.command(subject, **body)


async def test_serials_are_the_same_however_they_are_written(dc: Datacenter) -> None:
    serial = (await dc.sign()).leaf.serial
    for written in (serial, pem.colon_hex(serial).upper()):
        told = await dc.command(
            SUBJECTS.leaves_revoke, Leaves={"Serials": [written]}, RequestID="i1"
        )
        assert told["Outcome"] == "revoked"


async def test_h10_a_bridge_that_ends_while_its_intermediate_lives_has_it_renewed(
    dc: Datacenter,
) -> None:
    lives = {"LeafCertTTL": "1h", "IntermediateCertTTL": "2160h"}
    short = {**lives, "IntermediateCertTTL": "3h", "RootCertTTL": "12h", "PrivateKeyBits": 384}
    await dc.command(SUBJECTS.config_set, Config=short)
    await dc.command(SUBJECTS.config_set, Config=lives)
    [*_, bridge] = bridges(dc).values()
    before = await dc.sign()
    assert bridge in before.chain

    await dc.after(13 * HOUR)

    after = await dc.sign()
    assert bridge not in after.chain
    assert after.leaf.issuer_key_id != before.leaf.issuer_key_id
    issuer = dc.state.issuer_key_id
    await dc.after(HOUR)
    assert dc.state.issuer_key_id == issuer, "and then it is as it should be"


async def test_a_repeated_configuration_is_not_checked_against_what_is_now(dc: Datacenter) -> None:
    given = given_ca().config
    await dc.command(SUBJECTS.config_set, Config=given)
    key = (await dc.command(SUBJECTS.config_plan, Config=given))["PrivateKeyType"]
    reference = f"key:{dc.state.configuration.config.given_key_id}"  # type: ignore[union-attr]
    command = {
        "Config": {**given, "PrivateKey": reference, "LeafCertTTL": "24h"},
        "RequestID": "c1",
    }
    assert (await dc.command(SUBJECTS.config_set, **command))["Outcome"] == "configured"
    await dc.command(SUBJECTS.config_set, Config={"PrivateKeyType": key})

    assert (await dc.command(SUBJECTS.config_set, **command))["Outcome"] == "done"
    with pytest.raises(RefusedError, match="PrivateKey refers to a key that is not in use"):
        await dc.command(SUBJECTS.config_set, **{**command, "RequestID": "c2"})


async def test_an_intermediate_is_not_put_where_the_bridge_has_no_room_for_it(
    dc: Datacenter,
) -> None:
    tight = given_ca(certificates=1, path_length=1).config
    await dc.command(SUBJECTS.config_set, Config={**tight, "LeafSigner": "root"})
    await dc.command(SUBJECTS.config_set, Config={"LeafSigner": "root"})

    with pytest.raises(RefusedError, match="keep LeafSigner at root until the root before is"):
        await dc.command(SUBJECTS.config_set, Config={"LeafSigner": "intermediate"})
