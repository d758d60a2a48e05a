"""Consul's acceptance scenarios of a primary with the built-in provider, in virtual time.

Others stand where what they are about is tested: docs/consul.md says where.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509

from events.authority import CAConfigured, IntermediateInstalled, IntermediateRequested
from projections.bundle import bundle
from services.keys.interface import KeySpec, KeyStoreError, PublicKey
from services.pki import certificates, pem
from services.refusals import RefusedError
from tests import verifiers
from tests.external_ca import given_ca
from tests.unit.services.root_manager.keys import KeysInMemory
from tests.verifiers import Chain, pem_chain
from tests.virtual import SUBJECTS, Datacenter, Shown, run

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def told(dc: Datacenter) -> Any:
    """Return the roots as they are told."""
    return msgspec.json.decode(msgspec.json.encode(bundle(dc.state)))


def key_id(certificate: bytes) -> str:
    return pem.colon_hex(certificates.key_id(certificates.public_key_of(certificate)))


class Watched(KeysInMemory):
    """Notes what Consul's state is while keys are made; may be told to fail."""

    dc: Datacenter
    fails = False

    def __init__(self, dc: Datacenter) -> None:
        super().__init__("root", clock=dc.clock)
        self.dc = dc
        self.seen: list[tuple[str, bool]] = []

    async def create(self, spec: KeySpec) -> PublicKey:
        self.seen.append((self.dc.state.ca_state, self.dc.manager.initialising))
        return await super().create(spec)

    async def sign(self, key_id: str, message: bytes) -> bytes:
        if self.fails:
            raise KeyStoreError("the key store is away")
        return await super().sign(key_id, message)


async def watched(dc: Datacenter) -> Watched:
    """Let a leader take over whose root keys are watched."""
    dc.root_keys = keys = Watched(dc)
    await dc.new_leader()
    return keys


async def test_2_an_authority_is_made_in_consuls_states_by_one_append(tmp_path: Path) -> None:
    """2. Initialize: UNINITIALIZED, INITIALIZING, INITIALIZED; exactly one append."""
    async with Datacenter.open(tmp_path) as dc:
        keys = await watched(dc)
        before = len(await dc.entries())
        assert (await dc.tools.follower.catch_up()).ca_state == "UNINITIALIZED"

        assert (await dc.act()).ca_state == "INITIALIZED"

        assert keys.seen == [("UNINITIALIZED", True)]  # which is told as INITIALIZING
        assert not dc.manager.initialising
        made = (await dc.entries())[before]
        kinds = [type(recorded.event) for recorded in made.events]
        assert (kinds[0], kinds[-1]) == (CAConfigured, IntermediateInstalled)


async def interrupted_renewal(tmp_path: Path, dc: Datacenter) -> Watched:
    """Begin to renew the intermediate, and be cut off by a key store that is away."""
    keys = await watched(dc)
    await dc.signers(run(1))
    keys.fails = True
    assert (await dc.after(220 * DAY)).ca_state == "RENEWING"
    keys.fails = False
    return keys


@pytest.mark.parametrize("fields", [{"LeafCertTTL": "1h"}, {"PrivateKeyBits": 384}])
async def test_3_h17_a_configuration_is_set_while_the_intermediate_is_renewed(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    """3. UpdateConfigWhileRenewIntermediate; ours departs: see H17.

    H17: Consul's fails with 'CA is already in state "RENEWING"', and whoever set it must try again.
    Ours goes through, and the renewal completes: both end INITIALIZED.
    """
    async with Datacenter.open(tmp_path) as dc:
        await interrupted_renewal(tmp_path, dc)
        old = dc.state.issuer_key_id

        outcome = await dc.command(SUBJECTS.config_set, Config=fields)

        assert outcome["Outcome"] in {"configured", "rotated"}
        state = await dc.after(timedelta(minutes=5))
        assert state.ca_state == "INITIALIZED"
        assert state.issuer_key_id != old
        assert (await dc.sign()).verifies(dc.roots(), dc.clock.now())
        requested = [
            recorded.event
            for entry in await dc.entries()
            for recorded in entry.events
            if isinstance(recorded.event, IntermediateRequested)
        ]
        assert len(requested) == 1
        left = {key.key_id for key in await dc.signing_keys.stored()}
        assert left == {key for key, made in state.keys.items() if made.purpose == "signing"}


async def test_4_nothing_is_issued_under_an_issuer_that_has_expired(dc: Datacenter) -> None:
    """4. SignCertificate_WithExpiredCert: valid -> ok; root or intermediate expired -> error."""
    assert (await dc.sign()).verifies(dc.roots(), dc.clock.now())
    issuer, root = dc.state.issuer, dc.state.active_root
    assert issuer is not None
    assert root is not None
    end = certificates.load(issuer.certificate).not_valid_after_utc

    dc.clock.forward(end - dc.clock.now() + timedelta(seconds=1))
    with pytest.raises(RefusedError, match="intermediate expired: certificate expired, expir") as e:
        await dc.sign()
    assert e.value.code == "not_ready"
    dc.clock.forward(root.published.not_after - dc.clock.now() + timedelta(seconds=1))
    with pytest.raises(RefusedError, match="root expired: certificate expired, expiration date: "):
        await dc.sign()


async def test_4_issuers_that_are_not_valid_yet_sign_what_is_valid_when_they_are(
    dc: Datacenter,
) -> None:
    """4. Not-yet-valid intermediate or root -> ok: it is this signer's clock that is behind.

    Consul's leaf is then older than its issuer; no verifier minds, and none of ours is.
    """
    issuer = dc.state.issuer
    assert issuer is not None
    begin = certificates.load(issuer.certificate).not_valid_before_utc
    dc.clock.forward(begin - dc.clock.now() - HOUR)

    shown = await dc.sign()

    assert shown.leaf.not_before == begin
    assert shown.verifies(dc.roots(), begin)
    assert not shown.verifies(dc.roots(), dc.clock.now())


async def test_4_nothing_is_issued_below_an_external_root_that_has_expired(tmp_path: Path) -> None:
    """4. Root expired -> error: also where that is the one above the root that was given.

    H9: and no leaf outlives it.
    """
    async with Datacenter.open(tmp_path) as dc:
        given = given_ca(anchor_days=10)
        dc.first_configuration = given.write(tmp_path / "ca.json")
        await dc.signers(run(1))
        anchor = certificates.load(given.chain[-1]).not_valid_after_utc

        await dc.after(9 * DAY)
        shown = await dc.sign()
        assert shown.leaf.not_after == anchor
        assert shown.verifies(dc.roots(), anchor - timedelta(seconds=1))
        dc.clock.forward(anchor - dc.clock.now() + timedelta(seconds=1))
        with pytest.raises(RefusedError, match="root expired: certificate expired"):
            await dc.sign()


def accepted_by_all(shown: Shown, roots: tuple[bytes, ...]) -> None:
    chain = Chain(leaf=shown.leaf.certificate, intermediates=shown.chain, roots=roots)
    verifiers.assert_all_accept(chain)


@pytest.mark.parametrize("count", [2, 3])
async def test_10_a_primary_below_an_external_root(tmp_path: Path, count: int) -> None:
    """10. Initialize_Vault_WithExternalTrustedCA, as far as it concerns a built-in primary.

    Every verifier that trusts the external root alone takes the leaves before and after the
    intermediate is renewed; every one that has the roots list takes all of them still, when a root
    of our own has taken over.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    async with Datacenter.open(tmp_path) as dc:
        dc.clock.forward(now - dc.clock.now() - 220 * DAY)
        given = given_ca(certificates=count, now=dc.clock.now())
        dc.first_configuration = given.write(tmp_path / "ca.json", LeafCertTTL="2000h")
        await dc.signers(run(1))
        [root] = told(dc)["Roots"]
        assert pem_chain(root["RootCert"]) == given.chain
        assert len(root["IntermediateCerts"]) == 1

        dc.clock.forward(215 * DAY)
        first = await dc.sign()
        await dc.after(5 * DAY)  # more than half the intermediate's life, and the jitter
        second = await dc.sign()
        assert second.leaf.issuer_key_id != first.leaf.issuer_key_id
        [root] = told(dc)["Roots"]
        assert len(root["IntermediateCerts"]) == 1  # Consul's: 2, those that sign no more as well
        for shown in (first, second):
            accepted_by_all(shown, given.chain[-1:])

        await dc.command(SUBJECTS.config_set, Config={})
        third = await dc.sign()
        old, new = told(dc)["Roots"]
        assert (old["Active"], new["Active"]) == (False, True)
        assert len(new["IntermediateCerts"]) == 2  # cross-signed, and the one that signs
        listed = pem_chain(old["RootCert"]) + pem_chain(new["RootCert"])
        for shown in (first, second, third):
            accepted_by_all(shown, listed)
        accepted_by_all(third, pem_chain(old["RootCert"]))  # the list of one rotation ago
        accepted_by_all(third, pem_chain(new["RootCert"]))


async def test_10_then_a_third_root_below_another_external_one(tmp_path: Path) -> None:
    """10. All earlier leaves verify with the roots list; then a third root via another CA."""
    now = datetime.now(UTC).replace(microsecond=0)
    async with Datacenter.open(tmp_path) as dc:
        dc.clock.forward(now - dc.clock.now())
        first_ca, second_ca = (given_ca(number=number, now=now) for number in (30, 50))
        dc.first_configuration = first_ca.write(tmp_path / "ca.json")
        await dc.signers(run(1))
        shown = [await dc.sign()]
        before: tuple[bytes, ...] = ()
        for fields in ({}, second_ca.config):
            before = tuple(der for root in told(dc)["Roots"] for der in pem_chain(root["RootCert"]))
            await dc.command(SUBJECTS.config_set, Config=fields)
            shown.append(await dc.sign())

        listed = tuple(der for root in told(dc)["Roots"] for der in pem_chain(root["RootCert"]))
        assert len(told(dc)["Roots"]) == 3
        for each in shown:
            accepted_by_all(each, listed)
        accepted_by_all(shown[-1], before)
        accepted_by_all(shown[-1], second_ca.chain)


async def test_22_a_leader_change_leaves_the_active_root_as_it_is(dc: Datacenter) -> None:
    """22. PersistIntermediateCAs: identical active root, its cross-signed intermediate included."""
    await dc.command(SUBJECTS.rotation_start)
    before = told(dc)
    assert len(before["Roots"][1]["IntermediateCerts"]) == 2

    for node in ("b", "a", "c"):
        await dc.new_leader(node)
        await dc.after(timedelta(minutes=1))
        assert told(dc) == before


@pytest.mark.parametrize(
    ("kind", "count", "told_as"),
    [("p256", 1, ("ec", 256)), ("p384", 2, ("ec", 384)), ("rsa4096", 3, ("rsa", 4096))],
)
async def test_23_a_given_root_is_told_by_its_first_certificate_and_kept_whole(
    tmp_path: Path, kind: str, count: int, told_as: tuple[str, int]
) -> None:
    """23. ParseCARoot/NewCARoot: fields for EC-256, EC-384, RSA-4096; bundles of 2 and 3 certs.

    With an intermediate SigningKeyID comes from it; without one, from the root. What has no PEM is
    refused (tests/unit/services/pki/test_given.py).
    """
    given = given_ca(kind, certificates=count, number=40 + count)
    async with Datacenter.open(tmp_path) as dc:
        dc.first_configuration = given.write(tmp_path / "ca.json", LeafSigner="root")
        await dc.signers(run(1))

        [root] = told(dc)["Roots"]
        first = x509.load_der_x509_certificate(given.chain[0])
        assert root["ID"] == hashlib.sha1(given.chain[0]).digest().hex(":")
        assert root["SerialNumber"] == first.serial_number & (2**64 - 1)
        assert int(root["SerialNumberHex"].replace(":", ""), 16) == first.serial_number
        assert root["NotBefore"] == first.not_valid_before_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
        assert root["NotAfter"] == first.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
        assert (root["PrivateKeyType"], root["PrivateKeyBits"]) == told_as
        assert pem_chain(root["RootCert"]) == given.chain
        assert root["ExternalTrustDomain"] + ".consul" == told(dc)["TrustDomain"]
        assert root["IntermediateCerts"] is None
        assert root["SigningKeyID"] == key_id(given.chain[0])
        assert (await dc.sign()).verifies(dc.roots(), dc.clock.now())

        if kind == "rsa4096":
            return  # an intermediate of that size takes many seconds to make
        await dc.command(SUBJECTS.config_set, Config=given.config)
        [root] = told(dc)["Roots"]
        [intermediate] = root["IntermediateCerts"]
        assert root["SigningKeyID"] == key_id(pem_chain(intermediate)[0])
        assert (await dc.sign()).verifies(dc.roots(), dc.clock.now())
