"""Hazards that are visible in Consul's source (specification, section 12), and not in ours.

Each test would fail on Consul's behaviour. Others stand where what they are about is tested:
docs/consul.md says where.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from cryptography import x509

from events.leaves import LeafIssued
from projections.bundle import bundle
from services.issued import issued_cert
from services.keys.interface import KeyStore, KeyStoreError
from services.root_manager import configuration
from tests.external_ca import given_ca
from tests.unit.services.root_manager.keys import KeysInMemory
from tests.verifiers import pem_chain
from tests.virtual import SUBJECTS, Datacenter, run

DAY = timedelta(days=1)
DOUBLE_MAX: Final = 2**53  # beyond it, JavaScript's numbers are not exact


class Failing(KeysInMemory):
    """Root keys of a store that is away when the test says so."""

    fails = False

    async def sign(self, key_id: str, message: bytes) -> bytes:
        self._there()
        return await super().sign(key_id, message)

    async def share(self, key_id: str, other: KeyStore) -> None:
        self._there()
        await super().share(key_id, other)

    def _there(self) -> None:
        if self.fails:
            raise KeyStoreError("the key store is away")


@pytest.mark.parametrize("fields", [{"LeafSigner": "root"}, {"PrivateKeyBits": 384}])
async def test_h7_a_change_that_fails_costs_no_key(tmp_path: Path, fields: dict[str, Any]) -> None:
    """H7: Consul cleans up after a failed update, and deletes the key that signs."""
    async with Datacenter.open(tmp_path) as dc:
        dc.root_keys = keys = Failing("root", clock=dc.clock)
        await dc.new_leader()
        await dc.signers(run(1))
        before, held = dc.state, {key.key_id for key in await dc.signing_keys.stored()}

        keys.fails = True
        with pytest.raises(KeyStoreError):
            await dc.command(SUBJECTS.config_set, Config=fields)
        keys.fails = False

        state = await dc.after(DAY)
        assert (state.configuration, state.roots) == (before.configuration, before.roots)
        assert (state.issuer_key_id, state.ca_state) == (before.issuer_key_id, "INITIALIZED")
        assert {key.key_id for key in await dc.signing_keys.stored()} == held
        assert (await dc.sign()).verifies(dc.roots(), dc.clock.now())
        again = await dc.command(SUBJECTS.config_set, Config=fields)
        assert again["Outcome"] in {"configured", "rotated"}
        assert (await dc.sign()).verifies(dc.roots(), dc.clock.now())


@pytest.mark.parametrize("days_of_new", [400, 4000])
async def test_h10_the_bridge_from_the_old_root_lasts_as_long_as_both_roots(
    dc: Datacenter, days_of_new: int
) -> None:
    """H10: Consul's cross-signed certificate lives for 7 days, whatever leaves live."""
    old, old_bundle = dc.state.active_root, dc.roots()
    assert old is not None
    await dc.command(
        SUBJECTS.config_set,
        Config={"PrivateKeyBits": 384, "RootCertTTL": f"{days_of_new * 24}h"},
    )
    new = dc.state.active_root
    assert new is not None
    assert new.published.cross_signed is not None
    crossed = x509.load_der_x509_certificate(new.published.cross_signed)
    assert crossed.not_valid_after_utc == min(old.published.not_after, new.published.not_after)
    assert crossed.not_valid_before_utc <= dc.clock.now() - timedelta(minutes=1)

    # Who was away all the time, and has the old bundle still, accepts what is issued then.
    for days in (1, 6, 2, 91):
        await dc.after(days * DAY)
        assert (await dc.sign()).verifies(old_bundle, dc.clock.now())


async def test_h10_also_for_a_leaf_that_lives_longer_than_7_days(dc: Datacenter) -> None:
    """H10: Consul's bridge ends before a leaf of 30 days does."""
    old_bundle = dc.roots()
    await dc.command(SUBJECTS.config_set, Config={"LeafCertTTL": "720h", "PrivateKeyType": "rsa"})

    shown = await dc.sign()

    assert shown.leaf.not_after - dc.clock.now() > 29 * DAY
    for days in (0, 8, 29):
        assert shown.verifies(old_bundle, dc.clock.now() + days * DAY)


async def test_h10_what_has_expired_is_not_handed_out_for_ever(dc: Datacenter) -> None:
    """H10: Consul's expired cross-signed certificates stay in the list; #9308: it grows."""
    for _ in range(5):
        await dc.command(SUBJECTS.rotation_start)
        told = bundle(dc.state)
        assert told is not None
        assert len(told.roots[-1].intermediate_certs or ()) == 2
        assert len((await dc.sign()).chain) == 2
        await dc.after(7 * DAY)  # none is trusted now but the last
        assert len(dc.state.roots) == 1


def numbers(told: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Yield every whole number in a JSON value, and the name that it stands under."""
    match told:
        case bool():
            return
        case int():
            yield name, told
        case dict():
            for key, value in told.items():
                yield from numbers(value, key)
        case list():
            for value in told:
                yield from numbers(value, name)


async def test_h15_no_number_loses_a_digit_in_a_language_that_has_doubles_only(
    dc: Datacenter,
) -> None:
    """H15: Consul tells roots' serial numbers as 64-bit numbers, which JavaScript rounds.

    What is named as in Consul's JSON has its meaning; SerialNumberHex beside it has the whole.
    """
    shown = await dc.sign()
    await dc.command(SUBJECTS.leaves_revoke, Leaves={"Identity": shown.leaf.identity})
    rotated = await dc.command(SUBJECTS.rotation_start)
    state = await dc.act()
    issued = issued_cert(
        shown.leaf, sequence=9, event_id="x", issuer=state.issuers[shown.leaf.issuer_key_id]
    )
    roots = msgspec.json.encode(bundle(state))
    answers = [
        roots,
        issued,
        msgspec.json.encode(configuration.told(state)),
        json.dumps(rotated).encode(),
        *(json.dumps(told).encode() for told in dc.reissues),
        *(stored.data for stored in await dc.ledger.read(0, limit=10_000)),
    ]

    found = [pair for answer in answers for pair in numbers(json.loads(answer))]
    assert len(found) > 50
    assert {name for name, number in found if abs(number) > DOUBLE_MAX} <= {"SerialNumber"}

    as_doubles = json.loads(roots, parse_int=float)
    for root in as_doubles["Roots"]:
        certificate = x509.load_der_x509_certificate(pem_chain(root["RootCert"])[0])
        assert int(root["SerialNumberHex"].replace(":", ""), 16) == certificate.serial_number
        assert int(root["SerialNumber"]) != certificate.serial_number
    leaf = x509.load_der_x509_certificate(shown.leaf.certificate)
    told = json.loads(issued, parse_int=float)["SerialNumber"]
    assert int(told.replace(":", ""), 16) == leaf.serial_number
    entries = [recorded for entry in await dc.entries() for recorded in entry.events]
    [event] = [each.event for each in entries if isinstance(each.event, LeafIssued)]
    assert int(event.serial, 16) == leaf.serial_number


async def test_h9_no_leaf_outlives_what_is_above_its_issuer(tmp_path: Path) -> None:
    """H9: Consul's are not clamped; the chain fails before the leaf's NotAfter."""
    async with Datacenter.open(tmp_path) as dc:
        given = given_ca(certificates=3, anchor_days=20)
        dc.first_configuration = given.write(tmp_path / "ca.json", LeafCertTTL="240h")
        await dc.signers(run(1))
        ends = [x509.load_der_x509_certificate(der).not_valid_after_utc for der in given.chain]

        for _ in range(19):
            shown = await dc.sign()
            assert shown.leaf.not_after <= min(ends)
            assert shown.verifies(given.chain[-1:], shown.leaf.not_after)
            await dc.after(DAY)
