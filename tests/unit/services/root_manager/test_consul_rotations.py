"""Consul's acceptance scenarios of rotations: with and without a bridge from the old root."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from projections.bundle import bundle
from services.pki.certificates import load, subject_key_id
from services.refusals import RefusedError
from services.root_manager.rotation import NO_CROSS_SIGNING
from tests.external_ca import given_ca
from tests.factories import ca_key, private_pem
from tests.verifiers import pem_chain
from tests.virtual import SUBJECTS, Datacenter, run


@pytest.fixture
async def dc(tmp_path: Path) -> AsyncIterator[Datacenter]:
    """A datacenter with an authority and a signer."""
    async with Datacenter.open(tmp_path) as datacenter:
        await datacenter.signers(run(1))
        yield datacenter


def told(dc: Datacenter) -> list[dict[str, Any]]:
    """Return the roots as they are told."""
    roots: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(bundle(dc.state)))[
        "Roots"
    ]
    return roots


def names(certificate: x509.Certificate) -> tuple[str | bytes, list[str]]:
    """Return the common name and the URIs."""
    [common_name] = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return common_name.value, san.get_values_for_type(x509.UniformResourceIdentifier)


async def test_28_33_without_a_bridge_only_by_force(tmp_path: Path) -> None:
    """33. Force-no-cross-signing: without the flag the exact error, with it ok; old root unchanged.

    28. ConfigurationSet_ForceWithoutCrossSigning: the rotation succeeds, the old root is inactive.
    In Consul it is a provider that cannot; here, a root whose path length forbids it. Consul's new
    root has no intermediates; ours has the one that signs leaves, and no bridge.
    """
    async with Datacenter.open(tmp_path) as dc:
        dc.first_configuration = given_ca(certificates=1, path_length=1).write(tmp_path / "ca.json")
        await dc.signers(run(1))
        [before] = told(dc)
        old_bundle, first = dc.roots(), await dc.sign()

        for force in (None, False):
            with pytest.raises(RefusedError) as refused:
                await dc.command(SUBJECTS.config_set, Config={}, ForceWithoutCrossSigning=force)
            assert refused.value.message.startswith(NO_CROSS_SIGNING)
            assert refused.value.code == "bad_config"
            assert told(dc) == [before]
        await dc.command(SUBJECTS.config_set, Config={}, ForceWithoutCrossSigning=True)

        old, new = told(dc)
        changed = {"Active", "ModifyIndex"}
        assert {key for key in old if old[key] != before[key]} == changed
        assert (old["Active"], new["Active"]) == (False, True)
        assert len(new["IntermediateCerts"]) == 1
        second = await dc.sign()
        now = dc.clock.now()
        assert first.verifies(dc.roots(), now)
        assert second.verifies(dc.roots(), now)
        assert not second.verifies(old_bundle, now)


@pytest.mark.parametrize(
    "config",
    [
        {"PrivateKey": private_pem(ca_key(number=90)).decode()},
        {"PrivateKeyBits": 384},
        {"PrivateKeyType": "rsa", "PrivateKeyBits": "2048"},
    ],
    ids=["another private key", "another size", "another type"],
)
async def test_34_another_key_makes_another_root_below_the_old_one(
    dc: Datacenter, config: dict[str, Any]
) -> None:
    """34. TriggerRotation: new private key; bits 384; type rsa, 2048 given as string.

    Two roots; one cross-signed intermediate, whose AKI and signature algorithm are the old CA's;
    its SKI differs; CN and URIs are unchanged. A new leaf verifies against the new root alone, and
    against the old root with the chain that came with it. Ours has the intermediate that signs
    beside it.
    """
    await dc.command(SUBJECTS.config_set, Config=config)

    old, new = told(dc)
    assert (old["Active"], new["Active"]) == (False, True)
    before, after = (load(pem_chain(root["RootCert"])[0]) for root in (old, new))
    crossed_der, signing_der = (pem_chain(text)[0] for text in new["IntermediateCerts"])
    crossed = load(crossed_der)
    authority = crossed.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority.key_identifier == subject_key_id(pem_chain(old["RootCert"])[0])
    assert crossed.signature_algorithm_oid == before.signature_algorithm_oid
    assert subject_key_id(crossed_der) == subject_key_id(pem_chain(new["RootCert"])[0])
    assert subject_key_id(crossed_der) != authority.key_identifier
    assert names(crossed) == names(after) != names(before)
    assert names(after)[1] == names(before)[1]
    crossed.verify_directly_issued_by(before)
    load(signing_der).verify_directly_issued_by(after)
    shown = await dc.sign()
    for root in (old, new):
        assert shown.verifies(pem_chain(root["RootCert"]), dc.clock.now())
    assert shown.chain == (signing_der, crossed_der)
