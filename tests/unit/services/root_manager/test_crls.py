"""Revocation lists when something fails: too many revoked, lost keys, wrong clocks."""

from __future__ import annotations

import secrets
from datetime import timedelta

import pytest
from msgspec.structs import replace

from events.leaves import LeafIssued
from events.revocation import CRL_BYTES_MAX, REVOKED_MAX, LeavesRevoked, RevokedLeaf
from services.clock import SystemEntropy
from services.keys.interface import PrivateKey
from services.refusals import RefusedError
from services.root_manager.commands import Revoke
from services.stamping import Stamper, source
from tests.verifiers import Chain, openssl_with_lists
from tests.virtual import SUBJECTS, Datacenter, Shown

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
AT_MOST = CRL_BYTES_MAX // 49  # entries with a reason and a serial number of 16 octets


def lists(dc: Datacenter) -> list[bytes]:
    return [listed.issued.crl for listed in dc.state.crls.values()]


def failing(dc: Datacenter) -> dict[str, str]:
    """Return what `status` says of what fails, and why."""
    return {failure.what: failure.reason for failure in dc.manager.attempts.failures}


def verdict(dc: Datacenter, shown: Shown) -> str:
    """Return what OpenSSL says of a leaf, with the lists that are served now."""
    chain = Chain(leaf=shown.leaf.certificate, intermediates=shown.chain, roots=dc.roots())
    return openssl_with_lists(chain, lists(dc), dc.clock.now()).text


def accepted(dc: Datacenter, shown: Shown) -> bool:
    chain = Chain(leaf=shown.leaf.certificate, intermediates=shown.chain, roots=dc.roots())
    return bool(openssl_with_lists(chain, lists(dc), dc.clock.now()))


def only_root(dc: Datacenter) -> str:
    [root] = dc.state.roots.values()
    return root.published.key_id


async def lose(dc: Datacenter, key_id: str) -> None:
    """Destroy a root's key behind the back of the CA manager."""
    [stored] = [key for key in await dc.root_keys.stored() if key.key_id == key_id]
    await dc.root_keys.destroy(stored)


async def take(dc: Datacenter, key_id: str) -> PrivateKey:
    """Take a signing key away; returns it."""
    private = dc.signing_keys.private(key_id)
    [stored] = [key for key in await dc.signing_keys.stored() if key.key_id == key_id]
    await dc.signing_keys.destroy(stored)
    return private


def serial() -> str:
    return f"{secrets.randbits(120) | 1 << 126:x}"


async def more_leaves(dc: Datacenter, like: LeafIssued, count: int) -> None:
    """Record as many leaves as were never signed; nobody looks into their certificates here."""
    stamper = Stamper(source("dc1", "signer", "a"), dc.clock, SystemEntropy())
    grant = dc.state.signers[like.signer].sequence
    for _ in range(0, count, 500):
        events = [
            stamper.stamp(replace(like, serial=serial(), request_id=None), subject=like.identity)
            for _ in range(500)
        ]
        await dc.ledger.append_leaves(like.signer, events, grant_sequence=grant)


async def record(dc: Datacenter, issuer_key_id: str, serials: list[str]) -> None:
    """Record a revocation as a node of another version may have done it."""
    not_after = dc.clock.now() + 4 * DAY
    leaves = [
        RevokedLeaf(serial=each, issuer_key_id=issuer_key_id, identity="x", not_after=not_after)
        for each in serials
    ]
    for start in range(0, len(leaves), REVOKED_MAX):
        part = tuple(leaves[start : start + REVOKED_MAX])
        event = LeavesRevoked(leaves=part, reason="superseded", selected_by="a test")
        assert await dc.tools.carry_out(dc.acting, Revoke(revoked=event))


# Too many.


async def test_more_than_fits_a_list_is_refused_before_anything_is_revoked(dc: Datacenter) -> None:
    shown = await dc.sign()
    await more_leaves(dc, shown.leaf, AT_MOST)
    chosen = {"Leaves": {"Signer": shown.leaf.signer}, "Reason": "key_compromise"}

    for dry_run in (True, False):
        with pytest.raises(RefusedError, match="too long") as refused:
            await dc.command(SUBJECTS.leaves_revoke, **chosen, DryRun=dry_run)

        assert refused.value.code == "conflict"
        assert f"the list of issuer {shown.leaf.issuer_key_id} would be" in refused.value.message
        assert "choose fewer, or rotate and prune the root" in refused.value.message
    assert dc.state.revoked == {}
    told = await dc.command(SUBJECTS.leaves_revoke, Leaves={"Serials": [shown.leaf.serial]})
    assert (told["Outcome"], "ListsMissing" in told) == ("revoked", False)
    assert "certificate revoked" in verdict(dc, shown)


async def test_a_list_that_is_too_long_all_the_same_is_told_and_stops_no_other(
    dc: Datacenter,
) -> None:
    shown = await dc.sign()
    key_id, root_key_id = shown.leaf.issuer_key_id, only_root(dc)
    await record(dc, key_id, [serial() for _ in range(AT_MOST)])
    before = dc.state.crls

    await dc.after(25 * HOUR)

    [(what, reason)] = failing(dc).items()
    assert what == f"issuing the revocation list of intermediate {key_id}"
    assert "too long" in reason
    assert dc.state.crls[key_id] == before[key_id]
    assert dc.state.crls[root_key_id].issued.number == before[root_key_id].issued.number + 1
    told = await dc.command(SUBJECTS.leaves_revoke, Leaves={"Serials": ["1"]})
    assert (told["Outcome"], told["ListsMissing"]) == ("nothing to revoke", [key_id])
    await dc.after(4 * DAY)  # they expire
    assert not failing(dc)
    assert dc.state.crls[key_id].issued.revoked == 0


@pytest.mark.parametrize("wrong", ["0", "f" * 40])
async def test_a_number_that_no_certificate_can_have_stops_no_list(
    dc: Datacenter, wrong: str
) -> None:
    """A signer that lies can write it, and is revoked with all its leaves."""
    shown = await dc.sign()

    await record(dc, shown.leaf.issuer_key_id, [wrong, shown.leaf.serial])
    await dc.act()

    assert not failing(dc)
    assert "certificate revoked" in verdict(dc, shown)


# Lost keys.


async def test_a_retired_roots_lost_key_stops_no_other_list(dc: Datacenter) -> None:
    await dc.sign("db")  # so the root before stays
    lost = only_root(dc)
    await dc.command(SUBJECTS.rotation_start)
    shown, other = await dc.sign(), await dc.sign("api")
    await dc.act()
    await lose(dc, lost)
    await dc.after(25 * HOUR)
    assert list(failing(dc)) == [f"issuing the revocation list of root {lost}"]

    chosen = {"Serials": [shown.leaf.serial]}
    told = await dc.command(SUBJECTS.leaves_revoke, Leaves=chosen, RequestID="r-1")

    assert (told["Outcome"], "ListsMissing" in told) == ("revoked", False)
    assert "certificate revoked" in verdict(dc, shown)
    assert accepted(dc, other)
    for _ in range(5):
        shown = await dc.sign("later")
        await dc.after(HOUR * 12)
        now = dc.clock.now()
        ends = {key_id: listed.issued.next_update for key_id, listed in dc.state.crls.items()}
        assert [key_id for key_id, end in ends.items() if end < now + DAY] in ([], [lost])


async def test_what_is_revoked_and_on_no_list_is_told_until_it_is(dc: Datacenter) -> None:
    shown = await dc.sign()
    key_id = shown.leaf.issuer_key_id
    kept = await take(dc, key_id)
    await dc.after(25 * HOUR)
    assert len(failing(dc)) == 1
    chosen = {"Serials": [shown.leaf.serial]}

    told = await dc.command(SUBJECTS.leaves_revoke, Leaves=chosen, RequestID="r-1")

    assert (told["Outcome"], told["ListsMissing"]) == ("revoked", [key_id])
    assert shown.leaf.serial in dc.state.revoked[key_id]
    assert len(dc.reissues) == 1, "who held it is told all the same"
    again = await dc.command(SUBJECTS.leaves_revoke, Leaves=chosen, RequestID="r-1")
    assert again["ListsMissing"] == [key_id]
    await dc.signing_keys.keep(kept)
    again = await dc.command(SUBJECTS.leaves_revoke, Leaves=chosen, RequestID="r-1")
    assert "ListsMissing" not in again, "it is tried at once, not after the pause"
    assert "certificate revoked" in verdict(dc, shown)
    assert not failing(dc)


async def test_the_lists_that_hide_a_revocation_come_first(dc: Datacenter) -> None:
    shown = await dc.sign()
    await record(dc, shown.leaf.issuer_key_id, [shown.leaf.serial])
    dc.clock.forward(25 * HOUR)

    await dc.act()

    sequences = {listed.sequence: key_id for key_id, listed in dc.state.crls.items()}
    assert [sequences[each] for each in sorted(sequences)] == [
        shown.leaf.issuer_key_id,
        only_root(dc),
    ]


async def test_what_failed_is_forgotten_once_nobody_needs_it(dc: Datacenter) -> None:
    lost = only_root(dc)
    await dc.command(SUBJECTS.rotation_start)
    await dc.act()
    await lose(dc, lost)
    await dc.after(25 * HOUR)
    assert len(failing(dc)) == 1
    [old] = [root_id for root_id, root in dc.state.roots.items() if not root.active]

    await dc.command(SUBJECTS.roots_prune, RootID=old, Force=True)
    await dc.act()

    assert not failing(dc)


# Clocks.


async def test_a_list_of_a_leader_whose_clock_was_ahead_is_replaced(dc: Datacenter) -> None:
    shown = await dc.sign()
    dc.clock.forward(2 * DAY)
    await dc.new_leader("b")
    await dc.act()
    dc.clock.forward(-2 * DAY)
    assert not accepted(dc, shown), "not yet valid"

    await dc.new_leader()
    await dc.act()

    assert accepted(dc, shown)
    numbers = [listed.issued.number for listed in dc.state.crls.values()]
    await dc.act()
    assert [listed.issued.number for listed in dc.state.crls.values()] == numbers
