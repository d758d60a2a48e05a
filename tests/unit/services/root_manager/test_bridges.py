"""Bridges: roots that the root before signed across, and when they are no way any more."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509

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
